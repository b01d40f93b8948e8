"""Independent tasks, one after another in this process or side by side on Ray; results lie in files, what comes back is small."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

Executor = Literal["here", "ray"]
TASKS_PER_WORKER = 2  # queued beside the running one, so that no worker waits for this process

Work = Callable[..., Any]
Arguments = Mapping[str, tuple[Any, ...]]


def run_tasks(work: Work, arguments: Arguments, *, executor: Executor, num_gpus: int = 0) -> Iterator[tuple[str, Any]]:
    """Each name with `work(*arguments[name])`, as they are done. The first exception of a task ends all.

    ray: each in a process of a cluster, with one CPU and `num_gpus` GPUs, and again where the process dies: the cluster that RAY_ADDRESS names, else a
    local one that ends with this process. Raises ValueError where Ray is not installed, and where no machine of the cluster has such a GPU.
    """
    return _on_ray(work, arguments, num_gpus) if executor == "ray" else ((name, work(*items)) for name, items in arguments.items())


def _on_ray(work: Work, arguments: Arguments, num_gpus: int) -> Iterator[tuple[str, Any]]:
    try:
        import ray  # here, because it is no part of what an encoder needs
    except ModuleNotFoundError as error:
        raise ValueError("--executor ray needs Ray: pip install 'lcl[data]', or leave --executor here") from error
    if not ray.is_initialized():
        ray.init(address=os.environ.get("RAY_ADDRESS", "local"), include_dashboard=False, log_to_driver=True, logging_level=logging.WARNING)
    kind = "GPU" if num_gpus else "CPU"
    num_workers = int(ray.cluster_resources().get(kind, 0)) // (num_gpus or 1)
    if not num_workers:
        raise ValueError(f"this Ray has no {kind} for a task: start it with some, or leave --executor here")
    task = ray.remote(num_cpus=1, num_gpus=num_gpus)(work)
    waiting = list(arguments)[::-1]
    running: dict[Any, str] = {}
    try:
        while waiting or running:
            while waiting and len(running) < num_workers * (1 + TASKS_PER_WORKER):
                name = waiting.pop()
                running[task.remote(*arguments[name])] = name
            for done in ray.wait(list(running))[0]:
                name = running.pop(done)
                try:
                    yield name, ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error
    finally:
        for left in running:
            ray.cancel(left)
