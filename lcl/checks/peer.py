"""One rank of `lcl doctor`'s look at several processes or hosts together: prints what it found as one line of JSON.

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=node1 MASTER_PORT=29500 python -m lcl.checks.peer SHARED_FOLDER SECONDS

    sums of all ranks (gloo, or nccl where there is a GPU) --> is it right, how fast
    a file of each rank, written, fsynced, renamed --read by all others--> is the storage shared
    rank 0's clock, there and back --> how far each clock is off
"""

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lcl.checks.hosts import LINE, TOKEN
from lcl.core.config import versions
from lcl.core.files import write_json

NUM_VALUES = 4 << 20
NUM_CLOCKS = 20


def look(folder: Path | None) -> dict[str, Any]:
    """What this rank found with all others. Raises RuntimeError where a collective fails."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    found: dict[str, Any] = {"rank": rank, "ranks": ranks, "host": socket.gethostname(), "backend": dist.get_backend(), "versions": versions()}
    values = torch.full((NUM_VALUES,), float(rank + 1), device=device)
    dist.all_reduce(values)
    found["sum_is_right"] = bool((values == ranks * (ranks + 1) / 2).all())
    started = time.perf_counter()
    dist.all_reduce(values)
    float(values[0])  # waits for a GPU
    found["bytes_per_second"] = values.nbytes / (time.perf_counter() - started)
    found["clock_seconds"], found["clock_within_seconds"] = clock_skew(device)
    if folder is not None:
        found["storage"] = shared_storage(folder, rank, ranks, os.environ.get(TOKEN, "0"), wait=dist.barrier)
    return found


def clock_skew(device: torch.device) -> tuple[float, float]:
    """How many seconds this rank's clock is ahead of rank 0's, and within how many that is known: half of the fastest way there and back (RFC 5905, section 8)."""
    best = (0.0, float("inf"))
    for peer in range(1, dist.get_world_size()):
        for _ in range(NUM_CLOCKS):
            clock = torch.zeros(1, dtype=torch.float64, device=device)
            if dist.get_rank() == peer:
                sent = time.time()
                dist.send(clock, 0)
                dist.recv(clock, 0)
                back = time.time()
                if (back - sent) / 2 < best[1]:
                    best = ((sent + back) / 2 - float(clock), (back - sent) / 2)
            elif dist.get_rank() == 0:
                dist.recv(clock, peer)
                dist.send(torch.full_like(clock, time.time()), peer)
    return best if dist.get_rank() else (0.0, 0.0)


def shared_storage(folder: Path, rank: int, ranks: int, token: str, *, wait: Callable[[], Any]) -> dict[str, Any]:
    """Each rank writes a file as checkpoints are written (aside, fsynced, renamed, folder fsynced), and reads those of all others; `wait` is a barrier."""
    paths = [folder / f"lcl-doctor-{token}-{number}.json" for number in range(ranks)]
    problem, started = None, time.perf_counter()
    try:
        write_json(paths[rank], {"rank": rank, "token": token})
    except OSError as error:
        problem = str(error)
    seconds = time.perf_counter() - started
    wait()
    unseen = []
    for number, path in enumerate(paths):
        try:
            if json.loads(path.read_bytes()) != {"rank": number, "token": token}:
                unseen.append(number)
        except (OSError, ValueError):
            unseen.append(number)
    wait()
    paths[rank].unlink(missing_ok=True)
    return {"folder": str(folder), "write_seconds": seconds, "problem": problem, "unseen": unseen}


def main() -> None:
    torch.set_num_threads(1)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=float(sys.argv[2])))
        try:
            found = look(Path(sys.argv[1]) if sys.argv[1] else None)
        finally:
            dist.destroy_process_group()
    except Exception as error:  # whatever it is, the doctor says it of this rank
        found = {"rank": int(os.environ["RANK"]), "host": socket.gethostname(), "problem": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"}
    print(LINE + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
