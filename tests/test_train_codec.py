"""Training a codec by its command: resumed equals uninterrupted, two ranks equal one, and its file codes pictures."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from downstream import codec_encode, eval_codec
from downstream.codec.adapter import AdapterConfig
from downstream.codec.image_codec import decode
from downstream.codec.mean_scale import MeanScaleConfig
from downstream.codec.measuring import psnr_db
from downstream.codec.model_file import CodecConfig, finish, load_codec, save_codec
from downstream.codec.objective import ObjectiveConfig
from downstream.codec.rounding import RoundingConfig
from downstream.codec.train_config import PRESETS
from downstream.fit import check_numbers
from downstream.photographs import Crops, list_photographs, read_photograph
from downstream.train_codec import CodecTask
from lcl.run_mirror import RunMirror
from tests.conftest import Run, assert_one_line_error
from tests.processes import run_ranks
from tests.s3_server import s3_server
from tests.test_image_codec import picture


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(4):
        Image.fromarray(picture(90 + 10 * number, 120, seed=number)).save(folder / f"{number}.png")
    return folder


def train(photographs: Path, output: Path, *, ranks: int = 1, preset: str = "toy", options: Sequence[str] = ()) -> None:
    run_ranks(["downstream/train_codec.py", "--preset", preset, "--photographs", photographs, "--output", output, *options], world_size=ranks)


def weights(folder: Path, name: str = "model") -> dict[str, np.ndarray]:
    return load_file(max(folder.glob("step-*")) / f"{name}.safetensors")


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["train/loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_resumed_equals(whole: Path, copy: Path, again: Callable[[], None], *, file: str) -> None:
    """A copy of a run that was cut behind its second checkpoint, as a kill leaves it, comes by the same command to the same losses, weights and `file`, to the bit."""
    shutil.copytree(whole, copy)
    shutil.rmtree(copy / "step-000012")
    again()
    assert losses(copy) == losses(whole) and len(losses(whole)) == 12
    for name in ("model", "ema"):
        ours, theirs = weights(copy, name), weights(whole, name)
        assert ours.keys() == theirs.keys() and all(np.array_equal(ours[key], theirs[key]) for key in ours)
    assert (copy / file).read_bytes() == (whole / file).read_bytes()


@pytest.fixture(scope="module")
def whole(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train(photographs, folder / "run")
    return folder / "run"


def test_resumed_equals_uninterrupted(photographs: Path, whole: Path, tmp_path: Path) -> None:
    assert_resumed_equals(whole, tmp_path / "run", lambda: train(photographs, tmp_path / "run"), file="codec.safetensors")


def test_a_new_machine_continues_from_the_mirror(photographs: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine of before was lost behind its second checkpoint."""
    shutil.copytree(whole, tmp_path / "lost")
    shutil.rmtree(tmp_path / "lost" / "step-000012")
    with s3_server(monkeypatch, "codecs"):
        mirror = RunMirror(tmp_path / "lost", "s3://codecs/run", keep=2)
        mirror.claim()
        mirror.close()
        train(photographs, tmp_path / "run", options=("--fit.mirror", "s3://codecs/run"))
    assert (tmp_path / "run" / "codec.safetensors").read_bytes() == (whole / "codec.safetensors").read_bytes()
    assert losses(tmp_path / "run") == losses(whole)[-len(losses(tmp_path / "run")) :] and len(losses(tmp_path / "run")) < 12


def test_two_ranks_compute_what_one_does(photographs: Path, whole: Path, tmp_path: Path) -> None:
    train(photographs, tmp_path / "run", ranks=2)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(whole), rtol=1e-4)


def test_mixed_precision_is_near(photographs: Path, whole: Path, tmp_path: Path) -> None:
    """The rates are computed in fp32: bits of a symbol would be off by half a percent and more in bf16."""
    run_ranks(["downstream/train_codec.py", "--preset", "toy", "--photographs", photographs, "--output", tmp_path / "run", "--fit.engine.precision", "mixed"], world_size=1)
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (tmp_path / "run", whole)]
    assert [line["train/loss"] for line in lines[0]] != [line["train/loss"] for line in lines[1]]
    for name, most in (("train/loss", 0.02), ("train/z_bpp", 0.002)):
        np.testing.assert_allclose(*([line[name] for line in of] for of in lines), rtol=most)
    assert load_file(tmp_path / "run" / "codec.safetensors")


def test_the_auxiliary_model_is_trained_along(photographs: Path, tmp_path: Path) -> None:
    train(photographs, tmp_path / "run", preset="toy_cca")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["train/auxiliary_bpp"]) for line in lines)
    assert not any(name.startswith("auxiliary") for name in load_file(tmp_path / "run" / "codec.safetensors"))


def test_pictures_by_command(run: Run, photographs: Path, whole: Path, tmp_path: Path) -> None:
    model = ("--model", whole / "codec.safetensors")
    assert run("lcl", "codec", "encode", photographs, tmp_path / "compressed", *model, "--level", "0.5").returncode == 0
    assert run("lcl", "codec", "decode", tmp_path / "compressed", tmp_path / "back", *model).returncode == 0
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == [f"{number}.png" for number in range(4)]
    with Image.open(tmp_path / "back" / "1.png") as picture_back:
        assert picture_back.size == (120, 100)
    told = run("lcl", "codec", "verify", tmp_path / "compressed", *model)
    assert told.returncode == 0 and told.stdout.count("whole, decodes") == 4
    most = (tmp_path / "compressed" / "0.lclc").stat().st_size
    small = run("lcl", "codec", "encode", photographs / "0.png", tmp_path / "small.lclc", *model, "--bytes", most, "--refine", 5)
    assert small.returncode == 0 and (tmp_path / "small.lclc").stat().st_size <= most, small.stderr
    original = (tmp_path / "photo.png")
    shutil.copyfile(photographs / "0.png", original)
    unasked = run("lcl", "codec", "encode", original, *model)
    assert unasked.returncode == 0 and unasked.stderr.rstrip().endswith(f"level {len(load_codec(whole / 'codec.safetensors').lmbdas) // 2}"), "the middle one"
    told = run("lcl", "codec", "decode", tmp_path / "photo.lclc", *model)
    assert told.returncode == 1 and "is there and holds something else" in told.stderr and original.read_bytes() == (photographs / "0.png").read_bytes()
    damaged = bytearray((tmp_path / "compressed" / "0.lclc").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "compressed" / "0.lclc").write_bytes(damaged)
    told = run("lcl", "codec", "decode", tmp_path / "compressed", tmp_path / "again", *model)
    assert told.returncode == 1 and "the file is damaged" in told.stderr and "1 of 4 files failed" in told.stderr and len(list((tmp_path / "again").iterdir())) == 3


def test_the_report(run: Run, photographs: Path, whole: Path, tmp_path: Path) -> None:
    result = run("lcl", "codec", "eval", "--model", whole / "codec.safetensors", "--photographs", photographs, "--output", tmp_path / "rd", "--profiles", "fast", "portable", "--refine", "3", "--max-photographs", "2", "--crop-px", "80", timeout=300)  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "rd").iterdir()} == {"rd.json", "rd.csv", "rd.svg", "rd.png"}
    curves = json.loads((tmp_path / "rd" / "rd.json").read_text())["measured"]["curves"]
    assert {"JPEG", "WebP", "AVIF", "JPEG 2000", "this codec, fast", "this codec, portable"} <= curves.keys() and len(curves["JPEG"][0]["pictures"]) == 2


def test_a_training_starts_from_another_codec(photographs: Path, whole: Path) -> None:
    config = replace(PRESETS["toy"], photographs=str(photographs), start_from=str(whole / "codec.safetensors"), objective=ObjectiveConfig(lmbdas=(0.001, 0.01)))
    crops, wanted = Crops(list_photographs(photographs), side_px=64, seed=0), load_codec(whole / "codec.safetensors").codec.state_dict()
    started = CodecTask(config, crops, None).module.codec.state_dict()
    with_adapter = CodecTask(replace(config, model=replace(config.model, adapter=AdapterConfig(source="latents"))), crops, None).module.codec.state_dict()
    assert all(torch.equal(started[name], value) and torch.equal(with_adapter[name], value) for name, value in wanted.items()) and len(with_adapter) > len(wanted) == len(started)
    with pytest.raises(ValueError, match="is a codec of other settings than --model: give its own"):
        CodecTask(replace(config, model=replace(config.model, num_levels=1), objective=ObjectiveConfig(lmbdas=(0.01,))), crops, None)


def test_mistakes_are_a_line(run: Run, photographs: Path) -> None:
    command = ("python", "downstream/train_codec.py", "--preset", "toy", "--output", "nowhere")
    assert_one_line_error(run(*command), "--photographs: give a folder")
    assert_one_line_error(run("lcl", "codec", "encode", photographs / "0.png", "--model", photographs / "0.png"), "is no codec, or damaged")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"photographs": "empty"}, "holds no photographs"),
        ({"crop_px": 128}, "is smaller than a crop"),
        ({"objective": ObjectiveConfig(lmbdas=(0.01,))}, "give one lmbda for each level"),
        ({"fit": replace(PRESETS["toy"].fit, batch_items=5)}, "must be a multiple of ranks"),
    ],
)
def test_trainings_that_cannot_be(photographs: Path, tmp_path: Path, change: dict, message: str) -> None:
    (tmp_path / "empty").mkdir()
    settings = replace(PRESETS["toy"], **{"photographs": str(photographs), "output": str(tmp_path / "run")} | change)
    if settings.photographs == "empty":
        settings = replace(settings, photographs=str(tmp_path / "empty"))
    with pytest.raises(ValueError, match=message):
        settings.check()
        check_numbers(settings.fit, 1)
        Crops(list_photographs(Path(settings.photographs)), side_px=settings.crop_px, seed=0)


@pytest.mark.parametrize("wish", [{"psnr": 9.0, "lmbda": 1e-4}, {"bytes": 400, "lmbda": 1.0}])
def test_wishes_hold_for_refined_pictures(photographs: Path, whole: Path, tmp_path: Path, wish: dict[str, float]) -> None:
    """Also where the weight of the refinement pulls the other way."""
    settings = codec_encode.EncodeConfig(input="", model=str(whole / "codec.safetensors"), refine=4, learning_rate=0.05, **wish)
    trained, pixels = load_codec(whole / "codec.safetensors"), read_photograph(photographs / "0.png")
    made = codec_encode.compress(photographs / "0.png", trained=trained, settings=settings, semantic=None)
    if "bytes" in wish:
        assert len(made.data) <= wish["bytes"]
    else:
        assert psnr_db(pixels, decode(trained, made.data)) >= wish["psnr"]


@pytest.mark.parametrize("wish", [{"psnr": 9.0}, {"bytes": 300}])
def test_a_model_of_one_rate_meets_a_wish_by_its_refinement(photographs: Path, tmp_path: Path, wish: dict[str, float]) -> None:
    settings = CodecConfig(mean_scale=MeanScaleConfig(width=8, latent_width=12))
    torch.manual_seed(0)
    save_codec(finish(settings.build(), settings, (0.01,), {}, [torch.rand(1, 3, 64, 64)]), tmp_path / "codec.safetensors")
    trained, pixels = load_codec(tmp_path / "codec.safetensors"), read_photograph(photographs / "0.png")
    encode = partial(codec_encode.compress, photographs / "0.png", trained=trained, semantic=None)
    asked = codec_encode.EncodeConfig(input="", model="", refine=4, learning_rate=0.05, **wish)
    data = encode(settings=asked).data
    assert len(data) <= wish.get("bytes", math.inf) and psnr_db(pixels, decode(trained, data)) >= wish.get("psnr", 0)
    with pytest.raises(ValueError, match="this model has one rate, and its refinement does not come to"):
        encode(settings=replace(asked, bytes=41 if "bytes" in wish else 0, psnr=90.0 if "psnr" in wish else 0.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounding": RoundingConfig(method="sga")}, "^--rounding: of the refinement; give --refine 500 too"),
        ({"lmbda": 0.1, "learning_rate": 0.1}, "^--lmbda, --learning-rate: of the refinement"),
        ({"mask": "nowhere.png", "refine": 3}, "^--mask nowhere.png: no such file"),
        ({"output": "out.jpg"}, "out.jpg would be a compressed picture with the name of a plain one"),
        ({"output": "/dev/full"}, "/dev/full is a device or a pipe"),
    ],
)
def test_encodings_that_cannot_be(photographs: Path, whole: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codec_encode.main(codec_encode.EncodeConfig(input=str(photographs / "0.png"), model=str(whole / "codec.safetensors"), **options))


def test_a_mask_has_the_pictures_own_size(tmp_path: Path) -> None:
    Image.fromarray(picture(70, 128)[:, :, 0]).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=r"--mask has another size \(128 x 70\) than the picture \(128 x 128\)"):
        codec_encode.weights_of(str(tmp_path / "mask.png"), (128, 128), stride_px=64)
    assert codec_encode.weights_of(str(tmp_path / "mask.png"), (70, 128), stride_px=64)[:, :, :70].mean() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("change", [{"anchor": "VTM"}, {"classic": ("WebP",)}])
def test_an_anchor_that_is_not_measured_is_said_at_once(photographs: Path, whole: Path, tmp_path: Path, change: dict) -> None:
    settings = eval_codec.EvalCodecConfig(model=str(whole / "codec.safetensors"), photographs=str(photographs), output=str(tmp_path / "rd"), **change)
    with pytest.raises(ValueError, match="is not measured; there are .*this codec, fast$"):
        eval_codec.main(settings)


def test_every_photograph_is_looked_at_before_the_first_step(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that do not fit in memory, by their headers."""
    for path in photographs.iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    for name in ("y.png", "z.png"):
        (tmp_path / name).write_bytes(b"no picture")
    for limit in (1 << 30, 1):
        monkeypatch.setattr("downstream.photographs.MEMORY_BYTES", limit)
        with pytest.raises(ValueError, match=r"y.png cannot be read .*; .*z.png cannot be read"):
            Crops(list_photographs(tmp_path), side_px=64, seed=0)
    (tmp_path / "y.png").unlink()
    Image.fromarray(picture(20, 200)).save(tmp_path / "z.png")
    with pytest.raises(ValueError, match=r"z.png is smaller than a crop \(200 x 20, crops have 64 px\)"):
        Crops(list_photographs(tmp_path), side_px=64, seed=0)


@pytest.mark.parametrize(("words", "message"), [(("gone.png",), "no such file or folder"), (("",), "into which folder the results go")])
def test_inputs_that_cannot_be_encoded(photographs: Path, whole: Path, words: tuple[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codec_encode.main(codec_encode.EncodeConfig(input=str(photographs / words[0]), model=str(whole / "codec.safetensors")))
