"""All partitions of a store, in this process or on the nodes of a Ray cluster, until no redirect leads to an address that was not asked.

    tables --> urls/ --> partitions, some in flight at each downloader --> redirects to other sites --> urls/ --> again
"""

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.util.scheduling_strategies
from yarl import URL

from lcl.core.config import write_run_record
from lcl.core.document import sha256_hex
from lcl.core.files import read_json, write_json
from lcl.core.logs import Bar, progress_bar
from pipeline.fetch.download import Downloader
from pipeline.fetch.fetch_config import FetchConfig
from pipeline.fetch.fetch_partition import fetch_partition, redirect_targets
from pipeline.fetch.image_store import SCHEMA, STORE_FILE, ImageStore, partition_folder
from pipeline.fetch.ledger import OK, REDIRECT, read_ledger
from pipeline.fetch.url_tables import Wanted, as_table, count_urls, list_tables, partition_of, shuffle_tables, write_sorted

MAX_RETRIES = 3  # of a partition whose downloader died
RESTART_SECONDS = 0.2  # between two looks at a downloader that is being started again

log = logging.getLogger(__name__)


def plan(settings: FetchConfig) -> str:
    """What a fetch would ask, in words; nothing is written and nothing is asked."""
    num_rows, num_urls, num_hosts = count_urls(list_tables(settings.urls))
    return f"{num_rows} rows, {num_urls} different addresses on {num_hosts} hosts; nothing was asked"


def fetch_images(settings: FetchConfig) -> dict[str, Any]:
    """Asks every address of the tables, writes `report.json` and returns it. The same call continues an interrupted fetch.

    Raises ValueError for tables or a store that cannot be used, before anything is asked.
    """
    tables = list_tables(settings.urls)
    store = _prepare_store(settings)
    started, num_asked = time.monotonic(), 0
    shuffle_tables(tables, store / "urls", num_partitions=settings.partitions)
    run = _run_on_ray if settings.executor == "ray" else _run_here
    while True:
        with progress_bar("partitions", total=settings.partitions) as bar:
            records = run(store, settings, bar)
        num_asked += sum(record["asked"] for record in records)
        further = outer_redirects(store, settings)
        if not further:
            break
        log.info("%d redirects lead to other sites", len(further))
        keys = "\n".join(item.key for item in further)
        write_sorted(store / "urls", [as_table(further, settings.partitions)], [f"redirects {sha256_hex(keys.encode())}"])
    seconds = time.monotonic() - started
    report = summarise(store, records)
    write_json(store / "report.json", report)
    log.info("%d addresses asked in %.0f s, %.1f a second", num_asked, seconds, num_asked / max(seconds, 1e-9))
    return report


def _prepare_store(settings: FetchConfig) -> Path:
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    for name in (settings.output, *settings.urls) if in_job else ():
        if not Path(name).is_absolute():
            raise ValueError(f"{name} is a relative path: in a Ray job it would mean a temporary copy of the working folder. Give an absolute one.")
    store = Path(settings.output).resolve()
    if store.exists() and not store.is_dir():
        raise ValueError(f"--output {store} is a file; give a folder")
    if (store / STORE_FILE).exists():
        kept = read_json(store / STORE_FILE)["partitions"]
        if kept != settings.partitions:
            raise ValueError(f"{store} has {kept} partitions, and --partitions says {settings.partitions}: an address would be looked for elsewhere. Give {kept}.")
    elif store.exists() and any(store.iterdir()):
        raise ValueError(f"{store} is not empty and holds no image store. Give another --output.")
    store.mkdir(parents=True, exist_ok=True)
    if not (store / STORE_FILE).exists():
        write_json(store / STORE_FILE, {"schema": SCHEMA, "partitions": settings.partitions})
    write_run_record(store, settings)
    return store


def _run_here(store: Path, settings: FetchConfig, bar: Bar) -> list[dict[str, Any]]:
    async def run() -> list[dict[str, Any]]:
        slots = asyncio.Semaphore(settings.partitions_in_flight)

        async def one(partition: int, downloader: Downloader) -> dict[str, Any]:
            async with slots:
                record = await fetch_partition(store, partition, downloader)
            bar.advance()
            return record

        async with Downloader(settings) as downloader, asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(partition, downloader)) for partition in range(settings.partitions)]
        return [task.result() for task in tasks]

    try:
        return asyncio.run(run())
    except ExceptionGroup as group:
        raise _first(group) from group


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class DownloaderActor:
    """A downloader on a node of a Ray cluster; partitions are its unit of work."""

    def __init__(self, store: Path, settings: FetchConfig) -> None:
        self._store, self._settings = store, settings
        self._downloader: asyncio.Future[Downloader] | None = None

    async def fetch(self, partition: int) -> dict[str, Any]:
        if self._downloader is None:
            self._downloader = asyncio.ensure_future(Downloader(self._settings).__aenter__())
        try:
            return await fetch_partition(self._store, partition, await self._downloader)
        except ExceptionGroup as group:
            raise _first(group) from group

    async def close(self) -> None:
        if self._downloader is not None:
            await (await self._downloader).__aexit__()


def _run_on_ray(store: Path, settings: FetchConfig, bar: Bar) -> list[dict[str, Any]]:
    """Raises what a partition raised; one whose downloader died is given to another a few times, for its ledger knows what was done."""
    if not ray.is_initialized():
        ray.init(address=os.environ.get("RAY_ADDRESS", "local"), include_dashboard=False, logging_level=logging.WARNING)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    kind = ray.remote(num_cpus=1, max_restarts=-1, max_concurrency=settings.partitions_in_flight)(DownloaderActor)
    place = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    actors = [kind.options(scheduling_strategy=place(node, soft=True)).remote(store, settings) for node in nodes]
    free = [actor for actor in actors for _ in range(settings.partitions_in_flight)]
    waiting = list(range(settings.partitions))
    running: dict[ray.ObjectRef, tuple[int, Any]] = {}
    deaths: Counter[int] = Counter()
    records: dict[int, dict[str, Any]] = {}
    try:
        while waiting or running:
            while waiting and free:
                partition, actor = waiting.pop(0), free.pop(0)
                running[actor.fetch.remote(partition)] = (partition, actor)
            for done in ray.wait(list(running))[0]:
                partition, actor = running.pop(done)
                free.append(actor)
                try:
                    records[partition] = ray.get(done)
                    bar.advance()
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error
                except ray.exceptions.ActorUnavailableError:  # it is being started again, which takes long where machines are busy
                    time.sleep(RESTART_SECONDS)
                    waiting.append(partition)
                except ray.exceptions.RayActorError as error:
                    deaths[partition] += 1
                    if deaths[partition] > MAX_RETRIES:
                        raise ValueError(f"partition {partition} ended its downloader {MAX_RETRIES + 1} times; see Ray's log of that actor") from error
                    log.warning("partition %d: its downloader died; once more", partition)
                    waiting.append(partition)
        ray.get([actor.close.remote() for actor in actors])
    finally:
        for actor in actors:
            ray.kill(actor)
    return [records[partition] for partition in sorted(records)]


def outer_redirects(store: Path, settings: FetchConfig) -> list[Wanted]:
    """Targets of redirects that lead to another partition and were not asked yet, by key."""
    images = ImageStore(store)
    found: dict[str, Wanted] = {}
    for partition in range(settings.partitions):
        rows = read_ledger(partition_folder(store, partition), outcome=REDIRECT)
        for item in redirect_targets(rows):
            if partition_of(URL(item.url), settings.partitions) != partition and not images.knows(item.url):
                found.setdefault(item.key, item)
    return [found[key] for key in sorted(found)]


def summarise(store: Path, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What became of all addresses: with a body, redirected, left out by reason."""
    outcomes: Counter[str] = Counter()
    for record in records:
        outcomes.update(record["outcomes"])
    total = outcomes.total()
    with_body, redirected = outcomes.pop(OK, 0), outcomes.pop(REDIRECT, 0)
    return {
        "schema": SCHEMA,
        "addresses": total,
        "with_body": with_body,
        "redirected": redirected,
        "left_out": dict(sorted(outcomes.items())),
        "warc_bytes": sum(path.stat().st_size for path in store.glob("partitions/*/*.warc")),
    }
