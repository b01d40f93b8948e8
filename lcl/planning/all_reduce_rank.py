"""One of two processes that reduce tensors together; rank 0 writes the processor seconds of a small and a large all-reduce (lcl/planning/calibration.py)."""

import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from lcl.core.files import write_json
from lcl.planning.calibration import LATENCY_BYTES, NUM_LARGE, NUM_SMALL, RATE_BYTES


def seconds_of(num_bytes: int, times: int) -> float:
    """Processor seconds of one all-reduce of so many bytes in fp32, both ranks' own threads counted; the fewest of three trials."""
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
    dist.init_process_group("gloo")
    try:
        small, large = seconds_of(LATENCY_BYTES, NUM_SMALL), seconds_of(RATE_BYTES, NUM_LARGE)
        if dist.get_rank() == 0:
            write_json(Path(sys.argv[1]), [small, large])
        dist.barrier()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
