"""What a run tells people (logging, a progress bar) and machines (`metrics.jsonl`)."""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lcl.core.files import open_aside

CONSOLE = Console(stderr=True)


def set_up_logging(*, rank: int = 0) -> None:
    """Sends log lines to stderr from rank 0; other ranks keep warnings and errors only."""
    if CONSOLE.is_terminal:
        handler: logging.Handler = RichHandler(console=CONSOLE, show_path=False)
        line = "%(message)s"
    else:
        handler = logging.StreamHandler(sys.stderr)
        line = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, handlers=[handler], format=line, datefmt="%H:%M:%S", force=True)


@contextmanager
def progress_bar(title: str, *, total: int, done: int = 0, show: bool = True) -> Iterator["Bar"]:
    """A progress bar on a terminal, and nothing elsewhere: there the caller's log lines must do."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=CONSOLE, disable=not (show and CONSOLE.is_terminal)) as progress:
        yield Bar(progress, progress.add_task(title, total=total, completed=done, note=""))


class Bar:
    def __init__(self, progress: Progress, task: Any) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        self._progress.update(self._task, advance=amount, note=note)


class MetricsFile:
    """Appends one JSON object a line, each with its step. `truncate_after` forgets what a resumed run will redo."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def truncate_after(self, step: int) -> None:
        if self.path.exists():
            kept = [line for line in read_metrics(self.path) if line["step"] <= step]
            with open_aside(self.path) as file:
                file.write("".join(json.dumps(line) + "\n" for line in kept).encode())

    def write(self, step: int, values: Mapping[str, float]) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line that a kill cut short is left out."""
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
