"""What work costs: seconds, bytes and documents, summed over every attempt at it; those that were killed left how far they were.

    under way   --> FOLDER/running/NAME.now, written now and then; the progress display reads it
    ends        --> FOLDER/NAME.json, the sum of all attempts; a .now that a killed process left is added by the next one

It stands beside the records of a build and never in them, for those follow from the inputs and the rules alone.
"""

import os
import re
import resource
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from lcl.core.files import read_json, write_json
from pipeline.storage import bytes_read

Item = TypeVar("Item")
Result = TypeVar("Result")
RUNNING = "running"
TICK_SECONDS = 0.2  # between two notes of how far work is
RSS_BYTES = 1 if sys.platform == "darwin" else 1024  # in which getrusage counts


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What was used. Core seconds are of the process (`time.process_time`), all of its threads together."""

    wall_seconds: float = 0.0
    core_seconds: float = 0.0
    document_core_seconds: float = 0.0  # of those, on documents; the rest does not grow with them: the input's other records, starting, ending
    document_core_squares: float = 0.0  # squares of what each document took, summed
    held_core_seconds: float = 0.0      # wall seconds times the workers that were there
    documents: float = 0.0
    bytes_read: float = 0.0             # of inputs
    bytes_written: float = 0.0
    share: float = 0.0                  # of the work that is done
    peak_memory_bytes: float = 0.0      # of one process, in its life until then
    peak_storage_bytes: float = 0.0     # of files that are there for a time only

    def __add__(self, other: "Usage") -> "Usage":
        peaks = {name: max(getattr(self, name), getattr(other, name)) for name in ("peak_memory_bytes", "peak_storage_bytes")}
        return Usage(**{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(Usage)} | peaks)


PACKED = struct.Struct(f"<{len(fields(Usage))}d")


def peak_memory() -> int:
    """The most memory that this process had, in bytes.

    Linux counts to ru_maxrss what the process had before it became this program, a copy of whoever started it; VmHWM is of the program alone.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_BYTES


class Ledger:
    """The file that sums the attempts at one piece of work, and the note of the attempt that is under way, which begins here."""

    def __init__(self, folder: Path, name: str) -> None:
        self._record, self._note = folder / f"{name}.json", folder / RUNNING / f"{name}.now"
        self._note.parent.mkdir(parents=True, exist_ok=True)
        if self._note.exists():  # a killed process left it
            self._book(read_note(self._note), lost=True)
        self._file = os.open(self._note, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self.note(Usage())
        self.begun_at = os.fstat(self._file).st_mtime  # by the clock of the storage, which other machines share

    def note(self, usage: Usage) -> None:
        """Says how far the attempt is."""
        os.pwrite(self._file, PACKED.pack(*astuple(usage)), 0)

    def close(self, usage: Usage, *, lost: bool) -> None:
        """Books the attempt; `lost` if it was in vain."""
        os.close(self._file)
        self._book(usage, lost=lost)
        self._note.unlink()

    def _book(self, usage: Usage, *, lost: bool) -> None:
        record = read_json(self._record) if self._record.exists() else {"attempts": 0, "lost_attempts": 0, "lost_core_seconds": 0.0, "usage": asdict(Usage())}
        total = Usage(**record["usage"]) + replace(usage, share=0.0)
        write_json(
            self._record,
            {
                "attempts": record["attempts"] + 1, "lost_attempts": record["lost_attempts"] + lost,
                "lost_core_seconds": record["lost_core_seconds"] + lost * usage.core_seconds, "usage": asdict(total),
            },
        )  # fmt: skip


def read_note(path: Path) -> Usage:
    """How far an attempt is, or was when it was killed."""
    values = PACKED.unpack(path.read_bytes()[: PACKED.size].ljust(PACKED.size, b"\0"))
    return Usage(**dict(zip((field.name for field in fields(Usage)), values, strict=True)))


class Meter:
    """Measures this process while it works at one task. A context manager; leaving it books the attempt."""

    def __init__(self, folder: Path, name: str, *, total_bytes: float = 0, total_documents: float = 0) -> None:
        """The totals are of the task's input; one of them says what share of the task is done."""
        self._ledger, self._kind = Ledger(folder, name), folder.name
        self._total_bytes, self._total_documents = total_bytes, total_documents
        self.documents = self.bytes_written = 0
        self._document_core = self._document_squares = 0.0
        self._wall, self._core, self._read = time.perf_counter(), time.process_time(), bytes_read()
        self._noted = self._wall

    def __enter__(self) -> Self:
        return self

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, documents of the input. What is done with each, until the next one is asked for, counts as spent on documents.

        Not so the first of a process: it mostly loads tables and libraries.
        """
        for item in items:
            self.documents += 1
            self._note()
            got = time.process_time()
            yield item
            if self._kind in _warm:
                spent = time.process_time() - got
                self._document_core += spent
                self._document_squares += spent**2
            _warm.add(self._kind)

    def _note(self) -> None:
        now = time.perf_counter()
        if now - self._noted >= TICK_SECONDS:
            self._noted = now
            self._ledger.note(self.usage())

    def usage(self) -> Usage:
        """What the attempt has used until now."""
        read = bytes_read() - self._read
        done = self.documents / self._total_documents if self._total_documents else read / self._total_bytes if self._total_bytes else 0.0
        return Usage(
            wall_seconds=time.perf_counter() - self._wall, core_seconds=time.process_time() - self._core,
            document_core_seconds=self._document_core, document_core_squares=self._document_squares, documents=self.documents, bytes_read=read,
            bytes_written=self.bytes_written, share=min(1.0, done), peak_memory_bytes=peak_memory(),
        )  # fmt: skip

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ledger.close(self.usage(), lost=kind is not None)


_warm: set[str] = set()  # kinds of tasks that this process has met


def measured(task: Callable[..., Result], *arguments: Any) -> tuple[Result, Usage]:
    """What `task` returns, and what it used of this process."""
    wall, core = time.perf_counter(), time.process_time()
    result = task(*arguments)
    return result, Usage(wall_seconds=time.perf_counter() - wall, core_seconds=time.process_time() - core, peak_memory_bytes=peak_memory())


def storage_bytes(*places: Path) -> int:
    """Bytes of the files at these places and in folders there, at any depth; what vanishes meanwhile does not count."""
    total = 0
    for place in places:
        for path in place.rglob("*") if place.is_dir() else [place]:
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total
