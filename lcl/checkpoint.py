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
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors.torch import save_file

from lcl.core.config import to_dict
from lcl.core.files import read_json, sha256_of, sync_folder, write_json
from lcl.distributed import from_rank_0, gather_objects
from lcl.loader import RowLoader
from lcl.model import ModelConfig

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"


def step_folder(run: Path, step: int) -> Path:
    return run / f"step-{step:06d}"


def save_checkpoint(
    run: Path, engine: Any, loader: RowLoader, *, step: int, counters: Mapping[str, float], model: ModelConfig, tokenizer: str, keep: int
) -> Path:
    """Writes `step-N` on all ranks together and removes all but the newest `keep`. Returns its folder."""
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
        write_json(aside / "config.json", {"model": to_dict(model), "tokenizer": tokenizer})
        write_json(aside / "loader.json", RowLoader.merge_states(loader_states))
        write_json(aside / "state.json", {"step": step, "counters": dict(counters)})
        _commit(aside, final)
        for old in sorted(run.glob("step-*"))[:-keep]:
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


def newest_valid(run: Path) -> Path | None:
    """The newest checkpoint of the run whose checksums hold; those passed over are said aloud. None if there is none at all.

    Raises ValueError if there are checkpoints and every one is damaged.
    """
    folders = sorted(run.glob("step-*"), reverse=True)
    for folder in folders:
        try:
            check_folder(folder)
            return folder
        except ValueError as error:
            log.warning("%s; going back to the one before", error)
    if folders:
        raise ValueError(f"every checkpoint in {run} is damaged; restore one from a copy, or give another --output to start anew")
    return None


def load_checkpoint(run: Path, engine: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Puts the newest valid checkpoint into the engine; returns its state and the loader's, or None if there is none."""
    found: Path | str | None = None
    if dist.get_rank() == 0:
        try:
            found = newest_valid(run)
        except ValueError as error:
            found = str(error)
    found = from_rank_0(found)
    if isinstance(found, str):
        raise ValueError(found)
    if found is None:
        return None
    engine.load_checkpoint(str(found), tag="engine")  # unpickles: only what this run wrote and its checksums vouch for
    return read_json(found / "state.json"), read_json(found / "loader.json")
