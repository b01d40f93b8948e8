"""Short real runs beside what a plan says of them: the trainer with one and two processes, and the pipeline on a sample crawl.

    calibration, rate of loading --> predicted processor seconds of a step --+
    lcl/planning/timed_rank.py, 1 and 2 ranks --> measured ones -------------+--> ratio

The prediction never sees the step that it is compared with. Both are seconds of the processor, which others on the machine do not take away, though
they slow it down through shared caches.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lcl.core.config import to_dict
from lcl.core.files import read_json, write_json
from lcl.core.tokenizer import Tokenizer
from lcl.estimate import count_parameters
from lcl.planning.calibration import Calibration
from lcl.planning.machines import MachineConfig
from lcl.planning.reading import loading_seconds, source_of, typical_of_shards
from lcl.planning.training_plan import time_step
from lcl.train_config import TrainConfig

WITHIN = 0.25  # of the measurement: what a plan promises
RUN_SECONDS = 3600.0  # until a timed run has ended
PROCESSES = (1, 2)


def compare_training(config: TrainConfig, rates: Calibration, *, steps: int, processes: Sequence[int] = PROCESSES) -> list[dict[str, float]]:
    """For each number of processes, one micro-batch on each: predicted and measured processor seconds of a rank's step, and their ratio.

    Measured is the lower quartile of the steps' seconds for a token: what disturbs a step makes it longer. Raises ValueError if a run fails.
    """
    tokenizer = Tokenizer(config.model.tokenizer)
    source = source_of(config, tokenizer)
    typical, parameters = typical_of_shards(config, source, tokenizer), count_parameters(config, tokenizer.vocab_size)
    row_seconds = loading_seconds(config, source, tokenizer, rows=max(config.micro_rows, 32))
    found = []
    for ranks in processes:
        one = replace(config, batch_rows=ranks * config.micro_rows)
        machine = MachineConfig(accelerator="cpu", gpus=ranks)
        predicted = time_step(one, parameters, typical, tokenizer.vocab_size, machine, mfu=1.0, rates=rates, row_seconds=row_seconds)
        timed = run_timed(one, steps=steps, ranks=ranks)
        per_token = sorted(step["core_seconds"] / step["tokens"] for step in timed)
        tokens = typical.readings_in(one.batch_rows, one.row_length) * typical.reading.tokens
        measured = tokens * per_token[len(per_token) // 4]
        found.append(
            {
                "processes": ranks, "predicted_seconds": predicted.total, "measured_seconds": measured, "ratio": predicted.total / measured, "tokens": tokens,
                "median_seconds": tokens * per_token[len(per_token) // 2], "wall_seconds": min(step["seconds"] for step in timed), **{f"predicted_{name}": value for name, value in vars(predicted).items()},
            }
        )  # fmt: skip
    return found


def run_timed(config: TrainConfig, *, steps: int, ranks: int) -> list[Mapping[str, float]]:
    """What each step of a short training of so many processes on this machine took. Raises ValueError if one of them fails."""
    with TemporaryDirectory() as folder:
        path, answer = Path(folder) / "config.json", Path(folder) / "steps.json"
        far = 1000 * steps  # so that no step validates, saves or warms up
        write_json(path, to_dict(replace(config, output=str(Path(folder) / "run"), steps=far, save_every=far, scratch=folder)))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        shared = os.environ | {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "lcl.planning.timed_rank", str(path), str(answer), str(steps)]
        log_path = Path(folder) / "log"
        with open(log_path, "wb") as log_file:
            processes = [
                subprocess.Popen(command, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=log_file, stderr=log_file) for rank in range(ranks)
            ]
            try:
                failed = [process.wait(timeout=RUN_SECONDS) for process in processes if process.wait(timeout=RUN_SECONDS)]
            finally:
                for process in processes:
                    process.kill()
        if failed:
            raise ValueError(f"a timed run of {ranks} processes ended with status {failed[0]}: {log_path.read_text()[-1500:]}")
        return read_json(answer)


def measure_pipeline(folder: Path, *, pages: int) -> Path:
    """Builds shards of a sample crawl of so many pages in this folder by one worker, and returns the build's folder, whose timing.json has its rates. Raises ValueError if it fails."""
    sample, shards = folder / "sample", folder / "shards"
    _run("sample-crawl", "--output", sample, "--num-pages", pages, "--num-labelled-train", 10, "--num-labelled-test", 10)
    _run("build-shards", "--crawl", sample / "sample.warc.gz", "--output", shards, "--executor", "here")
    return shards


def _run(*words: Any) -> None:
    """A command of ours, in a process of its own: folders of the project hand each other files."""
    command = [sys.executable, "-m", "lcl.cli", *map(str, words)]
    result = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if result.returncode:
        raise ValueError(f"`lcl {words[0]}` failed: {result.stderr.strip()[-800:]}")
