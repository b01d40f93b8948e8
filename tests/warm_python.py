"""Python processes that need not import PyTorch: forks of one that did, for the hundreds of commands that tests start.

    tests --words, environment, where output goes--> server --fork--> keeper --fork--> the command, as __main__
                                                                      keeper --its status--> tests

Each command is a process with environment, output and exit of its own, and imports our modules itself; only LIBRARIES are loaded already.
"""

import atexit
import importlib
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LIBRARIES = (  # not pyarrow: it starts a thread, and only a process of one thread may fork
    "numpy", "torch", "torch.utils.tensorboard", "deepspeed", "torchvision", "transformers", "open_clip", "timm", "PIL.Image", "pydantic", "tyro", "jaxtyping", "einops", "tokenizers", "safetensors.torch",
    "scipy.optimize", "scipy.stats", "matplotlib.pyplot", "jinja2", "tqdm",
)  # fmt: skip
STATUS: list[int] = []  # of this process, once its command has ended
UNREAD = ("HOME", "PATH", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class WarmPython:
    """A server, started by the first command."""

    def __init__(self) -> None:
        self._server: subprocess.Popen | None = None

    def takes(self, words: Sequence[str], environment: Mapping[str, str]) -> bool:
        """Whether the words are a script or a module of Python, or `lcl`, and the environment is the tests' own but for what no library reads as it is imported."""
        kind = words[0] == "lcl" or (words[0] == sys.executable and (words[1] == "-m" or words[1].endswith(".py")))
        return kind and _read_at_import(environment) == _read_at_import(os.environ)

    def start(self, words: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> "WarmProcess":
        if self._server is None:
            self._control, theirs = socket.socketpair()
            self._server = subprocess.Popen([sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
            theirs.close()
        return WarmProcess(self._control, {"words": list(words), "cwd": str(cwd), "environment": dict(environment)})

    def stop(self) -> None:
        if self._server is not None:
            self._control.close()
            self._server.wait()


class WarmProcess:
    def __init__(self, server: socket.socket, request: dict[str, Any]) -> None:
        self.args: list[str] = request["words"]
        self._outputs = [tempfile.TemporaryFile("w+") for _ in range(2)]
        self._keeper, theirs = socket.socketpair()
        socket.send_fds(server, [b"."], [theirs.fileno(), *(file.fileno() for file in self._outputs)])
        theirs.close()
        _send(self._keeper, request)
        self.pid: int = _receive(self._keeper)

    def finish(self, timeout: float) -> subprocess.CompletedProcess[str]:
        """Waits, and returns status, stdout and stderr. Kills it and raises subprocess.TimeoutExpired after `timeout` seconds."""
        self._keeper.settimeout(timeout)
        try:
            return subprocess.CompletedProcess(self.args, _receive(self._keeper), *map(_all_of, self._outputs))
        except TimeoutError:
            self.kill()
            self._keeper.settimeout(None)
            _receive(self._keeper)
            raise subprocess.TimeoutExpired(self.args, timeout, *map(_all_of, self._outputs)) from None
        finally:
            for each in (self._keeper, *self._outputs):
                each.close()

    def kill(self) -> None:
        """Ends it, if it has not ended."""
        if self._keeper.fileno() >= 0:
            os.kill(self.pid, signal.SIGKILL)


def _all_of(file: Any) -> str:
    file.seek(0)
    return file.read()


def _read_at_import(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in UNREAD}


def _send(channel: socket.socket, value: Any) -> None:
    data = json.dumps(value).encode()
    channel.sendall(len(data).to_bytes(4) + data)


def _receive(channel: socket.socket) -> Any:
    return json.loads(_exactly(channel, int.from_bytes(_exactly(channel, 4))))


def _exactly(channel: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = channel.recv(count - len(data))
        if not part:
            raise ConnectionError("the process on the other side has ended")
        data += part
    return data


def serve(control: socket.socket) -> dict[str, Any]:
    """Returns, in each process that it forks, the request that this one is for; ends when the tests do."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries keepers
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 3)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            control.close()
            return _keep(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _keep(channel: int, stdout: int, stderr: int) -> dict[str, Any]:
    """Forks the command, in which it returns, and says its number and how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    tests = socket.socket(fileno=channel)
    request = _receive(tests)
    number = os.fork()
    if number == 0:
        tests.close()
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.close(stdout)
        os.close(stderr)
        return request
    _send(tests, number)
    _send(tests, os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]))
    os._exit(0)


def run(words: Sequence[str], cwd: str, environment: Mapping[str, str]) -> None:
    """What Python does with these words, in this process."""
    import numpy as np

    np.random.seed()  # a fork has its parent's
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    if words[0] == "lcl":
        words = [sys.executable, shutil.which("lcl", path=environment["PATH"]) or sys.exit("lcl is not installed"), *words[1:]]
    try:
        if words[1] == "-m":
            sys.path[0], sys.argv = cwd, list(words[2:])
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        else:
            sys.path[0], sys.argv = str(Path(words[1]).resolve().parent), list(words[1:])
            runpy.run_path(words[1], run_name="__main__")
        STATUS.append(0)
    except SystemExit as ended:
        STATUS.append(0 if ended.code is None else ended.code if isinstance(ended.code, int) else 1)
        raise
    except Exception:
        STATUS.append(1)
        raise


def leave() -> None:
    """Ends the process once all that the command registered for its end is done. To take apart what the libraries made would take a second of each command."""
    if STATUS:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(STATUS[0])


if __name__ == "__main__":
    atexit.register(leave)  # before the libraries register theirs: it comes last
    for name in LIBRARIES:
        importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a library has started a thread: take it out of LIBRARIES"
    run(**serve(socket.socket(fileno=int(sys.argv[1]))))
