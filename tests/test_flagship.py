"""The chain from crawl to models: its stages, what it refuses, and at toy size the whole of it."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from downstream.flagship import FlagshipConfig, check_inputs, stages_of
from downstream.stages import PORT, RAY, Stage, is_done, left_of, run_stage, run_stages
from lcl.core.files import read_json
from lcl.run_folder import write_status
from tests.conftest import ROOT, Run, assert_one_line_error
from tests.test_image_codec import picture


@pytest.fixture
def settings(tmp_path: Path) -> FlagshipConfig:
    """Inputs of the smallest size, but for the crawl, which is a name."""
    for folder, count in (("photos", 4), ("unseen", 2)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            Image.fromarray(picture(96, 120, seed=number)).save(tmp_path / folder / f"{number}.png")
    for split, count in (("train", 6), ("test", 3)):
        for label in ("bright", "dark"):
            (tmp_path / "labelled" / split / label).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(picture(80, 90, seed=number) // (1 if label == "bright" else 3)).save(tmp_path / "labelled" / split / label / f"{label}{number}.jpg")
    (tmp_path / "crawl.warc.gz").touch()
    return FlagshipConfig(
        crawl=(str(tmp_path / "crawl.warc.gz"),), labelled=str(tmp_path / "labelled"), photographs=str(tmp_path / "photos"), unseen=str(tmp_path / "unseen"),
        output=str(tmp_path / "out"), scale="toy",
    )  # fmt: skip


def test_a_stage_is_done_once_and_again_when_its_commands_change(tmp_path: Path) -> None:
    def stage(word: str) -> Stage:
        return Stage("one", "a file", ((sys.executable, "-c", f"open({str(tmp_path / 'made')!r}, 'a').write({word!r})"),))

    assert not is_done(stage("x"), tmp_path)
    run_stage(stage("x"), tmp_path)
    assert is_done(stage("x"), tmp_path) and not is_done(stage("y"), tmp_path) and (tmp_path / "made").read_text() == "x"
    with pytest.raises(ValueError, match="ended with status 3"):
        run_stage(Stage("two", "nothing", ((sys.executable, "-c", "import sys; sys.exit(3)"),)), tmp_path)
    assert not (tmp_path / "stages" / "two.json").exists()
    stopped = Stage("three", "nothing", ((sys.executable, "-c", ""),), makes=str(tmp_path / "model"))
    with pytest.raises(ValueError, match="three was stopped before it finished .*model; the same command again continues"):
        run_stage(stopped, tmp_path)
    assert not is_done(stopped, tmp_path)
    (tmp_path / "model").touch()
    run_stage(stopped, tmp_path)
    assert is_done(stopped, tmp_path)
    (tmp_path / "model").unlink()
    assert not is_done(stopped, tmp_path)


def test_a_training_that_was_told_to_stop_is_not_done(tmp_path: Path) -> None:
    """It ends with status 0, and says itself that it is not finished."""
    (run := tmp_path / "run").mkdir()
    training = Stage("training", "nothing", ((sys.executable, "-c", ""),), trains=(str(run),))
    write_status(run, step=3, finished=False)
    with pytest.raises(ValueError, match="training was stopped before it finished .*run; the same command again continues"):
        run_stage(training, tmp_path)
    assert not is_done(training, tmp_path)
    write_status(run, step=9, finished=True)
    run_stage(training, tmp_path)
    assert is_done(training, tmp_path)


def test_stages_read_what_those_before_them_made(settings: FlagshipConfig, tmp_path: Path) -> None:
    for scale in ("full", "short", "toy"):
        stages = list(stages_of(replace(settings, scale=scale), tmp_path / "out"))
        made: set[str] = set()
        for stage in stages:
            outputs = {command[command.index("--output") + 1] for command in stage.commands}
            made |= outputs
            for command in stage.commands:
                used = [word for word in command if word.startswith(str(tmp_path / "out"))]
                assert used and all(any(word == one or word.startswith(f"{one}/") for one in made) for word in used), command
                script = next(word for word in command if word.endswith(".py"))
                assert (ROOT / script).exists() and ((RAY in command) <= stage.needs_ray) and ((PORT in command) == (command[0] == "deepspeed"))
    with pytest.raises(ValueError, match="--stages codex: there are shards, encoder"):
        run_stages(stages, tmp_path / "out", only=("codex",))


def test_what_reads_a_stage_is_done_again_with_it(tmp_path: Path) -> None:
    def copies(name: str, source: str, word: str = "") -> Stage:
        code = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[3])"
        return Stage(name, "a copy", ((sys.executable, "-c", code, source, "--output", str(tmp_path / name), word),))

    (tmp_path / "source").write_text("x")
    first, second, apart = copies("first", str(tmp_path / "source")), copies("second", str(tmp_path / "first")), copies("apart", str(tmp_path / "source"))
    run_stages([first, second, apart], tmp_path)
    assert left_of([first, second, apart], tmp_path) == []
    (tmp_path / "source").write_text("y")
    changed = copies("first", str(tmp_path / "source"), "changed")
    run_stages([changed, second, apart], tmp_path, only=("first",))
    assert left_of([changed, second, apart], tmp_path) == [second]  # though its own commands are as they were
    run_stages([changed, second, apart], tmp_path)
    assert [(tmp_path / name).read_text() for name in ("first", "second", "apart")] == ["y", "y", "x"] and left_of([changed, second, apart], tmp_path) == []


def test_missing_inputs_are_found_before_anything_runs(settings: FlagshipConfig, tmp_path: Path) -> None:
    check_inputs(settings)
    (tmp_path / "sample").mkdir()
    for changed, said in (
        ({"crawl": ("gone.warc.gz",)}, "gone.warc.gz: no such crawl file or folder"), ({"photographs": str(tmp_path / "labelled" / "train" / "bright"), "unseen": str(tmp_path / "labelled")}, "which models are trained on"),
        ({"unseen": str(tmp_path / "sample")}, "holds no photographs"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            check_inputs(replace(settings, **changed))


@pytest.mark.slow
def test_every_command_of_the_real_chain_is_understood(settings: FlagshipConfig, run: Run, tmp_path: Path) -> None:
    stages = [stage for stage in stages_of(replace(settings, scale="full"), tmp_path / "out") if stage.name != "shards"]  # whose --dry-run plans a build, from files that are there
    for stage in stages:
        for command in stage.commands:
            words = command[command.index(next(word for word in command if word.endswith(".py"))) :]
            result = run("python", *words, "--dry-run")
            assert result.returncode == 0, (stage.name, result.stderr)


@pytest.mark.slow
def test_the_chain_from_crawl_to_models_in_slices_and_again(settings: FlagshipConfig, run: Run, tmp_path: Path) -> None:
    """Begun by `make gpu`, which ends it when its time is over; then to its end."""
    assert run("lcl", "sample-crawl", "--output", tmp_path / "sample", "--num-pages", 20, "--num-labelled-train", 10, "--num-labelled-test", 10).returncode == 0
    shutil.copyfile(tmp_path / "sample" / "sample.warc.gz", tmp_path / "crawl.warc.gz")
    inputs = ("--crawl", *settings.crawl, "--labelled", settings.labelled, "--photographs", settings.photographs, "--unseen", settings.unseen)
    settings = replace(settings, output=str(tmp_path / "gpu" / "flagship"))
    words = (*inputs, "--output", settings.output, "--scale", "toy")
    began = run("python", "benchmarks/gpu.py", "--toy", "True", "--output", tmp_path / "gpu", "--jobs", "flagship", "--seconds", 150, *inputs, timeout=200, DS_ACCELERATOR="cpu")
    assert began.returncode == 0 and "left: flagship" in began.stderr, began.stderr
    first = run("lcl", "flagship", *words, timeout=1500, DS_ACCELERATOR="cpu")
    assert first.returncode == 0, first.stderr[-4000:]
    output = Path(settings.output)
    for made in ("codec/codec.safetensors", "density/density.safetensors", "restorers/motion_blur/restorer.safetensors", "detector/detector.safetensors", "results/knn.json", "codec_eval/rd.json", "report.html", "gallery/index.html"):
        assert (output / made).exists(), made
    times = {path.name: path.stat().st_mtime for path in (output / "stages").iterdir()}
    assert len(times) == len(list(stages_of(settings, output))) and read_json(output / "stages" / "codec.json")["seconds"] > 0
    again = run("lcl", "flagship", *words, timeout=300)
    assert again.returncode == 0 and "=== 0 stages" in again.stderr and times == {path.name: path.stat().st_mtime for path in (output / "stages").iterdir()}
    assert_one_line_error(run("lcl", "flagship", *words, "--stages", "codex"), "--stages codex: there are")
