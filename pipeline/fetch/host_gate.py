"""Turns at one host: so many requests at a time, so long between their starts, and none while it asks to wait."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lcl.core.rejected import Reason
from pipeline.fetch.fetch_config import Politeness

# What a later request may not meet again; `--round 2` asks these addresses once more.
PASSING = frozenset(
    (
        Reason.HOST_UNREACHABLE, Reason.FETCH_TIMEOUT, Reason.CONNECTION_BROKEN, Reason.SERVER_ERROR, Reason.TOO_MANY_REQUESTS,
        Reason.WAIT_TOO_LONG, Reason.ROBOTS_UNREACHABLE,
    )
)  # fmt: skip


class HostGate:
    """All requests to one host go through its gate, robots.txt and redirects included. `everywhere` bounds requests to all hosts.

    The first turn comes one delay after the gate was made, for an earlier run may have asked just before.
    `closed` is None, or why no further address of this host is to be asked.
    """

    def __init__(self, politeness: Politeness, everywhere: asyncio.Semaphore) -> None:
        self._politeness, self._everywhere = politeness, everywhere
        self._slots = asyncio.Semaphore(politeness.per_host)
        self._starting = asyncio.Lock()
        self._delay_seconds = politeness.delay_seconds
        self._next_start = asyncio.get_running_loop().time() + self._delay_seconds
        self._num_failures = 0
        self.closed: Reason | None = None

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for a turn; the block is one request. A place among the requests everywhere is taken only when the host's time has come."""
        loop = asyncio.get_running_loop()
        async with self._slots:
            async with self._starting:
                while True:
                    while (wait := self._next_start - loop.time()) > 0:
                        await asyncio.sleep(wait)
                    await self._everywhere.acquire()
                    if self._next_start <= loop.time():
                        break
                    self._everywhere.release()  # the host was put on hold meanwhile
                self._next_start = loop.time() + self._delay_seconds
            try:
                yield
            finally:
                self._everywhere.release()

    def hold(self, seconds: float) -> None:
        """No request starts before so many seconds from now; beyond `max_wait_seconds` the host is closed instead."""
        if seconds > self._politeness.max_wait_seconds:
            self.closed = Reason.WAIT_TOO_LONG
        else:
            self._next_start = max(self._next_start, asyncio.get_running_loop().time() + seconds)

    def slow_down(self, delay_seconds: float) -> None:
        """A Crawl-delay: takes the place of a shorter delay from the next request on."""
        if delay_seconds > self._politeness.max_wait_seconds:
            self.closed = Reason.WAIT_TOO_LONG
        elif delay_seconds > self._delay_seconds:
            self._next_start += delay_seconds - self._delay_seconds
            self._delay_seconds = delay_seconds

    def note(self, failure: Reason | None) -> None:
        """Counts how many addresses in a row failed in passing, and closes after `give_up_after` of them. None stands for any other end."""
        self._num_failures = self._num_failures + 1 if failure in PASSING else 0
        if self._num_failures >= self._politeness.give_up_after:
            self.closed = failure
