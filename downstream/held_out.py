"""A folder of photographs in two parts, one to train on and one to measure on: which is decided by what is in a file, not by its name or place.

    folder --SHA-256 of each file--> in its order: the first part is held out, the rest trained on --> two folders of links, named by the hashes

More files, other names and other folders move no photograph from one part to the other; but of few photographs, where the share is less than LEAST, one that was held
out may be trained on when others come. Files of equal bytes are one photograph.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from downstream.photographs import check_usable, list_photographs, read_size
from lcl.core.files import sha256_of
from lcl.core.logs import progress_bar

LEAST = 3  # photographs of each part, below which a difference over photographs says nothing


@dataclass(frozen=True)
class Photograph:
    path: Path
    sha256: str
    size: tuple[int, int]
    """Width and height in px."""

    @property
    def link(self) -> str:
        """A name that follows its contents, so that what is drawn by names stays the same."""
        return self.sha256[:16] + self.path.suffix.lower()


@dataclass(frozen=True)
class Split:
    train: list[Photograph]
    held_out: list[Photograph]


def read_folder(folder: Path) -> list[Photograph]:
    """Each photograph once, in the order of the hashes. Raises ValueError if there are none, and naming those whose headers say no size."""
    files = list_photographs(folder)
    found: dict[str, Photograph] = {}
    unreadable = []
    with progress_bar("reading photographs", total=len(files)) as bar:
        for path in files:
            try:
                one = Photograph(path.absolute(), sha256_of(path), read_size(path))
                found.setdefault(one.sha256, one)
            except ValueError as error:
                unreadable.append(str(error))
            bar.advance()
    check_usable(unreadable)
    return sorted(found.values(), key=lambda one: one.sha256)


def split(photographs: Sequence[Photograph], *, share: float) -> Split:
    """Held out is each whose hash, as a number in [0, 1), is below `share`, and the lowest LEAST in any case. Raises ValueError where either part would have fewer."""
    ordered = sorted(photographs, key=lambda one: one.sha256)
    num = max(LEAST, sum(int(one.sha256[:16], 16) < share * 16**16 for one in ordered))
    if len(ordered) - num < LEAST:
        raise ValueError(
            f"of {len(ordered)} different photographs {min(num, len(ordered))} would be held out and {max(0, len(ordered) - num)} trained on; {LEAST} of each are needed: give more photographs"
            + (", or a smaller --held-out" if num > LEAST else "")
        )
    return Split(ordered[num:], ordered[:num])


def link_to(photographs: Sequence[Photograph], folder: Path) -> None:
    """Makes `folder` hold links to these and nothing else of ours."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_symlink():
            path.unlink()
    for one in photographs:
        os.symlink(one.path, folder / one.link)
