"""Entry points of the project, run by a study as a user would, one thread each."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def command(script: str, *arguments: Any) -> None:
    """Raises ValueError with its last line if the command fails."""
    done = subprocess.run([sys.executable, ROOT / script, *map(str, arguments)], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise ValueError(f"{script} failed: {done.stderr.strip().splitlines()[-1:]}")
