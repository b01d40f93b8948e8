"""Checkpoints that are complete or invisible.

    RUN/step-000100/engine/            weights, optimiser and schedule, by DeepSpeed
                    model.safetensors  weights alone
                    config.json        the model's config and the tokenizer's fingerprint
                    loader.json        where each lane is
                    state.json         step and counters
                    manifest.json      the SHA-256 of every file above

All is written into a hidden folder, hashed, fsynced and then renamed, so a folder called step-N is whole unless something
damaged it later: that is found by its checksums, and the newest valid one is used. There is no pointer file.
"""

import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors.torch import save_file

from lcl.core.config import to_dict
from lcl.core.files import read_json, sha256_of, sync_folder, write_json
from lcl.core.tokenizer import Tokenizer
from lcl.distributed import from_rank_0, gather_objects
from lcl.loader import RowLoader
from lcl.model import ModelConfig

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STEP_FOLDER = re.compile("step-[0-9]+")


def step_folder(run: Path, step: int) -> Path:
    return run / f"step-{step:06d}"


def checkpoint_identity(model: ModelConfig, tokenizer: Tokenizer, zero_stage: int) -> dict[str, Any]:
    """What a checkpoint and a run must have in common: `config.json`."""
    return {"model": to_dict(model), "tokenizer": tokenizer.fingerprint, "zero_stage": zero_stage, "ranks": dist.get_world_size() if zero_stage else None}


def save_checkpoint(run: Path, engine: Any, loader: RowLoader, *, step: int, counters: Mapping[str, float], identity: Mapping[str, Any], keep: int) -> Path:
    """Writes `step-N` on all ranks together and removes those behind it and all but the `keep` before it. Returns its folder."""
    rank = dist.get_rank()
    final, aside = step_folder(run, step), run / f".step-{step:06d}.tmp"
    if rank == 0:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    dist.barrier()
    engine.save_checkpoint(str(aside), tag="engine", save_latest=False)
    loader_states = gather_objects(loader.state())
    dist.barrier()
    if rank == 0:
        weights = {name: value.detach().float().cpu().contiguous() for name, value in engine.module.state_dict().items()}
        save_file(weights, aside / "model.safetensors")
        write_json(aside / "config.json", identity)
        write_json(aside / "loader.json", RowLoader.merge_states(loader_states))
        write_json(aside / "state.json", {"step": step, "counters": dict(counters)})
        _commit(aside, final)
        folders = checkpoints(run)
        newest = folders.index(final)
        for old in folders[newest + 1 :] + folders[: max(0, newest + 1 - keep)]:  # a later one was damaged, and passed over
            shutil.rmtree(old)
    dist.barrier()
    return final


def _commit(aside: Path, final: Path) -> None:
    files = sorted(path for path in aside.rglob("*") if path.is_file())
    for path in files:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    write_json(aside / MANIFEST, {"sha256": {str(path.relative_to(aside)): sha256_of(path) for path in files}})
    if final.exists():  # a damaged one that was passed over, and is now made again
        shutil.rmtree(final)
    os.replace(aside, final)
    sync_folder(final.parent)


def check_folder(folder: Path) -> None:
    """Raises ValueError naming the first file of the checkpoint that is missing or does not give its checksum."""
    if not (folder / MANIFEST).exists():
        raise ValueError(f"{folder} is no checkpoint: it has no {MANIFEST}")
    for name, checksum in read_json(folder / MANIFEST)["sha256"].items():
        path = folder / name
        if not path.exists():
            raise ValueError(f"{path} is missing")
        if sha256_of(path) != checksum:
            raise ValueError(f"{path} is damaged: its bytes do not give the checksum in {MANIFEST}")


def checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run by step, valid or not."""
    found = {int(path.name.removeprefix("step-")): path for path in run.glob("step-*") if STEP_FOLDER.fullmatch(path.name) and path.is_dir()}
    return [found[step] for step in sorted(found)]


def newest_valid(run: Path) -> Path | None:
    """The newest checkpoint of the run whose checksums hold; those passed over are said aloud. None if there is none at all.

    Raises ValueError if there are checkpoints and every one is damaged.
    """
    folders = checkpoints(run)
    for folder in reversed(folders):
        try:
            check_folder(folder)
            return folder
        except ValueError as error:
            log.warning("%s; going back to the one before", error)
    if folders:
        raise ValueError(f"every checkpoint in {run} is damaged; restore one from a copy, or give another --output to start anew")
    return None


def load_checkpoint(run: Path, engine: Any, *, identity: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Puts the newest valid checkpoint into the engine; returns its state and the loader's, or None if there is none.

    Raises ValueError, on all ranks, if every checkpoint is damaged or if the newest is not of this model, tokenizer and sharding.
    """
    found: Path | str | None = None
    if dist.get_rank() == 0:
        try:
            found = newest_valid(run)
            if found is not None:
                _check_identity(found, identity)
        except (ValueError, OSError) as error:
            found = str(error)
    found = from_rank_0(found)
    if isinstance(found, str):
        raise ValueError(found)
    if found is None:
        return None
    engine.load_checkpoint(str(found), tag="engine")  # unpickles: only what this run wrote and its checksums vouch for
    return read_json(found / "state.json"), read_json(found / "loader.json")


def _check_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    record = read_json(folder / "config.json")
    changed = [key for key, value in identity.items() if record.get(key) != value]
    if changed == ["ranks"]:
        raise ValueError(
            f"{folder} was written by {record['ranks']} ranks, this run has {identity['ranks']}: with ZeRO the number must stay. "
            "Take as many ranks, or --zero-stage 0 from the start."
        )
    if changed:
        raise ValueError(f"{folder} is a checkpoint of another {' and '.join(changed)}; remove it from this run, or give another --output")
