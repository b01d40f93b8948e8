"""One of two processes that reduce tensors together; rank 0 writes the processor seconds of each size (lcl/planning/calibration.py).

    python -m lcl.planning.all_reduce_rank RESULT.json BYTES TIMES [BYTES TIMES ...]        (under the environment of a launcher)
"""

import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from lcl.core.files import write_json


def seconds_of(num_bytes: int, times: int) -> float:
    """Processor seconds of one all-reduce of so many bytes in fp32, all threads of this rank counted; the fewest of three trials of `times`."""
    values, found = torch.zeros(num_bytes // 4), []
    for _ in range(3):
        dist.barrier()
        started = time.process_time()
        for _ in range(times):
            dist.all_reduce(values)
        found.append((time.process_time() - started) / times)
    return min(found)


def main() -> None:
    torch.set_num_threads(1)
    sizes = list(map(int, sys.argv[2:]))
    dist.init_process_group("gloo")
    try:
        found = [seconds_of(num_bytes, times) for num_bytes, times in zip(sizes[::2], sizes[1::2], strict=True)]
        if dist.get_rank() == 0:
            write_json(Path(sys.argv[1]), found)
        dist.barrier()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
