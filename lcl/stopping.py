"""Stopping and saving, agreed by all ranks: a scheduler's signal becomes a checkpoint and exit status 0, and so many minutes become a checkpoint."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

import torch

from lcl.distributed import sum_over_ranks

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # USR1: Slurm's --signal=USR1@120; INT: Ctrl-C


class SaveTimes:
    """When checkpoints are due: every so many steps, so many minutes after the last one (0: never for that), at the last step, and where a run stops in between."""

    def __init__(self, *, every_steps: int, every_minutes: float, first: int, last: int) -> None:
        self._every, self._seconds, self._last = every_steps, 60 * every_minutes, last
        self.saved(first)

    def saved(self, step: int) -> None:
        self._saved, self._since = step, time.monotonic()

    def is_late(self) -> bool:
        """Whether the minutes are over by this rank's clock; the ranks must agree before one of them saves."""
        return 0 < self._seconds < time.monotonic() - self._since

    def is_due(self, step: int, *, late: bool) -> bool:
        return late or step % self._every == 0 or step == self._last

    def is_saved(self, step: int) -> bool:
        return step == self._saved


class Agreed(NamedTuple):
    """What holds on any rank."""

    told: bool
    failed: bool
    late: bool


class StopRequest:
    """Whether any rank was told to stop. The handler only notes it: it may run in the middle of anything. A second Ctrl-C ends the process at once."""

    def __init__(self) -> None:
        self._asked = False

    def note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def agree(self, *, failed: bool, late: bool, device: torch.device) -> Agreed:
        """Whether any rank was told to stop, any failed, and any finds a checkpoint late. All ranks call this together and get the same answer."""
        return Agreed(*(sum_over_ranks(torch.tensor([float(self._asked), float(failed), float(late)], device=device)) > 0).tolist())


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Takes SIGTERM, SIGUSR1 and Ctrl-C while the block runs. The launcher's pipes may be gone by then, so SIGPIPE must not end the process."""
    request = StopRequest()
    before = {number: signal.signal(number, request.note) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
