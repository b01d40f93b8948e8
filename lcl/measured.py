"""What a benchmark or a row of a study leaves behind: its numbers, and all that one needs to judge them and to make them again."""

import os
import platform
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lcl.core.config import commit, to_dict, versions
from lcl.core.files import write_json
from lcl.flops import peak_flops


def write_result(path: Path, settings: Any, measured: Mapping[str, Any]) -> None:
    """Writes `measured` with the config, the command, the commit, the versions and the machine; `load` is the load average at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    write_json(
        path,
        {
            "benchmark": Path(sys.argv[0]).stem, "measured": dict(measured), "config": to_dict(settings), "command": command, "commit": commit(),
            "versions": versions(), "machine": machine(), "load": round(os.getloadavg()[0], 1), "finished": time.strftime("%FT%TZ", time.gmtime()),
        },
    )  # fmt: skip


def machine() -> dict[str, Any]:
    """Processor, its cores, threads in use; and the GPU with its memory and its peak in bf16, where there is one."""
    found: dict[str, Any] = {"processor": _processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
        properties = torch.cuda.get_device_properties(device)
        found |= {"gpu": properties.name, "gpu_gib": round(properties.total_memory / 2**30, 1), "gpu_peak_flops": peak_flops(device, precision="bf16")}
    return found


def _processor() -> str:
    description = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.+)", description.read_text()) if description.exists() else None
    return named[1] if named else platform.machine()
