"""Heartbeats: what a rank writes, which rank is late by them, and that a stopped rank of a real run is named."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lcl import heartbeat
from lcl.checks.run import check_run
from lcl.heartbeat import SILENT_SECONDS, Beat, Heartbeat, late_ranks, naming_late_ranks, read_beats
from tests.processes import kill, start_ranks


def beat(rank: int, step: int, doing: str, *, age: float = 0.0, ranks: int = 2, since: float = 5.0) -> Beat:
    return Beat(rank, ranks, f"node{rank}", 100 + rank, step, doing, since=1000.0 - since, beat=1000.0 - age, written=1000.0 - age)


def test_a_rank_writes_where_it_is_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)
    (tmp_path / "heartbeats").mkdir()
    (tmp_path / "heartbeats" / "rank-00007.json").write_text("{}")  # of an earlier session with more ranks
    with Heartbeat(tmp_path, rank=0, ranks=1, step=3).beating() as own:
        assert [(one.step, one.doing) for one in read_beats(tmp_path)] == [(3, "data")]
        own.at(4, "checkpoint")
        deadline = time.monotonic() + 20
        while read_beats(tmp_path)[0].doing != "checkpoint" and time.monotonic() < deadline:
            time.sleep(0.01)
        (one,) = read_beats(tmp_path)
        assert (one.rank, one.ranks, one.step, one.doing, one.process) == (0, 1, 4, "checkpoint", os.getpid()) and one.since <= one.beat
    assert read_beats(tmp_path)[0].doing == "ended"
    assert [path.name for path in (tmp_path / "heartbeats").iterdir()] == ["rank-00000.json"], "nothing is left beside it"


def test_late_ranks_are_those_that_are_silent_missing_or_behind() -> None:
    assert late_ranks([beat(0, 5, "step"), beat(1, 5, "step")]) == []
    (line,) = late_ranks([beat(0, 5, "step"), beat(1, 5, "step", age=SILENT_SECONDS + 2)])
    assert line.startswith("rank 1 (process 101 on node1) is silent for 22 s") and "behind step 5" in line
    (line,) = late_ranks([beat(0, 5, "step"), beat(1, 5, "data", since=40)])
    assert line.startswith("rank 1 (process 101 on node1) is late: behind step 5 in 'data' for 40 s") and "rank 0 is behind step 5 in 'step'" in line
    (line,) = late_ranks([beat(0, 5, "data"), beat(1, 4, "checkpoint")])
    assert "rank 1" in line and "in 'checkpoint'" in line
    (line,) = late_ranks([beat(0, 5, "data", ranks=2)])
    assert line.startswith("rank 1 of 2 has not begun")
    assert late_ranks([beat(0, 9, "ended"), beat(1, 9, "ended", age=100)]) == []


def write_beats(run: Path, *beats: Beat, age: float = 0.0) -> None:
    (run / "heartbeats").mkdir(parents=True, exist_ok=True)
    for one in beats:
        path = run / "heartbeats" / f"rank-{one.rank:05d}.json"
        path.write_text(json.dumps({key: value for key, value in vars(one).items() if key != "written"}))
        os.utime(path, (time.time() - age,) * 2)


def test_the_doctor_says_how_a_run_is(tmp_path: Path) -> None:
    now = time.time()
    good = [replace(beat(rank, 5, "step"), since=now - 1) for rank in range(2)]
    write_beats(tmp_path, *good)
    assert [one.status for one in check_run(tmp_path)] == ["ok"]
    write_beats(tmp_path, replace(good[1], doing="data"))
    (found,) = check_run(tmp_path)
    assert found.status == "failed" and "rank 1" in found.found and found.cure
    write_beats(tmp_path, *(replace(one, since=now - 5000) for one in good))
    assert [one.status for one in check_run(tmp_path)] == ["warning"]
    write_beats(tmp_path, *good, age=500)
    (found,) = check_run(tmp_path)
    assert found.status == "failed" and "no rank" in found.found
    write_beats(tmp_path, *(replace(one, doing="ended") for one in good))
    assert [one.status for one in check_run(tmp_path)] == ["note"]


def test_a_collective_that_fails_names_the_rank_and_other_errors_pass(tmp_path: Path) -> None:
    write_beats(tmp_path, replace(beat(0, 5, "step"), since=0.0))
    with pytest.raises(ValueError, match="Timed out waiting.*rank 1 of 2 has not begun.*same command continues"), naming_late_ranks(tmp_path):
        raise RuntimeError("[gloo] Timed out waiting 5000ms for recv operation to complete")
    with pytest.raises(RuntimeError, match="shape"), naming_late_ranks(tmp_path):
        raise RuntimeError("shape mismatch")


@pytest.mark.slow
def test_a_stopped_rank_of_a_real_run_is_named(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--steps", 100_000, "--save-every", 100_000, "--collective-seconds", 20]
    processes = start_ranks(["lcl/pretrain.py", "--preset", "toy", "--data.shards", shards, "--output", run, *options], world_size=2)
    try:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not ((run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_size > 2000):
            assert all(process.poll() is None for process in processes)
            time.sleep(0.05)
        processes[1].send_signal(signal.SIGSTOP)
        said = processes[0].communicate(timeout=300)[0]
        assert processes[0].returncode != 0
        (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
        assert f"rank 1 (process {processes[1].pid} on " in line and "is silent" in line and "rank 0 (" not in line and "Traceback" not in said, said
    finally:
        kill(processes)
