"""A scheduler's signal: a checkpoint, exit status 0, and the same command goes on as if nothing had been. And checkpoints by the clock, which change nothing."""

import json
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lcl.core.logs import read_metrics
from lcl.stopping import SaveTimes, stop_request
from tests.processes import run_ranks, start_ranks

STEPS = 40


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow), pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
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
    run_ranks([*command(run), "--save-minutes", 1e-9, "--keep-checkpoints", STEPS], world_size=2)
    assert {f"step-{step:06d}" for step in range(status["step"] + 2, STEPS + 1)} <= {folder.name for folder in run.glob("step-*")}
    assert json.loads((run / "status.json").read_text()) == {"step": STEPS, "finished": True}
    if number == signal.SIGTERM:
        run_ranks(command(tmp_path / "whole"), world_size=2)
        ours, theirs = (load_file(folder / f"step-{STEPS:06d}" / "model.safetensors") for folder in (run, tmp_path / "whole"))
        assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)


def test_a_second_ctrl_c_does_not_wait() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it
    try:
        with stop_request():
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_clock_makes_a_checkpoint_late_once_per_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    saves, by_steps = (SaveTimes(every_steps=10, every_minutes=minutes, first=3, last=25) for minutes in (2, 0))
    assert [saves.is_due(step, late=False) for step in (9, 10, 24, 25)] == [False, True, False, True] and saves.is_saved(3)
    now[0] += 121
    assert saves.is_late() and saves.is_due(4, late=True) and not by_steps.is_late()
    saves.saved(4)
    assert not saves.is_late() and saves.is_saved(4) and not saves.is_saved(3)


def read_lines(path: Path) -> list[dict]:
    return read_metrics(path) if path.exists() else []
