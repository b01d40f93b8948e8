"""Models trained further on a user's photographs: which are held out, what the report says, and toy models of each kind by the real commands."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from downstream import stages
from downstream.before_after import OURS, Measure, compare, in_words, measures_of
from downstream.codec.model_file import finish, load_codec, save_codec
from downstream.codec.train_config import PRESETS as CODEC_PRESETS
from downstream.density.calibration import calibrate
from downstream.density.contexts import ContextConfig
from downstream.density.model import DensityConfig, DensityModel
from downstream.density.model_file import TrainedDensity, save_density
from downstream.density.schedules import NoiseConfig
from downstream.density.unet import UNetConfig
from downstream.encoder_record import EncoderRecord
from downstream.fine_tune import FineTuneConfig, describe, main
from downstream.fine_tune_plan import find_model
from downstream.held_out import LEAST, Photograph, read_folder, split
from downstream.restore.degradations import DegradationConfig
from downstream.restore.guide import View
from downstream.restore.model_file import load_restorer, save_restorer
from downstream.restore.train_config import PRESETS as RESTORER_PRESETS
from lcl.core.config import to_dict
from lcl.core.files import read_json
from lcl.features import load_encoder
from tests.conftest import ROOT, WARM, Run, assert_one_line_error
from tests.made_encoders import SQUARE, checkpoint_of, random_model
from tests.processes import run_ranks
from tests.test_image_codec import picture

TASKS = ("rain", "noise")
GUIDED = replace(RESTORER_PRESETS["toy"].model, guide=replace(RESTORER_PRESETS["toy"].model.guide, parts="both"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "more").mkdir()
    for number in range(7):
        Image.fromarray(picture(132 + number, 140, seed=number)).save(folder / ("more" if number % 2 else ".") / f"{number}.png")
    return folder


def made_codec(path: Path) -> None:
    torch.manual_seed(0)
    preset = CODEC_PRESETS["toy"]
    settings, lmbdas = replace(preset.model, num_levels=3), (0.002, 0.01, 0.05)
    codec = settings.build()
    codec.gains.start(lmbdas)
    save_codec(finish(codec, settings, lmbdas, {}, [torch.rand(2, 3, 64, 64)]), path)


def made_density(path: Path) -> None:
    torch.manual_seed(0)
    settings = DensityConfig(channels=3, levels=256, size_px=16, noise=NoiseConfig(width=4), context=ContextConfig(size=4, chosen=1, width=8), unet=UNetConfig(widths=(8, 8), blocks=1))
    model = DensityModel(settings).eval()
    save_density(TrainedDensity(model, calibrate(model, torch.randint(256, (8, 3, 16, 16)), aligned=False), {}), path)


def made_restorer(path: Path, *, about: dict[str, Any] | None = None, encoder: EncoderRecord | None = None) -> None:
    torch.manual_seed(0)
    preset = RESTORER_PRESETS["toy"]
    trained = {"degradations": to_dict(DegradationConfig(tasks=TASKS)), "objective": to_dict(preset.objective), "encoder": None}
    model = preset.model if encoder is None else GUIDED
    save_restorer(path, model.build(encoder).state_dict(), model, kind="ir_cm", tasks=TASKS, about=trained | (about or {}), encoder=encoder)


MADE: dict[str, Callable[[Path], None]] = {"codec": made_codec, "density": made_density, "restorer": made_restorer}


# The split


def made_photographs(num: int, *, seed: int = 0) -> list[Photograph]:
    rng = np.random.default_rng(seed)
    return [Photograph(Path(f"{number}.jpg"), rng.bytes(32).hex(), (640, 480)) for number in range(num)]


def test_a_split_has_the_share_and_all_photographs() -> None:
    photographs = made_photographs(2000)
    found = split(photographs, share=0.2)
    assert sorted(one.sha256 for one in [*found.train, *found.held_out]) == sorted(one.sha256 for one in photographs)
    assert 350 < len(found.held_out) < 450
    assert split(photographs[::-1], share=0.2) == found
    assert {one.sha256 for one in found.held_out} < {one.sha256 for one in split(photographs, share=0.3).held_out}


def test_further_photographs_move_no_others() -> None:
    checked = 0
    for num in range(6, 200):
        few, many = (split(made_photographs(count), share=0.2) for count in (num, num + 7))
        assert {one.sha256 for one in few.train} <= {one.sha256 for one in many.train}
        if len(few.held_out) > LEAST:
            assert {one.sha256 for one in few.held_out} <= {one.sha256 for one in many.held_out}
            checked += 1
    assert checked > 100


@pytest.mark.parametrize(("num", "share", "said"), [(0, 0.2, "of 0 different"), (5, 0.2, "of 5 different photographs 3 would be held out and 2 trained on; 3 of each"), (20, 0.999, "or a smaller --held-out")])
def test_too_few_photographs(num: int, share: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        split(made_photographs(num), share=share)
    assert len(split(made_photographs(2 * LEAST), share=0.01).held_out) == LEAST


def test_names_and_places_do_not_count_and_equal_files_are_one(photographs: Path, tmp_path: Path) -> None:
    before = read_folder(photographs)
    for number, one in enumerate(before):
        (tmp_path / f"{number % 2}").mkdir(exist_ok=True)
        shutil.copyfile(one.path, tmp_path / f"{number % 2}" / f"renamed {number}.PNG")
    shutil.copyfile(before[0].path, tmp_path / "again.png")
    after = read_folder(tmp_path)
    assert [one.link for one in after] == [one.link for one in before] and len(before) == 7


# The report


def test_a_difference_is_paired_and_said_in_words() -> None:
    names = [f"{number}.png" for number in range(20)]
    before = np.linspace(20, 40, 20)
    better = compare(Measure("PSNR", names, before, before + np.linspace(0.1, 0.3, 20), "higher", 2))
    assert better.said == "gain" and better.difference.value == pytest.approx(0.2) and 0.1 < better.difference.low < 0.2 < better.difference.high < 0.3
    assert better.cells()[:5] == ("PSNR", "higher", "30.00", "30.20", "+0.20")
    assert compare(replace(better.measure, better="lower")).said == "loss" and compare(replace(better.measure, better="")).said == ""
    neither = compare(Measure("bits", names, before, before + np.tile([-1.0, 1.0], 10), "lower", 2))
    assert neither.said == "neither" and neither.difference.low < 0 < neither.difference.high
    words = in_words([better, neither, compare(replace(better.measure, better=""))])
    assert words.startswith("A gain is shown in PSNR (+0.20, 95 % interval +0.") and ". Neither gain nor loss is shown in bits (+0.00" in words and "few" not in words
    few, too_few = (compare(Measure("PSNR", names[:num], before[:num], before[:num] - 1, "higher", 2)) for num in (6, 5))
    assert few.said == "loss" and "6 pictures are few" in in_words([few])
    assert too_few.said == "too few" and "cannot say whether something was gained in PSNR" in in_words([too_few]) and too_few.cells()[-1] == "too few to say"
    record = better.record()
    assert (record["before"], record["num_photographs"], record["values"][0]) == (pytest.approx(30.0), 20, {"photograph": "0.png", "before": 20.0, "after": pytest.approx(20.1)})


def curves(factor: float, *, levels: int, pictures: int = 6) -> dict[str, Any]:
    points = [
        {"pictures": [{"picture": f"{number}.png", "bpp": factor * (level + 1) * (number + 1) / 10, "psnr_db": 30.0 + 3 * level - number} for number in range(pictures)]} for level in range(levels)
    ]
    return {"curves": {OURS: points}, "model": {"lmbdas": [0.01 * (level + 1) for level in range(levels)]}}


def test_a_codec_that_needs_a_tenth_fewer_bits_has_that_bd_rate() -> None:
    measures, unsaid = measures_of("codec", curves(1.0, levels=4), curves(0.9, levels=4), [])
    found = {one.name: one for one in measures}
    rate = compare(found["BD-rate (PSNR) in %"])
    assert not unsaid and len(found) == 2 * 4 + 1 and rate.said == "gain" and rate.difference.value == pytest.approx(-10)
    assert list(found["bits per pixel, level 1"].after) == pytest.approx([0.18, 0.36, 0.54, 0.72, 0.9, 1.08]) and found["PSNR in dB, level 3"].photographs == [f"{number}.png" for number in range(6)]


def test_a_codec_of_two_levels_is_judged_by_its_cost() -> None:
    measures, unsaid = measures_of("codec", curves(1.0, levels=2), curves(0.9, levels=2), [])
    costs = [one for one in measures if one.name.startswith("cost")]
    assert len(unsaid) == 6 and "no BD-rate of 0.png: a curve of 2 points is too short" in unsaid[0]
    assert costs[1].before[0] == pytest.approx(0.2 + 0.02 * 255**2 * 10**-3.3) and compare(costs[1]).difference.value == pytest.approx(-0.02 * 3.5)
    assert compare(costs[0]).said == "gain"


def test_squares_of_a_photograph_are_drawn_together() -> None:
    before, after = ({"vlb": {"of_images": values}} for values in ([4.0, 5.0, 6.0, 4.2, 5.2, 6.2], [3.9, 4.8, 5.7, 4.1, 5.0, 5.9]))
    [measure], _ = measures_of("density", before, after, ["a", "b", "c"])
    found = compare(measure)
    assert list(measure.photographs) == ["a", "b", "c"] * 2 and found.difference.value == pytest.approx(-0.2) and found.difference.low == pytest.approx(-0.3) and found.record()["num_photographs"] == 3


def test_restorers_are_compared_task_by_task() -> None:
    def result(more: float) -> dict[str, Any]:
        def row(task: str, method: str, add: float) -> dict[str, Any]:
            return {"task": task, "method": method, "pictures": [{"picture": f"{number}.png", "psnr_db": 25.0 + number + add, "haarpsi": 0.8 + add / 100} for number in range(6)]}

        return {"rows": [row("rain", "model", more), row("rain", "model, no encoder", -5.0), row("noise", "model", 0.0), row("noise", "model, no encoder", -5.0)]}

    measures, _ = measures_of("restorer", result(0.0), result(1.0), [])
    found = {one.name: compare(one) for one in measures}
    assert {name: one.said for name, one in found.items()} == {"PSNR in dB, rain": "gain", "HaarPSI, rain": "gain", "PSNR in dB, noise": "neither", "HaarPSI, noise": "neither"}
    assert found["PSNR in dB, rain"].difference.value == pytest.approx(1) and found["PSNR in dB, rain"].cells()[2:4] == ("27.50", "28.50")


# The whole


class Launched:
    """The stages' commands in processes that need not import PyTorch, a training's as one rank without the launcher; and which those were."""

    def __init__(self) -> None:
        self.scripts: list[str] = []
        self.fails_at = ""

    def __call__(self, command: Sequence[str], *, variables: dict[str, str] | None = None) -> None:
        place = next(number for number, word in enumerate(command) if word.endswith(".py"))
        name = Path(command[-1] if "--config" in command else command[place]).stem
        if name == self.fails_at:
            raise ValueError("that command ended with status 1")
        self.scripts.append(name)
        if command[0] == "deepspeed":
            run_ranks(command[place:], world_size=1)
            return
        assert command[0] == sys.executable
        result = WARM.start([sys.executable, *command[place:]], cwd=ROOT, environment=os.environ).finish(240)
        assert result.returncode == 0, result.stderr


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Launched]:
    found, handler = Launched(), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(stages, "execute", found)
    yield found
    signal.signal(signal.SIGTERM, handler)


def settings_of(kind: str, photographs: Path, folder: Path, **changed: Any) -> FineTuneConfig:
    if not (folder / "model.safetensors").exists():
        MADE[kind](folder / "model.safetensors")
    given = {"photographs": str(photographs), "model": str(folder / "model.safetensors"), "output": str(folder / "out"), "steps": 4, "num_ranks": 1, "measured_px": 64, **changed}
    return FineTuneConfig(kind=kind, **given)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_codec_by_its_real_commands_interrupted_and_again(photographs: Path, tmp_path: Path, launched: Launched, capsys: pytest.CaptureFixture) -> None:
    settings, before = settings_of("codec", photographs, tmp_path), contents(photographs)
    launched.fails_at = "after"
    with pytest.raises(ValueError, match="ended with status 1"):
        main(settings)
    launched.fails_at = ""
    main(settings)
    assert launched.scripts == ["before", "training", "after"] and contents(photographs) == before
    output = tmp_path / "out"
    report = read_json(output / "report.json")["measured"]
    assert (report["num_train"], len(report["held_out"])) == (4, 3) and report["weights"]["before"] != report["weights"]["after"] and report["said"]
    assert all(Path(path).exists() for path in report["held_out"].values()) and report["said"] in (output / "report.md").read_text() and "bits per pixel, level 2" in capsys.readouterr().out
    assert len(report["measures"][0]["values"]) == 3 and report["measures"][0]["values"][0]["photograph"] in report["held_out"]
    new = load_codec(output / "training" / "codec.safetensors")
    assert new.settings == load_codec(tmp_path / "model.safetensors").settings and new.lmbdas == (0.002, 0.01, 0.05)
    trained_on = {path.name for path in (output / "photographs" / "train").iterdir()}
    assert len(trained_on) == 4 and not trained_on & report["held_out"].keys() and new.about["num_photographs"] == 4

    stopped, weights = output / "training", (output / "training" / "codec.safetensors").read_bytes()
    (stopped / "codec.safetensors").unlink()
    shutil.rmtree(stopped / "step-000004")
    main(settings)  # goes on from its last checkpoint, to the same model
    assert launched.scripts[3:] == ["training"] and (stopped / "codec.safetensors").read_bytes() == weights
    for changed, said in (({"steps": 5}, "other documents or settings .--steps 4 there, 5 now."), ({"photographs": str(photographs / "more")}, "photographs"), ({"held_out": 0.5}, "photographs")):
        with pytest.raises(ValueError, match=said):
            main(replace(settings, **changed))
    shutil.copyfile(stopped / "codec.safetensors", tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds fine-tuning of other documents or settings .other weights.: give another folder"):
        main(replace(settings, model=str(tmp_path / "other.safetensors")))
    assert launched.scripts[3:] == ["training"]


@pytest.mark.parametrize(("kind", "measures"), [("density", ["bound in bits per dimension"]), ("restorer", [f"{title}, {task}" for task in TASKS for title in ("PSNR in dB", "HaarPSI")])])
def test_other_kinds_by_their_real_commands(kind: str, measures: list[str], photographs: Path, tmp_path: Path, launched: Launched) -> None:
    main(settings_of(kind, photographs, tmp_path))
    report = read_json(tmp_path / "out" / "report.json")["measured"]
    assert launched.scripts == ["before", "training", "after"] and [one["measure"] for one in report["measures"]] == measures
    assert all(one["num_photographs"] == 3 and one["before"] != one["after"] and one["said"] for one in report["measures"])


def test_a_guided_restorer_keeps_its_encoder(photographs: Path, tmp_path: Path, launched: Launched) -> None:
    encoder = checkpoint_of(random_model(SQUARE), tmp_path / "encoder")
    made_restorer(tmp_path / "model.safetensors", encoder=View(load_encoder(encoder), GUIDED.guide).record)
    main(settings_of("restorer", photographs, tmp_path, encoder=str(encoder)))
    rows = read_json(tmp_path / "out" / "results" / "after" / "restoration.json")["measured"]["rows"]
    assert [row["method"] for row in rows[:2]] == ["restorer, ir_cm, 1 step", "restorer, no encoder, ir_cm, 1 step"]
    measures = {one["measure"]: one for one in read_json(tmp_path / "out" / "report.json")["measured"]["measures"]}
    assert measures["PSNR in dB, rain"]["after"] == pytest.approx(rows[0]["quality"]["psnr_db"])


def test_the_restorer_for_a_task_is_the_one_that_restores_it() -> None:
    noise, grain, rain = (find_model("restorer", "", task=task) for task in ("noise", "grain", "rain"))
    assert noise == grain != rain and "grain" in load_restorer(grain).tasks


def test_a_dry_run_says_what_it_would_do(photographs: Path, tmp_path: Path) -> None:
    told = describe(settings_of("codec", photographs, tmp_path))
    assert "4 photographs to train on, 3 held out" in told and "learning rate 0.0003, 1 training processes" in told and not (tmp_path / "out").exists()
    assert [line.partition(":")[0] for line in told.splitlines() if not line.startswith("  $")][-3:] == ["before", "training", "after"]


def test_mistakes_are_said_before_anything_runs(photographs: Path, tmp_path: Path, launched: Launched) -> None:
    for name in ("codec", "pairs", "guided"):
        (tmp_path / name).mkdir()
    codec = settings_of("codec", photographs, tmp_path / "codec")
    made_restorer(tmp_path / "pairs" / "model.safetensors", about={"degradations": None})
    made_restorer(tmp_path / "guided" / "model.safetensors", encoder=EncoderRecord("f" * 64, 12, 6))
    (tmp_path / "small").mkdir()
    (tmp_path / "none").mkdir()
    for number in range(6):
        Image.fromarray(picture(60, 200, seed=number)).save(tmp_path / "small" / f"{number}.png")
    for wrong, said in (
        (replace(codec, kind="density"), "is a codec model, not a density model: give `lcl fine-tune codec`"),
        (replace(codec, kind="restorer", model=""), "--task is empty: restorers of .*rain.* come with lcl; name one, or give --model"),
        (replace(codec, kind="restorer", model="", task="snow"), "--task snow: restorers of .*rain.* come with lcl"),
        (replace(codec, task="rain"), "--task rain chooses among the restorers that come with lcl: leave it out"),
        (replace(codec, model="gone.safetensors"), "gone.safetensors: no such file"),
        (replace(codec, photographs=str(tmp_path / "none")), "holds no photographs"),
        (replace(codec, photographs=str(photographs / "more")), "of 3 different photographs 3 would be held out and 0 trained on"),
        (replace(codec, photographs=str(tmp_path / "small")), "has 200 x 60 px, and this model trains on squares of 128 px: give a folder without it; .*; and 1 more like these"),
        (replace(codec, output=str(photographs / "out")), "lies in --photographs"),
        (replace(codec, output=str(tmp_path / "small")), "is not empty and holds no fine-tuning"),
        (replace(codec, num_ranks=5), "a step has 12 items, which so many cannot share evenly"),
        (replace(codec, encoder="encoder"), "--encoder is given and nothing looks through it"),
        (settings_of("restorer", photographs, tmp_path / "pairs"), "was trained on pairs.*lcl train restorer --pairs"),
        (settings_of("restorer", photographs, tmp_path / "guided"), "looks at pictures through the encoder ffffffffffffffff: give --encoder"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            main(wrong)
    assert not launched.scripts and not (tmp_path / "codec" / "out").exists()


@pytest.mark.slow
def test_the_command_from_the_weights_that_come_along(run: Run, photographs: Path, tmp_path: Path) -> None:
    words = ("lcl", "fine-tune", "codec", "--photographs", photographs, "--output", tmp_path / "out", "--steps", 2, "--measured-px", 64)
    first = run(*words, timeout=900, DS_ACCELERATOR="cpu")
    assert first.returncode == 0, first.stderr[-4000:]
    assert "bits per pixel, level 5" in first.stdout and read_json(tmp_path / "out" / "report.json")["measured"]["kind"] == "codec"
    again = run(*words, timeout=300)
    assert again.returncode == 0 and "=== 0 stages" in again.stderr
    assert_one_line_error(run("lcl", "fine-tune", "codec", "--photographs", photographs, "--output", tmp_path / "out", "--steps", 3), "give another folder")
