"""What a command does does not depend on whether it starts in a fork of a process that has loaded the libraries."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, WARM

SCRIPT = """
import os, signal, sys
sys.modules["__main__"].here = 1
print(sys.argv[1:], os.getcwd(), os.environ["HOME"], __name__, sys.path[0], "lcl" in sys.modules, flush=True)
print("wrong", file=sys.stderr, flush=True)
{end}
"""


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "sys.exit('a reason')", "raise ValueError('no')", "os.kill(os.getpid(), signal.SIGTERM)", "import atexit; atexit.register(print, 'last')"])
def test_a_warm_command_does_what_a_cold_one_does(tmp_path: Path, end: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(end=end))
    words, environment = [sys.executable, str(script), "a", "b c"], os.environ | {"HOME": "/somewhere"}
    cold = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert WARM.takes(words, environment)
    warm = WARM.start(words, cwd=tmp_path, environment=environment).finish(60)
    assert (warm.returncode, warm.stdout) == (cold.returncode, cold.stdout)
    assert warm.stderr.splitlines()[-1] == cold.stderr.splitlines()[-1]  # a traceback holds our frames too


def test_commands_run_side_by_side_and_end_at_their_time(tmp_path: Path) -> None:
    script = tmp_path / "waits.py"
    script.write_text("import time; print('begun', flush=True); time.sleep(600)")
    first, second = (WARM.start([sys.executable, str(script)], cwd=ROOT, environment=os.environ) for _ in range(2))
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        first.finish(5)
    second.kill()
    assert caught.value.stdout == "begun\n" and second.finish(60).returncode == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(first.pid, 0)


def test_an_environment_that_libraries_read_starts_cold() -> None:
    words = [sys.executable, "lcl/pretrain.py"]
    assert WARM.takes(words, os.environ | {"RANK": "1"}) and not WARM.takes(words, os.environ | {"OMP_NUM_THREADS": "2"})
    assert not WARM.takes([sys.executable, "-c", "pass"], os.environ) and not WARM.takes(["deepspeed", "lcl/pretrain.py"], os.environ)
