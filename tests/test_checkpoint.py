"""Checkpoints: complete or invisible, refused when damaged, exact when resumed. Real DeepSpeed processes."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from lcl.checkpoint import scratch_prefix
from lcl.core.logs import read_metrics
from lcl.core.shards import ShardSet
from lcl.features import find_checkpoint, load_encoder, load_model
from lcl.step_folders import check_folder, newest_valid
from tests.conftest import Run, assert_one_line_error
from tests.processes import run_ranks, start_ranks

MEASURED = re.compile(r"train/(step_seconds|data_wait|mfu|\w+_per_second)")  # what differs between two equal runs


def arguments(shards: Path, output: Path, *options: object) -> list[object]:
    return ["lcl/pretrain.py", "--preset", "toy", "--data.shards", shards, "--output", output, *options]


def losses(run: Path) -> list[dict[str, float]]:
    return [{key: value for key, value in line.items() if not MEASURED.fullmatch(key)} for line in read_metrics(run / "metrics.jsonl")]


@pytest.fixture(scope="module")
def finished(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the toy preset by two ranks, undisturbed: 6 steps, checkpoints at 2, 4 and 6, the newest two kept."""
    run = tmp_path_factory.mktemp("finished") / "run"
    run_ranks(arguments(shards, run), world_size=2)
    return run


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_leaves_what_it_promises(finished: Path) -> None:
    left = [".lock", "heartbeats", "metrics.jsonl", "run.json", "status.json", "step-000004", "step-000006", "tensorboard"]
    assert sorted(path.name for path in finished.iterdir()) == left
    step = finished / "step-000006"
    assert {path.name for path in step.iterdir()} == {"engine", "model.safetensors", "config.json", "loader.json", "state.json", "manifest.json"}
    assert not any(path.suffix == ".py" for path in (step / "engine").iterdir())
    check_folder(step)
    assert json.loads((step / "state.json").read_text())["step"] == 6
    lines = read_metrics(finished / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 7)) and lines[-1]["train/images_seen"] > 0
    assert any((finished / "tensorboard").iterdir())
    record = json.loads((finished / "run.json").read_text())
    assert record["config"]["steps"] == 6 and record["versions"]["torch"] and record["shards"]


def test_killed_and_run_again_gives_the_same_bits(shards: Path, finished: Path, tmp_path: Path) -> None:
    """kill -9 of all ranks at step 3 or later, then the same command: losses and weights equal those of an undisturbed run."""
    run = tmp_path / "run"
    processes = start_ranks(arguments(shards, run), world_size=2)
    deadline = time.monotonic() + 120
    while not (run / "step-000002").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert (run / "step-000002").exists()
    run_ranks(arguments(shards, run), world_size=2)
    assert losses(run) == losses(finished)
    ours, theirs = (load_file(folder / "step-000006" / "model.safetensors") for folder in (run, finished))
    assert ours.keys() == theirs.keys() and all(bool((ours[name] == theirs[name]).all()) for name in ours)
    assert (run / "step-000006" / "loader.json").read_text() == (finished / "step-000006" / "loader.json").read_text()


def test_a_finished_run_is_not_trained_on(shards: Path, copy: Path) -> None:
    before = (copy / "step-000006" / "manifest.json").stat().st_mtime_ns
    run_ranks(arguments(shards, copy), world_size=1)
    assert (copy / "step-000006" / "manifest.json").stat().st_mtime_ns == before and len(losses(copy)) == 6


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_checkpoint_is_passed_over_aloud(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage(copy / "step-000006" / "model.safetensors")
    assert newest_valid(copy) == copy / "step-000004"
    assert "model.safetensors is damaged" in caplog.text and "going back" in caplog.text
    (copy / "step-000006" / "loader.json").unlink()
    assert newest_valid(copy) == copy / "step-000004"
    os.truncate(copy / "step-000004" / "engine" / "mp_rank_00_model_states.pt", 100)
    with pytest.raises(ValueError, match="every checkpoint in .* is damaged; restore one"):
        newest_valid(copy)


def test_training_goes_on_from_the_one_before_a_damaged_checkpoint(shards: Path, finished: Path, copy: Path) -> None:
    damage(copy / "step-000006" / "model.safetensors")
    outputs = run_ranks(arguments(shards, copy), world_size=2)
    assert "going back to the one before" in outputs[0] and "resumed at step 4 of 6" in outputs[0]
    assert losses(copy) == losses(finished)
    check_folder(copy / "step-000006")


def test_a_folder_without_manifest_is_no_checkpoint(copy: Path) -> None:
    (copy / "step-000006" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="has no manifest.json"):
        check_folder(copy / "step-000006")
    assert newest_valid(copy) == copy / "step-000004"


def test_an_encoder_is_loaded_from_its_folder(finished: Path) -> None:
    import torch

    encoder = load_encoder(finished)
    images = torch.rand(3, 3, 32, 32, requires_grad=True)
    features = encoder(images)
    assert features.tokens.shape == (3, 16, 32) and features.pooled.shape == (3, 32) and features.grid == (4, 4)
    features.pooled.sum().backward()
    assert images.grad is not None and not any(parameter.requires_grad for parameter in encoder.parameters())
    assert find_checkpoint(finished) == finished / "step-000006" == find_checkpoint(finished / "step-000006")
    assert encoder(torch.rand(1, 3, 20, 20)).grid == (3, 3)


def test_a_checkpoint_of_another_vocabulary_is_refused(copy: Path) -> None:
    folder = copy / "step-000006"
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(record | {"tokenizer": "other"}))
    manifest = json.loads((folder / "manifest.json").read_text())
    from lcl.core.files import sha256_of

    manifest["sha256"]["config.json"] = sha256_of(folder / "config.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="trained with another vocabulary"):
        load_model(folder)


@pytest.mark.parametrize("make", [False, True])
def test_no_checkpoint_is_said_with_the_cure(tmp_path: Path, make: bool) -> None:
    if make:
        (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match="no such run" if not make else "holds no checkpoint .*lcl pretrain"):
        find_checkpoint(tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.vision.layers", "2"], "holds another run (model.vision.layers was 1, is 2). Give another --output"),
        (["--seed", "5"], "seed was 0, is 5"),
        (["--data.num-lanes", "3", "--data.num-workers", "2"], "data.num_lanes (3) must be a multiple of ranks x data.num_workers (1 x 2)"),
        (["--wandb", "project"], "--wandb needs the package wandb: pip install wandb"),
        (["--model.pool-heads", "3"], "model.embed_width is no multiple of model.pool_heads (32 and 3)"),
        (["--batch-rows", "5"], "batch_rows (5) must be a multiple of ranks x micro_rows (1 x 2)"),
        (["--engine.zero-stage", "2"], "was written with --engine.zero-stage 0, this run has 2: its optimiser cannot be taken over. Keep --engine.zero-stage 0"),
        (["--data.shards", "missing"], "missing: no such folder of shards"),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(run: Run, shards: Path, copy: Path, options: list[str], message: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    result = run("lcl", "pretrain", *arguments(shards, copy)[1:], *options)
    assert_one_line_error(result, message)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def test_engine_settings_that_do_not_fit_leave_no_folder(run: Run, shards: Path, tmp_path: Path) -> None:
    result = run("lcl", "pretrain", *arguments(shards, tmp_path / "run")[1:], "--engine.offload", "cpu")
    assert_one_line_error(result, "--engine.offload cpu takes ZeRO; add --engine.zero-stage")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_model_is_refused(run: Run, shards: Path, copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    run_ranks(arguments(shards, other, "--model.text.layers", 2, "--steps", 2), world_size=1)
    shutil.move(other / "step-000002", copy / "step-000009")
    assert_one_line_error(run("lcl", "pretrain", *arguments(shards, copy)[1:]), "step-000009 is a checkpoint of another model")


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks saw in tests/rank_saving.py."""
    folder = tmp_path_factory.mktemp("saving")
    run, scratch = folder / "run", folder / "scratch"
    for path in (run / ".step-000003.0123456789ab.tmp", run / ".mine.tmp", scratch / f"{scratch_prefix(run)}abc", scratch / "lcl-of-another-run"):
        (path / "inside").mkdir(parents=True)
    run_ranks(["-m", "tests.rank_saving", run, scratch, folder], world_size=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_what_killed_processes_left_is_cleared_and_nothing_else(reports: list[dict[str, Any]]) -> None:
    assert all(report["left over"] == [".mine.tmp", "lcl-of-another-run"] for report in reports)


@pytest.mark.parametrize(
    ("what", "parts"),
    [
        ("scratch of rank 1 is full", ["rank 1: ", "zero_pp_rank_1_mp_rank_00_optim_states.pt"]),
        ("rank 1 cannot copy", ["rank 0: ", "a rank could not write its part", "rank 1: ", "No such file"]),
        ("rank 0 cannot write", ["rank 0: ValueError", "not JSON compliant"]),
    ],
)
def test_a_failed_write_is_the_same_error_on_all_ranks(reports: list[dict[str, Any]], what: str, parts: list[str]) -> None:
    assert reports[0][what] == reports[1][what]
    for part in ("a checkpoint could not be written", "--scratch", "the same command continues", *parts):
        assert part in reports[0][what]
    assert all(report["nothing became visible"] for report in reports)


def test_training_goes_on_while_a_checkpoint_is_written(reports: list[dict[str, Any]]) -> None:
    assert all(report["training goes on meanwhile"] for report in reports)


def test_the_newest_are_kept_and_those_behind_a_new_one_go(reports: list[dict[str, Any]]) -> None:
    for report in reports:
        assert report["kept"] == ["step-000004", "step-000005"] and report["after an earlier step"] == ["step-000002"]
        assert report["behind"] == [".mine.tmp", "lcl-of-another-run", "step-000004", "step-000005"]


def test_all_state_comes_back(reports: list[dict[str, Any]]) -> None:
    for report in reports:
        assert report["state"] == {"step": 2, "counters": {"rows": 8}} and not report["converted"]
        assert report["loader"] == {"rows_taken": 8, "lanes": {"0": {"next_document": 3}, "1": {"next_document": 3}}}
        assert report["random"] and report["average"] and report["no such weights"]
    assert reports[0]["weights"]


@pytest.mark.parametrize(
    ("what", "parts"),
    [
        ("model", ["step-000002 is a checkpoint of another model"]),
        ("zero_stage", ["was written with --engine.zero-stage 2, this run has other", "Keep --engine.zero-stage 2", "from its model.safetensors"]),
        ("precision", ["was written with --engine.precision fp32, this run has other", "Keep --engine.precision fp32"]),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_with_the_cure(reports: list[dict[str, Any]], what: str, parts: list[str]) -> None:
    assert reports[0][what] == reports[1][what] and all(part in reports[0][what] for part in parts)


def test_two_trainings_in_one_folder_are_refused(run: Run, shards: Path, copy: Path) -> None:
    import fcntl

    with open(copy / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert_one_line_error(run("lcl", "pretrain", *arguments(shards, copy)[1:]), "another process is training in")


def test_a_folder_that_is_no_checkpoint_is_left_alone(copy: Path) -> None:
    shutil.copytree(copy / "step-000004", copy / "step-000004-backup")
    (copy / "step-notes.txt").write_text("mine")
    assert newest_valid(copy) == copy / "step-000006"


def test_other_shards_and_foreign_folders_are_refused(run: Run, shards: Path, copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "shards"
    shutil.copytree(shards, other)
    sidecar = sorted(other.glob("*-00001.json"))[0]
    sidecar.unlink()
    shutil.move(other, copy.parent / "moved")
    record = json.loads((copy / "run.json").read_text())
    record["config"]["data"]["shards"] = [str(copy.parent / "moved")]
    (copy / "run.json").write_text(json.dumps(record))
    assert_one_line_error(run("lcl", "pretrain", *arguments(copy.parent / "moved", copy)[1:]), "not what the run in", "restore it")
    assert_one_line_error(run("lcl", "pretrain", *arguments(shards, shards)[1:]), "holds no training run", "Give another --output")


def test_a_loss_that_is_not_finite_stops_before_the_update_on_all_ranks(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    processes = start_ranks(arguments(shards, run, "--optimizer.learning-rate", "1e30", "--optimizer.clip-norm", 0, "--save-every", 1), world_size=2)
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert all(process.returncode == 1 for process in processes), outputs
    assert all(": the loss is not finite" in output and "no weights were changed" in output for output in outputs)
    lists = sorted(run.glob("not-finite-*.json"))
    assert [path.name.rpartition("-")[2] for path in lists] == ["0.json", "1.json"] and all(str(path) in outputs[rank] for rank, path in enumerate(lists))
    assert all(set(json.loads(path.read_text())) <= {document.key for document in ShardSet([shards])} for path in lists)
    newest = newest_valid(run)
    assert newest is not None and all(bool(value.isfinite().all()) for value in load_file(newest / "model.safetensors").values())
