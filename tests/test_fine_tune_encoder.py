"""An encoder trained further on pages: its stages, what the report says, and what is refused, with the weights that come along."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from downstream.before_after import of_probes
from downstream.fine_tune_encoder import FineTuneEncoderConfig, fingerprint_of_pages, main, stages_of
from downstream.stages import RAY
from lcl.core.files import read_json
from lcl.core.shipped import ENCODER, or_shipped
from lcl.evals.compare import compare
from lcl.features import load_encoder
from tests.conftest import Run, assert_one_line_error
from tests.test_fine_tune import Launched, launched  # noqa: F401


@pytest.fixture
def settings(sample: Path, shards: Path, tmp_path: Path) -> FineTuneEncoderConfig:
    return FineTuneEncoderConfig(labelled=str(sample / "labelled" / "colour"), shards=(str(shards),), output=str(tmp_path / "out"), probes=("knn",), steps=2, num_ranks=1)


def test_by_its_real_commands_interrupted_and_again(settings: FineTuneEncoderConfig, tmp_path: Path, launched: Launched, capsys: pytest.CaptureFixture) -> None:  # noqa: F811
    launched.fails_at = "pretrain"
    with pytest.raises(ValueError, match="ended with status 1"):
        main(settings)
    launched.fails_at = ""
    main(settings)
    assert launched.scripts == ["eval_knn", "pretrain", "eval_knn"]
    output = tmp_path / "out"
    report = read_json(output / "report.json")["measured"]
    assert load_encoder(or_shipped("", ENCODER)).fingerprint == report["weights"]["before"] != report["weights"]["after"] == load_encoder(output / "training").fingerprint
    [measure] = report["measures"]
    results = [output / "results" / name / "knn.json" for name in ("before", "after")]
    [difference] = compare(*results)  # as `lcl eval compare` says it
    assert measure["measure"] == "nearest neighbours, accuracy in %" and report["said"] in (output / "report.md").read_text() and "nearest neighbours" in capsys.readouterr().out
    for value, share in (("before", difference.first), ("after", difference.second), ("difference", difference.difference.value), ("low", difference.difference.low), ("high", difference.difference.high)):
        assert measure[value] == pytest.approx(100 * share), value
    assert len(measure["values"]) == measure["num_photographs"] == report["num_pictures"] == difference.difference.n
    training = read_json(output / "training" / "run.json")["config"]
    assert (training["steps"], training["micro_rows"], training["data"]["layout"]["near_tokens"], training["start"]["vision"]) == (2, 4, 48, str(or_shipped("", ENCODER)))

    main(settings)
    assert len(launched.scripts) == 3
    for changed, said in (({"steps": 3}, "--steps 2 there, 3 now"), ({"labelled": str(Path(settings.labelled).parent / "digit")}, "other labelled pictures")):
        with pytest.raises(ValueError, match=f"of other documents or settings .{said}.: give another folder"):
            main(replace(settings, **changed))
    main(replace(settings, probes=("few_shot",)))  # other probes of the same encoders
    assert launched.scripts[3:] == ["eval_few_shot", "eval_few_shot"]
    assert {one["measure"].partition(",")[0] for one in read_json(output / "report.json")["measured"]["measures"]} == {"few-shot classification"}


def test_another_crawl_under_the_same_name_is_another(settings: FineTuneEncoderConfig, sample: Path, tmp_path: Path) -> None:
    crawl = tmp_path / "pages.warc.gz"
    of_crawl = replace(settings, crawl=(str(crawl),), shards=())
    crawl.write_bytes(b"one")
    one = fingerprint_of_pages(of_crawl)
    crawl.rename(tmp_path / "moved.warc.gz")
    assert fingerprint_of_pages(replace(of_crawl, crawl=(str(tmp_path / "moved.warc.gz"),))) == one
    crawl.write_bytes(b"two")
    assert fingerprint_of_pages(of_crawl) != one != fingerprint_of_pages(settings)


def test_a_dry_run_says_what_it_would_do(settings: FineTuneEncoderConfig, run: Run, tmp_path: Path) -> None:
    words = ("lcl", "fine-tune", "encoder", "--labelled", settings.labelled, "--shards", settings.shards[0], "--output", tmp_path / "out", "--dry-run")
    found = run(*words)
    assert found.returncode == 0, found.stderr
    assert all(line in found.stderr for line in ("before: ", "training: ", "after: ", "lcl/pretrain.py --preset photo_pages")) and '"steps": 2000' in found.stdout and not (tmp_path / "out").exists()
    assert_one_line_error(run(*(tmp_path if word == settings.shards[0] else word for word in words)), "holds no shard")


def test_pages_are_built_first_and_shards_are_not(settings: FineTuneEncoderConfig, sample: Path, tmp_path: Path) -> None:
    crawl = replace(settings, crawl=(str(sample / "sample.warc.gz"),), shards=(), learning_rate=1e-4, num_ranks=0)
    built, given = ({stage.name: stage for stage in stages_of(one, tmp_path, tmp_path / "out")} for one in (crawl, settings))
    assert list(built) == ["before", "shards", "training", "after"] and list(given) == ["before", "training", "after"]
    [job], [training] = built["shards"].commands, built["training"].commands
    assert built["shards"].needs_ray and RAY in job and str(sample / "sample.warc.gz") in job
    assert training[training.index("--data.shards") + 1] == str(tmp_path / "out" / "shards") == job[job.index("--output") + 1]
    assert "--optimizer.learning-rate" in training and "--optimizer.learning-rate" not in given["training"].commands[0]
    assert training[training.index("--micro-rows") + 1] == "2" and training[training.index("--num_gpus") + 1] == "2" and given["training"].commands[0][training.index("--num_gpus") + 1] == "1"


def test_mistakes_are_said_before_anything_runs(settings: FineTuneEncoderConfig, sample: Path, tmp_path: Path, launched: Launched) -> None:  # noqa: F811
    (tmp_path / "empty").mkdir()
    few = tmp_path / "few"
    for name in ("train", "test"):
        for found in sorted((Path(settings.labelled) / name).iterdir())[:2]:
            (few / name / found.name).mkdir(parents=True)
            for picture in sorted(found.iterdir())[:2]:
                shutil.copy(picture, few / name / found.name)
    for changed, said in (
        ({"shards": ()}, "give --crawl, files or folders of pages, or --shards that are built already: one of the two"),
        ({"crawl": (str(sample / "sample.warc.gz"),)}, "one of the two"),
        ({"shards": ("gone",)}, "gone: no such file or folder"),
        ({"probes": ()}, "--probes is empty: name at least one"),
        ({"recipe": "none"}, "--recipe none: there are .*photo_pages"),
        ({"recipe": "small"}, "is of another model: .*model.vision"),
        ({"num_ranks": 3}, "a step has 4 rows, which so many cannot share evenly"),
        ({"model": str(tmp_path / "gone")}, "gone"),
        ({"labelled": str(tmp_path)}, str(tmp_path)),
        ({"labelled": str(Path(settings.labelled) / "train")}, "or draw a part of all with --test-part"),
        ({"labelled": str(few)}, "--probes knn lets at least 10 pictures vote, and .* leaves 2 of its split train"),
        ({"shards": (str(tmp_path / "empty"),)}, "empty holds no shard"),
        ({"shards": (), "crawl": (str(tmp_path / "empty"),)}, "empty holds no file: --crawl takes crawl files"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            main(replace(settings, **changed))
    assert not launched.scripts and not (tmp_path / "out").exists()


def test_several_seeds_of_one_picture_are_one_value(sample: Path, tmp_path: Path, run: Run) -> None:
    options = ("--controls", "--few-shot.shots", 1, "--few-shot.num-seeds", 3)
    found = run("lcl", "eval", "few-shot", "--checkpoint", or_shipped("", ENCODER), "--data", sample / "labelled" / "colour", "--output", tmp_path / "few.json", *options)
    assert found.returncode == 0, found.stderr
    [measure] = of_probes(tmp_path / "few.json", tmp_path / "few.json")
    assert len(set(measure.photographs)) == len(measure.photographs) == 20 and list(measure.before) == list(measure.after)
    assert set(np.round(3 * np.array(measure.before) / 100, 6)) <= {0.0, 1.0, 2.0, 3.0}


@pytest.mark.slow
def test_the_command_on_a_crawl(run: Run, sample: Path, tmp_path: Path) -> None:
    words = ("lcl", "fine-tune", "encoder", "--crawl", sample / "sample.warc.gz", "--labelled", sample / "labelled" / "colour", "--output", tmp_path / "out", "--probes", "knn")
    first = run(*words, "--steps", 4, timeout=900, DS_ACCELERATOR="cpu")
    assert first.returncode == 0, first.stderr[-4000:]
    assert "nearest neighbours, accuracy in %" in first.stdout and list((tmp_path / "out" / "shards").glob("*.tar"))
    again = run(*words, "--steps", 4, timeout=300)
    assert again.returncode == 0 and "=== 0 stages" in again.stderr
    assert_one_line_error(run(*words, "--steps", 5), "give another folder")
