"""The mirror of a run: run.json and its newest checkpoints at an address, from which another machine continues.

    a thread of rank 0    RUN/step-000100 --data, then manifest.json--> s3://bucket/run/step-000100 --> older ones there go
    before a resumption   the newest checkpoint there, if it is newer than those here --> RUN/step-000100

A checkpoint there exists once its manifest does. run.json says whose the address is: what is there is of that run alone.
"""

import json
import logging
import re
import shutil
import threading
from pathlib import Path

from lcl.core.files import open_aside, read_json, sync_folder
from lcl.core.mirror import Mirror, MirrorError
from lcl.step_folders import MANIFEST, STEP_FOLDER, checkpoints, step_folder

IN_STEP = re.compile(rf"{STEP_FOLDER.pattern}/")
COMMITTED = re.compile(IN_STEP.pattern + re.escape(MANIFEST))
RECORD = "run.json"

log = logging.getLogger(__name__)


class RunMirror:
    """Training never waits for it, and goes on where it fails: that is a warning, and the next checkpoint is tried; only `close` raises. For rank 0."""

    def __init__(self, run: Path, address: str, *, keep: int) -> None:
        """Raises ValueError as `Mirror`. As many as `keep` checkpoints stay there."""
        self._run, self._mirror, self._keep = run, Mirror(address), keep
        self._thread: threading.Thread | None = None
        self._published: Path | None = None
        self.publishing: Path | None = None
        """The checkpoint that is being read now, and must stay."""

    @property
    def address(self) -> str:
        return self._mirror.address

    def take_record(self, *, begun: bool) -> bool:
        """Whether checkpoints are there; then run.json is the same here and there: it is taken from there unless the run here was `begun`. The run's lock must be held.

        Raises MirrorError if both were begun and are not the same.
        """
        if not self._steps():
            return False
        record = self._record()
        if begun:
            self._check_ours(record)
        else:
            with open_aside(self._run / RECORD) as file:
                file.write(record)
        return True

    def fetch_newer(self) -> None:
        """Fetches the newest checkpoint there if it is newer than those here. Raises MirrorError if it is damaged."""
        steps, here = self._steps(), [_step(path.name) for path in checkpoints(self._run)]
        if steps and (not here or steps[-1] > here[-1]):
            self._fetch(steps[-1])

    def claim(self) -> None:
        """Puts run.json there, where no checkpoint is yet: whose address it is, and a sign that it can be written. Raises MirrorError if it cannot, and if other things are there."""
        if others := [name for name in self._mirror.sizes() if name != RECORD and not IN_STEP.match(name)]:
            raise MirrorError(f"{self._mirror.where(others[0])} is of no run: give --mirror an address of its own")
        if not self._steps():
            self._mirror.write(RECORD, (self._run / RECORD).read_bytes())

    def offer(self) -> None:
        """Lets a thread publish the newest checkpoint; one that is at work turns to it when it is done."""
        if not threading.main_thread().is_alive():  # the process only waits to end, and starts no more threads
            self._publish_newest()
        elif self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._publish_newest, name="mirror")
            self._thread.start()

    def close(self) -> None:
        """Returns when the newest checkpoint is there. Raises MirrorError if it cannot be put there, which is tried once more."""
        if self._thread is not None:
            self._thread.join()
        if checkpoints(self._run) and self._published != checkpoints(self._run)[-1]:
            try:
                self._publish(checkpoints(self._run)[-1])
            except MirrorError as error:
                raise MirrorError(f"{error}; the newest checkpoint of {self._run} is on this machine alone: the same command puts it there") from error

    def _publish_newest(self) -> None:
        tried = None
        while (newest := checkpoints(self._run)[-1]) != tried:
            tried = newest
            try:
                self._publish(newest)
            except (MirrorError, OSError) as error:
                log.warning("checkpoint %s is not at the mirror: %s; the next one is tried", newest.name, error)

    def _publish(self, folder: Path) -> None:
        self.publishing = folder
        try:
            self._check_ours(self._record())
            files, commit = {f"{folder.name}/{name}": sha256 for name, sha256 in read_json(folder / MANIFEST)["sha256"].items()}, f"{folder.name}/{MANIFEST}"
            if self._mirror.read(commit) not in (None, (folder / MANIFEST).read_bytes()):
                log.warning("checkpoint %s: training made it anew, and it takes the place of the one at %s", folder.name, self._mirror.address)
                self._mirror.remove([commit])  # first: its files keep their names, and nobody may take them for whole meanwhile
            if self._mirror.publish(self._run, files, commit):
                log.info("checkpoint %s: at %s", folder.name, self._mirror.address)
            self._published = folder
            self._remove_old()
        finally:
            self.publishing = None

    def _remove_old(self) -> None:
        """Removes what is older than the newest `keep` checkpoints, manifests first, and what killed processes left of those without one."""
        oldest = self._steps()[-self._keep :][0]
        old = [name for name in self._mirror.sizes() if IN_STEP.match(name) and _step(name) < oldest]
        self._mirror.remove(sorted(old, key=lambda name: not COMMITTED.fullmatch(name)))

    def _fetch(self, step: int) -> None:
        name = step_folder(self._run, step).name
        aside = self._run / f".{name}.fetched"  # kept by a kill, so that its files need not be fetched again
        for other in self._run.glob(".step-*.fetched"):
            if other != aside:
                shutil.rmtree(other)
        manifest = self._mirror.read(f"{name}/{MANIFEST}")
        assert manifest is not None, name
        log.info("checkpoint %s: fetched from %s", name, self._mirror.address)
        files = {f"{name}/{file}": sha256 for file, sha256 in json.loads(manifest)["sha256"].items()}
        self._mirror.fetch(aside, files, f"{name}/{MANIFEST}", manifest)
        (aside / name).rename(self._run / name)
        aside.rmdir()
        sync_folder(self._run)

    def _steps(self) -> list[int]:
        """Of the checkpoints there, rising."""
        return sorted(_step(name) for name in self._mirror.sizes() if COMMITTED.fullmatch(name))

    def _record(self) -> bytes:
        record = self._mirror.read(RECORD)
        if record is None:
            raise MirrorError(f"{self._mirror.address} has lost its {RECORD}, which says of what run it is: put it back, or give another --mirror")
        return record

    def _check_ours(self, record: bytes) -> None:
        if record != (self._run / RECORD).read_bytes():
            raise MirrorError(f"{self._mirror.where(RECORD)} is of another run than {self._run}: give another --mirror")


def _step(name: str) -> int:
    """Of a checkpoint, by the name of its folder or of a file in it."""
    return int(name.partition("/")[0].removeprefix("step-"))
