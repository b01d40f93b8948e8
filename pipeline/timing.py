"""Where the time of a build goes: rates while it runs, and what it cost at its end.

    tasks' notes (pipeline/meter.py)  --> Phase.live --> progress display: documents/s, MB/s
    tasks' and phases' ledgers        --> timing.json, a summary in a few lines

timing.json stands beside report.json and is no part of it: a report follows from inputs and rules alone, and this from the machine too.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lcl.core.files import read_json
from lcl.core.logs import duration
from pipeline.dedup.steps import Runner, Task
from pipeline.meter import RUNNING, Ledger, Usage, measured, read_note, storage_bytes

SCHEMA = "lcl-timing/1"
PHASES = ("extract", "index", "known", "duplicates", "wanted", "assemble")
FOLDERS = ("extracted", "images", "crawls", "index", "dedup", "wanted")  # of work/, that stay until somebody deletes them


class Phase:
    """Wall time of a phase and what its tasks used; a context manager. Sessions of an interrupted build add up."""

    def __init__(self, work: Path, name: str, *, workers: int) -> None:
        """`workers` run at one time. Tasks of their own ledgers keep them in work/timing/`name`."""
        self._tasks, self._workers = work / "timing" / name, workers
        self._ledger = Ledger(work / "timing", name)
        self._used = Usage()
        self._began = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def add(self, usage: Usage) -> None:
        """Counts what a task used that keeps no ledger of its own."""
        self._used += usage
        self._ledger.note(self._total())

    def _total(self) -> Usage:
        wall = time.perf_counter() - self._began
        return replace(self._used, wall_seconds=wall, held_core_seconds=wall * self._workers)

    def live(self) -> tuple[float, str]:
        """What share of tasks is under way, summed over them, and their rates since they began, added up."""
        self._ledger.note(self._total())
        notes = []
        for path in (self._tasks / RUNNING).glob("*.now"):
            try:
                if path.stat().st_mtime >= self._ledger.begun_at:  # others are of workers that an earlier session left dead
                    notes.append(read_note(path))
            except FileNotFoundError:  # its task has ended
                continue
        notes = [note for note in notes if note.wall_seconds > 0]
        documents, read = (sum(getattr(note, name) / note.wall_seconds for note in notes) for name in ("documents", "bytes_read"))
        return sum(note.share for note in notes), f"{documents:.3g} documents/s, {read / 1e6:.3g} MB/s read"

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ledger.close(self._total(), lost=False)


def measuring(runner: Runner, phase: Phase, folder: Path) -> Runner:
    """The runner, whose tasks' use the phase counts, and at each step the bytes in `folder`, much of which goes again."""

    def run(task: Task, shared: Any, indices: Sequence[int]) -> Iterator[tuple[int, Any]]:
        for index, (result, usage) in runner(partial(measured, task), shared, indices):
            phase.add(usage)
            yield index, result
        phase.add(Usage(peak_storage_bytes=storage_bytes(folder)))

    return run


def summarise_timing(output: Path, *, counts: Mapping[str, Mapping[str, int]], images: int, price: float) -> dict[str, Any]:
    """What the build in `output` cost until now: over all sessions, with what killed workers had used.

    `counts` says how many documents entered and left the phases that handle each. Core seconds are those of tasks; held ones are wall seconds times
    workers, idle or not. A price is of one core for an hour.
    """
    timing = output / "work" / "timing"
    phases = {name: _phase(timing, name, counts.get(name, {})) for name in PHASES if (timing / f"{name}.json").exists()}
    total = {
        name: sum(phase[name] for phase in phases.values())
        for name in ("wall_seconds", "core_seconds", "lost_core_seconds", "held_core_seconds", "bytes_read", "bytes_written")
    }  # fmt: skip
    documents = counts["assemble"]["out"]
    hours = {kind: total[f"{kind}_seconds"] / 3600 for kind in ("core", "held_core")}
    per_million = {f"{kind}_hours": amount * 1e6 / documents for kind, amount in hours.items()} if documents else {}
    cost = {f"{kind}_cost": price * per_million[f"{kind}_hours"] for kind in hours} if price and documents else {}
    work = output / "work"
    return {
        "schema": SCHEMA, "phases": phases,
        "total": total | {"documents_in": counts["extract"]["in"], "documents_out": documents, "images_out": images} | _rates(counts["extract"]["in"], total),
        "per_million_documents_out": per_million | cost,
        "storage_bytes": {name: storage_bytes(work / name) for name in FOLDERS if (work / name).is_dir()}
        | {"duplicates_peak": phases.get("duplicates", {}).get("peak_storage_bytes", 0), "shards": shard_bytes(output)},
    }  # fmt: skip


def shard_bytes(output: Path) -> int:
    """Bytes of the shards in a folder, their catalogues and sidecars among them."""
    return sum(storage_bytes(tar, tar.with_suffix(".parquet"), tar.with_suffix(".json")) for tar in output.glob("*.tar"))


def _phase(timing: Path, name: str, counts: Mapping[str, int]) -> dict[str, Any]:
    ledger = read_json(timing / f"{name}.json")
    tasks = [read_json(path) for path in sorted((timing / name).glob("*.json"))]
    used = sum((Usage(**task["usage"]) for task in tasks), Usage(**(ledger["usage"] | ({"core_seconds": 0.0} if tasks else {}))))
    own = ledger["usage"]
    record = {
        "wall_seconds": own["wall_seconds"], "core_seconds": used.core_seconds, "lost_core_seconds": sum(task["lost_core_seconds"] for task in tasks),
        "held_core_seconds": own["held_core_seconds"], "sessions": ledger["attempts"],
        **{name: int(getattr(used, name)) for name in ("bytes_read", "bytes_written", "peak_memory_bytes", "peak_storage_bytes")},
    }  # fmt: skip
    return record | ({f"documents_{kind}": number for kind, number in counts.items()} | _rates(counts["in"], record) if counts else {})


def _rates(documents: int, seconds: Mapping[str, float]) -> dict[str, float]:
    return {
        "documents_per_second": documents / seconds["wall_seconds"] if seconds["wall_seconds"] else 0.0,
        "documents_per_core_second": documents / seconds["core_seconds"] if seconds["core_seconds"] else 0.0,
    }


def summary_lines(timing: Mapping[str, Any]) -> Iterator[str]:
    """What a build cost, for people."""
    total, per_million = timing["total"], timing["per_million_documents_out"]
    for name, phase in timing["phases"].items():
        rate = f", {phase['documents_per_second']:.3g} documents/s, {phase['documents_per_core_second']:.3g} per core" if "documents_per_second" in phase else ""
        yield f"  {name}: {duration(phase['wall_seconds'])}, {duration(phase['core_seconds'])} of cores{rate}"
    lost = f", {duration(total['lost_core_seconds'])} of them lost to interruptions" if total["lost_core_seconds"] else ""
    yield f"  in all: {duration(total['wall_seconds'])}, {duration(total['core_seconds'])} of cores{lost}, {total['bytes_read'] / 1e6:.4g} MB read"
    if per_million:
        price = f"; at the price given {per_million['core_cost']:.4g}, or {per_million['held_core_cost']:.4g} with idle cores" if "core_cost" in per_million else ""
        yield f"  a million documents: {per_million['core_hours']:.4g} core-hours, {per_million['held_core_hours']:.4g} with idle cores{price}"

