"""One picture or a folder of them, to files of another ending beside or elsewhere; a failure is a line, and the rest is done."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from lcl.core.files import open_aside
from lcl.core.logs import progress_bar

log = logging.getLogger(__name__)


def pairs_of(source: Path, target: Path | None, *, endings: Sequence[str], ending: str) -> list[tuple[Path, Path]]:
    """Each input with its output: a file to a file, a folder to a folder with the same files under `ending`.

    Without a target a file's output stands beside it. Raises ValueError if there is no input, or if two inputs would become one output.
    """
    if source.is_file():
        return [(source, (target / source.with_suffix(ending).name if target.is_dir() else target) if target is not None else source.with_suffix(ending))]
    if not source.is_dir():
        raise ValueError(f"{source}: no such file or folder")
    if target is None or target.is_file():
        raise ValueError(f"{source} is a folder: give --output, a folder for the results")
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in endings and path.is_file())
    if not files:
        raise ValueError(f"{source} holds no files that end in {', '.join(endings)}")
    pairs = [(path, (target / path.relative_to(source)).with_suffix(ending)) for path in files]
    taken: dict[Path, Path] = {}
    for path, output in pairs:
        if output in taken:
            raise ValueError(f"{taken[output]} and {path} would both become {output}: rename one")
        taken[output] = path
    return pairs


def convert(pairs: Sequence[tuple[Path, Path]], act: Callable[[Path], tuple[bytes, str]], *, title: str) -> None:
    """Writes `act(input)`, bytes and a note, to each output. Raises ValueError at the end that counts the inputs that failed, each of which is a line."""
    failed = 0
    with progress_bar(title, total=len(pairs)) as bar:
        for source, target in pairs:
            try:
                data, note = act(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                with open_aside(target) as file:
                    file.write(data)
                log.info("%s: %s", target, note)
            except (ValueError, OSError) as error:
                failed += 1
                log.error("%s: %s", source, error)
            bar.advance()
    if failed:
        raise ValueError(f"{failed} of {len(pairs)} files failed; their messages are above")
