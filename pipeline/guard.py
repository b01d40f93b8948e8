"""Items that kill their worker: found by what the killed process left behind, and set aside so that a build can end.

    before each item: its number --> ATTEMPTS/NAME.now (a mapped file: no system call)        watchdog armed
    worker dies       --> the next attempt reads who it was, counts the death, and after some leaves the item out

Parsers and decoders written in C can hang or crash on hostile bytes, and neither can be caught in Python. A watchdog that needs no
interpreter (`faulthandler`) ends a process that is at one item for too long, and writes why; so it does on a segmentation fault.
A death without such evidence may be anybody's (a machine that went down, a job that was stopped), so it takes more of them.
"""

import faulthandler
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lcl.core.files import read_json, write_json

NUMBER = struct.Struct("<q")
IDLE = -1
DEATHS_WITH_EVIDENCE = 2
DEATHS_WITHOUT = 4


class Guard:
    """Watches one task over a list of numbered items. A context manager; leaving it well removes what it wrote."""

    def __init__(self, folder: Path, name: str, *, seconds: float) -> None:
        """`seconds` is the wall-clock limit of an item. Reads what earlier attempts of the task `name` left in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self._now, self._evidence, self._deaths = (folder / f"{name}.{ending}" for ending in ("now", "evidence", "deaths"))
        self._seconds = seconds
        self.set_aside: dict[int, str] = self._judge()

    def _judge(self) -> dict[int, str]:
        """Counts the death of the attempt before, if there was one, and returns the items that had enough."""
        deaths: dict[str, list[str]] = read_json(self._deaths) if self._deaths.exists() else {}
        if self._now.exists():
            (number,) = NUMBER.unpack(self._now.read_bytes()[: NUMBER.size].ljust(NUMBER.size, b"\xff"))
            if number != IDLE:
                evidence = self._evidence.read_text(errors="replace") if self._evidence.exists() else ""
                deaths.setdefault(str(number), []).append(evidence.partition("\n")[0])
                write_json(self._deaths, deaths)
            self._now.unlink()
        return {int(number): _why(found) for number, found in deaths.items() if _enough(found)}

    def __enter__(self) -> "Guard":
        self._now.write_bytes(NUMBER.pack(IDLE))
        self._file = open(self._now, "r+b")
        self._map = mmap.mmap(self._file.fileno(), NUMBER.size)
        self._traces = open(self._evidence, "w")
        faulthandler.enable(self._traces)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        faulthandler.disable()
        self._traces.close()
        self._map.close()
        self._file.close()
        for path in (self._now, self._evidence):  # an exception is no death: who raised it is known
            path.unlink(missing_ok=True)

    @contextmanager
    def item(self, number: int) -> Iterator[None]:
        """Work on one item. Whatever ends the process inside is put down to it."""
        NUMBER.pack_into(self._map, 0, number)
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._traces)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            NUMBER.pack_into(self._map, 0, IDLE)


def _enough(deaths: list[str]) -> bool:
    return sum(map(bool, deaths)) >= DEATHS_WITH_EVIDENCE or len(deaths) >= DEATHS_WITHOUT


def _why(deaths: list[str]) -> str:
    """The newest evidence, in a line."""
    return next((text for text in reversed(deaths) if text), f"its worker died {len(deaths)} times")
