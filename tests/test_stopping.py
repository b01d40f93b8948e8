"""A scheduler's signal: a checkpoint, exit status 0, and the same command goes on as if nothing had been."""

import json
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lcl.core.logs import read_metrics
from tests.processes import run_ranks, start_ranks

STEPS = 40


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_a_signal_to_one_rank_saves_on_all_and_the_same_command_continues(shards: Path, tmp_path: Path, number: signal.Signals) -> None:
    def command(output: Path) -> list[object]:
        return ["lcl/pretrain.py", "--preset", "toy", "--data.shards", shards, "--output", output, "--steps", STEPS, "--save-every", STEPS]

    run = tmp_path / "stopped"
    processes = start_ranks(command(run), world_size=2)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and processes[1].poll() is None and not (run.exists() and len(read_lines(run / "metrics.jsonl")) > 3):
        time.sleep(0.02)
    processes[1].send_signal(number)
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    status = json.loads((run / "status.json").read_text())
    assert 3 < status["step"] < STEPS and not status["finished"], status
    assert (run / f"step-{status['step']:06d}" / "manifest.json").exists() and "the same command continues" in outputs[0]
    run_ranks(command(run), world_size=2)
    assert json.loads((run / "status.json").read_text()) == {"step": STEPS, "finished": True}
    if number == signal.SIGTERM:
        run_ranks(command(tmp_path / "whole"), world_size=2)
        ours, theirs = (load_file(folder / f"step-{STEPS:06d}" / "model.safetensors") for folder in (run, tmp_path / "whole"))
        assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)


def read_lines(path: Path) -> list[dict]:
    return read_metrics(path) if path.exists() else []
