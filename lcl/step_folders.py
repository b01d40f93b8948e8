"""The folders of a run's checkpoints: their names, which are there, and which are whole.

    RUN/step-000100/manifest.json    the SHA-256 of every other file of the checkpoint (lcl/checkpoint.py writes it last)
"""

import logging
import re
from pathlib import Path

from lcl.core.files import read_json, sha256_of

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STEP_FOLDER = re.compile("step-[0-9]+")


def step_folder(run: Path, step: int) -> Path:
    return run / f"step-{step:06d}"


def checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run by step, valid or not."""
    found = {int(path.name.removeprefix("step-")): path for path in run.glob("step-*") if STEP_FOLDER.fullmatch(path.name) and path.is_dir()}
    return [found[step] for step in sorted(found)]


def check_folder(folder: Path) -> None:
    """Raises ValueError naming the first file of the checkpoint that is missing or does not give its checksum."""
    if not (folder / MANIFEST).exists():
        raise ValueError(f"{folder} is no checkpoint: it has no {MANIFEST}")
    for name, checksum in read_json(folder / MANIFEST)["sha256"].items():
        path = folder / name
        if not path.exists():
            raise ValueError(f"{path} is missing")
        if sha256_of(path) != checksum:
            raise ValueError(f"{path} is damaged: its bytes do not give the checksum in {MANIFEST}")


def newest_valid(run: Path) -> Path | None:
    """The newest checkpoint of the run whose checksums hold; those passed over are said aloud. None if there is none at all.

    Raises ValueError if there are checkpoints and every one is damaged.
    """
    folders = checkpoints(run)
    for folder in reversed(folders):
        try:
            check_folder(folder)
            return folder
        except ValueError as error:
            log.warning("%s; going back to the one before", error)
    if folders:
        raise ValueError(f"every checkpoint in {run} is damaged; restore one from a copy, or give another --output to start anew")
    return None
