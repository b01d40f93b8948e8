"""Independent tasks over a few processes of this machine, bounded in flight."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait as wait_for
from typing import Any, TypeVar

from lcl.core.logs import progress_bar

Task, Result = TypeVar("Task"), TypeVar("Result")
QUEUED_PER_WORKER = 2


def run_tasks(function: Callable[[Task], Result], tasks: Sequence[Task], *, num_workers: int, title: str) -> Iterator[Result]:
    """The results, as they are done, under a progress bar. With one worker they are made in this process, in order.

    An exception of a task ends all. Workers end with this process, however it ends.
    """
    with progress_bar(title, total=len(tasks)) as bar:
        results = map(function, tasks) if num_workers == 1 else _over_processes(function, tasks, min(num_workers, max(1, len(tasks))))
        for result in results:
            bar.advance()
            yield result


def _over_processes(function: Callable[[Any], Any], tasks: Sequence[Any], num_workers: int) -> Iterator[Any]:
    waiting = iter(tasks)
    running: set[Future] = set()
    executor = ProcessPoolExecutor(num_workers, mp_context=get_context("forkserver"), initializer=_end_with_parent)
    try:
        while True:
            while len(running) < QUEUED_PER_WORKER * num_workers and (task := next(waiting, waiting)) is not waiting:
                running.add(executor.submit(function, task))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        executor.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """A worker would wait for tasks for ever when its parent was killed: its brothers hold the queue open."""

    def watch() -> None:
        wait_for([parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
