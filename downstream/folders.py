"""One picture or a folder of them, to files of another ending beside or elsewhere; a failure is a line, and the rest is done."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lcl.core.files import files_below, open_aside
from lcl.core.images import ENDINGS as IMAGE_ENDINGS
from lcl.core.images import passed_over
from lcl.core.logs import progress_bar

log = logging.getLogger(__name__)


class Made(NamedTuple):
    """What an input became."""

    data: bytes
    note: str
    """For its line in the log."""
    beside: Mapping[str, bytes] = {}
    """Further files, by the ending that they get in the place of the output's."""


class NothingToDo(ValueError):
    """Of an input that may stay as it is: a line, and no failure where others were made."""


def pairs_of(source: Path, target: str, *, endings: Sequence[str], ending: str, beside: Sequence[str] = ()) -> list[tuple[Path, Path]]:
    """Each input with its output: a file to a file, a folder to a folder with the same files under `ending`.

    Without a target a file's output stands beside it; one that ends in a slash is a folder. Inputs of one name but for the ending keep theirs in front of the new one. No inputs
    are what lies in the target, and what a command wrote beside a picture that is there, with an ending of `beside`: these, and pictures of formats that are not read, are a line.
    Raises ValueError if there is no input, if two inputs would become one output, if an output would take the place of an input, or for a target that cannot be written to.
    """
    if source.is_file():
        output = Path(target, source.with_suffix(ending).name) if names_folder(target) else Path(target) if target else source.with_suffix(ending)
        check_writable(output)
        return _apart([(source, output)])
    if not source.is_dir():
        raise ValueError(f"{source}: no such file or folder")
    if not target:
        raise ValueError(f"{source} is a folder: say behind it into which folder the results go")
    folder = Path(target)
    if folder.is_file():
        raise ValueError(f"{source} is a folder, and {folder} a file: name a folder for the results")
    if folder.suffix.lower() in {ending, *endings} and not names_folder(target):
        raise ValueError(f"{source} is a folder, and {folder} would be one with the name of a file: end it with a slash if that is meant")
    check_writable(folder)
    inside = folder.resolve() != source.resolve()
    there = [path for path in files_below(source, broken_links=True) if not (inside and path.resolve().is_relative_to(folder.resolve()))]
    files = [path for path in there if path.suffix.lower() in endings and not path.name.startswith(".")]
    stems = {path.with_suffix("") for path in files}
    written = {path for path in files for last in beside if path.name.endswith(last) and path.with_name(path.name.removesuffix(last)) in stems}
    files = [path for path in files if path not in written]
    if written:
        log.info("%s: %d files of the kind NAME%s, which this command writes beside its results, are passed over", source, len(written), beside[0])
    if set(endings) >= set(IMAGE_ENDINGS) and (left := passed_over(path.name for path in there)):
        log.warning("%s: %s", source, left)
    if not files:
        raise ValueError(f"{source} holds no files that end in {', '.join(endings)}")
    of_stem = Counter(path.with_suffix("") for path in files)
    pairs = [(path, folder / (path.relative_to(source).with_suffix(ending) if of_stem[path.with_suffix("")] == 1 else f"{path.relative_to(source)}{ending}")) for path in files]
    taken: dict[Path, Path] = {}
    for path, output in pairs:
        if output in taken:
            raise ValueError(f"{taken[output]} and {path} would both become {output}: rename one")
        taken[output] = path
    return _apart(pairs)


def names_folder(target: str) -> bool:
    """Whether a result's name is that of a folder: one that is there, or one that ends in a slash."""
    return bool(target) and (target.endswith("/") or Path(target).is_dir())


def check_writable(target: Path) -> None:
    """Raises ValueError for a file or folder that could not be made, before anything is computed for it."""
    there = next(folder for folder in (target.absolute(), *target.absolute().parents) if folder.exists())
    if there != target.absolute() and not there.is_dir():
        raise ValueError(f"{target}: {there} is a file, so nothing can be written below it; write to another place")
    if not (there.is_dir() or there.is_file()):
        raise ValueError(f"{target} is a device or a pipe, which no file takes the place of; write to another place")
    if not os.access(there, os.W_OK | (os.X_OK if there.is_dir() else 0)):
        raise ValueError(f"{target} cannot be written: {there} is not writable for this user; write to another place, or change its permissions")


def _apart(pairs: list[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
    inputs = {path.resolve() for path, _ in pairs}
    for _, output in pairs:
        if output.resolve() in inputs:
            raise ValueError(f"{output} is an input: write to another place")
    return pairs


def convert(pairs: Sequence[tuple[Path, Path]], act: Callable[[Path], Made], *, title: str, may_replace: Callable[[bytes], bool]) -> None:
    """Writes what `act` makes of each input to its output. A file that is there, holds something else and whose bytes it may not replace stays, and is a failure.

    Raises ValueError at the end that counts the inputs that failed, each of which is a line, and for a single input that needed nothing, so that nobody waits for its output.
    """
    failed = untouched = 0
    with progress_bar(title, total=len(pairs)) as bar:
        for source, target in pairs:
            try:
                made = act(source)
                files = {**{target.with_suffix(ending): data for ending, data in made.beside.items()}, target: made.data}
                for path, data in files.items():
                    if path.exists() and (there := path.read_bytes()) and there != data and not may_replace(there):
                        raise ValueError(f"{path} is there and holds something else: remove it, or write to another place")
                target.parent.mkdir(parents=True, exist_ok=True)
                for path, data in files.items():
                    with open_aside(path) as file:
                        file.write(data)
                log.info("%s: %s%s", target, made.note, "".join(f"; {target.with_suffix(ending)}" for ending in made.beside))
            except NothingToDo as error:
                untouched += 1
                log.info("%s: %s", source, error)
            except (ValueError, OSError, MemoryError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and "memory" not in str(error):  # which is how PyTorch says that there is none
                    raise
                failed += 1
                log.error("%s: %s", source, error)
            bar.advance()
    if len(pairs) > 1:
        counts = {"written": len(pairs) - failed - untouched, "needed nothing and left out": untouched, "failed": failed}
        log.info("of %d files %s", len(pairs), ", ".join(f"{number} {what}" for what, number in counts.items() if number))
    if failed:
        raise ValueError(f"{failed} of {len(pairs)} files failed; their messages are above")
    if untouched and len(pairs) == 1:
        raise ValueError(f"{pairs[0][1]} was not written; why is said above")
