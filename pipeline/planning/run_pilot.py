"""A pilot: a sample is built in a scratch folder beside the output, the whole is predicted from it, and the scratch folder goes again.

    inputs --> sample of files or of pages --> build in OUTPUT.pilot --> predictions (pipeline/planning/predict.py) --> OUTPUT.pilot.json
"""

import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lcl.core.files import read_json, write_json
from lcl.core.logs import duration
from pipeline.build_config import rules_hash
from pipeline.planning.pilot_config import PilotConfig, whole_build
from pipeline.planning.plan import pilot_record, plain_bytes
from pipeline.planning.predict import duplicates_note, measure, predict, read_split
from pipeline.planning.ratio import Estimate, Sample
from pipeline.run_splits import build_shards, prepare_output
from pipeline.sample import name_in_sample
from pipeline.splits import split_name
from pipeline.storage import Input
from pipeline.tasks import num_workers

SCHEMA = "lcl-pilot/1"
MIN_FILES = 32  # of a sample, from which their spread tells that of the whole


def run_pilot(config: PilotConfig) -> dict[str, Any]:
    """Writes OUTPUT.pilot.json and returns it. Raises ValueError as the build does, and if nothing is in the sample."""
    whole = whole_build(config)
    if config.until != "shards":
        raise ValueError(f"--until {config.until}: a pilot predicts a whole build; leave it out")
    inputs, _, output = prepare_output(whole)
    actual = measure(Path(config.compare)) if config.compare else {}
    of_files = _is_of_files(config, inputs)
    chosen = [source for source in inputs if name_in_sample(source.name, fraction=config.sample)] if of_files else inputs
    if len(chosen) < 2 and of_files:
        raise ValueError(f"{len(chosen)} of {len(inputs)} inputs are in the sample of files: give a larger --sample, or --sample-of pages")
    scratch = output.with_name(f"{output.name}.pilot")
    crawl = tuple(source.location for source in chosen)
    part = replace(whole, crawl=crawl, prefix="", output=str(scratch), sample=1.0 if of_files else config.sample, core_hour_price=0.0, mirror="")
    prepare_output(part)  # a folder that is not a pilot's is neither used nor removed
    try:
        report = build_shards(part)
        sizes = _sizes(inputs)
        workers = config.workers or num_workers(config.executor)
        splits = [read_split(scratch, split_name(source), size=sizes[source]) for source in chosen]
        predicted = predict(
            scratch, splits, of_files=sum(sizes.values()) if of_files else 0.0, config=part, scratch=scratch / "work" / "floor", workers=workers
        )  # fmt: skip
        timing = read_json(scratch / "timing.json")
    except Exception:
        shutil.rmtree(scratch, ignore_errors=True)  # after a signal it stays: the same command continues
        raise
    shutil.rmtree(scratch)
    growth = sum(sizes.values()) / sum(sizes[source] for source in chosen) if of_files else predicted["documents_in"].value / report["documents"]["in"]
    if config.compare and round(_workers_of(Path(config.compare))) != workers:
        actual.pop("wall_seconds.in_all")
    record = {
        "schema": SCHEMA, "rules": rules_hash(whole), "sample": config.sample, "sample_of": "files" if of_files else "pages", "inputs": len(inputs),
        "sampled_inputs": len(chosen), "sampled_documents": report["documents"]["in"], "sampled_documents_out": report["documents"]["out"], "workers": workers,
        "pilot_core_hours": timing["total"]["core_seconds"] / 3600, "peak_memory_bytes": max(phase["peak_memory_bytes"] for phase in timing["phases"].values()),
        "predictions": {name: asdict(value) for name, value in predicted.items()}, "per_million_documents_out": _costs(predicted, config.core_hour_price),
        "duplicates": duplicates_note(report, predicted, growth=growth, of_files=of_files),
        "unseen_reason_at_most": None if of_files else Sample(sizes=report["documents"]["in"], total=predicted["documents_in"].value).expand_count(0).high,
        **({"compared": _compare(predicted, actual)} if config.compare else {}),
    }  # fmt: skip
    write_json(pilot_record(output), record)
    return record


def _is_of_files(config: PilotConfig, inputs: Sequence[Input]) -> bool:
    return config.sample_of == "files" or config.sample_of == "auto" and config.sample < 1 and config.sample * len(inputs) >= MIN_FILES


def _sizes(inputs: Sequence[Input]) -> dict[Input, float]:
    """Bytes where all inputs are local; else 1 for each, for asking a store for the sizes of 100,000 files takes longer than a pilot."""
    if all(source.is_local for source in inputs):
        return {source: float(os.path.getsize(source.location)) for source in inputs}
    return dict.fromkeys(inputs, 1.0)


def _workers_of(folder: Path) -> float:
    total = read_json(folder / "timing.json")["total"]
    return total["held_core_seconds"] / total["wall_seconds"]


def _costs(predicted: Mapping[str, Estimate], price: float) -> dict[str, float]:
    documents, hours = predicted["documents_out"].value, predicted["core_hours.in_all"].value
    if not documents:
        return {}
    return {"core_hours": hours * 1e6 / documents} | ({"core_cost": price * hours * 1e6 / documents} if price else {})


def _compare(predicted: Mapping[str, Estimate], actual: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """For each quantity of the whole: what it is, the error relative to it, and whether the interval holds it."""
    compared = {}
    for name, value in actual.items():
        guess = predicted.get(name, Estimate(0.0))
        inside = None if guess.low is None else math.floor(guess.low) <= value <= math.ceil(guess.high)
        compared[name] = {"actual": value, "error": (guess.value - value) / value if value else None, "inside": inside}
    return compared


def table_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """The predictions as a table for people."""
    compared = record.get("compared", {})
    rows = [("", "predicted", "95 % interval", *(("whole", "error", "inside") if compared else ()))]
    for name in sorted({*record["predictions"], *compared}, key=_place):
        value = record["predictions"].get(name, {"value": 0.0, "low": None, "high": None})
        interval = "" if value["low"] is None else f"{_plain(name, value['low'])} to {_plain(name, value['high'])}"
        row = [name.replace(".", ": ").replace("_", " "), _plain(name, value["value"]), interval]
        if compared:
            found = compared.get(name)
            row += ["", "", ""] if found is None else [
                _plain(name, found["actual"]), "" if found["error"] is None else f"{found['error']:+.0%}", {True: "yes", False: "no", None: ""}[found["inside"]],
            ]  # fmt: skip
        rows.append(tuple(row))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
    found = record["duplicates"]
    yield ""
    yield f"from {record['sampled_documents']} of {record['predictions']['documents_in']['value']:.0f} documents, a sample of {record['sample_of']}; wall time for {record['workers']} workers"
    if record["sampled_documents"] < ENOUGH:
        yield f"so few documents say little: a --sample that holds {ENOUGH} or more says much more"
    yield (
        f"duplicates of other documents: {found['seen']} in the sample; {found['dropped_if_many_copies']:.0f} in the whole if they come in many copies (as in the table), "
        f"up to {found['dropped_if_pairs']:.0f} if in pairs, then {found['documents_out_if_pairs']:.0f} documents out"
    )
    if record["unseen_reason_at_most"] is not None:
        yield f"documents dropped for a reason that the sample does not have: up to {record['unseen_reason_at_most']:.0f} each (95 %)"
    else:
        yield "images were looked up in the sampled files only: where they lie in others, more will be found"
    for name, amount in record["per_million_documents_out"].items():
        yield f"{name.replace('_', ' ')} per million documents out: {amount:.4g}"


ENOUGH = 100  # documents, below which the intervals are wide enough to be useless (docs/planning.md)
ORDER = ("documents_in", "documents_out", "images_out", "dropped.documents", "dropped.images", "storage_bytes", "core_hours", "wall_seconds")


def _place(name: str) -> tuple[int, bool, str]:
    return next(place for place, start in enumerate(ORDER) if name.startswith(start)), name.endswith(".in_all"), name


def _plain(name: str, amount: float) -> str:
    if name.startswith("storage_bytes"):
        return plain_bytes(amount)
    return duration(amount * (3600 if name.startswith("core_hours") else 1)) if name.startswith(("core_hours", "wall_seconds")) else f"{amount:,.0f}"
