"""Commands of a checkout, run one after the other as a person would run them: each with our interpreter, in a session of its own, ended with all that it started."""

import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent
GRACE_SECONDS, POLL_SECONDS = 30.0, 0.1


def check_checkout() -> None:
    """Raises ValueError where the scripts are not, as in an installed package."""
    if not (ROOT / "pyproject.toml").exists():
        raise ValueError(f"this runs the scripts of a checkout, and {ROOT} is none: clone the repository and install it with pip install -e .")


def execute(command: Sequence[object], *, variables: dict[str, str] | None = None) -> None:
    """Raises ValueError if it fails; what it has to say is on the terminal by then."""
    words = [str(word) for word in command]
    log.info("$ %s", shlex.join(words))
    process = subprocess.Popen(words, cwd=ROOT, env=variables or environment(), start_new_session=True)
    try:
        status = process.wait()
    except BaseException:  # Ctrl-C or SIGTERM: launchers leave their ranks behind, so the whole group is ended
        end_group(process)
        raise
    if status:
        raise ValueError(f"that command ended with status {status}; its message is above. When what it names is mended, the same command again continues from there.")


def end_group(process: subprocess.Popen, *, ends_its_own: bool = False) -> None:
    """Ends a process that leads a session, and all in its group: SIGTERM, and SIGKILL for what is left after half a minute.

    Launchers end before what they launched: a training that saves has all of the half minute. One that `ends_its_own` gets the SIGTERM alone, and what it leaves is killed at once.
    """
    deadline = time.monotonic() + GRACE_SECONDS
    try:
        if ends_its_own:
            process.terminate()
        else:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=GRACE_SECONDS)
        while not ends_its_own and time.monotonic() < deadline:
            os.killpg(process.pid, 0)  # asks whether anybody is left
            time.sleep(POLL_SECONDS)
    except ProcessLookupError:
        return
    except subprocess.TimeoutExpired:
        log.warning("%s did not end within %g s and is killed", process.args[0], GRACE_SECONDS)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # nobody was left
    process.wait()


def environment() -> dict[str, str]:
    """This environment with our own interpreter first on the path, one thread a process, and no usage reports."""
    bin_folder = str(Path(sys.executable).parent)
    return os.environ | {
        "PATH": os.pathsep.join([bin_folder, os.environ.get("PATH", "")]), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
