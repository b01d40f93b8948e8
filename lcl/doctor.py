"""Entry point: what is wrong with this machine, with several hosts together, or with a running training, and what to mend.

    lcl doctor --shared /data                                    this machine, and two processes on it
    lcl doctor --hosts node1 node2 --shared /data                a real collective, the storage and the clocks of two hosts, by ssh
    lcl doctor --run /runs/b32                                   which rank of a running training is late

The exit status is 1 if a check failed.
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lcl.checks.finding import Finding, lines_of
from lcl.core.config import config, run_command

Part = Literal["environment", "ray", "processes"]


@config
class DoctorConfig:
    run: str = ""
    """Folder of a training run: only its ranks are looked at."""
    hosts: tuple[str, ...] = ()
    """Hosts for a collective, one process on each, by ssh; none: two processes on this machine."""
    shared: str = ""
    """Folder that all hosts must see, for shards, checkpoints or both; empty: not looked at."""
    parts: tuple[Part, ...] = ("environment", "ray", "processes")
    """environment: packages, GPUs, limits, disk. ray: who may use it. processes: a collective, storage, clocks."""
    ray: str = "http://127.0.0.1:8265"
    """Address of Ray's dashboard, which is asked for its jobs without a token."""
    ssh: str = "ssh -o BatchMode=yes -o ConnectTimeout=10"
    """Command before HOST COMMAND."""
    python: str = sys.executable
    """Python on the hosts."""
    port: Annotated[int, Field(ge=1, le=65535)] = 29561
    """Port of the first host on which the others meet it."""
    seconds: Annotated[float, Field(gt=0)] = 60.0
    """Seconds that a collective may take."""
    json: bool = False
    """Print JSON instead of lines."""


def main(settings: DoctorConfig) -> None:
    findings = list(examine(settings))
    failed = any(one.status == "failed" for one in findings)
    print(json.dumps({"schema": "lcl-doctor/1", "ok": not failed, "findings": [asdict(one) for one in findings]}, indent=1) if settings.json else "\n".join(lines_of(findings)))
    sys.exit(int(failed))


def examine(settings: DoctorConfig) -> Iterator[Finding]:
    """Every finding that was asked for. Raises ValueError for one host, and for a run without heartbeats."""
    from lcl.checks.environment import check_environment
    from lcl.checks.hosts import ask_hosts, ask_local, findings_of
    from lcl.checks.ray_access import check_ray
    from lcl.checks.run import check_run

    if len(settings.hosts) == 1:
        raise ValueError(f"--hosts {settings.hosts[0]}: a collective takes two hosts or more; leave the option out for two processes on this machine")
    if settings.run:
        yield from check_run(Path(settings.run))
        return
    if "environment" in settings.parts:
        yield from check_environment({"--shared": Path(settings.shared)} if settings.shared else {})
    if "ray" in settings.parts:
        yield from check_ray(settings.ray, environment=os.environ)
    if "processes" in settings.parts:
        if settings.hosts:
            answers = ask_hosts(settings.hosts, ssh=settings.ssh, python=settings.python, port=settings.port, shared=settings.shared, seconds=settings.seconds)
        else:
            answers = ask_local(shared=settings.shared, seconds=settings.seconds)
        yield from findings_of(answers, list(settings.hosts) or [f"process {rank}" for rank in range(len(answers))])


if __name__ == "__main__":
    run_command(DoctorConfig, main, description=__doc__.splitlines()[0])
