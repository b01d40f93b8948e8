"""Trials of kill -9: work is killed at one of its own steps; what runs after it must leave what an undisturbed run leaves."""

import signal
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

PRELUDE = """
import os, signal, sys

folder, last, steps = {folder!r}, {last!r}, 0

def step(event, arguments):
    global steps
    if event in ("os.rename", "os.link", "os.remove", "os.mkdir") or event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        if any(isinstance(argument, str | os.PathLike) and os.fspath(argument).startswith(folder) for argument in arguments[:2]):
            steps += 1
            if steps == last:
                os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(step)
"""


def run_killed_at(code: str, folder: Path, step: int) -> None:
    """Runs Python `code`, which ends as it is about to open for writing, rename, link, remove or make a path beneath `folder` for the `step`-th time.

    The interpreter counts, not the clock, so that a busy machine kills at the same place.
    """
    assert _run(code, folder, step).returncode == -signal.SIGKILL, f"fewer than {step} steps"


def steps_of(code: str, folder: Path) -> int:
    """How many such steps `code` takes undisturbed."""
    done = _run(f"{code}\nprint(steps)", folder, None)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def _run(code: str, folder: Path, last: int | None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PRELUDE.format(folder=str(folder), last=last) + code], cwd=ROOT, capture_output=True, text=True, check=False)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.tmp")]
