"""Steps of independent tasks: each leaves its files and then a marker, so that a pass that was killed goes on where it was.

    step NAME, task i: function(work, i) writes its files --> NAME-i.json (what it counted), written last

A task's files follow from its inputs alone, so a repeated one writes the same; where it ran does not matter.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import ray

from lcl.core.files import read_json, write_json
from lcl.core.logs import progress_bar
from pipeline.dedup.corpus import Corpus
from pipeline.dedup.runs import read_runs, write_runs
from pipeline.dedup.settings import DedupConfig

MAX_RETRIES = 3   # of a task whose worker died
TASKS_PER_CPU = 2  # queued beside the running ones, so that no CPU waits for the driver

Task = Callable[[Any, int], Any]


class Runner(Protocol):
    def __call__(self, task: Task, shared: Any, indices: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Runs task(shared, index) for every index; yields (index, result) as they finish. Raises what a task raises."""


def in_process(task: Task, shared: Any, indices: Sequence[int]) -> Iterator[tuple[int, Any]]:
    for index in indices:
        yield index, task(shared, index)


def on_ray(task: Task, shared: Any, indices: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """On the cluster that this process has joined, bounded in flight; `shared` travels once. A task whose worker dies is repeated."""
    remote = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(_apply)
    limit = max(1, int(ray.cluster_resources().get("CPU", 1))) * (1 + TASKS_PER_CPU)
    stored = ray.put(shared)
    waiting = list(reversed(indices))
    running: dict[ray.ObjectRef, int] = {}
    while waiting or running:
        while waiting and len(running) < limit:
            index = waiting.pop()
            running[remote.remote(task, stored, index)] = index
        for done in ray.wait(list(running))[0]:
            try:
                yield running.pop(done), ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error


def _apply(task: Task, shared: Any, index: int) -> Any:
    return task(shared, index)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every task is told: the documents, the settings, and the folder for what tasks hand to each other."""

    corpus: Corpus
    settings: DedupConfig
    folder: Path

    @property
    def num_partitions(self) -> int:
        return max(1, -(-self.corpus.num_documents // self.settings.partition_documents))

    def path(self, kind: str, index: int) -> Path:
        """The file of this kind that task `index` writes."""
        return self.folder / f"{kind}-{index:06d}.bin"

    def by_group(self, kind: str) -> list[Path]:
        """The files of this kind that the groups' tasks write, one each."""
        return [self.path(kind, group) for group in range(self.corpus.num_groups)]

    def by_partition(self, kind: str) -> list[Path]:
        return [self.path(kind, partition) for partition in range(self.num_partitions)]


def write_by_group(work: Work, kind: str, index: int, records: np.ndarray, *, field: str = "doc") -> None:
    """Writes the records of task `index` for the groups that hold their documents."""
    write_runs(work.path(kind, index), records, work.corpus.group_of(records[field]), num_receivers=work.corpus.num_groups)


def read_by_group(paths: Sequence[Path], work: Work, group: int, dtype: np.dtype) -> np.ndarray:
    """Inverse of `write_by_group`: what all tasks wrote for one group."""
    return read_runs(paths, group, num_receivers=work.corpus.num_groups, dtype=dtype)


def run_step(runner: Runner, work: Work, name: str, task: Task, num_tasks: int) -> Counter[str]:
    """Runs the tasks of a step that have left no marker, and returns the sum of what all tasks counted."""
    markers = [work.folder / f"{name}-{index:06d}.json" for index in range(num_tasks)]
    left = [index for index, marker in enumerate(markers) if not marker.exists()]
    with progress_bar(name.replace("_", " "), total=num_tasks, done=num_tasks - len(left)) as bar:
        for index, counts in runner(task, work, left):
            write_json(markers[index], counts)
            bar.advance()
    total: Counter[str] = Counter()
    for marker in markers:
        total.update(read_json(marker))
    return total
