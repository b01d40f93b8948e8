"""One rank of a short real training, for `lcl plan --measure`: rank 0 writes what its steps took.

    python -m lcl.planning.timed_rank CONFIG.json RESULT.json NUM_STEPS        (under the environment of a launcher)
"""

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from lcl.core.config import from_dict
from lcl.core.files import read_json, write_json
from lcl.distributed import process_group
from lcl.train_config import TrainConfig
from lcl.trainer import Training

WARM_STEPS = 4  # the first ones fill caches, make the optimiser's state and read ahead


@dataclass(frozen=True)
class TimedStep:
    """Seconds by the clock and of the processor (all threads of the rank), and what the rows of all ranks held."""

    seconds: float
    core_seconds: float
    tokens: float
    images: float
    documents: float


def main() -> None:
    config = from_dict(TrainConfig, read_json(Path(sys.argv[1])), origin=sys.argv[1])
    with process_group(threads=config.threads) as ranks:
        training = Training(config, ranks)
        steps = []
        try:
            for _ in range(WARM_STEPS + int(sys.argv[3])):
                wall, core = time.perf_counter(), time.process_time()
                given = training.batches.next()
                if isinstance(given, BaseException):
                    raise given
                metrics = training.train_step(given, wall)
                if ranks.device.type == "cuda":
                    torch.cuda.synchronize()
                steps.append(TimedStep(time.perf_counter() - wall, time.process_time() - core, metrics["tokens"], metrics["images"], metrics["documents"]))
        finally:
            training.batches.stop()
            if training.monitor is not None:
                training.monitor.close()
        if ranks.rank == 0:
            write_json(Path(sys.argv[2]), [asdict(step) for step in steps[WARM_STEPS:]])


if __name__ == "__main__":
    main()
