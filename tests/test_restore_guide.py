"""The encoder's part in a restorer: nothing at the start, nothing where it is dropped, gradients for the guide and none for the encoder, one picture's tokens for all tiles."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from downstream import restore_images
from downstream.restore.detector import Detector, DetectorConfig, save_detector
from downstream.restore.guide import Added, GuideConfig, View
from downstream.restore.model_file import Restorer, RestorerConfig, load_restorer, save_restorer
from downstream.restore.network import NetworkConfig, UNet
from downstream.restore.objective import ObjectiveConfig, RestorerObjective
from downstream.restore.process import ProcessConfig
from downstream.restore.restoring import restore
from downstream.restore.token_statistics import squares, token_statistics
from downstream.restore.train_config import PRESETS, TrainRestorerConfig
from downstream.restore_images import RestoreConfig
from downstream.train_restorer import RestorerTask
from lcl.features import Encoder, load_encoder
from tests.made_encoders import FLEXIBLE, SQUARE, checkpoint_of, random_model
from tests.processes import run_ranks
from tests.test_degradations import photo
from tests.test_train_restorer import losses, photographs  # noqa: F401  (a fixture)

NETWORK = NetworkConfig(widths=(4, 8), num_blocks=(1, 1), time_width=8)
BOTH = GuideConfig(parts="both", width=6, crop_px=16, num_crops=4, max_patches=64)
MADE = {"reverting": ProcessConfig(), "denoising": ProcessConfig(kind="denoising", noise_255=70.0)}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(random_model(SQUARE))


def guided(encoder: Encoder, guide: GuideConfig = BOTH, *, trembling: float = 0.1) -> UNet:
    """A network with a guide, none of whose weights are zero unless `trembling` is."""
    view = View(encoder, guide)
    torch.manual_seed(0)
    network = RestorerConfig(network=NETWORK, guide=guide).build(view.record)
    network.guide.view = view
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(trembling * torch.randn(parameter.shape))
    return network.eval()


def restorer(encoder: Encoder, guide: GuideConfig = BOTH) -> Restorer:
    network = guided(encoder, guide)
    return Restorer(network, RestorerConfig(network=NETWORK, guide=guide), "ir_cm", ("rain",), {}, "0" * 64, network.guide.view.record)


def without_encoder(trained: Restorer) -> Restorer:
    """The same weights in a network of their own, as `load_restorer` makes it when no encoder is given."""
    network = trained.settings.build(trained.encoder)
    network.load_state_dict(trained.network.state_dict())
    return replace(trained, network=network.eval())


@pytest.mark.parametrize("parts", ["head", "tokens", "both"])
def test_the_network_starts_as_the_one_without(encoder: Encoder, parts: str) -> None:
    """Equal seeds give equal weights with a guide and without, and before any training the guide adds nothing, to the bit."""
    guide = replace(BOTH, parts=parts)
    torch.manual_seed(3)
    plain = RestorerConfig(network=NETWORK).build()
    torch.manual_seed(3)
    network = RestorerConfig(network=NETWORK, guide=guide).build(View(encoder, guide).record)
    network.guide.view = View(encoder, guide)
    theirs = plain.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in network.state_dict().items() if not name.startswith("guide."))
    for one in (plain, network):  # the last convolution, at zero, would hide what comes before
        torch.nn.init.ones_(one.leave.weight)
    x = torch.rand(2, 3, 16, 24)
    added = network.guide(x, grid=network.grid(x))
    assert (added.time is None) == (parts == "tokens") and (added.places is None) == (parts == "head")
    assert torch.equal(network(x, x, torch.ones(2), added), plain(x, x, torch.ones(2)))


def test_dropped_tokens_are_the_network_without_an_encoder(encoder: Encoder) -> None:
    network = guided(encoder)
    x = torch.rand(3, 3, 16, 16)
    added = network.guide(x, grid=network.grid(x))
    keep = torch.tensor([True, False, True])
    plain, whole, partly = (network(x, x, torch.ones(3), one) for one in (None, added, added.kept(keep)))
    assert torch.equal(partly[1], plain[1]) and torch.equal(partly[0], whole[0]) and torch.equal(partly[2], whole[2])
    assert (whole - plain).abs().flatten(1).amax(dim=1).min() > 1e-3, "with tokens every picture comes out otherwise"
    assert torch.equal(network(x, x, torch.ones(3), added.kept(torch.zeros(3, dtype=torch.bool))), plain)


def test_without_its_encoder_a_model_does_as_with_dropped_tokens(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, x = restorer(encoder), photo(30, 40)
    plain, looking = restore(without_encoder(trained), x, num_steps=2), restore(trained, x, num_steps=2)
    assert (plain - looking).abs().max() > 1e-3
    kept = Added.kept
    forward = type(trained.network.guide).forward
    monkeypatch.setattr(type(trained.network.guide), "forward", lambda *a, **k: kept(forward(*a, **k), torch.zeros(1, dtype=torch.bool)))
    assert torch.equal(restore(replace(trained, settings=replace(trained.settings, guide=replace(BOTH, reread=0.0))), x, num_steps=2), plain)


@pytest.mark.parametrize("kind", ["regression", "ir_sde", "ir_cm"])
def test_gradients_reach_the_guide_and_never_the_encoder(encoder: Encoder, kind: str) -> None:
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    network = guided(encoder, replace(BOTH, dropout=0.0))
    objective = RestorerObjective(network, RestorerConfig(form="noise" if kind == "ir_sde" else "residual"), ObjectiveConfig(kind=kind))
    clean = torch.rand(4, 3, 16, 16)
    objective(clean, clean * 0.5, torch.full((4,), 0.1), False, torch.Generator().manual_seed(0)).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in network.guide.parameters()) and len(list(network.guide.parameters())) == 10
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in encoder.parameters())
    assert not any("visual" in name for name in objective.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_at_full_dropout_nothing_of_the_guide_is_trained(encoder: Encoder) -> None:
    network = guided(encoder, replace(BOTH, dropout=0.999999))
    objective = RestorerObjective(network, RestorerConfig(), ObjectiveConfig(kind="regression"))
    clean = torch.rand(4, 3, 16, 16)
    objective(clean, clean * 0.5, torch.zeros(4), False, torch.Generator().manual_seed(0)).loss.backward()
    assert all(not parameter.grad.any() for parameter in network.guide.parameters()) and network.enter.weight.grad.any()


@pytest.mark.parametrize("settings", [SQUARE, FLEXIBLE], ids=["vit", "naflex"])
@pytest.mark.parametrize("size", [(70, 93), (1, 1), (3, 130)])
def test_tiles_take_their_crop_of_the_whole_pictures_tokens(settings: object, size: tuple[int, int]) -> None:
    trained, x = restorer(Encoder(random_model(settings))), torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    whole = restore(trained, x, num_steps=2)
    assert whole.shape == x.shape
    for tile_px in (16, 50):
        torch.testing.assert_close(restore(trained, x, num_steps=2, tile_px=tile_px), whole, atol=1e-5, rtol=0)


def test_tokens_lie_where_their_patches_do(encoder: Encoder) -> None:
    """A bright corner changes what is added there more than at the farthest place; each patch's token is the encoder's own, of the block that was asked for."""
    guide = guided(encoder, replace(BOTH, max_patches=256)).guide
    x = torch.full((1, 3, 48, 64), 0.4)
    lit = x.clone()
    lit[:, :, :8, :8] = 1.0
    change = (guide.placed(lit, grid=(24, 32)) - guide.placed(x, grid=(24, 32))).abs().sum(dim=1)[0]
    assert change.shape == (24, 32) and change[:4, :4].mean() > 2 * change[-4:, -4:].mean()
    tokens = View(encoder, replace(BOTH, token_layer=2, max_patches=256)).tokens(lit)
    assert tokens.shape == (1, 24, 12, 16)
    torch.testing.assert_close(tokens.flatten(2).movedim(1, 2), encoder(lit, [2]).layers[0])
    assert View(encoder, BOTH).tokens(torch.rand(1, 3, 400, 300)).shape[-2] * View(encoder, BOTH).tokens(torch.rand(1, 3, 400, 300)).shape[-1] <= 64
    assert View(encoder, BOTH).tokens(torch.rand(1, 3, 8, 12)).shape == (1, 24, 2, 3), "a small picture is not enlarged"


def test_statistics_are_means_and_deviations_of_squares_at_full_size(encoder: Encoder) -> None:
    x = torch.rand(2, 3, 40, 24)
    view = View(encoder, replace(BOTH, layers=(0, 2)))
    found = view.statistics(x)
    assert found.shape == (2, 2 * 2, 2 * 2 * 24) == (2, 4, view.record.num_statistics)
    torch.testing.assert_close(found[1, 2], token_statistics(encoder, x[1:, :, 24:, :16], (0, 2))[0])
    tokens = encoder(x[:1, :, :16, :16], [0, 2]).layers
    torch.testing.assert_close(found[0, 0], torch.cat([one for layer in tokens for one in (layer[0].mean(dim=0), ((layer[0] - layer[0].mean(dim=0)) ** 2).mean(dim=0).sqrt())]))
    whole = squares(x, side_px=16, most=16)
    assert whole.shape[1] == 3 * 2 and torch.equal(whole[0, -1], x[0, :, 24:, 8:]), "as many as cover the picture"
    assert torch.equal(squares(x, side_px=40, most=4)[0, 0, :, :, 24:], x[0, :, :, 23:].expand(-1, -1, 16))


def test_the_second_step_reads_the_first_estimate(encoder: Encoder) -> None:
    """Equal to sampling by hand, in which the map is of the estimate and the vector of the degraded picture still."""
    trained, x = restorer(encoder), photo(16, 24)
    network, process, given = trained.network, trained.process, x[None]
    noise = torch.Generator().manual_seed(5)
    times = [torch.tensor([100.0]), torch.tensor([50.0])]
    with torch.no_grad():
        first = network.guide(given, grid=(8, 12))
        x_t = given + process.deviation(times[0]) * torch.randn(given.shape, generator=noise)
        estimate = given + network(x_t, given, torch.ones(1), first)
        tokens = network.guide.to_places(network.guide.norm(network.guide.view.tokens(estimate.clamp(0, 1))))
        second = Added(first.time, functional.interpolate(tokens, size=(8, 12), mode="bilinear"))
        x_t = process.state(estimate, given, times[1], torch.randn(given.shape, generator=noise))
        wanted = (0.5 * x_t + 0.5 * (given + network(x_t, given, torch.full((1,), 0.5), second)))[0].clamp(0, 1)
    torch.testing.assert_close(restore(trained, x, num_steps=2, seed=5), wanted)
    stays = replace(trained, settings=replace(trained.settings, guide=replace(BOTH, reread=0.0)))
    assert (restore(stays, x, num_steps=2, seed=5) - wanted).abs().max() > 1e-4


@pytest.mark.parametrize("kind", MADE)
def test_training_reads_again_only_before_the_end(encoder: Encoder, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """States at T are first steps; of the others a share has the tokens of an estimate, without a gradient through it."""
    read: list[torch.Tensor] = []
    network = guided(encoder, replace(BOTH, dropout=0.0, reread=1.0))
    placed = network.guide.placed
    monkeypatch.setattr(network.guide, "placed", lambda x, grid: read.append(x) or placed(x, grid=grid))
    clean = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    degraded, deviation = clean * 0.8 + 0.1, torch.full((6,), 0.1)
    for end_fraction, passes in ((1.0, 1), (0.0, 2)):
        read.clear()
        objective = RestorerObjective(network, RestorerConfig(process=MADE[kind], form="residual"), ObjectiveConfig(end_fraction=end_fraction))
        objective(clean, degraded, deviation, False, torch.Generator().manual_seed(0)).loss.backward()
        assert len(read) == passes and not read[-1].requires_grad
        assert torch.equal(read[-1], degraded) == (end_fraction == 1.0)
    read.clear()
    objective(clean, degraded, deviation, True, torch.Generator().manual_seed(0))
    assert len(read) == 1 and torch.equal(read[0], degraded), "the linear stage is for one step"


def test_a_model_names_its_encoder(encoder: Encoder, tmp_path: Path) -> None:
    made, path, x = restorer(encoder), tmp_path / "a.safetensors", photo(20, 24)
    save_restorer(path, made.network.state_dict(), made.settings, kind="ir_cm", tasks=("rain",), about={}, encoder=made.encoder)
    found = load_restorer(path, encoder=encoder)
    assert found.encoder == made.encoder and found.guided
    torch.testing.assert_close(restore(found, x, num_steps=2), restore(made, x, num_steps=2), atol=1e-4, rtol=0)
    torch.testing.assert_close(restore(load_restorer(path), x), restore(without_encoder(made), x), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="give --encoder, its checkpoint, run or export, or --no-encoder"):
        load_restorer(path, needs_encoder=True)
    with pytest.raises(ValueError, match="a.safetensors was trained with"):
        load_restorer(path, encoder=Encoder(random_model(SQUARE, seed=5)))


def test_a_detectors_head_is_taken_and_kept(encoder: Encoder, tmp_path: Path) -> None:
    torch.manual_seed(7)
    detector = Detector(DetectorConfig(width=6, crop_px=16), encoder)
    network = guided(encoder)
    network.guide.keep_head(detector.head.state_dict())
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(network.guide.head(network.guide.view.statistics(x)[:, 0]), detector.head[:3](token_statistics(encoder, x, detector.layers)))
    assert not any(parameter.requires_grad for parameter in network.guide.head.parameters()) and network.guide.to_time.weight.requires_grad
    with pytest.raises(ValueError, match="--detector has a head of other sizes"):
        network.guide.keep_head(Detector(DetectorConfig(width=7), encoder).head.state_dict())


def test_blocks_that_are_not_there(encoder: Encoder) -> None:
    with pytest.raises(ValueError, match="the encoder has 3 blocks"):
        View(encoder, replace(BOTH, layers=(3,)))
    with pytest.raises(ValueError, match="model.guide.token_layer is 3"):
        View(encoder, replace(BOTH, token_layer=3))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": RestorerConfig(guide=BOTH)}, "give --encoder"), ({"encoder": "e", "objective": ObjectiveConfig(perceptual_weight=0.0)}, "nothing looks through it"),
        ({"encoder": "e", "model": RestorerConfig(form="noise"), "objective": ObjectiveConfig(kind="ir_sde")}, "nothing looks through it"),
        ({"encoder": "e", "detector": "d", "model": RestorerConfig(guide=replace(BOTH, parts="tokens"))}, "give --model.guide.parts head or both"),
        ({"encoder": "e", "crop_px": 64, "model": RestorerConfig(guide=replace(BOTH, crop_px=128))}, "model.guide.crop_px is 128, crops have 64 px"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TrainRestorerConfig(photographs="a"), **changed).check()


def test_a_start_without_a_guide_and_one_with_another(encoder: Encoder, photographs: Path, tmp_path: Path) -> None:  # noqa: F811
    """A guide is put on trained weights, which stay what they were; a guided start must have been guided the same way."""
    torch.manual_seed(0)
    plain = UNet(PRESETS["toy"].model.network)
    torch.nn.init.normal_(plain.leave.weight)
    settings = PRESETS["toy"].model
    save_restorer(tmp_path / "plain.safetensors", plain.state_dict(), settings, kind="ir_cm", tasks=("rain",), about={})
    guided_settings = replace(settings, guide=replace(settings.guide, parts="both"))
    config = replace(PRESETS["toy"], photographs=str(photographs), encoder="e", start_from=str(tmp_path / "plain.safetensors"), model=guided_settings)
    network = RestorerTask(config, pairs=None, encoder=encoder).module.network
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(network(x, x, torch.ones(1), network.guide(x, grid=network.grid(x))), plain(x, x, torch.ones(1)))
    save_restorer(tmp_path / "guided.safetensors", network.state_dict(), config.model, kind="ir_cm", tasks=("rain",), about={}, encoder=network.guide.view.record)
    again = replace(config, start_from=str(tmp_path / "guided.safetensors"))
    RestorerTask(again, pairs=None, encoder=encoder)
    with pytest.raises(ValueError, match="was guided by another encoder"):
        RestorerTask(again, pairs=None, encoder=Encoder(random_model(SQUARE, seed=5)))


def test_trained_and_used_by_command(photographs: Path, tmp_path: Path) -> None:  # noqa: F811
    """Resumed equals uninterrupted with a frozen head in the checkpoint; restored with the encoder, without, and not in silence without."""
    checkpoint = checkpoint_of(random_model(SQUARE), tmp_path / "encoder" / "step-000001")
    loaded, detector = load_encoder(checkpoint), tmp_path / "detector.safetensors"
    made = Detector(DetectorConfig(width=8, crop_px=16), loaded)
    save_detector(detector, made, made.state_dict(), {})
    options = ("--preset", "toy", "--photographs", photographs, "--encoder", checkpoint, "--detector", detector, "--model.guide.parts", "both", "--objective.end-fraction", 0.25)
    for output in ("whole", "cut"):
        run_ranks(["downstream/train_restorer.py", *options, "--output", tmp_path / output], world_size=1)
        if output == "cut":
            (tmp_path / "cut" / "restorer.safetensors").unlink()
            for file in (tmp_path / "cut" / "step-000012").iterdir():
                if file.suffix == ".json":
                    file.unlink()
            run_ranks(["downstream/train_restorer.py", *options, "--output", tmp_path / "cut"], world_size=1)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole") and len(losses(tmp_path / "whole")) == 12
    model = tmp_path / "whole" / "restorer.safetensors"
    assert model.read_bytes() == (tmp_path / "cut" / "restorer.safetensors").read_bytes()
    trained = load_restorer(model, encoder=loaded)
    assert torch.equal(trained.network.guide.head[1].weight, made.head[1].weight) and trained.about["encoder"] == loaded.fingerprint == trained.encoder.fingerprint
    assert trained.network.guide.to_places.weight.abs().max() > 0 and trained.network.guide.to_time.weight.abs().max() > 0
    given = {"input": str(photographs / "0.png"), "output": str(tmp_path / "a.png"), "model": (str(model),), "steps": 2}
    restore_images.main(RestoreConfig(**given, encoder=str(checkpoint)))
    restore_images.main(RestoreConfig(**given | {"output": str(tmp_path / "b.png")}, no_encoder=True))
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    with pytest.raises(ValueError, match="give --encoder, its checkpoint"):
        restore_images.main(RestoreConfig(**given))
    with pytest.raises(ValueError, match="say opposite things"):
        restore_images.main(RestoreConfig(**given, encoder=str(checkpoint), no_encoder=True))
