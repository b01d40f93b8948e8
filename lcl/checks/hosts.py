"""Several processes or hosts together: they are started, talk to each other, and what each found becomes findings.

    two local processes, or one by ssh on each host --> lcl/checks/peer.py --a line of JSON each--> findings
"""

import json
import os
import secrets
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lcl.checks.finding import Finding

LINE = "LCL-DOCTOR "  # what a rank's answer begins with, among whatever else a shell prints
TOKEN = "LCL_DOCTOR_TOKEN"  # in the environment of the ranks: in the names of the files of this look
SKEW_SECONDS = 1.0  # files are compared by their times, and logs of hosts by theirs
SLOW_BYTES = 100e6  # a second: gigabit Ethernet's
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PASSED = ("OMP_NUM_THREADS", "PYTHONPATH", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "NCCL_DEBUG", "NCCL_IB_DISABLE")  # to other hosts, where they are set

Answer = Mapping[str, Any]


def ask_local(*, shared: str, seconds: float, ranks: int = 2) -> list[Answer]:
    """What processes on this machine find together."""
    return _ask([[sys.executable, "-m", "lcl.checks.peer", shared, str(seconds)]] * ranks, "127.0.0.1", _free_port(), seconds)


def ask_hosts(hosts: Sequence[str], *, ssh: str, python: str, port: int, shared: str, seconds: float) -> list[Answer]:
    """What one process on each host finds, the first host's being rank 0. They are started by `ssh HOST COMMAND`; Python is `python` there."""
    token, commands = secrets.token_hex(6), []
    for rank in range(len(hosts)):
        settings = {name: os.environ[name] for name in PASSED if name in os.environ}
        settings |= {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(len(hosts)), "MASTER_ADDR": hosts[0].rpartition("@")[2], "MASTER_PORT": str(port), TOKEN: token}
        words = ["env", *(f"{name}={value}" for name, value in settings.items()), python, "-m", "lcl.checks.peer", shared, str(seconds)]
        commands.append([*shlex.split(ssh), hosts[rank], " ".join(map(shlex.quote, words))])
    return _ask(commands, "", 0, seconds)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _ask(commands: Sequence[Sequence[str]], address: str, port: int, seconds: float) -> list[Answer]:
    """The answer of each command, in order; one that gives none has a `problem`. With an address the commands are ranks on this machine."""
    common = {name: value for name, value in os.environ.items() if name not in LAUNCHED} | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    if address:
        common |= {"WORLD_SIZE": str(len(commands)), "MASTER_ADDR": address, "MASTER_PORT": str(port), TOKEN: secrets.token_hex(6)}
    processes = [
        subprocess.Popen(
            command, env=common | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if address else {}), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        for rank, command in enumerate(commands)
    ]  # fmt: skip
    answers: list[Answer] = []
    try:
        for rank, process in enumerate(processes):
            try:
                said, complained = process.communicate(timeout=3 * seconds + 60)  # to start, to meet, to compute
            except subprocess.TimeoutExpired:
                answers.append({"rank": rank, "host": "", "problem": "gave no answer"})
                continue
            line = next((line for line in said.splitlines() if line.startswith(LINE)), None)
            last = (complained.strip().splitlines() or ["nothing"])[-1]
            answers.append(json.loads(line[len(LINE) :]) if line else {"rank": rank, "host": "", "problem": f"status {process.returncode}, said: {last[:300]}"})
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return answers


def findings_of(answers: Sequence[Answer], names: Sequence[str]) -> Iterator[Finding]:
    """What the answers say of the network, the clocks, the versions and the storage; `names` are the ranks' names for people."""
    failed = [answer for answer in answers if answer.get("problem")]
    if failed:
        said = "; ".join(f"{names[answer['rank']]}: {answer['problem']}" for answer in failed)
        yield Finding(
            "collective", "failed", said,
            "each host must reach the first one's --port and all others' ports: check names, firewalls and interfaces (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME), "
            "and that ssh HOST works without a password and finds the same environment (--python)",
        )  # fmt: skip
        return
    yield _collective(answers, names)
    yield _clocks(answers, names)
    yield _versions(answers, names)
    if "storage" in answers[0]:
        yield _storage(answers, names)


def _collective(answers: Sequence[Answer], names: Sequence[str]) -> Finding:
    wrong = [names[answer["rank"]] for answer in answers if not answer["sum_is_right"]]
    rate = min(answer["bytes_per_second"] for answer in answers)
    found = f"{len(answers)} ranks by {answers[0]['backend']} on {', '.join(sorted({answer['host'] for answer in answers}))}: all-reduce of {rate / 1e6:.3g} MB/s"
    if wrong:
        return Finding("collective", "failed", f"the sum is wrong on {', '.join(wrong)}", "take that host out: its memory, network card or driver changes numbers")
    if rate < SLOW_BYTES and len({answer["host"] for answer in answers}) > 1:
        return Finding("collective", "warning", found, "is this the fast network? Choose it with GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME; `lcl plan --machine.network-gbit` says what is lost")
    return Finding("collective", "ok", found)


def _clocks(answers: Sequence[Answer], names: Sequence[str]) -> Finding:
    off = {names[answer["rank"]]: answer["clock_seconds"] for answer in answers if abs(answer["clock_seconds"]) - answer["clock_within_seconds"] > SKEW_SECONDS}
    if off:
        said = ", ".join(f"{name} is {abs(seconds):.1f} s {'ahead' if seconds > 0 else 'behind'}" for name, seconds in off.items())
        return Finding("clocks", "failed", f"{said} of {names[0]}", "let chrony or systemd-timesyncd keep the time on every host (timedatectl set-ntp true)")
    most = max(abs(answer["clock_seconds"]) for answer in answers)
    return Finding("clocks", "ok", f"at most {most * 1e3:.3g} ms apart")


def _versions(answers: Sequence[Answer], names: Sequence[str]) -> Finding:
    first = answers[0]["versions"]
    other = [
        f"{names[answer['rank']]} has {package} {answer['versions'].get(package, 'not')}, {names[0]} {first.get(package, 'not')}"
        for answer in answers for package in sorted(first | answer["versions"]) if answer["versions"].get(package) != first.get(package)
    ]  # fmt: skip
    if other:
        return Finding("same versions", "failed", "; ".join(other[:4]), "install with constraints.txt on every host, or use one environment on shared storage (--python)")
    return Finding("same versions", "ok", f"torch {first.get('torch')}, lcl {first.get('lcl')} on all ranks")


def _storage(answers: Sequence[Answer], names: Sequence[str]) -> Finding:
    folder = answers[0]["storage"]["folder"]
    failed = [f"{names[answer['rank']]}: {answer['storage']['problem']}" for answer in answers if answer["storage"]["problem"]]
    if failed:
        return Finding("shared storage", "failed", "; ".join(failed), f"make {folder} on every host, with the right to write, rename and fsync there, and room")
    unseen = [f"{names[answer['rank']]} does not see what {', '.join(names[one] for one in answer['storage']['unseen'])} wrote" for answer in answers if answer["storage"]["unseen"]]
    if unseen:
        return Finding("shared storage", "failed", f"{folder}: {'; '.join(unseen)}", "mount the same file system there on every host; on NFS without a cache of names (lookupcache=positive, actimeo low)")
    slowest = max(answer["storage"]["write_seconds"] for answer in answers)
    return Finding("shared storage", "ok", f"{folder} is seen by all ranks; a small file is written, fsynced and renamed in {slowest * 1e3:.3g} ms")
