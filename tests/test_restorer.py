"""The network, its objectives, and a restorer on pixels: local, so that tiles change nothing; seeded; what each loss has its least at."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from downstream.backbones import WEIGHTS
from downstream.fit import FitConfig
from downstream.losses import Losses
from downstream.restore.degradations import DegradationConfig
from downstream.restore.model_file import Restorer, RestorerConfig, load_restorer, save_restorer
from downstream.restore.network import NetworkConfig, UNet
from downstream.restore.objective import ObjectiveConfig, RestorerObjective
from downstream.restore.perceptual import EncoderDistance, VGGDistance
from downstream.restore.process import ProcessConfig
from downstream.restore.restoring import disagreement, estimate_noise_255, restore
from downstream.restore.train_config import PRESETS, TrainRestorerConfig
from lcl.engine import EngineConfig
from tests.test_degradations import photo

NETWORK = NetworkConfig(widths=(4, 8), num_blocks=(1, 1), time_width=8)
KINDS = {
    "regression": ("residual", "reverting"), "ir_sde": ("noise", "reverting"), "ir_cm": ("residual", "reverting"), "denoising": ("residual", "denoising"),
    "mu": ("residual", "reverting"),
}  # fmt: skip


def trembled(settings: NetworkConfig = NETWORK, *, seed: int = 0) -> UNet:
    """A network none of whose weights are zero."""
    torch.manual_seed(seed)
    network = UNet(settings)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return network.eval()


def restorer(name: str) -> Restorer:
    form, process = KINDS[name]
    kind = "ir_cm" if name in ("denoising", "mu") else name
    made = ProcessConfig(kind=process, noise_255=70.0 if process == "denoising" else 10.0)
    settings = RestorerConfig(network=NETWORK, process=made, form=form, boundary="mu" if name == "mu" else "time", times=(0.25,) if name == "mu" else ())
    return Restorer(trembled(), settings, kind, ("rain",), {}, "0" * 64)


@pytest.mark.parametrize("settings", [NETWORK, NetworkConfig(), NetworkConfig(widths=(4, 4, 6), num_blocks=(2, 1, 3))], ids=("toy", "small", "uneven"))
def test_a_place_sees_no_farther_than_the_margin(settings: NetworkConfig) -> None:
    """By gradients: no output at one place depends on pixels beyond the margin, and some depends on pixels in its outer half."""
    network = trembled(settings)
    stride, margin = network.stride_px, network.margin_px
    assert margin % stride == 0
    side = 2 * margin + 4 * stride
    farthest = 0
    for place in (margin + stride, margin + 2 * stride - 1):
        x = torch.rand(1, 3, 2 * stride, side, requires_grad=True)
        network(x, x, torch.ones(1))[0, :, stride, place].sum().backward()
        seen = x.grad.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
        farthest = max(farthest, place - int(seen.min()), int(seen.max()) - place)
    assert margin / 2 < farthest <= margin


def test_a_new_network_changes_nothing_and_knows_the_time() -> None:
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(UNet(NETWORK)(x, x, torch.ones(2)), torch.zeros(2, 3, 16, 16))
    network = trembled()
    assert not torch.allclose(network(x, x, torch.zeros(2)), network(x, x, torch.ones(2)))
    torch.testing.assert_close(network(x, x, torch.tensor([0.2, 0.7]))[1:], network(x[1:], x[1:], torch.tensor([0.7])))
    with pytest.raises(ValueError, match="one number for each scale"):
        UNet(replace(NETWORK, num_blocks=(1,)))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [(70, 93), (1, 1), (3, 130)])
def test_tiles_equal_the_whole(name: str, size: tuple[int, int]) -> None:
    trained, x = restorer(name), torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    options = {"num_steps": {"regression": 1, "ir_sde": 3}.get(name, 2), "noise_255": 25.0}
    whole = restore(trained, x, **options)
    assert whole.shape == x.shape and 0 <= whole.min() and whole.max() <= 1
    for tile_px in (16, 50):
        torch.testing.assert_close(restore(trained, x, tile_px=tile_px, **options), whole, atol=1e-5, rtol=0)


def test_seeds_decide_samples_and_samples_disagree() -> None:
    trained, x = restorer("ir_cm"), photo(40, 40)
    one, again, other = (restore(trained, x, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert float(disagreement([one, again]).max()) == 0 and float(disagreement([one, other]).max()) > 0
    levels = [torch.full((3, 4, 4), value) for value in (0.2, 0.4)]
    torch.testing.assert_close(disagreement(levels), torch.full((4, 4), 0.1 * math.sqrt(2)))
    with pytest.raises(ValueError, match="trained by regression and takes one"):
        restore(restorer("regression"), x, num_steps=2)


def test_two_steps_of_a_model_around_mu_are_those_by_hand() -> None:
    """With its own spread and times, by the formula written out."""
    trained, x = restorer("mu"), photo(24, 24)
    trained = replace(trained, settings=replace(trained.settings, spread_255=20.0))
    process, generator, r = trained.process, torch.Generator().manual_seed(0), 20 / 255
    x_t, given = x[None] + process.deviation(torch.tensor([100.0])) * torch.randn(1, 3, 24, 24, generator=generator), x[None]
    for time in (100.0, 25.0):
        t = torch.tensor([time])
        e, v = process.decay(t), process.deviation(t) ** 2
        with torch.no_grad():
            f = given + r**2 * e / (r**2 * e**2 + v) * (x_t - given) + (v / (r**2 * e**2 + v)).sqrt() * trained.network(x_t, given, t / 100)
        if time == 100:
            x_t = process.state(f, given, torch.tensor([25.0]), torch.randn(1, 3, 24, 24, generator=generator))
    torch.testing.assert_close(restore(trained, x, num_steps=2), f[0].clamp(0, 1), atol=1e-5, rtol=0)


def test_noise_is_estimated_from_the_picture() -> None:
    rng = np.random.default_rng(0)
    for deviation in (5.0, 30.0):
        noisy = torch.full((3, 128, 128), 0.5) + torch.from_numpy(rng.standard_normal((3, 128, 128))).float() * deviation / 255
        assert estimate_noise_255(noisy) == pytest.approx(deviation, rel=0.05)
    assert estimate_noise_255(torch.rand(3, 1, 1)) == 0


class Known(UNet):
    """A network that knows the answer."""

    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__(NETWORK)
        self.answer = answer

    def forward(self, x_t: torch.Tensor, degraded: torch.Tensor, share: torch.Tensor, added: None = None) -> torch.Tensor:
        return self.answer - degraded


def pair(number: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    clean = torch.rand(number, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return clean, (clean * 0.8 + 0.1).clamp(0, 1)


def loss_of(network: UNet, settings: ObjectiveConfig, *, form: str = "residual", process: ProcessConfig | None = None, linear: bool = False, seed: int = 0) -> Losses:
    clean, degraded = pair()
    objective = RestorerObjective(network, RestorerConfig(process=process or ProcessConfig(), form=form), settings)
    found = objective(clean, degraded, torch.full((len(clean),), 0.1), linear, torch.Generator().manual_seed(seed))
    return Losses(found.loss.detach(), found.metrics)


@pytest.mark.parametrize("distance", ["squared", "huber", "absolute"])
@pytest.mark.parametrize("kind", ["reverting", "denoising"])
def test_losses_are_least_where_the_answer_is_known(distance: str, kind: str) -> None:
    """At T the answer makes both terms vanish; the start, which gives the degraded picture back, has the known loss of that."""
    clean, degraded = pair()
    settings = ObjectiveConfig(distance=distance, end_fraction=1.0)
    process = ProcessConfig(kind=kind, noise_255=70.0 if kind == "denoising" else 10.0)
    right = loss_of(Known(clean), settings, process=process)
    assert float(right.metrics["origin_error"]) < (0.05 if kind == "denoising" else 1e-6)
    assert float(right.loss) < float(loss_of(UNet(NETWORK), settings, process=process).loss)
    if kind == "reverting":
        start = loss_of(UNet(NETWORK), settings)
        assert float(start.metrics["origin_error"]) == pytest.approx(float((degraded - clean).abs().mean()), rel=1e-5)
    regression = ObjectiveConfig(kind="regression")
    assert float(loss_of(Known(clean), regression).loss) < 1e-6 < float(loss_of(UNet(NETWORK), regression).loss)


def test_neighbours_on_a_path_agree_for_the_true_answer() -> None:
    """The consistency term is of second order in a step of time where x_0 is known, for both states have the same noise; another pair of noises would not be."""
    clean, _ = pair()
    known = loss_of(Known(clean), ObjectiveConfig(end_fraction=0.0, distance="absolute"))
    assert float(known.metrics["consistency"]) < 2e-3


def test_the_linear_stage_has_states_around_the_degraded_picture() -> None:
    """A network that gives the clean picture: in the linear stage f = degraded + noise at early times, so L_OG is near the degraded picture's error."""
    clean, degraded = pair()
    settings = ObjectiveConfig(end_fraction=0.0)
    apart = float((degraded - clean).abs().mean())
    errors = [[loss_of(Known(clean), settings, linear=value, seed=seed).metrics["origin_error"] for seed in range(8)] for value in (True, False)]
    linear, ordinary = (float(torch.stack(found).mean()) for found in errors)
    assert linear > 1.5 * ordinary and linear < apart
    two = ObjectiveConfig(stages="two", linear_fraction=0.25)
    assert [two.linear(step, num_steps=8) for step in range(4)] == [True, True, False, False] and not ObjectiveConfig().linear(0, num_steps=8)


class Seen(UNet):
    """A network that notes the states that it is asked about."""

    def __init__(self) -> None:
        super().__init__(NETWORK)
        self.states: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, x_t: torch.Tensor, degraded: torch.Tensor, share: torch.Tensor, added: None = None) -> torch.Tensor:
        self.states.append((x_t.detach(), 100 * share))
        return super().forward(x_t, degraded, share, added)


@pytest.mark.parametrize(("times", "wanted"), [((), {50.0, 25.0, 12.5}), ((0.25,), {25.0})])
def test_states_at_the_times_of_sampling(times: tuple[float, ...], wanted: set[float]) -> None:
    """All of those before T at a share of 1, and none of them elsewhere; x_s is the neighbour."""
    network, (clean, degraded) = Seen(), pair(64)
    objective = RestorerObjective(network, RestorerConfig(times=times), ObjectiveConfig(sampled_fraction=1.0, end_fraction=0.25))
    objective(clean, degraded, torch.zeros(64), False, torch.Generator().manual_seed(0))
    (_, later), (_, earlier) = network.states
    assert set(later.tolist()) == wanted | {100.0} and 8 <= int((later == 100).sum()) <= 24
    torch.testing.assert_close(later - earlier, torch.ones(64), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("kind", "renoise"), [("reverting", 1.0), ("reverting", 0.0), ("denoising", 1.0), ("denoising", 0.25)])
def test_states_of_the_networks_own_estimate_have_the_origin_loss_alone(kind: str, renoise: float) -> None:
    """At a share of 1: a first step from T, then the state of its estimate with the part of the noise that sampling adds; no consistency term is left."""
    process, (clean, degraded), deviation = ProcessConfig(kind=kind, noise_255=70.0), pair(), torch.full((4,), 0.1)
    network, model = Seen(), RestorerConfig(process=process, renoise=renoise)
    objective = RestorerObjective(network, model, ObjectiveConfig(own_fraction=1.0, end_fraction=0.0))
    torch.nn.init.constant_(network.leave.bias, 0.05)
    found = objective(clean, degraded, deviation, False, torch.Generator().manual_seed(0))
    assert float(found.metrics["consistency"]) == 0 and len(network.states) == 3
    (start, first), (x_t, _), _ = network.states
    chosen = first[:, None, None, None] > 0
    assert chosen.all() and (torch.equal(start, degraded) if kind == "denoising" else torch.equal(first, torch.full((4,), 100.0)))
    t = network.states[1][1]
    noise = torch.Generator().manual_seed(0)
    torch.rand(4, generator=noise), torch.randint(1, 101, (4,), generator=noise)
    given = torch.randn(clean.shape, generator=noise)
    with torch.no_grad():
        estimate = objective._f(objective.estimate(start, degraded, first), start, degraded, first)
    before = t < (100 if kind == "reverting" else first)
    wanted = objective.process.state(estimate, objective.process.target(estimate, degraded), t, renoise * given)
    assert before.any()
    torch.testing.assert_close(x_t[before], wanted[before], atol=1e-5, rtol=0)


def test_a_consistency_weight_of_zero_leaves_the_origin_loss() -> None:
    whole, alone = (loss_of(trembled(), ObjectiveConfig(consistency_weight=weight, end_fraction=0.0)) for weight in (2.0, 0.0))
    assert "consistency" not in alone.metrics and float(alone.loss) == pytest.approx(0.8 * float(alone.metrics["origin_error"]))
    assert float(whole.loss) == pytest.approx(2 * float(whole.metrics["consistency"]) + float(alone.loss))


def test_step_by_step_of_a_denoising_process_has_one_noise() -> None:
    """States are points of a way back from the noisy picture: at its own time it is the state; on average a state's noise goes with the picture's as Bayes' rule has it."""
    clean = torch.full((200, 3, 8, 8), 0.5)
    own = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    degraded, network = clean + 0.1 * own, Seen()
    model = RestorerConfig(process=ProcessConfig(kind="denoising", noise_255=70.0), form="noise")
    objective = RestorerObjective(network, model, ObjectiveConfig(kind="ir_sde"))
    objective(clean, degraded, torch.full((200,), 0.1), False, torch.Generator().manual_seed(0))
    ((x_t, t),) = network.states
    start = float(objective.process.time_of(torch.tensor([0.1])))
    at_start = t > start - 1e-3
    assert at_start.any()
    torch.testing.assert_close(x_t[at_start], degraded[at_start], atol=1e-5, rtol=0)
    for number in range(0, 200, 20):
        deviation = objective.process.deviation(t[number : number + 1]).item()
        noise = (x_t[number] - 0.5) / deviation
        kept = objective.process.decay(t[number : number + 1]).item() ** -1 * objective.process.decay(torch.tensor([start])).item() * deviation / 0.1
        assert float((noise * own[number]).mean()) == pytest.approx(kept, abs=0.25) and float(noise.std()) == pytest.approx(1, abs=0.25)


def test_step_by_step_by_the_residual_is_least_for_the_clean_picture() -> None:
    clean, degraded = pair()
    settings = ObjectiveConfig(kind="ir_sde")
    assert float(loss_of(Known(clean), settings).loss) < 1e-12
    assert float(loss_of(UNet(NETWORK), settings).loss) == pytest.approx(float((degraded - clean).square().mean()), rel=1e-5)


def test_noise_prediction_is_least_for_the_noise() -> None:
    assert float(loss_of(UNet(NETWORK), ObjectiveConfig(kind="ir_sde"), form="noise").loss) == pytest.approx(1, abs=0.1)  # it says none, and the noise has variance 1


def test_no_gradient_flows_to_the_earlier_state() -> None:
    """With the origin's weight 0 and states at T, the gradient is that of d(f, c) with c held fixed: zero weights of the first network still move."""
    torch.manual_seed(0)
    network = trembled()
    objective = RestorerObjective(network, RestorerConfig(), ObjectiveConfig(origin_weight=0.0, end_fraction=1.0))
    clean, degraded = pair()
    objective(clean, degraded, torch.zeros(4), False, torch.Generator().manual_seed(0)).loss.backward()
    found = network.leave.bias.grad.clone()
    process, noise = objective.process, torch.Generator().manual_seed(0)
    torch.rand(4, generator=noise)
    torch.randint(1, 101, (4,), generator=noise)
    given = torch.randn(clean.shape, generator=noise)
    later, earlier = torch.full((4,), 100.0), torch.full((4,), 99.0)
    with torch.no_grad():
        fixed = process.state(clean, degraded, earlier, given)
        fixed = 0.01 * fixed + 0.99 * objective.estimate(fixed, degraded, earlier)
    network.zero_grad()
    (objective.estimate(process.state(clean, degraded, later, given), degraded, later) - fixed).square().mean().backward()
    torch.testing.assert_close(found, network.leave.bias.grad)


def test_a_teacher_is_the_average_of_the_network_and_makes_the_earlier_estimate() -> None:
    """By the recurrence written out; before the first average the loss is that without a teacher, afterwards it is that of the averaged network's own estimate."""
    network, (clean, degraded) = trembled(), pair()
    objective = RestorerObjective(network, RestorerConfig(), ObjectiveConfig(teacher_decay=0.5, end_fraction=0.0))
    assert {name.partition(".")[0] for name, _ in objective.named_parameters()} == {"network"} and any(name.startswith("teacher.") for name in objective.state_dict())

    def loss() -> float:
        return float(objective(clean, degraded, torch.zeros(4), False, torch.Generator().manual_seed(0)).metrics["consistency"])

    alone = loss_of(trembled(), ObjectiveConfig(end_fraction=0.0))
    assert loss() == float(alone.metrics["consistency"])
    wanted = {name: value.detach().clone() for name, value in network.named_parameters()}
    for step in range(1, 4):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1)
        objective.teacher.update(network, step=step)
        kept = min(0.5, (1 + step) / (10 + step))
        wanted = {name: kept * wanted[name] + (1 - kept) * value.detach() for name, value in network.named_parameters()}
    for name, value in objective.teacher.weights().items():
        torch.testing.assert_close(value, wanted[name])
    x, share = torch.rand(1, 3, 16, 16), torch.ones(1)
    said = objective.teacher(network, x, x, share, None)
    averaged = UNet(NETWORK)
    averaged.load_state_dict(wanted)
    torch.testing.assert_close(said, averaged(x, x, share))
    assert (said - network(x, x, share)).abs().max() > 1e-3 and not said.requires_grad and loss() != float(alone.metrics["consistency"])
    assert RestorerObjective(network, RestorerConfig(), ObjectiveConfig(kind="regression", teacher_decay=0.5)).teacher is None


def test_the_perceptual_distance_has_gradients_for_pictures_alone() -> None:
    from lcl.features import random_encoder
    from tests.made_encoders import SQUARE

    encoder = random_encoder(SQUARE)
    distance = EncoderDistance(encoder)
    clean, degraded = pair()
    assert float(distance(clean, clean)) == 0 < float(distance(degraded, clean))
    x = degraded.clone().requires_grad_()
    distance(x, clean).backward()
    assert x.grad is not None and float(x.grad.abs().max()) > 0 and all(parameter.grad is None for parameter in encoder.parameters())
    objective = RestorerObjective(UNet(NETWORK), RestorerConfig(), ObjectiveConfig(kind="regression"), perceptual=distance)
    found = objective(clean, degraded, torch.zeros(4), False, torch.Generator())
    assert float(found.loss.detach()) == pytest.approx(float((degraded - clean).abs().mean() + 0.125 * distance(degraded, clean)), rel=1e-5)
    assert not any("encoder" in name for name in objective.state_dict()), "frozen weights are in no checkpoint"
    with pytest.raises(ValueError, match="the encoder has"):
        EncoderDistance(encoder, (99,))


def test_the_distance_of_vgg16_takes_weights_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against its layers one by one; made weights, for the real ones are not ours to ship."""
    from torchvision.models.vgg import cfgs, make_layers

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="objective.perceptual vgg16 needs .*vgg16-397923af.pth: put"):
        VGGDistance()
    torch.manual_seed(0)
    layers = make_layers(cfgs["D"]).eval()
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save({f"features.{name}": value for name, value in layers.state_dict().items()} | {"classifier.0.bias": torch.zeros(1)}, tmp_path / "hub" / "checkpoints" / WEIGHTS["vgg"])
    distance, (clean, degraded) = VGGDistance(), (one.repeat(1, 1, 2, 2) for one in pair())
    x = degraded.clone().requires_grad_()
    found = distance(x, clean)
    found.backward()
    assert float(distance(clean, clean)) == 0 < float(found.detach()) and float(x.grad.abs().max()) > 0
    poolings, maps = [], [(one - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None] for one in (degraded, clean)]
    for layer in layers:
        maps = [layer(one) for one in maps]
        if isinstance(layer, torch.nn.MaxPool2d):
            poolings.append((maps[0] - maps[1]).square().mean())
    assert len(poolings) == 5
    torch.testing.assert_close(found, (poolings[1] + poolings[4]) / 2)


@pytest.mark.parametrize("name", KINDS)
def test_a_restorer_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    made = restorer(name)
    save_restorer(tmp_path / "a.safetensors", made.network.state_dict(), made.settings, kind=made.kind, tasks=("rain", "noise"), about={"steps": 3})
    found = load_restorer(tmp_path / "a.safetensors")
    assert (found.settings, found.kind, found.tasks, found.about) == (made.settings, made.kind, ("rain", "noise"), {"steps": 3}) and len(found.sha256) == 64
    x = photo(20, 24)
    torch.testing.assert_close(restore(found, x, noise_255=20.0), restore(made, x, noise_255=20.0), atol=1e-4, rtol=0)


def test_files_that_are_no_restorers(tmp_path: Path) -> None:
    made = restorer("ir_cm")
    whole = tmp_path / "a.safetensors"
    save_restorer(whole, made.network.state_dict(), made.settings, kind="ir_cm", tasks=("rain",), about={})
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:500])
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name, message in (("gone.safetensors", "no such file"), ("cut.safetensors", "is no restorer, or damaged"), ("other.safetensors", "is no restorer of this version")):
        with pytest.raises(ValueError, match=message):
            load_restorer(tmp_path / name)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"photographs": "a", "objective": ObjectiveConfig(teacher_decay=0.9), "fit": FitConfig(engine=EngineConfig(zero_stage=3))}, "averages whole weights"),
        ({}, "give either --photographs"), ({"photographs": "a", "pairs": "b"}, "give either --photographs"), ({"photographs": "a", "crop_px": 20}, "takes multiples of 8"),
        ({"photographs": "a", "objective": ObjectiveConfig(kind="regression"), "model": RestorerConfig(form="noise")}, "--model.form residual"),
        ({"photographs": "a", "model": RestorerConfig(form="noise", boundary="mu")}, "boundary mu scales what is added"),
        ({"photographs": "a", "model": RestorerConfig(times=(0.5, 0.5))}, "model.times is 0.5 0.5"),
        ({"photographs": "a", "crop_px": 16, "objective": ObjectiveConfig(perceptual="vgg16")}, "crop_px is 16: five poolings"),
        (
            {"photographs": "a", "objective": ObjectiveConfig(stages="two"), "degradations": DegradationConfig(tasks=("noise",)), "model": PRESETS["small_denoise"].model},
            "--objective.stages one",
        ),
        ({"photographs": "a", "model": RestorerConfig(process=ProcessConfig(kind="denoising", noise_255=70.0))}, "is for Gaussian noise"),
        (
            {"photographs": "a", "degradations": DegradationConfig(tasks=("noise",), noise_255=(5.0, 80.0)), "model": RestorerConfig(process=ProcessConfig(kind="denoising", noise_255=70.0))},
            "goes from 5 to 80",
        ),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TrainRestorerConfig(), **changed).check()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_sound(name: str) -> None:
    replace(PRESETS[name], photographs="a").check()
