"""The page of a study: what its rows said, as tables in Markdown beside the folder of their numbers."""

from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

from table import read_rows, rows_of

from lcl.core.files import open_aside


def done_rows(tables: Mapping[str, Sequence[Any]], folder: Path, *, script: str) -> dict[str, dict[str, Any]]:
    """What was measured of the rows that are done, by name. Raises ValueError if none is."""
    rows = read_rows(folder, rows_of(tables))
    require_rows(rows, folder, script=script)
    return rows


def require_rows(rows: Sized, folder: Path, *, script: str) -> None:
    """Raises ValueError if there are none."""
    if not rows:
        raise ValueError(f"--results {folder} holds no row of this study; `python studies/{script}` computes them")


def write_page(parts: Sequence[str], folder: Path, *, num_rows: int) -> None:
    """FOLDER.md of all parts that are not empty."""
    path = folder.with_name(f"{folder.name}.md")
    with open_aside(path) as file:
        file.write(("\n\n".join(part for part in parts if part) + "\n").encode())
    print(f"{num_rows} rows: {path}")
