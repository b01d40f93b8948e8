"""Trials of kill -9: work is killed at a random time; what runs after it must leave what an undisturbed run leaves."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ROOT


def run_killed_inside(code: str, *, chance: random.Random, longest_seconds: float, begun: Callable[[], bool] = lambda: True) -> bool:
    """Runs Python `code`, which prints `ready` where the work begins, kills it a random time after that and after `begun`, and says whether it was cut short."""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout.readline() == "ready\n"
    while not begun() and process.poll() is None:
        time.sleep(0.001)
    time.sleep(chance.uniform(0, longest_seconds))
    cut = process.poll() is None
    process.kill()
    process.wait()
    process.stdout.close()
    return cut


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.tmp")]
