"""Ranks: starting and leaving a process group, and the few collectives that training needs."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # must be there before DeepSpeed is imported


Found = TypeVar("Found")

TIMEOUT_SECONDS = 600.0  # DeepSpeed's own, and PyTorch's for NCCL
HEARTBEAT_SECONDS = 60.0  # between collectives while ranks wait for one that works longer than a collective may last


@dataclass(frozen=True)
class Ranks:
    rank: int
    world_size: int
    device: torch.device


@contextmanager
def process_group(*, threads: int, timeout_seconds: float = TIMEOUT_SECONDS) -> Iterator[Ranks]:
    """This process's place among the ranks, as the launcher's environment gives it; alone where there is no launcher.

    On a CPU a rank computes with `threads` threads: ranks that compete for cores are many times slower. A collective that a rank has waited in for
    `timeout_seconds` fails.
    """
    import deepspeed  # here, because importing it takes seconds that `--help` need not wait for

    alone = "RANK" not in os.environ
    if alone:
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        torch.set_num_threads(threads)
        # Only inference uses this op, but without a compiler its build at start is fatal, and with one it takes a minute.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend, timeout = "nccl" if device.type == "cuda" else "gloo", timedelta(seconds=timeout_seconds)
    if alone:  # there is nobody to meet: no port, which another process might take first
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)
    deepspeed.init_distributed(dist_backend=backend, verbose=False, timeout=timeout)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
        dist.barrier()
    finally:
        dist.destroy_process_group()  # without it one run in three aborts at exit


def sum_over_ranks(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    total = values.clone()
    dist.all_reduce(total)
    return total


def gather_rows(rows: Shaped[Tensor, "n width"]) -> tuple[Shaped[Tensor, "all_n width"], int]:
    """The rows of all ranks, whatever number each holds, in rank order, and where this rank's begin. Carries no gradient."""
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    sizes = torch.cat(counts).tolist()
    padded = rows.new_zeros(max(sizes), rows.shape[1])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]), sum(sizes[: dist.get_rank()])


@contextmanager
def together() -> Iterator[None]:
    """A problem inside, on any rank, becomes the same ValueError on all: a rank that raised alone would leave the others waiting.

    All ranks enter and leave it together; no collective may stand inside.
    """
    problem = None
    try:
        yield
    except Exception as error:  # whatever it is, the others must hear of it
        problem = say(error)
    raise_together(problem)


def join_together(thread: threading.Thread) -> None:
    """Waits until the threads of all ranks have ended."""
    while any(gather_objects(thread.is_alive())):  # now and then, for a collective that one rank is late for is given up after minutes
        thread.join(HEARTBEAT_SECONDS)


def slowly_together(work: Callable[[], Found]) -> Found:
    """What `work` returns on this rank, as `together`, for work that may take hours on some of the ranks."""
    found: list[Found] = []
    problem: list[str] = []

    def try_it() -> None:
        try:
            found.append(work())
        except Exception as error:  # whatever it is, the others must hear of it
            problem.append(say(error))

    thread = threading.Thread(target=try_it, name="work", daemon=True)  # an interrupted process does not wait for it
    thread.start()
    join_together(thread)
    raise_together(problem[0] if problem else None)
    return found[0]


def say(error: BaseException) -> str:
    """The error in a line: what users can mend speaks for itself, the rest names its kind."""
    return str(error) if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {error}"


def raise_together(problem: str | None) -> None:
    """Raises the problems of all ranks as one ValueError on each; nothing where no rank has one."""
    problems = gather_objects(problem)
    told = {text: [rank for rank, other in enumerate(problems) if other == text] for text in problems if text}
    if told:
        raise ValueError("; ".join(text if len(ranks) == len(problems) else f"rank {', '.join(map(str, ranks))}: {text}" for text, ranks in told.items()))


def gather_objects(value: Any) -> list[Any]:
    """The value of every rank, in rank order, on every rank."""
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def from_rank_0(value: Any) -> Any:
    """Rank 0's value on every rank."""
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
