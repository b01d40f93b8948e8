"""Training a density model by its command: resumed equals uninterrupted, two ranks equal one; then its file codes, samples and is measured."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from downstream import density_decode, density_encode, density_info, density_sample, density_verify, eval_density
from downstream.density.archive_index import CodingConfig
from downstream.density.calibration import calibrate
from downstream.density.contexts import token_maps, token_statistics
from downstream.density.likelihood import OdeConfig, discrete_vlb, ode_nats, vlb
from downstream.density.measuring import SamplesConfig, by_plain_coders, coding, middles_to_code, paired
from downstream.density.model import DensityModel, error_nats
from downstream.density.model_file import TrainedDensity, load_density
from downstream.density.objective import DensityObjective, ObjectiveConfig
from downstream.density.plain import to_png
from downstream.density.sampling import ancestral, as_grid
from downstream.density.schedules import NoiseConfig
from downstream.density.train_config import PRESETS
from downstream.density.training_images import Digits, SourceConfig, in_channels, levels_of, read_digits
from downstream.density.unseen_images import squares, unseen_images
from downstream.encoder_record import EncoderRecord
from downstream.origin_marks import read_mark
from downstream.sight import Sight, SightConfig
from downstream.train_density import DensityTask
from lcl.core.files import sha256_of
from lcl.features import load_encoder, random_encoder
from tests.conftest import Run, assert_one_line_error
from tests.made_encoders import SQUARE, checkpoint_of, random_model
from tests.processes import run_ranks
from tests.test_density_codec import NOTHING_KNOWN, waves
from tests.test_train_codec import assert_resumed_equals, losses, weights


def train(output: Path, *options: object, ranks: int = 1, preset: str = "toy") -> None:
    run_ranks(["downstream/train_density.py", "--preset", preset, "--output", output, *options], world_size=ranks)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train(folder / "run")
    return folder / "run"


def test_resumed_equals_uninterrupted(whole: Path, tmp_path: Path) -> None:
    assert_resumed_equals(whole, tmp_path / "run", lambda: train(tmp_path / "run"), file="density.safetensors")


def test_two_ranks_compute_what_one_does(whole: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", ranks=2)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(whole), rtol=1e-4)


def test_an_archive_by_its_commands(run: Run, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder, model, archive = tmp_path / "pictures", str(whole / "density.safetensors"), tmp_path / "pictures.lcld"
    folder.mkdir()
    Image.fromarray(np.concatenate(list(read_digits("test")[:40, :, :, 0]), axis=1)).save(folder / "digits.png")
    (folder / "notes.txt").write_text("kept as it is")
    result = run("lcl", "density", "encode", folder, "--model", model, "--coding.steps", 4)
    assert result.returncode == 0, result.stderr
    density_info.main(density_info.InfoConfig(input=str(archive)))
    density_verify.main(density_verify.VerifyConfig(input=str(archive), model=model, against=str(folder)))
    said = capsys.readouterr().out
    assert "2 files" in said and "notes.txt: kept as it was" in said and "2 files come back, the same as in" in said
    density_decode.main(density_decode.DecodeConfig(input=str(archive), output=str(tmp_path / "back"), model=model))
    assert (tmp_path / "back" / "notes.txt").read_text() == "kept as it is"
    with Image.open(tmp_path / "back" / "digits.png") as ours, Image.open(folder / "digits.png") as theirs:
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    Image.new("L", (3, 3)).save(folder / "digits.png")
    with pytest.raises(ValueError, match="of 2 files 0 are lost and 1 differ"):
        density_verify.main(density_verify.VerifyConfig(input=str(archive), model=model, against=str(folder)))
    damaged = bytearray(archive.read_bytes())
    damaged[-3] ^= 1
    archive.write_bytes(damaged)
    result = run("lcl", "density", "decode", archive, tmp_path / "again", "--model", model)
    assert_one_line_error(result, "1 of 2 files are not written")
    assert "digits.png is not written: chunk" in result.stderr and [path.name for path in (tmp_path / "again").iterdir()] == ["notes.txt"]


def test_samples_say_what_they_are(whole: Path, tmp_path: Path) -> None:
    for method in ("ancestral", "ode"):
        path = tmp_path / f"{method}.png"
        density_sample.main(density_sample.SampleConfig(model=str(whole / "density.safetensors"), output=str(path), num=6, columns=3, steps=4, method=method, tolerance=0.1))
        with Image.open(path) as image:
            assert image.size == (26, 17)
        mark = read_mark(path.read_bytes())
        assert mark.kind == "trainedAlgorithmicMedia" and mark.model_sha256 == sha256_of(whole / "density.safetensors") and method in mark.settings


def test_the_report(whole: Path, tmp_path: Path) -> None:
    encoder = checkpoint_of(random_model(SQUARE), tmp_path / "encoder" / "step-000001")
    eval_density.main(
        eval_density.EvalDensityConfig(
            model=str(whole / "density.safetensors"), source="digits", output=str(tmp_path), num_images=8, times=4, ode_images=2, ode=OdeConfig(tolerance=0.1, samples=2),
            coding_steps=(3, 5), coded_images=4, samples=SamplesConfig(num=4, steps=(2,), tolerances=(0.5,), columns=2, encoder=str(encoder)),
        )
    )  # fmt: skip
    found = json.loads((tmp_path / "density.json").read_text())["measured"]
    assert found["vlb"]["standard_error"] > 0 and found["vlb"]["bits_per_dim"] == pytest.approx(sum(found["vlb"][name] for name in ("reconstruction", "prior", "diffusion", "context")))
    flows = found["ode"]["bounds"]
    assert [(one["dequantisation"], one["samples"]) for one in flows] == [(kind, number) for kind in ("uniform", "truncated_normal") for number in (1, 2)] and found["ode"]["images"] == 2
    assert [row["steps"] for row in found["coded"]] == [3, 5]
    for row in found["coded"]:
        assert row["bits_per_dim"] == pytest.approx(sum(row[f"{name}_bits_per_dim"] for name in ("payload", "initial", "header"))) and row["header_bits_per_dim"] > 0
        assert row["payload_over_elbo"] == pytest.approx(row["payload_bits_per_dim"] / row["elbo_of_these"] - 1)
    assert found["plain"].keys() == {"PNG", "WebP without loss", "JPEG XL without loss", "lzma"} and found["plain"]["PNG"]["bits_per_dim"] > 0
    samples = found["samples"]
    assert [row["way"] for row in samples["ways"]] == ["ancestral_2", "ode_0.5"] and samples["ways"][0]["evaluations"] == 2 and all("kernel_distance" in row for row in samples["ways"])
    assert samples["features_of"] == load_encoder(encoder).fingerprint and samples["between_halves_of_the_images"]["standard_error"] > 0
    for row in samples["ways"]:
        with Image.open(tmp_path / f"{row['way']}.png") as image:
            assert image.size == (17, 17)


def test_mistakes_are_a_line(run: Run, whole: Path, tmp_path: Path) -> None:
    assert_one_line_error(run("python", "downstream/train_density.py", "--output", tmp_path / "run"), "--source.folder: give a folder")
    model = str(whole / "density.safetensors")
    for act, said in (
        (lambda: density_info.main(density_info.InfoConfig(input=model)), "is no archive"),
        (lambda: density_encode.main(density_encode.EncodeConfig(input=str(tmp_path / "gone"), model=model)), "no such file or folder"),
        (lambda: density_encode.main(density_encode.EncodeConfig(input=str(tmp_path), model=model)), "holds no files"),
        (lambda: density_encode.main(density_encode.EncodeConfig(input=model, output=__file__, model=model)), "is there and is no archive"),
        (lambda: density_sample.main(density_sample.SampleConfig(model=model, output="x.jpg")), "ends in .png"),
        (lambda: eval_density.main(eval_density.EvalDensityConfig(model=model, source=str(tmp_path), output="e")), "which photographs are not"),
    ):  # fmt: skip
        with pytest.raises((ValueError, OSError), match=said):
            act()


def test_settings_that_do_not_fit_are_named() -> None:
    toy = PRESETS["toy"]
    context, model = toy.model.context, toy.model
    for wrong, said in (
        (replace(toy, model=replace(model, levels=256)), "digits need model.channels"),
        (replace(toy, source=SourceConfig(folder="photos")), "1 or 3, 256 and any size"),
        (replace(toy, model=replace(model, context=replace(context, chosen=4))), "choose fewer than there are"),
        (replace(toy, model=replace(model, noise=NoiseConfig(kind="scalar"))), "knows no context"),
        (replace(toy, model=replace(model, context=replace(context, kind="tokens"))), "need a frozen encoder"),
        (replace(toy, encoder="somewhere"), "take a frozen encoder"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            wrong.check()
    for config in PRESETS.values():
        config.check()


# Parts of the training that no command above reaches


def test_a_grey_image_is_seen_as_colour() -> None:
    sight = Sight(random_encoder(SQUARE), SightConfig(num_layers=2))
    x = torch.rand(2, 1, 8, 8) * 2 - 1
    maps = token_maps(sight, x)
    assert torch.equal(maps, token_maps(sight, x.expand(-1, 3, -1, -1))) and maps.shape == (2, sight.num_features, 4, 4)
    assert torch.allclose(token_statistics(maps)[:, : sight.num_features], maps.mean(dim=(2, 3)), atol=1e-5)


def test_alignment_teaches_the_denoiser_and_no_one_else() -> None:
    torch.manual_seed(0)
    model = DensityModel(PRESETS["toy"].model)
    objective = DensityObjective(model, ObjectiveConfig(alignment=1.0), sight=Sight(random_encoder(SQUARE), SightConfig(num_layers=1)))
    u = Digits(0).batch(0, range(8))
    found = objective(u, torch.Generator().manual_seed(0))
    assert 0 < float(found.metrics["unlike_tokens"]) < 2 and not any(name.startswith("sight") for name, _ in objective.named_parameters())
    aligned = torch.autograd.grad(found.loss, model.unet.first.weight)[0]
    alone = torch.autograd.grad(DensityObjective(model, ObjectiveConfig())(u, torch.Generator().manual_seed(0)).loss, model.unet.first.weight)[0]
    assert not torch.allclose(aligned, alone)


@pytest.mark.parametrize("steps", [0, 8])
def test_weighted_times_learn_from_the_terms_and_leave_the_bound(steps: int) -> None:
    torch.manual_seed(0)
    model = DensityModel(PRESETS["toy"].model)
    uniform, weighted = DensityObjective(model, ObjectiveConfig(steps=steps)), DensityObjective(model, ObjectiveConfig(steps=steps, times="importance"))
    u = Digits(0).batch(0, range(64))

    def bits(objective: DensityObjective, seed: int) -> float:
        return float(objective(u, torch.Generator().manual_seed(seed)).metrics["bits_per_dim"])

    with torch.no_grad():
        assert bits(weighted, 0) == bits(uniform, 0)
        for seed in range(12):
            bits(weighted, seed)
            weighted.times.update(lambda values: values)
        assert float(weighted.times.density().std()) > 0.1
        found, wanted = (np.array([bits(objective, seed) for seed in range(100, 140)]) for objective in (weighted, uniform))
    assert abs(found.mean() - wanted.mean()) < 4 * math.hypot(found.std(), wanted.std()) / math.sqrt(40)


def test_a_training_starts_from_another_model(whole: Path) -> None:
    config = replace(PRESETS["toy"], start_from=str(whole / "density.safetensors"))
    wanted = load_density(whole / "density.safetensors").model.state_dict()
    started = DensityTask(config, Digits(0), None).module.model.state_dict()
    assert started.keys() == wanted.keys() and all(torch.equal(started[name], value) for name, value in wanted.items())
    with pytest.raises(ValueError, match="is a model of other settings than --model: give its own"):
        DensityTask(replace(config, model=replace(config.model, noise=NoiseConfig(kind="linear"))), Digits(0), None)


def test_a_training_with_an_encoder(run: Run, tmp_path: Path) -> None:
    """The file names the encoder of its context; that of the alignment alone is nothing that coding needs."""
    encoder, output = checkpoint_of(random_model(SQUARE), tmp_path / "encoder" / "step-000001"), tmp_path / "run"
    train(output, "--encoder", encoder, "--model.context.kind", "tokens", "--objective.alignment", 0.5, "--fit.steps", 4)
    trained = load_density(output / "density.safetensors", encoder=load_encoder(encoder))
    assert trained.encoder == EncoderRecord(load_encoder(encoder).fingerprint, 24) and {"project.weight"} <= weights(output, "model").keys()
    picture, archive = tmp_path / "digits.png", tmp_path / "digits.lcld"
    Image.fromarray(np.concatenate(list(read_digits("test")[:20, :, :, 0]), axis=1)).save(picture)
    settings = density_encode.EncodeConfig(input=str(picture), output=str(archive), model=str(output / "density.safetensors"), coding=CodingConfig(steps=2))
    with pytest.raises(ValueError, match="give --encoder"):
        density_encode.main(settings)
    density_encode.main(replace(settings, encoder=str(encoder)))
    density_verify.main(density_verify.VerifyConfig(input=str(archive), model=settings.model, against=str(picture)))


@pytest.mark.parametrize(("steps", "variances"), [(0, "of_q"), (3, "of_q"), (3, "calibrated")])
def test_steps_of_the_loss_and_of_the_measure_agree(whole: Path, steps: int, variances: str) -> None:
    """The mean of the training loss of T steps is ELBO_T, with the variances of either kind, and that of continuous time the bound."""
    trained = load_density(whole / "density.safetensors")
    trained = replace(trained, calibration=NOTHING_KNOWN)  # a training has no table yet
    u = torch.from_numpy(read_digits("test")[:32]).permute(0, 3, 1, 2).long()
    with torch.no_grad():
        objective = DensityObjective(trained.model, ObjectiveConfig(steps=steps, variances=variances))
        ours = [float(objective(u, torch.Generator().manual_seed(seed)).metrics["bits_per_dim"]) for seed in range(60)]
        rng = torch.Generator().manual_seed(0)
        bounds = [vlb(trained, u, rng, num_times=8) if not steps else discrete_vlb(trained, u, rng, num_steps=steps, calibrated=variances == "calibrated") for _ in range(8)]
        theirs = [float(bound.total.mean()) / u[0].numel() / np.log(2) for bound in bounds]
        error = np.hypot(np.std(ours) / np.sqrt(60), np.std(theirs) / np.sqrt(8))
        assert abs(np.mean(ours) - np.mean(theirs)) < 4 * error < 0.2 * np.mean(ours)


def test_few_steps_at_chosen_times_cost_less_than_at_even_ones(whole: Path) -> None:
    """On images that they were not chosen with."""
    trained = load_density(whole / "density.safetensors")
    u = torch.from_numpy(read_digits("test")[:64]).permute(0, 3, 1, 2).long()
    chosen, even = (float(discrete_vlb(one, u, torch.Generator().manual_seed(0), num_steps=6).total.mean()) for one in (trained, replace(trained, calibration=trained.calibration.evenly())))
    assert chosen < 0.99 * even


def test_a_context_that_says_nothing_costs_what_it_says() -> None:
    """Bound, ODE and ELBO_T of a model that does not heed its context: a sure one costs log of the number of subsets more than one by chance, in each of them."""
    torch.manual_seed(0)
    model = DensityModel(PRESETS["toy"].model).eval().requires_grad_(False)
    size = model.settings.context.size
    model.unet.embed[0].weight[:, -size:] = 0
    model.schedule.head.spread.weight[:] = 0
    model.context_logits.out.weight[:] = 0
    u = torch.from_numpy(read_digits("test")[:4]).permute(0, 3, 1, 2).long()
    trained, costs = TrainedDensity(model, NOTHING_KNOWN, {}), []
    for bias in (0.0, 30.0):
        model.context_logits.out.bias[:] = torch.tensor([bias, *[0.0] * (size - 1)])
        rng = [torch.Generator().manual_seed(seed) for seed in range(4)]
        flows = [ode_nats(trained, u, rng[number], tolerance=1e-2, samples=2, dequantisation=kind)[-1] for number, kind in enumerate(("uniform", "truncated_normal"))]
        costs.append([*flows, vlb(trained, u, rng[2], num_times=2).total, discrete_vlb(trained, u, rng[3], num_steps=2).total])
    for by_chance, sure in zip(*costs, strict=True):
        assert torch.allclose(sure - by_chance, torch.full((4,), math.log(size)), atol=2e-3)


def test_the_bound_that_a_codec_pays_is_the_lower_one_and_teaches_the_network_alone(whole: Path) -> None:
    trained = load_density(whole / "density.safetensors")
    u = torch.from_numpy(read_digits("test")[:32]).permute(0, 3, 1, 2).long()
    objectives = [DensityObjective(trained.model, ObjectiveConfig(steps=4, variances=variances)) for variances in ("calibrated", "of_q")]
    paid, published = (float(np.mean([float(one(u, torch.Generator().manual_seed(seed)).metrics["diffusion_bits"]) for seed in range(20)])) for one in objectives)
    assert 0 < paid < published
    model = trained.model.requires_grad_()
    parts = [model.error[2].weight, model.out.weight, model.schedule.head.out.weight]
    of_paid, of_published = (torch.autograd.grad(one(u, torch.Generator().manual_seed(0)).loss, parts) for one in objectives)
    assert torch.equal(of_paid[0], of_published[0]), "what the network expects of itself learns by its own term"
    assert not any(torch.allclose(ours, theirs, rtol=1e-2) for ours, theirs in zip(of_paid[1:], of_published[1:], strict=True))


def test_models_of_one_seed_begin_alike_and_see_the_same_noise() -> None:
    """Whatever their schedule and context are: else differences between them hold those of seeds."""
    toy, u = PRESETS["toy"].model, Digits(0).batch(0, range(8))
    kinds = [("linear", "none"), ("scalar", "none"), ("polynomial", "none"), ("polynomial", "convolutional")]
    found = []
    for noise, context in kinds:
        torch.manual_seed(3)
        model = DensityModel(replace(toy, noise=replace(toy.noise, kind=noise), context=replace(toy.context, kind=context)))
        generator = torch.Generator().manual_seed(5)
        metrics = DensityObjective(model, ObjectiveConfig())(u, generator).metrics
        same = {name: value for name, value in model.state_dict().items() if name.startswith(("unet.", "out.", "error.")) and not name.startswith("unet.embed.")}
        found.append((same, float(metrics["reconstruction_bits"]), torch.rand(3, generator=generator)))
    for same, reconstruction, after in found[1:]:
        assert all(torch.equal(value, found[0][0][name]) for name, value in same.items()) and reconstruction == found[0][1] and torch.equal(after, found[0][2])


def test_the_error_that_is_expected_changes_nothing_else() -> None:
    torch.manual_seed(0)
    model = DensityModel(PRESETS["toy"].model)
    z, gamma = torch.randn(4, 1, 8, 8), torch.zeros(4, 1, 1, 1)
    found = model.denoise(z, gamma, model.random_context(4, torch.Generator().manual_seed(0)))
    cost = error_nats((z - found.eps_hat).square(), found.squared_error).sum()
    gradients = dict(zip(dict(model.named_parameters()), torch.autograd.grad(cost, list(model.parameters()), allow_unused=True), strict=True))
    assert {name for name, value in gradients.items() if value is not None} == {name for name in gradients if name.startswith("error.")}


def test_a_grey_model_sees_brightness() -> None:
    pixels = waves(5, 6, 3)
    grey = in_channels(pixels, 1)
    assert grey.shape == (5, 6, 1) and np.abs(grey[..., 0] - pixels @ [0.299, 0.587, 0.114]).max() < 1 and in_channels(pixels, 3) is pixels


def test_squares_lie_at_even_distances() -> None:
    pixels = np.arange(40 * 60 * 3).reshape(40, 60, 3)
    found = squares(pixels, 3, side_px=16)
    assert [one[0, 0, 0].tolist() for one in found] == [pixels[0, 0, 0], pixels[0, 32, 0], pixels[16, 16, 0]]
    with pytest.raises(ValueError, match="no 7 squares of 16 px"):
        squares(pixels, 7, side_px=16)


def test_pictures_that_no_training_saw(tmp_path: Path) -> None:
    """One square of each photograph, then the next of each; and middles, which plain coders take one by one."""
    for number in range(3):
        Image.fromarray(waves(40, 50, 3) // (number + 1)).save(tmp_path / f"{number}.png")
    settings = replace(PRESETS["toy"].model, channels=3, levels=256, size_px=16)
    unseen = unseen_images(str(tmp_path), settings, num=5)
    assert unseen.sources == [0, 1, 2, 0, 1] and [one.shape for one in unseen.images] == [(16, 16, 3)] * 5
    assert np.array_equal(unseen.images[1], unseen.images[0] // 2) and not np.array_equal(unseen.images[3], unseen.images[0])
    model = DensityModel(settings).eval()
    trained = TrainedDensity(model, calibrate(model, torch.stack([levels_of(one) for one in unseen.images]), aligned=False), {})
    chosen = middles_to_code(str(tmp_path), trained, num=2, side_px=32)
    assert np.array_equal(chosen.pictures[1], (waves(40, 50, 3) // 2)[4:36, 9:41]) and chosen.tiles.shape == (8, 3, 16, 16)
    assert torch.equal(chosen.tiles[5], levels_of(chosen.pictures[1][:16, 16:]))
    row = coding(trained, unseen, chosen, torch.Generator().manual_seed(0), steps=2, at_once=1)
    assert row["images"] == 2 and abs(row["payload_over_elbo"]) < 0.05 and row["elbo_draws"] == 11
    alone = sum(len(to_png(one)) for one in chosen.pictures) * 8 / (2 * 32 * 32 * 3)
    plain = by_plain_coders(chosen)
    assert plain["PNG"]["bits_per_dim"] == pytest.approx(alone) == pytest.approx(np.mean(plain["PNG"]["of_pictures"]))
    beside = paired(row, plain)["PNG"]
    assert beside["difference"] == pytest.approx(row["bits_per_dim"] - alone) and beside["low"] <= beside["difference"] <= beside["high"]
    ours, theirs = np.array(row["elbo_of_pictures"]) + row["bits_per_dim"] - row["elbo_of_these"], np.array(plain["PNG"]["of_pictures"])
    assert (beside["low"], beside["high"]) == pytest.approx((min(ours - theirs), max(ours - theirs))) and beside["pictures_with_fewer"] == sum(ours < theirs)
    assert paired(row, by_plain_coders(chosen._replace(apart=False))) == {}
    with pytest.raises(ValueError, match="no whole number of the model's tiles of 16 px"):
        middles_to_code(str(tmp_path), trained, num=2, side_px=24)
    with pytest.raises(ValueError, match="holds 3 photographs, 4 are asked for"):
        middles_to_code(str(tmp_path), trained, num=4, side_px=32)
    with pytest.raises(ValueError, match="no middle of 48 px"):
        middles_to_code(str(tmp_path), trained, num=1, side_px=48)


def test_samples_follow_their_seed_and_fill_a_grid(whole: Path) -> None:
    trained = load_density(whole / "density.safetensors")
    first, again, other = (ancestral(trained, 5, torch.Generator().manual_seed(seed), num_steps=3, height=5, width=9) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other) and first.shape == (5, 1, 5, 9)
    assert int(first.min()) >= 0 and int(first.max()) < 17
    grid = as_grid(first, levels=17, columns=3)
    assert grid.shape == (11, 29, 1) and torch.equal(grid[:5, :9, 0], (first[0, 0] * 255 / 16).round().to(torch.uint8))
