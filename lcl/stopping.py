"""Stopping when told to: a scheduler's signal becomes a checkpoint and exit status 0."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from lcl.distributed import sum_over_ranks

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # USR1: Slurm's --signal=USR1@120


class StopRequest:
    """Whether any rank was told to stop. The handler only notes it: it may run in the middle of anything."""

    def __init__(self) -> None:
        self._asked = False

    def note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def agree(self, *, failed: bool, device: torch.device) -> tuple[bool, bool]:
        """Whether any rank was told to stop, and whether any failed. All ranks call this together and get the same answer."""
        told, failures = sum_over_ranks(torch.tensor([float(self._asked), float(failed)], device=device)).tolist()
        return told > 0, failures > 0


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Takes SIGTERM and SIGUSR1 while the block runs. The launcher's pipes may be gone by then, so SIGPIPE must not end the process."""
    request = StopRequest()
    before = {number: signal.signal(number, request.note) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
