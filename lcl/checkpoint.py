"""Checkpoints that are complete or invisible.

    RUN/step-000100/engine/            weights, optimiser and random generators, in files of each rank (DeepSpeed's, and ours)
                    model.safetensors  whole weights in fp32
                    NAME.safetensors   further weights that were saved under this name (an average)
                    config.json        the model's config, the tokenizer's fingerprint, ZeRO stage, precision and number of ranks
                    loader.json        where each lane is
                    state.json         step, and what else the training loop knows
                    manifest.json      the SHA-256 of every file above

    training waits     DeepSpeed --> scratch folder of each rank; whole weights and states --> memory of rank 0
    a thread per rank  scratch --copied, hashed, fsynced, read again--> RUN/.step-000100.TOKEN.tmp --> receipt of the rank
    that of rank 0     waits for every receipt --> manifest --> renamed to step-000100 --> old checkpoints go, the mirror hears of it (lcl/run_mirror.py)

A folder called step-N is whole unless something damaged it later: that is found by its checksums, and the newest valid one is
used. There is no pointer file. Threads tell each other by files, for collectives belong to the training.
"""

import contextlib
import copy
import hashlib
import io
import json
import logging
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from lcl.core.config import to_dict
from lcl.core.files import read_json, sha256_of, sync_folder, write_json
from lcl.core.tokenizer import TOKENIZER_FILE, Tokenizer
from lcl.distributed import from_rank_0, gather_objects, join_together, say, slowly_together
from lcl.engine import EngineConfig, full_weights
from lcl.model import ModelConfig
from lcl.run_mirror import RunMirror
from lcl.step_folders import MANIFEST, checkpoints, newest_valid, step_folder

log = logging.getLogger(__name__)

ASIDE_FOLDER = re.compile(r"\.step-[0-9]+\.[0-9a-f]{12}\.tmp")
CONVERTED_FOLDER = re.compile(r"\.universal-[0-9a-f]{12}\.tmp")
CHUNK_BYTES = 1 << 24
RECEIPT_SECONDS = 1800.0  # a rank whose part is not there after this long is given up
LAST_SECONDS = 30.0  # the same when this process is only waiting to end: another rank may have been killed


def scratch_prefix(run: Path) -> str:
    """What the names of a run's scratch folders begin with, and those of no other run."""
    return f"lcl-{hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:12]}-"


def checkpoint_identity(model: ModelConfig, tokenizer: Tokenizer, engine: EngineConfig) -> dict[str, Any]:
    """What a checkpoint and a run must have in common, but for the number of ranks: `config.json`."""
    settings = to_dict(model)
    if model.tokenizer.file:
        settings["tokenizer"]["file"] = TOKENIZER_FILE  # where the checkpoint keeps it; the fingerprint vouches for its content
    return {
        "model": settings, "tokenizer": tokenizer.fingerprint, "zero_stage": engine.zero_stage, "precision": engine.precision,
        "ranks": dist.get_world_size(),
    }  # fmt: skip


@dataclass(frozen=True)
class _Checkpoint:
    """What a rank's thread has to write; `files` and `weights` are those of rank 0."""

    step: int
    scratch: Path
    aside: Path
    files: Mapping[str, Any]
    weights: Mapping[str, Mapping[str, Tensor]]
    write_more: Callable[[Path], None] | None
    started: float
    waited_seconds: float


class Checkpointer:
    """Writes the checkpoints of a run, one at a time, while training goes on."""

    def __init__(
        self, run: Path, *, identity: Mapping[str, Any], keep: int, scratch: str = "", merge_states: Callable[[list[Any]], Any] = lambda states: states[0],
        mirror: RunMirror | None = None,
    ) -> None:
        """`scratch` is a folder on this machine ("": the system's for temporary files); `merge_states` makes one of the loaders' states of all ranks; `mirror` gets each checkpoint.
        All ranks together, while the run's lock is held: folders that killed processes of this run left behind are removed."""
        self._merge_states = merge_states
        self._run, self._identity, self._keep, self._mirror = run, identity, keep, mirror
        self._rank, self._num_ranks = dist.get_rank(), dist.get_world_size()
        self._scratch = Path(scratch or tempfile.gettempdir())
        self._prefix = scratch_prefix(run)
        self._thread: threading.Thread | None = None
        self._writing: _Checkpoint
        self._problem: str | None = None
        if self._rank == 0:
            _clear(run, ASIDE_FOLDER)
        _clear(self._scratch, re.compile(re.escape(self._prefix) + ".*"))
        dist.barrier()

    def save(
        self, engine: Any, loader_state: Mapping[str, Any], *, step: int, state: Mapping[str, Any], extra: Mapping[str, Mapping[str, Tensor]] | None = None,
        write_more: Callable[[Path], None] | None = None,
    ) -> None:
        """Takes the state of all ranks together and leaves the writing of `step-N` to a thread.

        `loader_state` is this rank's. `state` (JSON values), the tensors of `extra` (file name -> name -> tensor) and `write_more`, which a thread calls with the folder,
        are those of rank 0. Once the checkpoint is there, those behind it go, and all but the `keep` before it.
        Raises ValueError on all ranks if this state, or the checkpoint before, could not be written on any.
        """
        started, token = time.perf_counter(), from_rank_0(secrets.token_hex(6))
        self.finish()
        aside, scratch = self._run / f".step-{step:06d}.{token}.tmp", self._scratch / f"{self._prefix}{token}-{self._rank}"
        with self._problem_of_any_rank(aside, scratch):
            scratch.mkdir(mode=0o700, parents=True)
            (scratch / "engine").mkdir()
            if self._rank == 0:
                (aside / "engine").mkdir(parents=True)
        with self._problem_of_any_rank(aside, scratch):
            with _without_leaving_early(engine):
                engine.save_checkpoint(str(scratch), tag="engine", save_latest=False)
            (scratch / "engine" / _random_file(self._rank)).write_bytes(save(_random_state()))
        weights = {"model": full_weights(engine)}
        loader_states = gather_objects(loader_state)
        files: dict[str, Any] = {}
        if self._rank == 0:
            for name, tensors in (extra or {}).items():
                weights[name] = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in tensors.items()}
            files = {"config": self._identity, "loader": self._merge_states(loader_states), "state": {"step": step} | copy.deepcopy(dict(state))}
        checkpoint = _Checkpoint(step, scratch, aside, files, weights, write_more, started, time.perf_counter() - started)
        self._writing, self._problem = checkpoint, None
        self._thread = threading.Thread(target=self._write, args=[checkpoint], name=f"checkpoint-{step}")
        self._thread.start()

    def finish(self) -> None:
        """Waits for the checkpoint that is being written. Raises ValueError on all ranks if it could not be written on any."""
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        join_together(thread)
        with self._problem_of_any_rank(self._writing.aside):
            if self._problem:
                raise OSError(self._problem)

    def close(self) -> None:
        """Waits, behind the last `finish`, until the newest checkpoint is at the mirror too. Raises ValueError on all ranks if it cannot be put there."""
        mirror = self._mirror
        if mirror is not None:
            slowly_together(lambda: mirror.close() if self._rank == 0 else None)

    @contextlib.contextmanager
    def _problem_of_any_rank(self, *unfinished: Path) -> Iterator[None]:
        """An OSError inside, on any rank, becomes the same ValueError on all, and the `unfinished` folders go."""
        problem = None
        try:
            yield
        except OSError as error:
            problem = str(error)
        problems = [f"rank {rank}: {text}" for rank, text in enumerate(gather_objects(problem)) if text]
        if problems:
            for folder in unfinished:
                shutil.rmtree(folder, ignore_errors=True)
            raise ValueError(
                f"a checkpoint could not be written ({'; '.join(problems)}). Make room in {self._run} and {self._scratch}, or give another --scratch; "
                "the same command continues from the checkpoint before."
            )

    def _write(self, checkpoint: _Checkpoint) -> None:
        try:
            checksums = _copy_files(checkpoint.scratch / "engine", checkpoint.aside / "engine")
            if self._rank == 0:
                self._write_own(checkpoint)
                self._commit(checkpoint, checksums)
            else:
                write_json(_receipt(checkpoint.aside, self._rank), checksums)
        except Exception as error:  # whatever it is: the training thread raises it, on all ranks
            self._problem = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            log.warning("the checkpoint of step %d could not be written: %s", checkpoint.step, self._problem)
            with contextlib.suppress(OSError):  # the disk may be full even for an empty file: then rank 0 waits in vain
                _receipt(checkpoint.aside, self._rank).touch()
        finally:
            shutil.rmtree(checkpoint.scratch, ignore_errors=True)

    def _write_own(self, checkpoint: _Checkpoint) -> None:
        for name, value in checkpoint.files.items():
            write_json(checkpoint.aside / f"{name}.json", value)
        for name, tensors in checkpoint.weights.items():
            path = checkpoint.aside / f"{name}.safetensors"
            save_file(dict(tensors), path)
            path.chmod(0o644)  # safetensors makes files that only their owner may read
        if checkpoint.write_more is not None:
            checkpoint.write_more(checkpoint.aside)

    def _commit(self, checkpoint: _Checkpoint, checksums: Mapping[str, str]) -> None:
        aside, final = checkpoint.aside, step_folder(self._run, checkpoint.step)
        in_engine = dict(checksums)
        for rank in range(1, self._num_ranks):
            receipt = _receipt(aside, rank)
            in_engine |= _await_receipt(receipt)
            receipt.unlink()
        own = [path for path in aside.rglob("*") if path.is_file() and path.parent != aside / "engine"]
        for path in own:
            _sync_file(path)
        sums = {f"engine/{name}": value for name, value in in_engine.items()} | {str(path.relative_to(aside)): sha256_of(path) for path in own}
        write_json(aside / MANIFEST, {"sha256": dict(sorted(sums.items()))})
        if final.exists():  # a damaged one that was passed over, and is now made again
            _remove(final)
        os.replace(aside, final)
        sync_folder(self._run)
        log.info("checkpoint %s: written in %.2f s, of which training waited %.2f s", final, time.perf_counter() - checkpoint.started, checkpoint.waited_seconds)
        folders = checkpoints(self._run)
        newest = folders.index(final)
        for old in folders[newest + 1 :] + folders[: max(0, newest + 1 - self._keep)]:  # a later one was damaged, and passed over
            if self._mirror is None or old != self._mirror.publishing:  # that one goes with the next
                _remove(old)
        if self._mirror is not None:
            self._mirror.offer()


def _receipt(aside: Path, rank: int) -> Path:
    """Where a rank leaves the checksums of its files when they are all there; an empty file says that it cannot write them."""
    return aside / f".rank-{rank:05d}.json"


def _await_receipt(path: Path) -> dict[str, str]:
    """The checksums in it. Raises OSError if the rank failed, or is given up."""
    deadline = time.monotonic() + RECEIPT_SECONDS
    while not path.exists():
        if not threading.main_thread().is_alive():
            deadline = min(deadline, time.monotonic() + LAST_SECONDS)
        if time.monotonic() > deadline:
            raise OSError(f"{path}: a rank has not written its part")
        time.sleep(0.02)
    text = path.read_bytes()
    if not text:
        raise OSError(f"{path}: a rank could not write its part")
    return json.loads(text)


def _copy_files(source: Path, target: Path) -> dict[str, str]:
    """Copies the files of a folder; returns the SHA-256 of each by name. Raises OSError if the copy does not read as the source."""
    checksums = {}
    for path in sorted(source.iterdir()):
        digest = hashlib.sha256()
        with open(path, "rb") as read, open(target / path.name, "xb") as written:
            while chunk := read.read(CHUNK_BYTES):
                digest.update(chunk)
                written.write(chunk)
            written.flush()
            os.fsync(written.fileno())
        checksums[path.name] = digest.hexdigest()
        if sha256_of(target / path.name) != checksums[path.name]:
            raise OSError(f"{target / path.name} does not read as what was written to it")
    sync_folder(target)
    return checksums


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _remove(folder: Path) -> None:
    """Removes a checkpoint: first out of sight, so that it is never seen in part."""
    hidden = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.tmp")
    os.replace(folder, hidden)
    shutil.rmtree(hidden)


def _clear(parent: Path, pattern: re.Pattern[str]) -> None:
    for path in parent.iterdir() if parent.is_dir() else ():
        if pattern.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _without_leaving_early(engine: Any) -> Iterator[None]:
    """Inside, a write of DeepSpeed that fails does so at the end: a rank that left its saving early would let the others wait in it.

    Its recovery scripts, of which `model.safetensors` has no need, are left out: they are one more thing that could fail.
    """
    problems: list[str] = []
    writer, write = engine.checkpoint_engine, engine.checkpoint_engine.save

    def noting_failure(state_dict: Any, path: str) -> None:
        try:
            write(state_dict, path)
        except (OSError, RuntimeError) as error:  # PyTorch's writer raises a RuntimeError where the disk is full
            problems.append(f"{path}: {error}")

    writer.save, engine._copy_recovery_script = noting_failure, lambda path: None
    try:
        yield
    finally:
        del writer.save, engine._copy_recovery_script
    if problems:
        raise OSError("; ".join(problems))


def _random_file(rank: int) -> str:
    return f"random_rank_{rank:05d}.safetensors"


def _random_state() -> dict[str, Tensor]:
    return {"cpu": torch.get_rng_state()} | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


@dataclass(frozen=True)
class Resume:
    """A valid checkpoint to continue from."""

    folder: Path
    state: Mapping[str, Any]
    loader: Mapping[str, Any]
    converted: Path | None
    """DeepSpeed's universal form of `engine/`, where the number of ranks changed: start the engine with `load_universal`."""

    def weights(self, name: str) -> dict[str, Tensor] | None:
        """The tensors that were saved as `extra[name]`; None if none were."""
        path = self.folder / f"{name}.safetensors"
        return load_file(path) if path.exists() else None


def find_resume(run: Path, *, identity: Mapping[str, Any]) -> Resume | None:
    """The newest valid checkpoint of the run, the same on all ranks; None if there is none. For `load_checkpoint`, once the engine is there.

    ZeRO's parts of another number of ranks are converted, into a hidden folder of the run. The run's lock must be held.
    Raises ValueError, on all ranks, if every checkpoint is damaged or if the newest is of another model, tokenizer, ZeRO stage or precision.
    """
    found: tuple[Path, Path | None] | str | None = None
    if dist.get_rank() == 0:
        try:
            _clear(run, CONVERTED_FOLDER)
            folder = newest_valid(run)
            if folder is not None:
                found = (folder, _converted(folder, run) if _needs_conversion(folder, identity) else None)
        except Exception as error:  # DeepSpeed's conversion too may raise anything; the other ranks wait
            found = say(error)
    found = from_rank_0(found)
    if isinstance(found, str):
        raise ValueError(found)
    if found is None:
        return None
    folder, converted = found
    return Resume(folder, read_json(folder / "state.json"), read_json(folder / "loader.json"), converted)


def _needs_conversion(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether ZeRO's parts in it are for another number of ranks. Raises ValueError if it is not a checkpoint of this run."""
    record = read_json(folder / "config.json")
    changed = [key for key, value in identity.items() if key != "ranks" and record.get(key) != value]
    for key, flag in (("zero_stage", "--engine.zero-stage"), ("precision", "--engine.precision")):
        if changed == [key]:
            raise ValueError(
                f"{folder} was written with {flag} {record.get(key)}, this run has {identity[key]}: its optimiser cannot be taken over. "
                f"Keep {flag} {record.get(key)}, or start a new --output from its model.safetensors."
            )
    if changed:
        raise ValueError(f"{folder} is a checkpoint of another {' and '.join(changed)}; remove it from this run, or give another --output")
    return record["zero_stage"] > 0 and record["ranks"] != identity["ranks"]


def _converted(folder: Path, run: Path) -> Path:
    from deepspeed.checkpoint.ds_to_universal import main

    log.info("%s was written by another number of ranks; converting its engine's state", folder)
    target = run / f".universal-{secrets.token_hex(6)}.tmp" / "engine"
    target.mkdir(parents=True)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        main(
            SimpleNamespace(
                input_folder=str(folder / "engine"), output_folder=str(target), num_extract_workers=1, num_merge_workers=1,
                keep_temp_folder=False, strict=True, inject_missing_state=True,
            )
        )  # fmt: skip
    log.debug("%s", said.getvalue())
    return target


def load_checkpoint(engine: Any, resume: Resume) -> None:
    """Puts weights, optimiser and random generators into all ranks. Call it last, for whatever draws a random number would change them.

    A rank that the checkpoint does not know keeps its random generators as they are. Files are unpickled: only those that this run
    wrote and its checksums vouch for. What no optimiser trains is not in a converted checkpoint, and stays as the model was built.
    """
    settings = [{key: value for key, value in group.items() if key != "params"} for group in engine.optimizer.param_groups]
    source = resume.converted or resume.folder / "engine"
    engine.load_checkpoint(str(source.parent), tag=source.name)
    # When ZeRO 3 loads the universal form, all groups get the settings of the first, and share one counter that each then advances (DeepSpeed 0.19.8).
    for group, ours in zip(engine.optimizer.param_groups, settings, strict=True):
        group.update(ours)
    for values in engine.optimizer.state.values():
        values["step"] = values["step"].clone()
    dist.barrier()
    if resume.converted is not None and dist.get_rank() == 0:
        shutil.rmtree(resume.converted.parent)
    path = resume.folder / "engine" / _random_file(dist.get_rank())
    if path.exists():
        random = load_file(path)
        torch.set_rng_state(random["cpu"])
        if torch.cuda.is_available() and "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"])
