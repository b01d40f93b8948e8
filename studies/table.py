"""A study: a table of runs, each computed once in a process of its own and kept as JSON under the hash of its config.

    rows (configs) --in order, `jobs` at a time, while there is time--> FOLDER/HASH.json

A row whose file is there is done. One that was cut short starts again and continues from what it left behind itself.
"""

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import Field

from lcl.core.config import config, hash_of, to_dict
from lcl.core.files import read_json
from lcl.core.logs import progress_bar, set_up_logging

log = logging.getLogger(__name__)

Row = TypeVar("Row")

Positive = Annotated[int, Field(ge=1)]

POLL_SECONDS = 1.0
NOT_FOR_ROWS = ("row", "hours", "jobs")


@config
class TableConfig:
    """What every study can be told."""

    hours: Annotated[float, Field(gt=0)] = 8.0
    """Hours after which no row is started."""
    jobs: Positive = 2
    """Rows computed at one time, a thread each."""
    toy: bool = False
    """Sizes for a test of the table, with numbers that say nothing."""
    row: str = ""
    """One row, computed in this process; the command starts itself with it."""


@config
class TablesConfig(TableConfig):
    """And of one whose rows are known before it begins."""

    tables: tuple[str, ...] = ()
    """Which tables of rows, in this order; none: all."""


def name_of(row: Any) -> str:
    """The name of a row's file, from all of its config."""
    return hash_of(row)


def rows_of(tables: Mapping[str, Sequence[Row]], chosen: Sequence[str] = ()) -> list[Row]:
    """The rows of the chosen tables, or of all, in order. Raises ValueError for a table that there is not."""
    unknown = sorted(set(chosen) - tables.keys())
    if unknown:
        raise ValueError(f"--tables {' '.join(unknown)}: there are {', '.join(tables)}")
    return [row for table in chosen or tables for row in tables[table]]


def run_tables(
    tables: Mapping[str, Sequence[Row]], settings: Any, *, script: Path, toy: Callable[[Row], Row], run_row: Callable[[Row, Any], None],
    prepare: Callable[[Sequence[Row], Any], None] = lambda rows, settings: None,
) -> None:  # fmt: skip
    """A study whose rows are known: the row that `--row` names, in this process; without it `prepare`, which makes what several rows share, and then every row of the chosen tables.

    `toy` gives a row the sizes for a test. Raises ValueError for a table that there is not.
    """
    set_up_logging()
    torch.set_num_threads(1)
    rows = rows_of(tables, settings.tables)
    rows = [toy(row) for row in rows] if settings.toy else rows
    if settings.row:
        run_row(next(row for row in rows if name_of(row) == settings.row), settings)
        return
    prepare(rows, settings)
    run_study(rows, settings, script=script)


def run_study(rows: Sequence[Any], settings: Any, *, script: Path, seconds: float | None = None) -> list[str]:
    """`run_table` of a study whose config has `results`, `jobs` and `hours`, with all else of it for its rows; `seconds` in the place of the hours."""
    limit = 3600 * settings.hours if seconds is None else seconds
    left = run_table(rows, Path(settings.results), script=script, options=options_of(settings), jobs=settings.jobs, seconds=limit)
    log.info("%d rows, %d left%s", len(set(map(name_of, rows))), len(left), "; the same command continues" if left else f": {settings.results}")
    return left


def options_of(settings: Any) -> list[str]:
    """The command line of a study's config, without what is not for its rows."""
    words = []
    for name, value in to_dict(settings).items():
        values = value if isinstance(value, list) else [value]
        if name not in NOT_FOR_ROWS and values:
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return words


def run_table(rows: Sequence[Any], folder: Path, *, script: Path, options: Sequence[str], jobs: int, seconds: float) -> list[str]:
    """Runs `python SCRIPT --row NAME ...options` for the rows that are not done, and returns the names of those that are left.

    No row starts after `seconds`; those that run then end by themselves. A row that fails does not stop the others. Raises ValueError at the end if any did.
    """
    names = list(dict.fromkeys(map(name_of, rows)))
    left = [name for name in names if not (folder / f"{name}.json").exists()]
    started, running, failed = time.monotonic(), {}, []
    with progress_bar("rows", total=len(names)) as bar:
        bar.advance(len(names) - len(left))
        waiting = list(left)
        while running or (waiting and time.monotonic() - started < seconds):
            while waiting and len(running) < jobs and time.monotonic() - started < seconds:
                name = waiting.pop(0)
                if (folder / f"{name}.json").exists():  # computed by another process meanwhile
                    bar.advance()
                    continue
                running[name] = subprocess.Popen([sys.executable, str(script), "--row", name, *options], stdout=subprocess.DEVNULL)
            for name, process in list(running.items()):
                if (status := process.poll()) is not None:
                    del running[name]
                    bar.advance()
                    if status:
                        failed.append(name)
            time.sleep(POLL_SECONDS)
    if failed:
        raise ValueError(f"rows {', '.join(failed)} failed; their messages are above, and the same command tries them again")
    return [name for name in names if not (folder / f"{name}.json").exists()]


def read_rows(folder: Path, rows: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """What was measured of those rows that are done, by name."""
    return {name: read_json(path)["measured"] for name in map(name_of, rows) if (path := folder / f"{name}.json").exists()}
