"""The most memory that a piece of work holds, above what was held before it."""

import ctypes
import re
from pathlib import Path
from types import TracebackType

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """`with PeakMemory() as memory: ...`, then `memory.peak_bytes`; None where the system does not say it (other than Linux)."""

    peak_bytes: int | None = None

    def __enter__(self) -> "PeakMemory":
        if STATUS.exists():
            if hasattr(ctypes.CDLL(None), "malloc_trim"):  # glibc: else what earlier work freed is still resident, and the work takes that
                ctypes.CDLL(None).malloc_trim(0)
            CLEAR.write_text("5")  # man 5 proc: VmHWM, the most that was ever resident, begins anew
            self._before = _resident("VmRSS")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if STATUS.exists():
            self.peak_bytes = max(0, _resident("VmHWM") - self._before)


def _resident(field: str) -> int:
    found = re.search(rf"{field}:\s*(\d+) kB", STATUS.read_text())
    assert found is not None
    return int(found[1]) * 1024
