"""Folders of inputs: what is made is written, what fails is a line and a failure at the end, what needs nothing is a line alone."""

from pathlib import Path

import pytest

from downstream.folders import Made, NothingToDo, convert
from lcl.core.logs import set_up_logging


def act(path: Path) -> Made:
    if path.name.startswith("bad"):
        raise ValueError("cannot be read")
    if path.name.startswith("fine"):
        raise NothingToDo("is fine as it is")
    return Made(path.name.encode(), "made")


def pairs(folder: Path, *names: str) -> list[tuple[Path, Path]]:
    return [(folder / name, folder / "out" / name) for name in names]


def test_what_needs_nothing_is_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    set_up_logging()
    convert(pairs(tmp_path, "fine.png", "a.png"), act, title="making")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]
    said = capsys.readouterr().err
    assert "fine.png: is fine as it is" in said and "1 of 2 files needed nothing" in said


def test_all_that_need_nothing_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing was written"):
        convert(pairs(tmp_path, "fine.png"), act, title="making")
    assert not (tmp_path / "out").exists()


def test_failures_are_counted_and_the_rest_is_done(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 of 3 files failed"):
        convert(pairs(tmp_path, "bad.png", "a.png", "fine.png"), act, title="making")
    assert (tmp_path / "out" / "a.png").read_bytes() == b"a.png"
