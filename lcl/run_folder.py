"""The folder of a run: whose it is, who writes into it, and how the run ended."""

import fcntl
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lcl.core.config import to_dict, write_run_record
from lcl.core.files import read_json, write_json
from lcl.distributed import from_rank_0, raise_together, slowly_together
from lcl.run_mirror import RunMirror
from lcl.step_folders import checkpoints

LOCK, STATUS, METRICS = ".lock", "status.json", "metrics.jsonl"

log = logging.getLogger(__name__)


class Input(NamedTuple):
    """What a run reads: it must be the same when the run is resumed."""

    fingerprint: str
    name: str
    """For people: "the shards in a, b"."""


def claim_folder(run: Path, config: Any, *, inputs: Mapping[str, Input], free: Sequence[str], rank: int, mirror: RunMirror | None = None) -> None:
    """Writes run.json into an empty folder, or checks that the one there is of the same run and inputs; holds the run's lock.

    `free` are dotted fields that may differ when a run is resumed; one that ends in a point stands for all below it. Where the `mirror` is further than the folder, its
    run.json and newest checkpoint are fetched.
    Raises ValueError, on all ranks, if the folder holds something else, if another process trains in it, and if ranks read other inputs than rank 0.
    """
    of_rank_0 = from_rank_0({key: given.fingerprint for key, given in inputs.items()})
    other = [given.name for key, given in inputs.items() if given.fingerprint != of_rank_0[key]]
    raise_together(f"{', '.join(other)}: not the same as on rank 0, or changed since it looked; run again when they are" if other else None)
    slowly_together(lambda: _claim(run, config, inputs=inputs, free=free, mirror=mirror) if rank == 0 else None)


def _claim(run: Path, config: Any, *, inputs: Mapping[str, Input], free: Sequence[str], mirror: RunMirror | None = None) -> None:
    if run.exists() and not run.is_dir():
        raise ValueError(f"--output {run} is a file; give a folder")
    record = run / "run.json"
    if not record.exists() and run.is_dir() and any(path.name != LOCK for path in run.iterdir()):
        holds = "holds checkpoints and no run.json, which says of what run: restore it from a copy" if checkpoints(run) else "is not empty and holds no training run"
        raise ValueError(f"{run} {holds}. Give another --output.")
    if record.exists() and "optimizer" not in read_json(record).get("config", {}):
        raise ValueError(f"{run} holds no training run: its run.json is of another command. Give another --output.")
    run.mkdir(parents=True, exist_ok=True)
    _lock(run)
    begun = bool(checkpoints(run)) or (run / METRICS).exists()
    if (mirror is not None and mirror.take_record(begun=begun)) or begun:
        held_by, flag = (str(run), "--output") if begun or mirror is None else (f"the mirror {mirror.address}", "--mirror")
        try:
            _check_same_run(run, config, inputs=inputs, free=free, held_by=held_by, flag=flag)
        except ValueError:
            if not begun:
                record.unlink()  # it is the mirror's
            raise
        if mirror is not None:
            mirror.fetch_newer()
        _check_progress(run)
    else:  # also in the place of a run that made no step: a mistake in its options must not cost the folder
        write_run_record(run, config, **{key: given.fingerprint for key, given in inputs.items()})
    if mirror is not None:
        mirror.claim()


def write_status(run: Path, *, step: int, finished: bool) -> None:
    """Writes status.json, by which a batch script knows whether to submit the same command again."""
    write_json(run / STATUS, {"step": step, "finished": finished})


def is_finished(run: Path) -> bool:
    """Whether the training in this folder came to its last step."""
    return (run / STATUS).exists() and read_json(run / STATUS)["finished"]


def _check_progress(run: Path) -> None:
    """Raises ValueError where checkpoints must have been and are no more; says where a run died before its first."""
    if checkpoints(run):
        return
    if (run / STATUS).exists():
        raise ValueError(f"{run} was trained to step {read_json(run / STATUS)['step']}, but holds no checkpoint (step-N) any more: restore one, or give another --output")
    log.warning("%s holds no checkpoint: it ended before its first, and starts at step 0 again", run)


def _lock(run: Path) -> None:
    """Holds the run's lock until this process ends. Raises ValueError if another process holds it."""
    descriptor = os.open(run / LOCK, os.O_CREAT | os.O_RDWR, 0o644)  # left open on purpose: closing it would give the lock back
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ValueError(f"another process is training in {run}; wait for it, or end it") from error


def is_free(key: str, free: Sequence[str]) -> bool:
    """Whether the field of this dotted name is one of `free`."""
    return any(key == one or (one.endswith(".") and key.startswith(one)) for one in free)


def _check_same_run(run: Path, config: Any, *, inputs: Mapping[str, Input], free: Sequence[str], held_by: str, flag: str) -> None:
    record = read_json(run / "run.json")
    then, now = dict(_flat(record["config"])), dict(_flat(to_dict(config)))
    changed = [key for key in sorted(then | now) if then.get(key) != now.get(key) and not is_free(key, free)]
    if changed:
        listed = ", ".join(f"{key} was {then.get(key)}, is {now.get(key)}" for key in changed[:3]) + (f", and {len(changed) - 3} more" if len(changed) > 3 else "")
        raise ValueError(f"{held_by} holds another run ({listed}). Give another {flag}, or the same options to resume it.")
    for key, given in inputs.items():
        if record[key] != given.fingerprint:
            raise ValueError(f"{given.name}: not what the run in {held_by} was started with. Give another {flag}, or restore it.")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
