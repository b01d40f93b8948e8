"""Stages of a chain: commands of this project, as a person would type them, each stage done once.

    stage --its commands, one after the other--> what it makes --> OUTPUT/stages/NAME.json: commands, seconds, commit

One that is done has its record, and is done again if its commands have changed, or what it reads was made anew; one that was interrupted continues by its commands' own means. So the
same command again does what is left.
"""

import logging
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from lcl.commands import execute, free_port
from lcl.core.config import commit
from lcl.core.files import read_json, write_json
from lcl.core.logs import duration
from lcl.ray_head import RayHead, ray_head
from lcl.run_folder import is_finished

log = logging.getLogger(__name__)

Words = tuple[str, ...]
RAY, PORT = "{ray}", "{port}"  # known when the command runs


@dataclass(frozen=True)
class Stage:
    name: str
    says: str
    commands: tuple[Words, ...]
    needs_ray: bool = False
    makes: str = ""
    """A file without which it is not done."""
    trains: Words = ()
    """Folders of trainings, without whose last step it is not done: one that is told to stop ends well."""


def python(script: str, *words: str) -> Words:
    return (sys.executable, script, *words)


def deepspeed(script: str, *words: str, ranks: int) -> Words:
    return ("deepspeed", "--num_gpus", str(ranks), "--master_port", PORT, script, *words)


def ray_job(script: str, *words: str) -> Words:
    return ("ray", "job", "submit", "--address", RAY, "--working-dir", ".", "--", sys.executable, script, *words)


def run_stages(stages: Sequence[Stage], output: Path, *, only: Sequence[str] = ()) -> None:
    """Those that are not done, in their order; of the names in `only`, if there are any. Raises ValueError as `run_stage`, and for a name that there is not."""
    unknown = sorted(set(only) - {stage.name for stage in stages})
    if unknown:
        raise ValueError(f"--stages {' '.join(unknown)}: there are {', '.join(stage.name for stage in stages)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped on the way out
    chosen = [stage for stage in stages if not only or stage.name in only]
    left = [stage for stage in left_of(stages, output) if stage in chosen]
    for stage in chosen:
        if stage not in left:
            log.info("=== %s: done", stage.name)
    started = time.perf_counter()
    for number, stage in enumerate(left, start=1):
        log.info("=== %d of %d, %s: %s", number, len(left), stage.name, stage.says)
        run_stage(stage, output)
    log.info("=== %d stage%s in %s: %s", len(left), "s" * (len(left) != 1), duration(time.perf_counter() - started), output)


def in_words(stages: Sequence[Stage], output: Path) -> str:
    """What would be done, for people: each stage, whether it is done, and its commands."""
    lines = []
    for stage in stages:
        lines += [f"{stage.name}{' (done)' if is_done(stage, output) else ''}: {stage.says}", *(f"  $ {shlex.join(command)}" for command in stage.commands)]
    return "\n".join(lines)


def left_of(stages: Sequence[Stage], output: Path) -> list[Stage]:
    """Those that are not done, and those that read what these make: they have no record any more."""
    left: list[Stage] = []
    for stage in stages:
        if stale := any(reads(stage, earlier) for earlier in left):
            record_of(stage, output).unlink(missing_ok=True)
        if stale or not is_done(stage, output):
            left.append(stage)
    return left


def reads(stage: Stage, earlier: Stage) -> bool:
    """Whether a command of the stage names what a command of the earlier one has as its --output."""
    made = {command[command.index("--output") + 1] for command in earlier.commands if "--output" in command}
    return any(word == one or word.startswith(f"{one}/") for command in stage.commands for word in command for one in made)


def record_of(stage: Stage, output: Path) -> Path:
    return output / "stages" / f"{stage.name}.json"


def is_done(stage: Stage, output: Path) -> bool:
    record = record_of(stage, output)
    return record.exists() and read_json(record)["commands"] == [list(command) for command in stage.commands] and not missing_of(stage)


def missing_of(stage: Stage) -> str:
    """The first of its files that is not there, and of its trainings that is not finished; empty if there is none."""
    if stage.makes and not Path(stage.makes).exists():
        return stage.makes
    return next((name for name in stage.trains if not is_finished(Path(name))), "")


def run_stage(stage: Stage, output: Path) -> None:
    """Raises ValueError if one of its commands fails, or was stopped before its end."""
    output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    head: AbstractContextManager[RayHead | None] = ray_head(output) if stage.needs_ray else nullcontext()
    with head as ray:
        for command in stage.commands:
            known = {PORT: str(free_port()), RAY: "" if ray is None else ray.jobs}
            execute([known.get(word, word) for word in command], variables=None if ray is None else ray.environment)
    if missing := missing_of(stage):
        raise ValueError(f"{stage.name} was stopped before it finished {missing}; the same command again continues from there")
    record = record_of(stage, output)
    record.parent.mkdir(exist_ok=True)
    write_json(record, {"commands": stage.commands, "seconds": round(time.perf_counter() - started), "commit": commit()})
