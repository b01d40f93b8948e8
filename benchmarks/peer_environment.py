"""A peer's own virtual environment, and commands in it: what it pins is nothing to ours."""

import logging
import os
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def make_environment(folder: Path, packages: Sequence[Any]) -> Path:
    """The Python of the environment, which is made with pip if it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        log.info("making %s", folder)
        venv.create(folder, with_pip=True)
        run_peer([python, "-m", "pip", "install", "--quiet", *packages])
    return python


def run_peer(words: Sequence[Any], **environment: str) -> None:
    """Runs a command. Raises ValueError with its last line if it fails."""
    done = subprocess.run([str(word) for word in words], env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{words[0]} {words[1]} ... ended with status {done.returncode}: {next(iter(done.stderr.strip().splitlines()[-1:]), '')}")
