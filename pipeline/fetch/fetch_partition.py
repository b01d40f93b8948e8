"""One partition to its end: every address that it wants gets an outcome, a few requests at each host at a time.

    wanted addresses - ledger --> by host --> a gate and a few workers for each host --> ledger
            ^                                                                             |
            +---------------------- redirects inside the partition <----------------------+
"""

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from yarl import URL

from lcl.core.files import read_json, write_json
from lcl.core.rejected import Rejected
from pipeline.addresses import normal_url
from pipeline.fetch.addresses import host_of, parse_url
from pipeline.fetch.download import Downloader, SiteRules
from pipeline.fetch.fetch_config import FetchConfig, user_agent
from pipeline.fetch.host_gate import HostGate
from pipeline.fetch.image_store import partition_folder, write_index
from pipeline.fetch.ledger import REDIRECT, Ledger, Row
from pipeline.fetch.url_tables import Wanted, partition_of, read_wanted

DONE_FILE = "done.json"
RULES_SECONDS = 24 * 3600  # RFC 9309, 2.4: robots.txt is not kept for longer


async def fetch_partition(store: Path, partition: int, downloader: Downloader) -> dict[str, Any]:
    """Asks what the partition still wants, writes its index, and returns its record: outcomes by name, and how many were asked now.

    A partition that is done with the same URL tables in the same round is not opened. Raises PartitionLocked if another process has it.
    """
    settings = downloader.settings
    folder = partition_folder(store, partition)
    inputs = {"tables": sorted(path.name for path in (store / "urls").glob("*.parquet")), "round": settings.round}
    if (folder / DONE_FILE).exists():
        record = read_json(folder / DONE_FILE)
        if record["inputs"] == inputs:
            return record | {"asked": 0}
    wanted = read_wanted(store / "urls", partition)
    if not wanted:
        return {"inputs": inputs, "outcomes": {}, "asked": 0}
    with Ledger(folder, software=user_agent(settings), round_number=settings.round) as ledger:
        run = _PartitionRun(partition, ledger, downloader)
        while todo := [item for item in all_wanted(wanted, ledger, partition, settings) if not ledger.is_settled(item.key)]:
            await run.settle(todo)
        ledger.commit()
        rows = list(ledger.rows.values())
        write_index(folder, rows, num_partitions=settings.partitions)
        record = {"inputs": inputs, "outcomes": dict(sorted(Counter(row.outcome for row in rows).items()))}
        write_json(folder / DONE_FILE, record)
    return record | {"asked": run.num_asked}


def redirect_targets(rows: Iterable[Row]) -> list[Wanted]:
    """What redirects lead to, each address once, with one redirect more than what led there."""
    targets: dict[str, Wanted] = {}
    for row in rows:
        if row.outcome == REDIRECT:
            try:
                target = Wanted(normal_url(row.location), str(parse_url(row.location)), row.depth + 1)
            except Rejected:  # leads nowhere: the reader finds nothing there
                continue
            if target.key not in targets or target.depth < targets[target.key].depth:
                targets[target.key] = target
    return list(targets.values())


def all_wanted(listed: Mapping[str, Wanted], ledger: Ledger, partition: int, settings: FetchConfig) -> list[Wanted]:
    """What the tables list and what redirects, of an earlier run too, lead to in the same partition; the driver sees to those that leave it."""
    inner = [item for item in redirect_targets(ledger.rows.values()) if partition_of(URL(item.url), settings.partitions) == partition]
    return [*listed.values(), *(item for item in inner if item.key not in listed)]


class _PartitionRun:
    """Gates of a partition's hosts, and the rules of those hosts that are worked on: a robots.txt may be large."""

    def __init__(self, partition: int, ledger: Ledger, downloader: Downloader) -> None:
        self._partition, self._ledger, self._downloader, self._settings = partition, ledger, downloader, downloader.settings
        self._gates: dict[str, HostGate] = {}
        self._rules: dict[URL, tuple[float, asyncio.Future[SiteRules]]] = {}
        self._last_commit = time.monotonic()
        self.num_asked = 0

    async def settle(self, todo: Iterable[Wanted]) -> None:
        """Gives every address in `todo` an outcome. The hosts with the most addresses come first, for they take longest."""
        queues: dict[str, deque[Wanted]] = {}
        for item in todo:
            queues.setdefault(host_of(URL(item.url)), deque()).append(item)
        async with asyncio.TaskGroup() as group:
            for host, queue in sorted(queues.items(), key=lambda pair: (-len(pair[1]), pair[0])):
                await self._downloader.active_hosts.acquire()
                task = group.create_task(self._work(host, queue))
                task.add_done_callback(lambda _: self._downloader.active_hosts.release())

    async def _work(self, host: str, queue: deque[Wanted]) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._settings.politeness.per_host, len(queue))):
                group.create_task(self._empty(queue, self._gate(host)))
        self._rules = {origin: rules for origin, rules in self._rules.items() if host_of(origin) != host}

    async def _empty(self, queue: deque[Wanted], gate: HostGate) -> None:
        while queue:
            item = queue.popleft()
            outcome = await self._downloader.fetch(item.url, self._rules_of, gate)
            self._ledger.add(item, outcome, max_redirects=self._settings.limits.max_redirects)
            self.num_asked += 1
            late = time.monotonic() - self._last_commit >= self._settings.commit_seconds
            if late or self._ledger.num_waiting >= self._settings.commit_outcomes:
                self._ledger.commit()
                self._last_commit = time.monotonic()
            await asyncio.sleep(0)  # a host that is closed gives its outcomes without waiting for anything

    def _gate(self, host: str) -> HostGate:
        if host not in self._gates:
            self._gates[host] = self._downloader.gate()
        return self._gates[host]

    def _gate_of(self, url: URL) -> HostGate | None:
        """None for a host of another partition, which another worker may be asking now."""
        return self._gate(host_of(url)) if partition_of(url, self._settings.partitions) == self._partition else None

    def _rules_of(self, url: URL) -> "asyncio.Future[SiteRules]":
        origin = url.origin()
        asked, rules = self._rules.get(origin, (-math.inf, None))
        if rules is None or time.monotonic() - asked > RULES_SECONDS:
            rules = asyncio.ensure_future(self._downloader.read_rules(origin, self._gate_of))
            self._rules[origin] = (time.monotonic(), rules)
        return rules
