"""A restorer that knows how light and dark the whole picture is: nothing at the start, the same for tiles, and by the photograph around a training crop."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from downstream.photographs import Crops, list_photographs, to_tensor
from downstream.restore.degradations import DegradationConfig, degrade
from downstream.restore.guide import Added
from downstream.restore.model_file import Restorer, RestorerConfig, load_restorer
from downstream.restore.network import NetworkConfig
from downstream.restore.objective import ObjectiveConfig, RestorerObjective
from downstream.restore.pairs import FoundPairs, MadePairs, around_px
from downstream.restore.restoring import restore
from downstream.restore.tones import SHARES, tones_of
from downstream.restore.train_config import PRESETS
from downstream.train_restorer import starting_weights
from tests.test_degradations import photo
from tests.test_train_restorer import losses, photographs, train  # noqa: F401  (a fixture)

NETWORK = NetworkConfig(widths=(4, 8), num_blocks=(1, 1), time_width=8)
TONED = RestorerConfig(network=NETWORK, tones=True)


def toned(settings: RestorerConfig = TONED, *, trembling: float = 0.1) -> Restorer:
    torch.manual_seed(0)
    network = settings.build()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(trembling * torch.randn(parameter.shape))
    return Restorer(network.eval(), settings, "ir_cm", ("rain",), {}, "0" * 64)


def test_tones_are_quantiles_whatever_the_order_of_pixels() -> None:
    levels = torch.from_numpy(np.random.default_rng(0).integers(256, size=(3, 40, 50))).float() / 255
    found = tones_of(levels).exp().view(3, -1) - 1 / 255
    by_sorting = np.quantile(levels.flatten(1).numpy(), SHARES, axis=1, method="inverted_cdf").T
    np.testing.assert_allclose(found.numpy(), by_sorting, atol=1 / 4096)
    shuffled = levels.flatten(1)[:, torch.randperm(2000)].view(3, 50, 40)
    assert torch.equal(tones_of(shuffled), tones_of(levels))
    assert not tones_of(torch.zeros(3, 1, 1)).isinf().any() and (tones_of(torch.ones(3, 1, 1)) > tones_of(torch.zeros(3, 1, 1))).all()


def test_a_new_network_is_the_one_without_and_a_trained_one_hears_tones() -> None:
    torch.manual_seed(0)
    plain = replace(TONED, tones=False).build()
    torch.manual_seed(0)
    network, x, end = TONED.build(), torch.rand(2, 3, 16, 16), torch.ones(2)
    tones = torch.stack([tones_of(one) for one in x])
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in plain.state_dict().items())
    torch.nn.init.normal_(network.leave.weight)
    plain.leave.load_state_dict(network.leave.state_dict())
    assert torch.equal(network(x, x, end, network.added(x, tones)), plain(x, x, end)) and plain.added(x, None) is None
    heard = toned().network
    assert not torch.allclose(heard(x, x, end, heard.added(x, tones)), heard(x, x, end, heard.added(x, tones - 1)))


@pytest.mark.parametrize("boundary", ["time", "mu"])
def test_tiles_equal_the_whole_and_a_place_knows_the_farthest(boundary: str) -> None:
    trained, x = toned(replace(TONED, boundary=boundary)), photo(70, 93)
    whole = restore(trained, x, num_steps=2)
    torch.testing.assert_close(restore(trained, x, num_steps=2, tile_px=16), whole, atol=1e-5, rtol=0)
    darker = x.clone()
    darker[:, :, trained.network.margin_px + 16 :] /= 4
    assert (restore(trained, darker, num_steps=2)[:, :, :8] - whole[:, :, :8]).abs().max() > 1e-3
    deaf = replace(trained, network=replace(TONED, tones=False).build().eval())
    deaf.network.load_state_dict(trained.network.state_dict(), strict=False)
    assert torch.equal(restore(deaf, darker, num_steps=1)[:, :, :8], restore(deaf, x, num_steps=1)[:, :, :8])


def test_what_is_added_is_the_sum_of_tones_and_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = toned().network, torch.rand(2, 3, 16, 16)
    tones, places, of_guide = torch.stack([tones_of(one) for one in x]), torch.rand(2, 8, 8, 8), torch.rand(2, 8)
    network.guide = torch.nn.Module()
    monkeypatch.setattr(type(network.guide), "forward", lambda self, degraded, *, grid, seen: Added(of_guide, places))
    both = network.added(x, tones, kept=torch.tensor([True, False]))
    torch.testing.assert_close(both.time, network.toned(tones) + of_guide * torch.tensor([[1.0], [0.0]]))
    assert torch.equal(both.places[0], places[0]) and not both.places[1].any(), "tones stay where the guide is dropped"


def test_pairs_have_the_tones_of_the_photograph_around(photographs: Path, tmp_path: Path) -> None:  # noqa: F811
    settings, files = DegradationConfig(tasks=("low_light",)), list_photographs(photographs)
    assert (around_px(64, 256), around_px(64, 255), around_px(64, 32)) == (96, 96, 0)
    pairs, crops = MadePairs(files, settings, side_px=16, seed=3, tones_px=24).batch(5, range(8)), Crops(files, side_px=16, seed=3)
    for item in range(8):
        around = crops.window(5, item, margin_px=4)
        made = degrade(to_tensor(around.pixels), settings, np.random.default_rng([3, 5, item, 1])).pixels
        torch.testing.assert_close(pairs.tones[item], tones_of(made))
        assert torch.equal(pairs.degraded[item], made[:, around.rows, around.columns]) and torch.equal(pairs.clean[item], to_tensor(around.part))
    assert MadePairs(files, settings, side_px=16, seed=3).batch(5, range(2)).tones is None
    for part, divisor in (("GT", 1), ("LQ", 3)):
        (tmp_path / part).mkdir()
        for path in files:
            Image.fromarray(np.asarray(Image.open(path)) // divisor).save(tmp_path / part / path.name)
    found = FoundPairs(tmp_path, side_px=16, seed=3, tones_px=24).batch(5, range(4))
    below = Crops(list_photographs(tmp_path / "LQ"), side_px=16, seed=3)
    for item in range(4):
        torch.testing.assert_close(found.tones[item], tones_of(to_tensor(below.window(5, item, margin_px=4).pixels)))
    assert torch.equal((found.clean * 255).round() // 3, (found.degraded * 255).round())


@pytest.mark.parametrize("kind", ["regression", "ir_sde", "ir_cm"])
def test_gradients_reach_the_tones(kind: str) -> None:
    network = toned().network
    objective = RestorerObjective(network, TONED, ObjectiveConfig(kind=kind, own_fraction=1.0, sampled_fraction=1.0, end_fraction=0.5))
    clean, degraded = torch.rand(6, 3, 16, 16), torch.rand(6, 3, 16, 16)
    objective(clean, degraded, torch.zeros(6), False, torch.Generator().manual_seed(0), torch.stack([tones_of(one) for one in degraded])).loss.backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in network.toned.parameters())


def test_a_restorer_is_trained_with_tones_from_one_without(photographs: Path, tmp_path: Path) -> None:  # noqa: F811
    """What both have is the start. Two ranks, whose tones are those of their own crops."""
    train(photographs, tmp_path / "plain", "--fit.steps", 4)
    train(photographs, tmp_path / "toned", "--model.tones", "True", "--tones-px", 24, "--start-from", tmp_path / "plain", ranks=2)
    trained = load_restorer(tmp_path / "toned" / "restorer.safetensors")
    assert trained.settings.tones and trained.network.toned.layers[-1].weight.abs().max() > 0 and np.isfinite(losses(tmp_path / "toned")).all()
    assert torch.isfinite(restore(trained, photo(40, 30))).all()
    with pytest.raises(ValueError, match="has tones, --model has none"):
        starting_weights(replace(PRESETS["toy"], start_from=str(tmp_path / "toned")), None)
