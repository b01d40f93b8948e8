"""This process's environment: Python, packages, GPUs, disk, limits."""

import os
import re
import resource
import shutil
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

from packaging.requirements import Requirement

from lcl.checks.finding import Finding

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"  # of a checkout; an installed wheel has none
FEW_FILES, FEW_BYTES = 4096, 10e9
SHARED_MEMORY_BYTES = 1e9  # loader processes hand batches on through it; a container's default of 64 MB is too small for them


def check_environment(folders: Mapping[str, Path]) -> Iterator[Finding]:
    """All of the below; `folders` are those that will be written to, by the flag that names them."""
    yield check_python()
    yield check_packages(_installed(), _pinned(CONSTRAINTS.read_text() if CONSTRAINTS.exists() else ""))
    yield check_gpus()
    yield check_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    yield check_shared_memory(Path("/dev/shm"))
    yield check_threads(os.environ, os.cpu_count() or 1)
    for flag, folder in folders.items():
        yield check_free_disk(flag, folder)


def check_python() -> Finding:
    found = f"Python {sys.version.split()[0]} in {sys.prefix}"
    if sys.version_info < (3, 11):
        return Finding("python", "failed", found, "install Python 3.11 or newer and make the environment again (make setup PYTHON=python3.12)")
    return Finding("python", "ok", found)


def check_packages(installed: Mapping[str, str], pinned: Mapping[str, str]) -> Finding:
    """Versions against the limits in this package's metadata (a failure outside of them) and against constraints.txt (a warning)."""
    wrong, missing, other = [], [], []
    for line in metadata("lcl").get_all("Requires-Dist") or []:
        requirement = Requirement(line)
        name = requirement.name.lower().replace("_", "-")
        if requirement.marker is not None and not any(requirement.marker.evaluate({"extra": extra}) for extra in ("", "data", "train")):
            continue
        if name not in installed:
            missing.append(requirement.name)
        elif installed[name] not in requirement.specifier:
            wrong.append(f"{requirement.name} {installed[name]}, which must be {requirement.specifier}")
        elif name in pinned and installed[name].partition("+")[0] != pinned[name]:
            other.append(f"{requirement.name} {installed[name]}, tested with {pinned[name]}")
    again = "pip install -c constraints.txt -e '.[all]' (make setup)"
    if wrong:
        return Finding("packages", "failed", "; ".join(wrong), again)
    if other or missing:
        return Finding("packages", "warning", "; ".join([*other, *(f"{name} is not installed" for name in dict.fromkeys(missing))]), f"if something fails: {again}")
    return Finding("packages", "ok", "versions are those of constraints.txt" if pinned else "versions are within their limits")


def _installed() -> dict[str, str]:
    """Versions of what this package asks for, by normalised name."""
    found = {}
    for line in metadata("lcl").get_all("Requires-Dist") or []:
        name = Requirement(line).name
        try:
            found[name.lower().replace("_", "-")] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _pinned(constraints: str) -> dict[str, str]:
    return {name.lower().replace("_", "-"): pinned for name, pinned in re.findall(r"^([\w.-]+)==([\w.+!]+)", constraints, re.MULTILINE)}


def check_gpus() -> Finding:
    import torch

    if not torch.cuda.is_available():
        if torch.version.cuda and shutil.which("nvidia-smi"):
            return Finding("gpus", "failed", "nvidia-smi is here, but PyTorch sees no GPU", "look at `nvidia-smi`: the driver must be at least that of PyTorch's CUDA " + torch.version.cuda)
        return Finding("gpus", "note", "none: training runs on the CPU, with gloo")
    named = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    found = ", ".join(f"{one.name} {one.total_memory / 2**30:.0f} GiB" for one in named)
    if len({one.name for one in named}) > 1:
        return Finding("gpus", "warning", found, "ranks wait for the slowest: choose equal GPUs with CUDA_VISIBLE_DEVICES")
    return Finding("gpus", "ok", found)


def check_open_files(limit: int) -> Finding:
    if limit < FEW_FILES and limit != resource.RLIM_INFINITY:
        cure = f"ulimit -n {FEW_FILES * 16} before the command (LimitNOFILE in a unit of systemd, or /etc/security/limits.conf)"
        return Finding("open files", "warning", f"at most {limit} in a process; Ray and loaders with many shards open thousands", cure)
    return Finding("open files", "ok", f"at most {limit} in a process")


def check_shared_memory(folder: Path) -> Finding:
    if not folder.is_dir():
        return Finding("/dev/shm", "note", "not there; loader processes and Ray's objects use files instead")
    size, free = (getattr(shutil.disk_usage(folder), name) for name in ("total", "free"))
    found = f"{free / 1e9:.3g} of {size / 1e9:.3g} GB free"
    if free < SHARED_MEMORY_BYTES:
        return Finding("/dev/shm", "warning", found, "docker run --shm-size 8g, in Kubernetes an emptyDir of medium Memory at /dev/shm, or --data.num-workers 0")
    return Finding("/dev/shm", "ok", found)


def check_threads(environment: Mapping[str, str], cores: int) -> Finding:
    set_to = environment.get("OMP_NUM_THREADS")
    if set_to is None:
        return Finding("threads", "warning", f"OMP_NUM_THREADS is not set, so each process may take all {cores} cores", "export OMP_NUM_THREADS=1: ranks that share cores are many times slower")
    return Finding("threads", "ok", f"OMP_NUM_THREADS={set_to}, {cores} cores")


def check_free_disk(flag: str, folder: Path) -> Finding:
    if flag == "--shared" and not folder.is_dir():  # a run's folder is made by the run
        return Finding(f"disk {flag}", "failed", f"{folder} is no folder on this machine", "mount it, or give the folder that all machines share")
    there = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.is_dir())
    free = shutil.disk_usage(there).free
    found = f"{free / 1e9:.4g} GB free for {flag} {folder}"
    if not os.access(there, os.W_OK):
        return Finding(f"disk {flag}", "failed", f"{there} cannot be written by this user", f"give another {flag}, or the right to write there")
    if free < FEW_BYTES:
        return Finding(f"disk {flag}", "warning", found, f"make room, or give another {flag}; `lcl plan` says what checkpoints and shards take")
    return Finding(f"disk {flag}", "ok", found)
