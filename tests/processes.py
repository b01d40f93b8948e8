"""Ranks without a launcher: the environment that it would set, for tests that start many short runs."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from tests.conftest import ROOT, WARM


def start_ranks(arguments: Sequence[object], *, world_size: int) -> list[subprocess.Popen]:
    return [
        subprocess.Popen([sys.executable, *map(str, arguments)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for environment in _environments(world_size)
    ]


def run_ranks(arguments: Sequence[object], *, world_size: int, timeout: float = 240) -> list[str]:
    """Runs all ranks to their end and returns what each printed, stderr last. Raises AssertionError with it if one fails."""
    words = [sys.executable, *map(str, arguments)]
    processes = [WARM.start(words, cwd=ROOT, environment=environment) for environment in _environments(world_size)]
    try:
        results = [process.finish(timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    outputs = [result.stdout + result.stderr for result in results]
    for result, output in zip(results, outputs, strict=True):
        assert result.returncode == 0, output
    return outputs


def _environments(world_size: int) -> list[dict[str, str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = os.environ | {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world_size)]


def kill(processes: Sequence[subprocess.Popen]) -> None:
    """kill -9, and waits until they are gone."""
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
        process.stdout.close()


def wait_until(said: Callable[[], bool], *, seconds: float = 600, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not said():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)
