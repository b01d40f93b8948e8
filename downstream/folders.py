"""One picture or a folder of them, to files of another ending beside or elsewhere; a failure is a line, and the rest is done."""

import logging
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


def pairs_of(source: Path, target: Path | None, *, endings: Sequence[str], ending: str) -> list[tuple[Path, Path]]:
    """Each input with its output: a file to a file, a folder to a folder with the same files under `ending`.

    Without a target a file's output stands beside it. Where pictures are wanted, those of formats that are not read are a line. Raises ValueError if there is no
    input, if two inputs would become one output, or if an output would take the place of an input.
    """
    if source.is_file():
        output = (target / source.with_suffix(ending).name if target.is_dir() else target) if target is not None else source.with_suffix(ending)
        return _apart([(source, output)])
    if not source.is_dir():
        raise ValueError(f"{source}: no such file or folder")
    if target is None or target.is_file():
        raise ValueError(f"{source} is a folder: say behind it into which folder the results go")
    there = list(files_below(source))
    files = [path for path in there if path.suffix.lower() in endings and not path.name.startswith(".")]
    if set(endings) >= set(IMAGE_ENDINGS) and (left := passed_over(path.name for path in there)):
        log.warning("%s: %s", source, left)
    if not files:
        raise ValueError(f"{source} holds no files that end in {', '.join(endings)}")
    pairs = [(path, (target / path.relative_to(source)).with_suffix(ending)) for path in files]
    taken: dict[Path, Path] = {}
    for path, output in pairs:
        if output in taken:
            raise ValueError(f"{taken[output]} and {path} would both become {output}: rename one")
        taken[output] = path
    return _apart(pairs)


def _apart(pairs: list[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
    inputs = {path.resolve() for path, _ in pairs}
    for _, output in pairs:
        if output.resolve() in inputs:
            raise ValueError(f"{output} is an input: write to another place")
    return pairs


def convert(pairs: Sequence[tuple[Path, Path]], act: Callable[[Path], Made], *, title: str, replace: bool = True) -> None:
    """Writes what `act` makes of each input to its output; without `replace` a file that is there and holds something else stays, and is a failure.

    Raises ValueError at the end that counts the inputs that failed, each of which is a line, and where all of them needed nothing.
    """
    failed = untouched = 0
    with progress_bar(title, total=len(pairs)) as bar:
        for source, target in pairs:
            try:
                made = act(source)
                if not replace and target.exists() and target.read_bytes() != made.data:
                    raise ValueError(f"{target} is there and holds something else: remove it, or write to another place")
                target.parent.mkdir(parents=True, exist_ok=True)
                for path, data in {**{target.with_suffix(ending): data for ending, data in made.beside.items()}, target: made.data}.items():
                    with open_aside(path) as file:
                        file.write(data)
                log.info("%s: %s", target, made.note)
            except NothingToDo as error:
                untouched += 1
                log.info("%s: %s", source, error)
            except (ValueError, OSError, MemoryError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and "memory" not in str(error):  # which is how PyTorch says that there is none
                    raise
                failed += 1
                log.error("%s: %s", source, error)
            bar.advance()
    if failed:
        raise ValueError(f"{failed} of {len(pairs)} files failed; their messages are above")
    if untouched == len(pairs):
        raise ValueError("nothing was written; what was found is said above")
    if untouched:
        log.info("%d of %d files needed nothing and were left out", untouched, len(pairs))
