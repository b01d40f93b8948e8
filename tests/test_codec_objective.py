"""What codecs descend on: the loss by hand, the three modes of CCA's adjustment, and BD-rates."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from downstream.codec.bd_rate import bd_rate
from downstream.codec.cca import CCA, Auxiliary, CCAConfig
from downstream.codec.factorised import FactorisedPrior
from downstream.codec.mean_scale import MeanScale, MeanScaleConfig
from downstream.codec.model import Gains
from downstream.codec.objective import CodecObjective, ObjectiveConfig
from downstream.codec.searching import highest_level, lowest_level

TOY = CCAConfig(
    widths=(8, 8, 12), latent_width=20, hyper_width=8, num_groups=3, num_bottlenecks=1, num_blocks=1, entropy_width=12, entropy_blocks=1, head_widths=(12, 8)
)


def made(mode: str, alpha: float = 0.5) -> CodecObjective:
    torch.manual_seed(0)
    return CodecObjective(CCA(TOY), ObjectiveConfig(lmbdas=(0.01,), mode=mode, alpha=alpha, beta=2.0), Auxiliary(TOY))


def gradients(objective: CodecObjective, x: torch.Tensor, alpha: float = 0.5) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    objective.zero_grad()
    found = objective(x, None, torch.Generator().manual_seed(3), alpha)
    found.loss.backward()
    return found.loss.detach(), {name: parameter.grad.clone() for name, parameter in objective.named_parameters() if parameter.grad is not None}


def test_the_loss_is_the_sum_of_its_parts() -> None:
    objective = made("off")
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    found = objective(x, None, torch.Generator().manual_seed(3), 0.5)
    parts = {name: float(value) for name, value in found.metrics.items()}
    assert float(found.loss.detach()) == pytest.approx(0.01 * parts["squared_error"] + 2.5 * parts["y_bpp"] + 2.0 * parts["z_bpp"], rel=1e-5)
    with torch.no_grad():
        plain = objective.codec(x, None, lambda values, centres: (values, (values - centres).round() + centres))
    assert parts["squared_error"] == pytest.approx(float(255**2 * (x - plain.x_hat).square().mean()), rel=1e-4)


def test_intent_turns_the_gradient_of_the_auxiliary_model_alone() -> None:
    """Against the same loss written plainly: the codec's gradients are equal, the auxiliary model's have the other sign."""
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    intent = made("intent")
    loss, found = gradients(intent, x)
    turned = made("intent")
    import downstream.codec.objective as module

    original = module._TurnedGradient
    module._TurnedGradient = type("Plain", (), {"apply": staticmethod(lambda value: value)})
    try:
        same, plain = gradients(turned, x)
    finally:
        module._TurnedGradient = original
    assert torch.equal(loss, same) and found.keys() == plain.keys()
    num_turned = 0
    for name, value in found.items():
        if name.startswith("auxiliary."):
            torch.testing.assert_close(value, -plain[name])
            num_turned += bool(value.any())
        else:
            torch.testing.assert_close(value, plain[name])
    assert num_turned > 10


@pytest.mark.parametrize(("mode", "rises"), [("published", True), ("intent", False)])
def test_the_published_term_drives_the_auxiliary_model_to_its_floor(mode: str, rises: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The finding that made three modes: a step down the published loss raises R_G, one down ours lowers it. The codec stays as it is."""
    objective = made(mode, alpha=1.0)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    adam = torch.optim.Adam(objective.auxiliary.parameters(), lr=3e-3)
    with torch.no_grad():
        least = float(objective(x, None, torch.Generator().manual_seed(3), 1.0).metrics["auxiliary_bpp"])
    monkeypatch.setattr("downstream.codec.objective.FLOOR_SHARE", (least + 0.1) / objective.floor_bpp())
    rates = []
    for _ in range(30):
        adam.zero_grad()
        found = objective(x, None, torch.Generator().manual_seed(3), 1.0)
        found.loss.backward()
        adam.step()
        rates.append(float(found.metrics["auxiliary_bpp"]))
    assert (rates[-1] > rates[0] + 0.1) == rises and (rates[-1] < rates[0] - 0.001) == (not rises)
    assert [record.message.startswith("R_G is ") for record in caplog.records] == [True] * rises  # once
    assert max(rates) <= objective.floor_bpp() + 1e-6 == pytest.approx(20 / 256 * math.log2(1e9) + 1e-6)


def test_levels_have_their_own_lmbdas_and_gains() -> None:
    codec = MeanScale(MeanScaleConfig(width=8, latent_width=12))
    codec.gains = Gains(2, 12)
    objective = CodecObjective(codec, ObjectiveConfig(lmbdas=(0.001, 0.1)))
    x = torch.rand(1, 3, 64, 64)
    low, high = (objective(x, torch.tensor([level]), torch.Generator().manual_seed(0), 0.0) for level in (0.0, 1.0))
    assert float((high.loss - low.loss).detach()) == pytest.approx(0.099 * float(low.metrics["squared_error"]), rel=1e-4)  # gains are 1 at the start
    with torch.no_grad():
        codec.gains.before[1] = 1.0
    middle = codec.gains.at(codec.gains.before, torch.tensor([0.5]))
    torch.testing.assert_close(middle, torch.full((1, 12, 1, 1), math.exp(0.5)))
    with pytest.raises(ValueError, match="say the level"):
        codec(x)


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="needs CCA's codec"):
        CodecObjective(MeanScale(MeanScaleConfig(width=8, latent_width=12)), replace(ObjectiveConfig(), mode="intent"))
    with pytest.raises(ValueError, match="ascending"):
        CodecObjective(CCA(TOY), ObjectiveConfig(lmbdas=(0.1, 0.01)))


def test_quantiles_are_found_where_the_distribution_says() -> None:
    torch.manual_seed(0)
    prior = FactorisedPrior(5)
    prior.find_quantiles()
    with torch.no_grad():
        cumulative = torch.sigmoid(prior.cumulative_logits(prior.quantiles.double().float()))
    torch.testing.assert_close(cumulative[:, 0, 1], torch.full((5,), 0.5), atol=1e-4, rtol=0)
    assert (cumulative[:, 0, 0] < 2e-9).all() and (cumulative[:, 0, 2] > 1 - 1e-6).all()
    with torch.no_grad():
        mass = prior.likelihood(torch.arange(-1000.0, 1001.0).reshape(1, 1, 1, -1).expand(1, 5, 1, -1)).sum(dim=(0, 2, 3))
    torch.testing.assert_close(mass, torch.ones(5), atol=1e-3, rtol=0)


def test_bd_rate_of_a_known_shift_and_of_published_curves() -> None:
    anchor = [(0.1, 28.0), (0.3, 31.0), (0.6, 34.0), (1.2, 37.0)]
    for interpolation in ("pchip", "cubic", "akima"):
        assert bd_rate(anchor, [(0.8 * rate, db) for rate, db in anchor], interpolation) == pytest.approx(-20.0)
        assert bd_rate(anchor, anchor, interpolation) == pytest.approx(0, abs=1e-9)
    vtm = [(0.0482, 26.14), (0.1125, 28.49), (0.2458, 31.20), (0.4905, 34.26), (0.8748, 37.42), (1.4308, 40.42)]
    cca = [(0.740, 37.20), (0.630, 36.29), (0.514, 35.19), (0.399, 33.92), (0.298, 32.67), (0.169, 30.43)]
    assert bd_rate(vtm, cca) == pytest.approx(-13.73, abs=0.02)  # CCA against VTM-9.1 on Kodak, from both projects' own points


@pytest.mark.parametrize(
    ("curve", "message"),
    [([(0.1, 50.0), (0.2, 51.0), (0.4, 52.0)], "in common, less than"), ([(0.1, 28.0), (0.2, 27.0), (0.4, 30.0)], "does not rise"), ([(0.1, 28.0)], "too short")],
)
def test_curves_that_cannot_be_compared(curve: list[tuple[float, float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bd_rate([(0.1, 28.0), (0.3, 31.0), (0.6, 34.0)], curve)


@pytest.mark.parametrize("limit", np.linspace(-0.1, 3.2, 12).tolist())
def test_levels_are_found_by_bisection(limit: float) -> None:
    highest, lowest = highest_level(lambda level: level <= limit, 3), lowest_level(lambda level: level >= limit, 3)
    assert highest == (None if limit < 0 else min(3.0, math.floor(limit * 256) / 256))
    assert lowest == (None if limit > 3 else max(0.0, math.ceil(limit * 256) / 256))
