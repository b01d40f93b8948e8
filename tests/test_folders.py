"""Folders of inputs: what is made is written, what fails is a line and a failure at the end, what needs nothing is a line alone."""

from pathlib import Path

import pytest

from downstream.folders import Made, NothingToDo, convert, pairs_of
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
    convert(pairs(tmp_path, "fine.png", "a.png"), act, title="making", may_replace=lambda there: False)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]
    said = capsys.readouterr().err
    assert "fine.png: is fine as it is" in said and "of 2 files 1 written, 1 needed nothing and left out" in said


def test_all_that_need_nothing_leave_nothing(tmp_path: Path) -> None:
    """Of a folder that is well; who named one output waits for it, and is told."""
    convert(pairs(tmp_path, "fine.png", "fine2.png"), act, title="making", may_replace=lambda there: False)
    with pytest.raises(ValueError, match="out/fine.png was not written"):
        convert(pairs(tmp_path, "fine.png"), act, title="making", may_replace=lambda there: False)
    assert not (tmp_path / "out").exists()


def test_failures_are_counted_and_the_rest_is_done(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 of 3 files failed"):
        convert(pairs(tmp_path, "bad.png", "a.png", "fine.png"), act, title="making", may_replace=lambda there: False)
    assert (tmp_path / "out" / "a.png").read_bytes() == b"a.png"


def test_a_file_that_is_there_is_replaced_by_one_of_its_kind_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    set_up_logging()
    (tmp_path / "out").mkdir()
    for name, before in (("a.png", b"made before"), ("b.png", b"a photograph"), ("c.png", b"c.png"), ("d.png", b"")):
        (tmp_path / "out" / name).write_bytes(before)
    with pytest.raises(ValueError, match="1 of 4 files failed"):
        convert(pairs(tmp_path, "a.png", "b.png", "c.png", "d.png"), act, title="making", may_replace=lambda there: there.startswith(b"made"))
    assert "out/b.png is there and holds something else" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {"a.png": b"a.png", "b.png": b"a photograph", "c.png": b"c.png", "d.png": b"d.png"}


def found(source: Path, target: Path) -> dict[str, str]:
    pairs = pairs_of(source, str(target), endings=(".png", ".jpg"), ending=".png", beside=(".map.png",))
    return {str(path.relative_to(source)): str(output.relative_to(target)) for path, output in pairs}


def test_outputs_are_no_inputs(tmp_path: Path) -> None:
    """Neither those of a folder inside the inputs, when the command is given again, nor what was written beside them."""
    for name in ("a.png", "a.map.png", "c.map.png", "out/a.png", "deep/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert found(tmp_path, tmp_path / "out") == {"a.png": "a.png", "c.map.png": "c.map.png", "deep/b.jpg": "deep/b.png"}
    with pytest.raises(ValueError, match="is an input"):
        pairs_of(tmp_path, str(tmp_path), endings=(".png", ".jpg"), ending=".png")


def test_inputs_of_one_stem_keep_their_endings(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    assert found(tmp_path, tmp_path / "out") == {"a.jpg": "a.jpg.png", "a.png": "a.png.png", "b.jpg": "b.png"}


def test_targets_that_cannot_be_written_are_said_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").touch()
    (tmp_path / "file").touch()
    for source, target, message in (("in", "file/out", "file is a file, so nothing can be written below it"), ("in/a.png", "file/b.png", "is a file"), ("in", "out.png", "name of a file"), ("in", "file", "file a file: name a folder")):
        with pytest.raises(ValueError, match=message):
            pairs_of(tmp_path / source, str(tmp_path / target), endings=(".png",), ending=".png")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # the superuser, as tests may be, can write anywhere
    with pytest.raises(ValueError, match="is not writable"):
        pairs_of(tmp_path / "in", str(tmp_path / "new" / "out"), endings=(".png",), ending=".png")


def test_a_slash_makes_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    for target, output in ((f"{tmp_path}/new/", "new/a.png"), (f"{tmp_path}/new.png", "new.png"), ("", "a.png")):
        assert pairs_of(tmp_path / "a.jpg", target, endings=(".jpg",), ending=".png") == [(tmp_path / "a.jpg", tmp_path / output)]


def test_a_link_to_nothing_is_a_failure_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    found = pairs_of(tmp_path, str(tmp_path / "out"), endings=(".png",), ending=".png")
    with pytest.raises(ValueError, match="1 of 2 files failed"):
        convert(found, lambda path: Made(path.read_bytes(), "made"), title="making", may_replace=lambda there: False)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]
