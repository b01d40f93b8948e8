"""What a run tells people (logging, a progress bar) and machines (`metrics.jsonl`)."""

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lcl.core.files import open_aside

CONSOLE = Console(stderr=True)
LIVE_SECONDS = 0.5   # between two looks at work under way, on a terminal
LINE_SECONDS = 30.0  # between two log lines elsewhere

log = logging.getLogger(__name__)


def set_up_logging(*, rank: int = 0) -> None:
    """Sends log lines to stderr from rank 0; other ranks keep warnings and errors only."""
    if CONSOLE.is_terminal:
        handler: logging.Handler = RichHandler(console=CONSOLE, show_path=False)
        line = "%(message)s"
    else:
        handler = logging.StreamHandler(sys.stderr)
        line = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, handlers=[handler], format=line, datefmt="%H:%M:%S", force=True)
    logging.getLogger("aiobotocore").setLevel(logging.WARNING)  # below, it says in each process where it found credentials


Live = Callable[[], tuple[float, str]]


@contextmanager
def progress_bar(title: str, *, total: int, done: int = 0, show: bool = True, live: Live | None = None) -> Iterator["Bar"]:
    """A progress bar on a terminal, and nothing elsewhere: there the caller's log lines must do, or `live`.

    `live` is asked from a thread, now and then, how many units are done beyond those advanced (a fraction for work that is under way), and for a
    note such as rates. Where there is no terminal, it becomes a log line.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=CONSOLE, disable=not (show and CONSOLE.is_terminal)) as progress:
        bar = Bar(progress, progress.add_task(title, total=total, completed=done, note=""), title=title, total=total, done=done)
        if live is None or not show:
            yield bar
            return
        ended = threading.Event()
        thread = threading.Thread(target=_watch, args=(bar, live, ended), daemon=True)
        thread.start()
        try:
            yield bar
        finally:
            ended.set()
            thread.join()


def _watch(bar: "Bar", live: Live, ended: threading.Event) -> None:
    while not ended.wait(LIVE_SECONDS if CONSOLE.is_terminal else LINE_SECONDS):
        bar.show(*live())


class Bar:
    def __init__(self, progress: Progress, task: Any, *, title: str, total: int, done: int) -> None:
        self._progress, self._task = progress, task
        self._title, self._total, self._first, self._done, self._began = title, total, done, done, time.monotonic()

    def advance(self, amount: int = 1, *, note: str | None = "") -> None:
        """Counts units as done; None leaves the note that is shown."""
        self._done += amount
        self._progress.update(self._task, completed=self._done, **({} if note is None else {"note": note}))

    def show(self, under_way: float, note: str) -> None:
        """Shows what is done with what is under way, in units, and the note; where there is no terminal, in a log line with the time left."""
        done = self._done + under_way
        self._progress.update(self._task, completed=done, note=note)
        if not CONSOLE.is_terminal:
            gained = done - self._first
            left = (time.monotonic() - self._began) * (self._total - done) / gained if gained > 0 else None
            log.info("%s: %d of %d, %s, %s left", self._title, self._done, self._total, note, "unknown time" if left is None else duration(left))


def duration(seconds: float) -> str:
    """Seconds as people read them: `41 s`, `12 min`, `3.5 h`, `2.1 days`."""
    for unit, length in (("days", 86_400), ("h", 3600)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.{0 if seconds >= 10 else 1}f} s"


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
