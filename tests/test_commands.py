"""What ends with a command that is told to stop."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lcl import commands

SLOW_TO_SAVE = """
import os, signal, sys, time
def save(*_):
    time.sleep(0.5)
    open(sys.argv[1] + '/saved', 'w').close()
    os._exit(0)
signal.signal(signal.SIGTERM, save)
open(sys.argv[1] + '/ready', 'w').close()
time.sleep(60)
"""
DEAF = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1] + '/ready', 'w').close()
time.sleep(60)
"""
LAUNCHER = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[2], sys.argv[1]]).wait()"  # dies of its own SIGTERM, at once


def launched(child: str, folder: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", LAUNCHER, str(folder), child], start_new_session=True)
    while not (folder / "ready").exists():
        time.sleep(0.02)
        assert process.poll() is None
    return process


def test_what_a_launcher_launched_has_time_to_save(tmp_path: Path) -> None:
    process = launched(SLOW_TO_SAVE, tmp_path)
    commands.end_group(process)
    assert (tmp_path / "saved").exists() and process.returncode is not None


def test_what_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "GRACE_SECONDS", 0.5)
    process = launched(DEAF, tmp_path)
    started = time.monotonic()
    commands.end_group(process)
    assert time.monotonic() - started < 20 and process.returncode is not None
    with pytest.raises(ProcessLookupError):
        for _ in range(50):  # init takes in the orphan
            os.killpg(process.pid, 0)
            time.sleep(0.1)
