"""kill -9 at any time, also inside a save: the same command goes on, nothing older than the last checkpoint is lost, and no bit differs."""

import random
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lcl.step_folders import check_folder, checkpoints
from tests.processes import kill, run_ranks, start_ranks
from tests.test_checkpoint import losses

NUM_TRIALS, STEPS = 20, 120
MOMENTS = ("while it starts", "while it trains", "while scratch is written", "while it is copied")


def arguments(shards: Path, output: Path, scratch: Path) -> list[object]:
    stage = ["--engine.zero-stage", 2, "--engine.precision", "fp32"]
    return ["lcl/pretrain.py", "--preset", "toy", "--data.shards", shards, "--output", output, "--steps", STEPS, "--save-every", 1, "--scratch", scratch, *stage]


def await_moment(moment: str, run: Path, scratch: Path, processes: Sequence[subprocess.Popen], chance: random.Random) -> bool:
    """Waits for the moment; False if training ended before."""
    begun = {path.name for folder in (run, scratch) if folder.is_dir() for path in folder.iterdir()}
    deadline = time.monotonic() + (chance.uniform(0.5, 5) if moment == "while it starts" else 200)
    while time.monotonic() < deadline and all(process.poll() is None for process in processes):
        parent = run if moment == "while it is copied" else scratch
        new = [path for path in parent.iterdir() if path.name.startswith((".step-", "lcl-")) and path.name not in begun] if parent.is_dir() else []
        if new and moment != "while it starts":
            time.sleep(chance.uniform(0, 0.3) if moment == "while it trains" else chance.uniform(0, 0.01))
            break
        time.sleep(0.001)
    return all(process.poll() is None for process in processes)


@pytest.mark.slow
def test_kill_9_at_random_times(shards: Path, tmp_path: Path) -> None:
    chance = random.Random(0)
    run, scratch, undisturbed = tmp_path / "run", tmp_path / "scratch", tmp_path / "undisturbed"
    run_ranks(arguments(shards, undisturbed, tmp_path / "other"), world_size=2)
    caught_unfinished = 0
    for trial in range(NUM_TRIALS):
        before = [path.name for path in checkpoints(run)]
        processes = start_ranks(arguments(shards, run, scratch), world_size=2)
        alive = await_moment(MOMENTS[trial % len(MOMENTS)], run, scratch, processes, chance)
        assert alive, "training ended before it was killed: raise STEPS"
        victims = chance.choice([[0], [1], [0, 1]])
        kill([processes[rank] for rank in victims])
        if len(victims) == 1:
            time.sleep(chance.uniform(0, 2))  # the launcher takes a while to end the other rank
        kill(processes)
        after = checkpoints(run)
        for folder in after:
            check_folder(folder)
        assert max([path.name for path in after], default="") >= max(before, default=""), "what was there stays"
        caught_unfinished += any(path.name.startswith(".step-") for path in run.iterdir()) if run.is_dir() else 0
    assert caught_unfinished >= NUM_TRIALS / 10, "some saves were cut"
    outputs = run_ranks(arguments(shards, run, scratch), world_size=2)
    assert f"resumed at step {int(after[-1].name.removeprefix('step-'))} of {STEPS}" in outputs[0]
    assert losses(run) == losses(undisturbed) and len(losses(run)) == STEPS
    ours, theirs = (load_file(folder / f"step-{STEPS:06d}" / "model.safetensors") for folder in (run, undisturbed))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not list(scratch.iterdir()) and not list(run.glob(".step-*")), "what killed processes left is gone"
