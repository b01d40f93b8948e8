import json
from pathlib import Path

import pytest

from lcl.core.files import files_below, locked_folder, open_aside, read_json, write_json
from lcl.core.logs import MetricsFile, read_metrics


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(RuntimeError), open_aside(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with open_aside(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole" and list(tmp_path.iterdir()) == [path]


def test_links_are_followed_and_those_that_lead_back_or_nowhere_are_errors(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    (folder / "inside").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for path in (folder / "b", folder / "inside" / "c", tmp_path / "elsewhere" / "d"):
        path.write_text("")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "twice").symlink_to(tmp_path / "elsewhere")
    assert list(files_below(folder)) == [folder / "b", folder / "inside" / "c", folder / "link" / "d", folder / "twice" / "d"]
    (tmp_path / "elsewhere" / "back").symlink_to(folder)
    with pytest.raises(ValueError, match="back is a link to a folder that it lies in"):
        list(files_below(folder))
    (tmp_path / "elsewhere" / "back").unlink()
    (folder / "inside" / "gone").symlink_to(tmp_path / "nothing")
    with pytest.raises(ValueError, match="gone is a link to nothing"):
        list(files_below(folder))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}


def test_a_damaged_json_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match="x.json is no JSON, or damaged"):
        read_json(tmp_path / "x.json")


def test_metrics_forget_what_a_resumed_run_will_redo(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        metrics.write(step, {"loss": float(step)})
    with open(metrics.path, "a") as file:
        file.write('{"step": 4, "lo')  # a kill in the middle of a line
    metrics.truncate_after(2)
    metrics.write(3, {"loss": 9.0})
    assert [(line["step"], line["loss"]) for line in read_metrics(metrics.path)] == [(1, 1.0), (2, 2.0), (3, 9.0)]
    assert all(json.loads(line) for line in metrics.path.read_text().splitlines())


def test_a_lock_removes_what_killed_writers_left_before_and_what_workers_left_behind(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    left = [tmp_path / "work" / ".a.json.123456.tmp", tmp_path / ".b.json.123456.tmp"]
    left[0].write_bytes(b"of another run")
    with locked_folder(tmp_path):
        assert not left[0].exists()
        left[1].write_bytes(b"of a worker that was killed and whose task was done by another")
    assert list(tmp_path.iterdir()) == [tmp_path / "work"]
