"""A process of tests/test_checkpoint.py: what happens while checkpoints are written, when writing fails, and what comes back.

    python -m tests.rank_saving RUN SCRATCH REPORTS     (under the environment of a launcher of two ranks)

Each rank writes what it saw to REPORTS/RANK.json.
"""

import json
import resource
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lcl import checkpoint
from lcl.checkpoint import Checkpointer, find_resume, load_checkpoint
from lcl.distributed import process_group
from lcl.engine import EngineConfig, deepspeed_settings, full_weights, start_engine, update
from lcl.loader import RowLoader
from lcl.step_folders import checkpoints
from tests.made_rows import batch_of, make_model

IDENTITY = {"model": {"width": 16}, "tokenizer": "fingerprint", "zero_stage": 2, "precision": "fp32", "ranks": 2}


def loader_state() -> dict[str, Any]:
    """What a checkpoint takes of a loader."""
    return {"rows_taken": 8, "lanes": {str(dist.get_rank()): {"next_document": 3}}}


def make_engine(seed: int) -> Any:
    model = make_model(seed=seed)
    settings = deepspeed_settings(EngineConfig(zero_stage=2), micro_rows=1, accumulation=1, clip_norm=1.0)
    return start_engine(model, torch.optim.AdamW(model.parameters(), lr=1e-3), settings)


def step(engine: Any) -> None:
    engine.backward(engine(batch_of(["ti", "t"])).nll_sum, scale_wrt_gas=False)
    update(engine)


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """The kernel refuses larger files to this process, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def failure(act: Callable[[], object]) -> str:
    try:
        act()
    except ValueError as error:
        return str(error)
    return ""


def main() -> None:
    run, scratch, reports = map(Path, sys.argv[1:])
    report: dict[str, Any] = {}
    with process_group(threads=1) as ranks:
        first = ranks.rank == 0
        saved = Checkpointer(run, identity=IDENTITY, keep=2, scratch=str(scratch), merge_states=RowLoader.merge_states)
        report["left over"] = sorted(path.name for path in [*run.iterdir(), *scratch.iterdir()])
        engine, rows = make_engine(seed=0), loader_state()
        step(engine)

        with nullcontext() if first else files_of_at_most(1000):
            report["scratch of rank 1 is full"] = failure(lambda: saved.save(engine, rows, step=1, state={}))
        copy_files = checkpoint._copy_files
        if not first:
            checkpoint._copy_files = lambda source, target: copy_files(source, target / "missing")
        saved.save(engine, rows, step=1, state={})
        report["rank 1 cannot copy"] = failure(saved.finish)
        checkpoint._copy_files = copy_files
        saved.save(engine, rows, step=1, state={"value": float("nan")})  # no JSON: an error of the thread of rank 0
        report["rank 0 cannot write"] = failure(saved.finish)
        report["nothing became visible"] = not checkpoints(run)

        go_on = threading.Event()
        extra = {"ema": {name: value / 2 for name, value in full_weights(engine).items()}}
        saved.save(engine, rows, step=2, state={"counters": {"rows": 8}}, extra=extra, write_more=lambda folder: go_on.wait() and None)
        random = torch.rand(3).tolist()
        weights = full_weights(engine)
        report["training goes on meanwhile"] = not checkpoints(run)
        step(engine)
        go_on.set()
        for number in (3, 4, 5):
            saved.save(engine, rows, step=number, state={"counters": {}}, write_more=lambda folder: (folder / "more.txt").write_text("more"))
        saved.finish()
        report["kept"] = [path.name for path in checkpoints(run)]
        report["behind"] = sorted(path.name for path in [*run.iterdir(), *scratch.iterdir()])
        saved.save(engine, rows, step=2, state={"counters": {"rows": 8}}, extra=extra)  # 3 to 5 are behind it: they were passed over
        saved.finish()
        report["after an earlier step"] = [path.name for path in checkpoints(run)]
        now = full_weights(engine)
        now_random = torch.rand(3).tolist()

        for changed in ("model", "zero_stage", "precision"):
            report[changed] = failure(lambda changed=changed: find_resume(run, identity=IDENTITY | {changed: "other"}))
        found = find_resume(run, identity=IDENTITY)
        again = make_engine(seed=1)
        load_checkpoint(again, found)
        report["state"], report["loader"], report["converted"] = dict(found.state), dict(found.loader), found.converted is not None
        report["random"] = torch.rand(3).tolist() == now_random != random
        loaded, average = full_weights(again), found.weights("ema")
        report["weights"] = all(torch.equal(now[name], loaded[name]) for name in now) and not all(torch.equal(now[name], weights[name]) for name in now)
        report["average"] = all(torch.equal(average[name], extra["ema"][name]) for name in extra["ema"])
        report["no such weights"] = found.weights("other") is None
        dist.barrier()
        (reports / f"{ranks.rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
