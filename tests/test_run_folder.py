"""The folder of a run: whom it belongs to, what a mistake costs, what is missed when it is gone."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from lcl.run_folder import LOCK, METRICS, STATUS, Input, _claim, is_free, write_status
from lcl.train_config import FREE_FIELDS, PRESETS, TrainConfig


def claim(run: Path, shards: str = "some", **changes: object) -> None:
    _claim(run, config(run, **changes), inputs={"shards": Input(shards, "the shards")}, free=FREE_FIELDS)


def config(run: Path, **changes: object) -> TrainConfig:
    return replace(PRESETS["toy"], output=str(run), **changes)


def test_a_folder_without_steps_can_be_claimed_by_corrected_options(tmp_path: Path) -> None:
    run = tmp_path / "run"
    claim(run, frozen=("visul",))
    (run / LOCK).unlink()  # this process holds the first lock until it ends
    claim(run, frozen=("visual",))
    assert json.loads((run / "run.json").read_text())["config"]["frozen"] == ["visual"]


def test_a_folder_with_steps_belongs_to_its_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    claim(tmp_path / "run")
    (tmp_path / "run" / METRICS).write_text('{"step": 1}\n')
    (tmp_path / "run" / LOCK).unlink()
    with pytest.raises(ValueError, match="holds another run .steps was 6, is 7"):
        claim(tmp_path / "run", steps=7)
    (tmp_path / "run" / LOCK).unlink()
    with caplog.at_level(logging.WARNING):
        claim(tmp_path / "run", log_every=3)
    assert "holds no checkpoint: it ended before its first, and starts at step 0 again" in caplog.text


def test_checkpoints_that_are_gone_are_missed(tmp_path: Path) -> None:
    claim(tmp_path / "run")
    (tmp_path / "run" / METRICS).write_text('{"step": 6}\n')
    write_status(tmp_path / "run", step=6, finished=True)
    (tmp_path / "run" / LOCK).unlink()
    with pytest.raises(ValueError, match="was trained to step 6, but holds no checkpoint .* restore one"):
        claim(tmp_path / "run")
    assert (tmp_path / "run" / STATUS).exists()


def test_what_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="--output .*file is a file; give a folder"):
        claim(tmp_path / "file")
    with pytest.raises(ValueError, match="is not empty and holds no training run"):
        claim(tmp_path)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "run.json").write_text('{"config": {"crawl": ["a.warc"]}}')
    with pytest.raises(ValueError, match="its run.json is of another command"):
        claim(tmp_path / "shards")
    (tmp_path / "run" / "step-000002").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds checkpoints and no run.json"):
        claim(tmp_path / "run")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    claim(tmp_path / "run")
    with pytest.raises(ValueError, match="another process is training in"):
        claim(tmp_path / "run")


def test_free_fields_are_whole_names_or_groups() -> None:
    assert all(is_free(name, FREE_FIELDS) for name in ("output", "data.shards", "validation.every", "collapse.patience"))
    assert not any(is_free(name, FREE_FIELDS) for name in ("data.shard_weights", "output_folder", "steps", "validation", "data.weights", "threads_more"))
