"""A training run as its folder shows it: does it go on, and who is late."""

import time
from collections.abc import Iterator
from pathlib import Path

from lcl.checks.finding import Finding
from lcl.core.logs import duration
from lcl.heartbeat import SILENT_SECONDS, late_ranks, read_beats

SAME_PLACE_SECONDS = 600.0  # in one step, save or validation: longer than these take


def check_run(run: Path) -> Iterator[Finding]:
    """Findings on the run's heartbeats. Raises ValueError if the folder has none."""
    beats = read_beats(run)
    now, newest, first = time.time(), max(beat.written for beat in beats), min(beats, key=lambda beat: beat.place)
    at = f"{len(beats)} of {beats[0].ranks} ranks, behind step {first.step}"
    if all(beat.doing == "ended" for beat in beats):
        yield Finding("run", "note", f"{run} has ended: {at}")
        return
    if now - newest > SILENT_SECONDS:
        yield Finding("run", "failed", f"no rank of {run} was heard of for {duration(now - newest)}: {at}", "it was killed, or this machine does not see its storage; the same command continues from the last checkpoint")
        return
    late = late_ranks(beats)
    yield from (Finding("late rank", "failed", line, "look at that host (dmesg, nvidia-smi, its disk); end the job, and the same command continues from the last checkpoint") for line in late)
    longest = max(newest - beat.since for beat in beats)
    if not late and longest > SAME_PLACE_SECONDS:
        yield Finding("run", "warning", f"all ranks beat, and are in {first.doing!r} behind step {first.step} for {duration(longest)}", "if a step takes minutes, nothing is wrong; else look at the network (lcl doctor --hosts)")
    elif not late:
        yield Finding("run", "ok", f"{run} goes on: {at}, in {first.doing!r}")
