"""Many tasks, on Ray or in this process; what comes back is small, for results lie in files."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import ray

from lcl.core.logs import Live, progress_bar
from lcl.core.mirror import MirrorError
from lcl.core.rejected import Reason
from pipeline.crawl import NotACrawl
from pipeline.sources.parquet_rows import NotASource
from pipeline.splits import CrawlChanged
from pipeline.storage import InputUnreadable

MAX_RETRIES = 6  # more than the deaths after which an item is set aside (pipeline/guard.py)
TASKS_PER_CPU = 2  # queued beside the running ones, so that no CPU waits for the driver

FAILURES: dict[type[Exception], Reason] = {
    NotACrawl: Reason.NOT_A_CRAWL, NotASource: Reason.NOT_A_SOURCE, CrawlChanged: Reason.CRAWL_CHANGED, InputUnreadable: Reason.CRAWL_UNREADABLE,
}  # fmt: skip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What each task returned, and what is written of those that failed; by name, in the order of names."""

    records: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, dict[str, str]] = field(default_factory=dict)


def start_ray() -> None:
    """Joins the cluster that RAY_ADDRESS names (a job's environment has it), else starts a local Ray of its own."""
    if not ray.is_initialized():
        ray.init(address=os.environ.get("RAY_ADDRESS", "local"), include_dashboard=False, log_to_driver=True, logging_level=logging.WARNING)


Work = Callable[..., Any]
Arguments = Mapping[str, tuple[Any, ...]]
Executor = Literal["ray", "here"]


def num_workers(executor: Executor) -> int:
    """Tasks that run at one time."""
    return max(1, int(ray.cluster_resources().get("CPU", 1))) if executor == "ray" else 1


def run_tasks(
    work: Work, arguments: Arguments, *, executor: Executor, title: str, note: Callable[[Any], None], live: Live | None = None
) -> Outcome:  # fmt: skip
    """Calls `work(*arguments[name])` for every name; `note` hears of each result, `live` tells of tasks under way. An exception is a failure of its name alone.

    ray: each in a process of a cluster, and again where the process dies. here: in this process, one after another.
    Raises OSError or MirrorError where a task did: what cannot be read of an input is InputUnreadable, so it is of the output, and the next task would meet it too.
    """
    outcome = Outcome()
    with progress_bar(title, total=len(arguments), live=live) as bar:
        for name, result in (_on_ray if executor == "ray" else _here)(work, arguments):
            if isinstance(result, OSError):
                raise OSError(result.errno, f"{result.strerror or result}, {title} {name}") from result
            if isinstance(result, MirrorError):
                raise result
            if isinstance(result, Exception):
                outcome.failures[name] = _failure(name, result)
                log.warning("%s", outcome.failures[name]["message"])
            else:
                outcome.records[name] = result
                note(result)
            bar.advance(note=None if live else name)
    return Outcome(*({name: found[name] for name in sorted(found)} for found in (outcome.records, outcome.failures)))


def _here(work: Work, arguments: Arguments) -> Iterator[tuple[str, Any]]:
    for name in sorted(arguments):
        try:
            yield name, work(*arguments[name])
        except Exception as error:
            yield name, error


def _on_ray(work: Work, arguments: Arguments) -> Iterator[tuple[str, Any]]:
    task = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(work)
    limit = num_workers("ray") * (1 + TASKS_PER_CPU)
    waiting = sorted(arguments, reverse=True)
    running: dict[ray.ObjectRef, str] = {}
    while waiting or running:
        while waiting and len(running) < limit:
            name = waiting.pop()
            running[task.remote(*arguments[name])] = name
        for done in ray.wait(list(running))[0]:
            name = running.pop(done)
            try:
                yield name, ray.get(done)
            except ray.exceptions.RayError as error:
                yield name, error.cause if isinstance(error, ray.exceptions.RayTaskError) else error


def _failure(name: str, cause: Exception) -> dict[str, str]:
    """Why a task failed: its reason, and a line for people."""
    for kind, reason in FAILURES.items():
        if isinstance(cause, kind):
            return {"reason": reason, "message": str(cause)}
    return {"reason": Reason.CRAWL_CRASHES, "message": f"{name}: its task failed ({type(cause).__name__}: {str(cause).splitlines()[0]}); please report this file"}
