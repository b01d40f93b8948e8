"""Restorers by their commands: resumed equals uninterrupted, two ranks equal one, and pictures of every sort come out restored, marked, or as a line."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from downstream import eval_restorer, restore_images, train_restorer
from downstream.detect_degradation import DetectConfig
from downstream.eval_restorer import EvalRestorerConfig
from downstream.origin_marks import read_mark
from downstream.photographs import Crops, list_photographs, to_tensor
from downstream.restore.degradations import DegradationConfig, degrade
from downstream.restore.model_file import load_restorer, save_restorer
from downstream.restore.pairs import FoundPairs, MadePairs
from downstream.restore.pictures import Picture, read_picture, upright, write_picture
from downstream.restore.train_config import PRESETS, TrainRestorerConfig
from downstream.restore_images import RestoreConfig
from lcl.core.config import run_command
from lcl.core.files import sha256_of
from lcl.features import load_encoder
from tests.conftest import Run, assert_one_line_error
from tests.made_checkpoint import made_checkpoint
from tests.processes import run_ranks
from tests.test_image_codec import picture
from tests.test_restorer import restorer
from tests.test_train_codec import assert_resumed_equals, losses, weights


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(4):
        Image.fromarray(picture(40 + 6 * number, 50, seed=number)).save(folder / f"{number}.png")
    return folder


def train(photographs: Path, output: Path, *options: object, ranks: int = 1, preset: str = "toy") -> None:
    run_ranks(["downstream/train_restorer.py", "--preset", preset, "--photographs", photographs, "--output", output, *options], world_size=ranks)


@pytest.fixture(scope="module")
def whole(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train(photographs, folder / "run")
    return folder / "run"


def test_resumed_equals_uninterrupted(photographs: Path, whole: Path, tmp_path: Path) -> None:
    assert_resumed_equals(whole, tmp_path / "run", lambda: train(photographs, tmp_path / "run"), file="restorer.safetensors")


def test_two_ranks_compute_what_one_does(photographs: Path, whole: Path, tmp_path: Path) -> None:
    train(photographs, tmp_path / "run", ranks=2)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(whole), rtol=1e-4)


def test_the_file_has_the_moving_average(whole: Path) -> None:
    file, average = load_file(whole / "restorer.safetensors"), weights(whole, "ema")
    assert file and all(np.array_equal(value, average[f"network.{name}"]) for name, value in file.items())
    trained = load_restorer(whole / "restorer.safetensors")
    assert trained.tasks == ("rain",) and trained.kind == "ir_cm" and trained.about["steps"] == 12 and trained.about["num_pictures"] == 4


@pytest.mark.slow
def test_other_kinds_train_and_start_from_one_another(photographs: Path, tmp_path: Path) -> None:
    """IR-SDE from random weights, and a two-stage consistency model of its form from there; a denoising one."""
    train(photographs, tmp_path / "sde", "--fit.steps", 4, preset="toy_ir_sde")
    train(photographs, tmp_path / "cm", "--fit.steps", 4, "--model.form", "noise", "--objective.stages", "two", "--start-from", tmp_path / "sde" / "restorer.safetensors")
    train(photographs, tmp_path / "denoise", "--fit.steps", 4, "--objective.teacher-decay", 0.9, preset="toy_denoise")
    train(
        photographs, tmp_path / "mu", "--fit.steps", 4, "--model.boundary", "mu", "--model.times", 0.25, 0.125, "--objective.sampled-fraction", 0.5,
        "--objective.own-fraction", 0.5, "--objective.consistency-weight", 0.5, "--degradations.tasks", "motion_blur", "haze",
    )  # fmt: skip
    assert [load_restorer(tmp_path / name / "restorer.safetensors").kind for name in ("sde", "cm", "denoise", "mu")] == ["ir_sde", "ir_cm", "ir_cm", "ir_cm"]
    assert all(np.isfinite(losses(tmp_path / name)).all() for name in ("sde", "cm", "denoise", "mu"))
    found = load_restorer(tmp_path / "mu").settings
    assert (found.boundary, found.times) == ("mu", (0.25, 0.125))


def test_pairs_are_seeded_and_their_crops_meet(photographs: Path, tmp_path: Path) -> None:
    settings = DegradationConfig(tasks=("noise", "low_light"))
    made = MadePairs(list_photographs(photographs), settings, side_px=16, seed=3)
    one, parts = made.batch(5, range(4)), [made.batch(5, range(first, first + 2)) for first in (0, 2)]
    assert all(torch.equal(whole, torch.cat(halves)) for whole, *halves in zip(one[:3], *(part[:3] for part in parts), strict=True)), "whatever the number of ranks"
    assert ((one.deviation > 0) <= (one.deviation * 255 <= 50.01)).all()
    for part in ("GT", "LQ"):
        (tmp_path / part).mkdir()
    for path in list_photographs(photographs):
        pixels = np.asarray(Image.open(path))
        Image.fromarray(pixels).save(tmp_path / "GT" / path.name)
        Image.fromarray(pixels // 2).save(tmp_path / "LQ" / path.name)
    found = FoundPairs(tmp_path, side_px=16, seed=3).batch(5, range(4))
    assert torch.equal((found.clean * 255).round() // 2, (found.degraded * 255).round())
    Image.fromarray(picture(30, 30)).save(tmp_path / "LQ" / "0.png")
    with pytest.raises(ValueError, match="is 30 x 30 px, its partner 50 x 40"):
        FoundPairs(tmp_path, side_px=16, seed=3)
    (tmp_path / "LQ" / "0.png").rename(tmp_path / "LQ" / "x.png")
    with pytest.raises(ValueError, match="has no partner of its name"):
        FoundPairs(tmp_path, side_px=16, seed=3)
    with pytest.raises(ValueError, match="has no folder GT"):
        FoundPairs(photographs, side_px=16, seed=3)


def test_made_pairs_are_parts_of_degraded_photographs(photographs: Path) -> None:
    """By the whole photograph, flipped where the crop is, under the pair's own draws."""
    settings, files = DegradationConfig(tasks=("defocus", "haze")), list_photographs(photographs)
    pairs, crops = MadePairs(files, settings, side_px=16, seed=3).batch(5, range(8)), Crops(files, side_px=16, seed=3)
    for item in range(8):
        whole = crops.window(5, item, margin_px=1000)
        made = degrade(to_tensor(whole.pixels), settings, np.random.default_rng([3, 5, item, 1])).pixels[:, whole.rows, whole.columns]
        torch.testing.assert_close(pairs.degraded[item], made, atol=1e-6, rtol=0)
        assert torch.equal(pairs.clean[item], to_tensor(crops.crop(5, item))) and whole.pixels.shape[:2] == whole.place.photograph


@pytest.fixture
def mixed_folder(tmp_path: Path) -> Path:
    """Pictures of every sort, and files that cannot be restored."""
    folder = tmp_path / "mixed"
    (folder / "below").mkdir(parents=True)
    colour = picture(40, 56)
    exif = Image.Exif()
    exif[0x010F] = "A maker"
    Image.fromarray(colour).save(folder / "photo.jpg", exif=exif)
    Image.fromarray(colour[:, :, 0]).save(folder / "below" / "grey.png")
    Image.fromarray(np.dstack([colour, colour[:, :, :1]])).save(folder / "clear.png")
    Image.fromarray(colour[:1, :1]).save(folder / "one.png")
    Image.fromarray(np.tile(colour[:2], (1, 360, 1))[:, :20_000]).save(folder / "wide.png")
    deep = Picture(to_tensor(colour), None, 16, b"", b"", b"")
    (folder / "deep.png").write_bytes(write_picture(deep, ".png", mark=None))
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "clear.png").read_bytes()[:300])
    (folder / "text.png").write_text("no picture")
    Image.new("CMYK", (16, 16)).save(folder / "press.jpg")
    frames = [Image.fromarray(colour // (number + 1)) for number in range(2)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    return folder


def restored(model: Path, source: Path, target: Path, **options: object) -> None:
    """What `lcl restore` does, in this process."""
    restore_images.main(RestoreConfig(input=str(source), output=str(target), model=(str(model),), **options))


def test_a_folder_of_every_sort(run: Run, whole: Path, mixed_folder: Path, tmp_path: Path) -> None:
    model = whole / "restorer.safetensors"
    told = run("lcl", "restore", mixed_folder, tmp_path / "out", "--model", model, "--steps", 2, "--tile-px", 32)
    assert_one_line_error(told, "5 of 11 files failed")
    failures = {"empty.png": "the file is empty", "cut.png": "cannot be read", "text.png": "none of the formats", "press.jpg": "has CMYK channels", "moving.gif": "has 2 frames"}
    for name, message in failures.items():
        assert sum(name in line and message in line for line in told.stderr.splitlines()) == 1, name
    made = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert made == {"photo.png", "below/grey.png", "clear.png", "one.png", "wide.png", "deep.png"}
    for name in made:
        source = next(mixed_folder.glob(f"{Path(name).with_suffix('')}.*"))
        data = (tmp_path / "out" / name).read_bytes()
        mark, before, after = read_mark(data), read_picture(source.read_bytes()), read_picture(data)
        assert mark is not None and (mark.kind, mark.model_sha256, mark.source_sha256) == ("algorithmicallyEnhanced", sha256_of(model), sha256_of(source))
        assert before.pixels.shape == after.pixels.shape and before.bits == after.bits and before.exif.removeprefix(b"Exif\0\0") == after.exif.removeprefix(b"Exif\0\0")
        assert (before.alpha is None) == (after.alpha is None) and (before.alpha is None or np.array_equal(before.alpha, after.alpha))


def test_single_pictures_options_and_seeds(photographs: Path, tmp_path: Path) -> None:
    made, model, source = restorer("ir_cm"), tmp_path / "made.safetensors", photographs / "0.png"
    save_restorer(model, made.network.state_dict(), made.settings, kind="ir_cm", tasks=("rain",), about={})
    given = {"a.png": {}, "b.png": {"tile_px": 0}, "c.png": {"seed": 1}, "d.webp": {}, "e.jpg": {"task": "rain"}, "f.png": {"uncertainty": 3, "steps": 2, "no_mark": True}}
    for name, options in given.items():
        restored(model, source, tmp_path / name, **options)
    one, again, other, webp, jpeg = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png", "c.png", "d.webp", "e.jpg"))
    assert one == again and not torch.equal(read_picture(one).pixels, read_picture(other).pixels)
    assert torch.equal(read_picture(webp).pixels, read_picture(one).pixels)
    assert read_mark(webp) == read_mark(jpeg) == read_mark(one) != read_mark(other)
    assert read_mark((tmp_path / "f.png").read_bytes()) is None
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(source) as image:  # as a telephone stores a picture that was taken upright
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    restored(model, tmp_path / "turned.png", tmp_path / "g.png")
    found = read_picture((tmp_path / "g.png").read_bytes())
    assert found.orientation == 6 and torch.equal(upright(found.pixels, 6), read_picture(one).pixels)
    with Image.open(tmp_path / "f.uncertainty.png") as disagreeing:
        assert disagreeing.mode == "L" and disagreeing.size == (50, 40) and np.asarray(disagreeing).max() > 0


def test_options_as_people_write_them(whole: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-o` of all three commands; a run's folder in the place of its model; times of later steps, which change what two steps give, and stand in the mark."""
    taken: list[object] = []
    given = {
        RestoreConfig: ["a.png", "--no-mark", "-o", "b.png", "--model", "m", "--steps", "2", "--times", "0.25"],
        DetectConfig: ["a.png", "--model", "m", "--encoder", "e", "-o", "b.png"], EvalRestorerConfig: ["-o", "b.png"],
    }  # fmt: skip
    for kind, words in given.items():
        monkeypatch.setattr(sys, "argv", ["lcl", *words])
        run_command(kind, taken.append)
    assert taken[0].out == taken[1].output == taken[2].output == "b.png" and taken[0].no_mark and taken[0].times == (0.25,)
    source = photographs / "0.png"
    for name, times in (("a.png", ()), ("b.png", (0.5,)), ("c.png", (0.125,))):
        restored(whole, source, tmp_path / name, steps=2, times=times)
    published, same, early = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert published == same and not torch.equal(read_picture(early).pixels, read_picture(same).pixels)
    assert read_mark(early).settings == "restored: rain; ir_cm, 2 steps at 1, 0.125, seed 0" and read_mark(early).model_sha256 == sha256_of(whole / "restorer.safetensors")
    mistakes = (({"times": (0.5,)}, "--steps 1 of this ir_cm has fewer"), ({"times": (0.5, 0.6), "steps": 4}, "--times is 0.5 0.6"), ({"out": "x.png"}, "say once where"))
    for options, message in mistakes:
        with pytest.raises(ValueError, match=message):
            restored(whole, source, tmp_path / "d.png", **options)


def test_pictures_that_are_not_read_are_counted(whole: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes((photographs / "0.png").read_bytes())
    for name in ("b.tif", "c.HEIC", "d.tif", "notes.txt", "._e.tif"):
        (folder / name).write_bytes(b"x")
    restored(whole, folder, tmp_path / "out")
    list_photographs(folder)
    assert capsys.readouterr().err.count(f"{folder}: 3 pictures of formats that are not read are passed over (1 .heic, 2 .tif): convert them") == 2


def test_a_generated_source_stays_generated(whole: Path, photographs: Path, tmp_path: Path) -> None:
    with Image.open(photographs / "0.png") as source:
        source.save(tmp_path / "made.jpg", xmp=b'<x DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>')
    restored(whole / "restorer.safetensors", tmp_path / "made.jpg", tmp_path / "out.png")
    mark = read_mark((tmp_path / "out.png").read_bytes())
    assert mark is not None and mark.kind == "trainedAlgorithmicMedia"


def test_nothing_half_written_stays(whole: Path, photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 of 1 files failed"):
        restored(whole / "restorer.safetensors", photographs / "0.png", tmp_path / "a.bmp")
    assert not list(tmp_path.iterdir())


def test_the_report(photographs: Path, whole: Path, tmp_path: Path) -> None:
    eval_restorer.main(
        EvalRestorerConfig(
            models=(str(whole / "restorer.safetensors"),), photographs=str(photographs), degradations=DegradationConfig(tasks=("rain", "noise")), max_photographs=2,
            crop_px=32, border_px=2, output=str(tmp_path / "out"),
        )
    )  # fmt: skip
    rows = json.loads((tmp_path / "out" / "restoration.json").read_text())["measured"]["rows"]
    found = {(row["task"], row["method"]) for row in rows}
    assert found >= {("rain", "identity"), ("noise", "non-local means"), ("rain", "restorer, ir_cm, 1 step"), ("noise", "restorer, ir_cm, 2 steps")}
    with Image.open(list_photographs(photographs)[0]) as image:
        pixels = np.asarray(image)[4:36, 9:41]
    made = degrade(to_tensor(pixels), DegradationConfig(tasks=("noise",)), np.random.default_rng([0, *b"0.png noise"])).pixels
    error = (((made * 255).round().numpy() - pixels.transpose(2, 0, 1).astype(np.float64))[:, 2:-2, 2:-2] ** 2).mean()
    identity = next(row for row in rows if (row["task"], row["method"]) == ("noise", "identity"))
    assert identity["pictures"][0]["psnr_db"] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-4)
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.width == 7 * 260


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give either --photographs"), (("--photographs", "{empty}"), "holds no photographs"), (("--pairs", "{photographs}"), "has no folder GT"),
        (("--photographs", "{photographs}", "--model.network.widths", "4", "8", "8"), "give one number for each scale"),
        (("--photographs", "{photographs}", "--encoder", "{empty}/gone"), "no such run or checkpoint"),
        (("--photographs", "{photographs}", "--start-from", "{model}", "--model.network.widths", "4", "4"), "has another network or form"),
    ],
)  # fmt: skip
def test_mistakes_in_training_are_a_line(
    options: tuple[str, ...], message: str, photographs: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """By the command's own parser, without the processes that it would start."""
    (tmp_path / "empty").mkdir()
    names = {"empty": tmp_path / "empty", "photographs": photographs, "model": whole / "restorer.safetensors"}
    monkeypatch.setattr(sys, "argv", ["lcl train restorer", "--preset", "toy", "--output", str(tmp_path / "run"), *(option.format(**names) for option in options)])

    def prepare(config: TrainRestorerConfig) -> None:
        config.check()
        train_restorer.RestorerTask(config, train_restorer.read_pairs(config), load_encoder(config.encoder) if config.encoder else None)

    with pytest.raises(SystemExit) as end:
        run_command(TrainRestorerConfig, prepare, presets=PRESETS)
    assert end.value.code == 1 and message in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"output": ""}, "where the result goes"), ({"output": "{photo}"}, "is an input"), ({"task": "haze"}, "no model here was trained for that, but for rain"),
        ({"uncertainty": 1}, "give 2 or more"), ({"detector": "d"}, "no such file"), ({"detector": "d", "task": "rain"}, "give one of them"),
        ({"encoder": "{encoder}"}, "neither a model nor a detector looks through one"),
        ({"device": "cuda"}, "PyTorch sees no such device"), ({"model": ("{photo}",)}, "is no restorer, or damaged"), ({"input": "{photo}x"}, "no such file or folder"),
        ({"input": ""}, "the input is empty"), ({"tile_px": 7}, "give 32 or more, or 0"), ({"steps": 5}, "a consistency model takes 1 to 4"),
    ],
)  # fmt: skip
def test_mistakes_in_restoring_are_a_line(changed: dict[str, object], message: str, photographs: Path, whole: Path, tmp_path: Path) -> None:
    names = {"photo": str(photographs / "0.png"), "model": str(whole / "restorer.safetensors"), "encoder": ""}
    if "{encoder}" in changed.values():
        names["encoder"] = str(made_checkpoint(tmp_path / "step-000001"))
    settings = {"input": names["photo"], "output": str(tmp_path / "a.png"), "model": ("{model}",)} | changed
    filled = {key: value.format(**names) if isinstance(value, str) else value for key, value in settings.items()}
    with pytest.raises(ValueError, match=message):
        restore_images.main(RestoreConfig(**filled | {"model": tuple(path.format(**names) for path in settings["model"])}))
