"""A Ray head for one command: on free ports, with a token and a home folder of its own, and nobody else's processes touched."""

import os
import secrets
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lcl.commands import end_group, environment, free_port
from lcl.core.files import open_aside

START_SECONDS = 120  # for the head to answer; it took 6 s on an idle pair of cores and 37 s on a busy one


class RayHead(NamedTuple):
    jobs: str
    """Address of its job interface."""
    address: str
    """What other nodes join, host:port."""
    environment: dict[str, str]
    """With which its commands reach it."""


@contextmanager
def ray_head(output: Path) -> Iterator[RayHead]:
    """A Ray head of our own on free ports, with a token and a home folder of its own; stopped by its process id at the end.

    Raises ValueError if it does not start.
    """
    home = output / "ray-home"
    home.mkdir(exist_ok=True)
    token = home / "token"
    with open_aside(token) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(secrets.token_hex(32).encode())
    port, dashboard, agent = free_port(), free_port(), free_port()
    address = f"http://127.0.0.1:{dashboard}"
    settings = environment() | {"HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    settings.pop("RAY_ADDRESS", None)
    command = ["ray", "start", "--head", "--block", "--port", port, "--dashboard-host", "127.0.0.1", "--dashboard-port", dashboard]
    command += ["--ray-client-server-port", free_port(), "--dashboard-agent-listen-port", agent, "--disable-usage-stats", "--object-store-memory", 200_000_000]
    ray = shutil.which("ray", path=settings["PATH"])
    if ray is None:
        raise ValueError("the command `ray` is not installed: pip install -e '.[data]'")
    log_path = output / "ray.log"
    with open(log_path, "ab") as log_file:
        head = subprocess.Popen([str(word) for word in command], env=settings, stdout=log_file, stderr=log_file, start_new_session=True)
    try:
        _wait_for_jobs(f"{address}/api/jobs/", head, token.read_text(), log_path)
        yield RayHead(address, f"127.0.0.1:{port}", settings)
    finally:
        end_group(head, ends_its_own=True)  # `ray start --block` ends its own processes, and no other Ray's
        token.unlink()


def _wait_for_jobs(address: str, head: subprocess.Popen, token: str, log_path: Path) -> None:
    """Until a job is taken, the first of which does nothing: they are refused for a moment after interface and agent answer. Raises ValueError if none is."""
    request = urllib.request.Request(address, b'{"entrypoint": "true"}', headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"})
    for _ in range(START_SECONDS * 2):
        if head.poll() is not None:
            break
        try:
            with urllib.request.urlopen(request, timeout=START_SECONDS):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    raise ValueError(f"Ray did not start within {START_SECONDS} s; {log_path} says why")
