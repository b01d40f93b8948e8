"""Where each rank of a run is: one small file per rank, by which a rank that is late is named.

    training thread --at(step, "data" | "step" | "checkpoint" | "validation")--> what this rank does
    a thread        --every `BEAT_SECONDS`, and at no cost to training--> RUN/heartbeats/rank-00000.json --> `lcl doctor --run RUN`

In a hang all ranks but one wait for that one in the same collective. Two things tell it from the others: its file grows old (the process is
stopped, dead, or its machine is), or it is where the others are no more.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lcl.core.files import json_bytes, read_json

FOLDER = "heartbeats"
BEAT_SECONDS = 5.0
SILENT_SECONDS = 4 * BEAT_SECONDS  # behind the newest beat: then a rank is silent, and not between two beats

Doing = Literal["data", "step", "validation", "checkpoint", "ended"]
ORDER: tuple[Doing, ...] = ("data", "step", "validation", "checkpoint", "ended")  # in which a rank goes through them at one step


@dataclass(frozen=True)
class Beat:
    """What a rank wrote last. Times are seconds since 1970 by its own clock, but for `written`, which is by that of the storage."""

    rank: int
    ranks: int
    host: str
    process: int
    step: int
    doing: Doing
    since: float
    beat: float
    written: float

    @property
    def place(self) -> tuple[int, int]:
        """How far the rank is: compares as ranks follow each other."""
        return self.step, ORDER.index(self.doing)

    @property
    def where(self) -> str:
        return f"rank {self.rank} (process {self.process} on {self.host})"


class Heartbeat:
    """This rank's own: `at` says where it is, and a thread writes that down until the block ends."""

    def __init__(self, run: Path, *, rank: int, ranks: int, step: int) -> None:
        self._path, self._rank, self._ranks = run / FOLDER / f"rank-{rank:05d}.json", rank, ranks
        self._doing: tuple[int, Doing, float] = (step, "data", time.time())
        self._ended = threading.Event()

    def at(self, step: int, doing: Doing) -> None:
        """Notes that this rank, behind so many steps, begins something. No file is touched here."""
        self._doing = (step, doing, time.time())

    @contextmanager
    def beating(self) -> Iterator["Heartbeat"]:
        """Writes now, every `BEAT_SECONDS` and at the end. Files of ranks that an earlier session had more go. Raises OSError if the folder cannot be written."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._rank == 0:
            for path in self._path.parent.glob("rank-*.json"):
                if int(path.stem.removeprefix("rank-")) >= self._ranks:
                    path.unlink(missing_ok=True)
        self._write()
        thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            thread.join()
            self.at(self._doing[0], "ended")
            self._try_to_write()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            self._try_to_write()

    def _try_to_write(self) -> None:
        """A full disk is no reason to end a run that may save elsewhere: whoever reads sees that the file grows old."""
        try:
            self._write()
        except OSError:
            pass

    def _write(self) -> None:
        """Aside and renamed, and not fsynced: after a power cut nobody asks where ranks were."""
        step, doing, since = self._doing
        aside = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        aside.write_bytes(
            json_bytes(
                {"rank": self._rank, "ranks": self._ranks, "host": socket.gethostname(), "process": os.getpid(), "step": step, "doing": doing, "since": since, "beat": time.time()}
            )
        )  # fmt: skip
        os.replace(aside, self._path)


def read_beats(run: Path) -> list[Beat]:
    """The last beat of every rank, by rank. Raises ValueError if the folder has none."""
    paths = sorted((run / FOLDER).glob("rank-*.json"))
    if not paths:
        raise ValueError(f"{run} holds no {FOLDER}: it is no run of `lcl pretrain`, or has not begun")
    return [Beat(**read_json(path), written=path.stat().st_mtime) for path in paths]


def late_ranks(beats: Sequence[Beat]) -> list[str]:
    """Which ranks hold the others up, each in words; none where all are at the same place and beat.

    A silent rank is named alone, for what it did last says little. Else those are late that are behind the one that is farthest. Ranks that have
    ended wait for nobody.
    """
    missing = sorted(set(range(beats[0].ranks)) - {beat.rank for beat in beats})
    newest, running = max(beat.written for beat in beats), [beat for beat in beats if beat.doing != "ended"]
    silent = [beat for beat in running if newest - beat.written > SILENT_SECONDS]
    lines = [f"rank {rank} of {beats[0].ranks} has not begun: its process did not start, or cannot write here" for rank in missing]
    if silent or missing:
        return lines + [
            f"{beat.where} is silent for {newest - beat.written:.0f} s, last behind step {beat.step}: it is stopped or dead, or its machine is; end the job and submit it again without it"
            for beat in silent
        ]
    farthest = max(running, key=lambda beat: beat.place, default=beats[0])
    return [
        f"{beat.where} is late: behind step {beat.step} in {beat.doing!r} for {newest - beat.since:.0f} s, where rank {farthest.rank} is behind step {farthest.step} in {farthest.doing!r}"
        for beat in running
        if beat.place < farthest.place
    ]


@contextmanager
def naming_late_ranks(run: Path) -> Iterator[None]:
    """A collective that fails inside, because it took too long or because a peer is gone, becomes a ValueError that names the rank. To be entered by all ranks."""
    try:
        yield
    except RuntimeError as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if not any(word in said.lower() for word in ("gloo", "timed out", "timeout", "connection", "nccl", "peer")):
            raise
        deadline = time.time() + SILENT_SECONDS + BEAT_SECONDS  # a rank that died a moment ago is not silent yet
        lines = late_ranks(read_beats(run))
        while not lines and time.time() < deadline:
            time.sleep(BEAT_SECONDS / 5)
            lines = late_ranks(read_beats(run))
        named = "; ".join(lines) or "no rank is silent or behind: look at the network between the hosts (lcl doctor --hosts)"
        raise ValueError(f"the ranks lost each other ({said[:200]}): {named}. The same command continues from the last checkpoint.") from error
