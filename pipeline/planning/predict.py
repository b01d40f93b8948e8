"""From the build of a sample to the whole: yield, bytes, hours and storage, each as an Estimate.

    report.json, timing.json, catalogues, ledgers of tasks --> fixed part, as measured -----------------------+--> predictions
                                                           --> part that grows with documents or files --> expanded
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lcl.core.files import read_json
from lcl.core.rejected import Reason
from pipeline.build_config import BuildConfig
from pipeline.dedup.find_duplicates import find_duplicates
from pipeline.dedup.steps import in_process, on_ray
from pipeline.extracted import ROWS
from pipeline.image_index import PARTS
from pipeline.meter import Usage, storage_bytes
from pipeline.planning.ratio import Estimate, Sample
from pipeline.timing import Phase, measuring, shard_bytes

CROSS_DOCUMENT = (Reason.DUPLICATE_CONTENT, Reason.NEAR_DUPLICATE, Reason.SAME_IMAGE_SET)  # and duplicate_url, in a sample of files
INDEXED = ("images", "crawls", "index")  # folders of work/ that hold what is known of all records


LINE_DOCUMENTS = 10_000  # of the sample, from which the costs of looking for duplicates are told


@dataclass(frozen=True)
class Split:
    """What the pilot's build says of one input."""

    size: float                  # bytes, or 1 where bytes are not known
    record: Mapping[str, Any]    # of splits/; empty if the input failed
    num_documents: int           # in all of it
    rows: int
    extract: Usage
    assemble: Usage
    tar_bytes: int


def read_split(folder: Path, name: str, *, size: float) -> Split:
    """The split of this name in the pilot's build."""
    path, extracted_path = folder / "splits" / f"{name}.json", folder / "work" / "extracted" / f"{name}.json"
    record = read_json(path) if path.exists() else {"documents": {}, "images": {}, "shards": []}
    extracted = read_json(extracted_path) if extracted_path.exists() else {"records": {}, "rows": 0}
    usages = []
    for phase in ("extract", "assemble"):
        ledger = folder / "work" / "timing" / phase / f"{name}.json"
        usages.append(Usage(**read_json(ledger)["usage"]) if ledger.exists() else Usage())
    num_documents = sum(extracted["records"].get(kind, 0) for kind in ("page", "document"))
    return Split(size, record, num_documents, extracted["rows"], *usages, storage_bytes(*(folder / f"{shard}.tar" for shard in record["shards"])))


def predict(folder: Path, splits: Sequence[Split], *, of_files: float, config: BuildConfig, scratch: Path, workers: int) -> dict[str, Estimate]:
    """The quantities of `measure` for the whole, from the build of a sample in `folder`.

    `of_files` is the sum of the sizes of all inputs if the sample is of files, else 0: then it is of pages, and all inputs were read. Raises ValueError
    if no page was in the sample.
    """
    report, timing = read_json(folder / "report.json"), read_json(folder / "timing.json")
    if not report["documents"]["in"]:
        raise ValueError("no page is in the sample: give a larger --sample")
    if of_files:
        predicted, growth = _of_files(Sample(sizes=[split.size for split in splits], total=of_files), splits, report, folder)
    else:
        whole = sum(split.num_documents for split in splits)
        predicted, growth = _of_pages(Sample(sizes=report["documents"]["in"], total=whole), splits, report, folder)
    index_growth = growth if of_files else 1.0  # a sample of pages has the index of the whole
    storage, phases = timing["storage_bytes"], timing["phases"]
    line = _line_of_duplicates(folder, scratch, config, more=sum(split.rows for split in splits) * (growth - 1))
    predicted["core_hours.index"] = Estimate(phases["index"]["core_seconds"] * index_growth / 3600)
    predicted["core_hours.duplicates"] = Estimate((phases["duplicates"]["core_seconds"] + line.core_seconds) / 3600)
    predicted["core_hours.in_all"] = _sum(predicted, "core_hours.")
    predicted["storage_bytes.extracted"] = Estimate(storage["extracted"] * index_growth + (0.0 if of_files else line.table_bytes))
    for name in INDEXED:
        predicted[f"storage_bytes.{name}"] = Estimate(storage.get(name, 0) * index_growth)
    predicted["storage_bytes.duplicates_peak"] = Estimate(storage["duplicates_peak"] + line.peak_bytes)
    predicted["storage_bytes.in_all"] = _sum(predicted, "storage_bytes.")
    predicted["wall_seconds.in_all"] = _wall(
        predicted, splits, timing, num_rows=sum(split.rows for split in splits) * growth, of_files=of_files, config=config, workers=workers
    )  # fmt: skip
    return predicted


def _of_pages(sample: Sample, splits: Sequence[Split], report: Mapping[str, Any], folder: Path) -> tuple[dict[str, Estimate], float]:
    """Pages are the units: what a page gives is in catalogues, what it took is in the moments of the ledgers."""
    lengths, images = (_column(folder, name) for name in ("length", "num_images"))
    growth = sample.total / sample.size
    overhead = shard_bytes(folder) - sum(lengths)
    predicted = {"documents_in": Estimate(sample.total, sample.total, sample.total), "documents_out": sample.expand_count(report["documents"]["out"])}
    predicted["images_out"] = sample.expand_moments(sum(images), sum(number * number for number in images))
    predicted["storage_bytes.shards"] = sample.expand_moments(sum(lengths), sum(length * length for length in lengths)) + Estimate(overhead)
    predicted |= {f"dropped.documents.{reason}": sample.expand_count(count) for reason, count in report["documents"]["dropped"].items()}
    predicted |= {f"dropped.images.{reason}": Estimate(count * growth) for reason, count in report["images"]["dropped"].items()}
    for phase in ("extract", "assemble"):
        used = sum((getattr(split, phase) for split in splits), Usage())
        grown = sample.expand_moments(used.document_core_seconds, used.document_core_squares)
        predicted[f"core_hours.{phase}"] = _scaled(grown + Estimate(used.core_seconds - used.document_core_seconds), 1 / 3600)
    return predicted, growth


def _of_files(sample: Sample, splits: Sequence[Split], report: Mapping[str, Any], folder: Path) -> tuple[dict[str, Estimate], float]:
    """Files are the units: everything of a file is expanded by its size."""
    totals = {"documents_in": ("documents", "in"), "documents_out": ("documents", "out"), "images_out": ("images", "out")}
    totals |= {f"dropped.{kind}.{reason}": (kind, reason) for kind in ("documents", "images") for reason in report[kind]["dropped"]}
    predicted = {name: sample.expand([split.record[kind].get(key, 0) for split in splits]) for name, (kind, key) in totals.items()}
    sidecars = [storage_bytes(*(folder / f"{shard}{end}" for shard in split.record["shards"] for end in (".parquet", ".json"))) for split in splits]
    predicted["storage_bytes.shards"] = sample.expand([split.tar_bytes + other for split, other in zip(splits, sidecars, strict=True)])
    for phase in ("extract", "assemble"):
        predicted[f"core_hours.{phase}"] = _scaled(sample.expand([getattr(split, phase).core_seconds for split in splits]), 1 / 3600)
    return predicted, sample.total / sample.size


def _column(folder: Path, name: str) -> list[float]:
    return [value for path in sorted(folder.glob("*.parquet")) for value in pq.read_table(path, columns=[name])[name].to_pylist()]


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    return Estimate(*(None if value is None else value * factor for value in (estimate.value, estimate.low, estimate.high)))


def _sum(predicted: Mapping[str, Estimate], start: str) -> Estimate:
    return sum((value for name, value in predicted.items() if name.startswith(start)), Estimate(0.0, 0.0, 0.0))


@dataclass(frozen=True)
class _Costs:
    """What the search for duplicates took, and its tables."""

    rows: int
    core_seconds: float
    peak_bytes: float
    table_bytes: float


def _line_of_duplicates(folder: Path, scratch: Path, config: BuildConfig, *, more: float) -> _Costs:
    """What so many more documents add, by the line through two runs, one on documents of the sample and one on the first of them.

    Its many small steps take more than the documents do, where those are few; so nothing can be said from one run alone. Both run where
    libraries are loaded already.
    """
    table = pa.concat_tables(_first_rows(sorted((folder / "work" / "extracted").glob("*.parquet")), at_most=LINE_DOCUMENTS))
    low, high = (_cost_of_duplicates(scratch / name, piece, config) for name, piece in (("low", table.slice(0, 1)), ("high", table)))
    start, rise = (low, high.rows - low.rows) if high.rows > low.rows else (_Costs(0, 0.0, 0.0, 0.0), 1)
    slopes = (max(0.0, getattr(high, name) - getattr(start, name)) / rise for name in ("core_seconds", "peak_bytes", "table_bytes"))
    return _Costs(round(more), *(slope * more for slope in slopes))


def _first_rows(paths: Sequence[Path], *, at_most: int) -> Iterator[pa.Table]:
    for path in paths:
        table = pq.read_table(path).slice(0, at_most)
        at_most -= len(table)
        yield table


def _cost_of_duplicates(scratch: Path, table: pa.Table, config: BuildConfig) -> _Costs:
    (scratch / "extracted").mkdir(parents=True)
    pq.write_table(table, scratch / "extracted" / "sample.parquet", compression="zstd", row_group_size=ROWS)
    with Phase(scratch, "duplicates", workers=1) as phase:
        find_duplicates(scratch, config.dedup, runner=measuring(on_ray if config.executor == "ray" else in_process, phase, scratch / "dedup"))
    used = read_json(scratch / "timing" / "duplicates.json")["usage"]
    return _Costs(len(table), used["core_seconds"], used["peak_storage_bytes"], storage_bytes(scratch / "extracted"))


def _wall(
    predicted: Mapping[str, Estimate], splits: Sequence[Split], timing: Mapping[str, Any], *, num_rows: float, of_files: float, config: BuildConfig, workers: int
) -> Estimate:  # fmt: skip
    """Phases one after another, each on so many workers: tasks of inputs in the order of names, each as soon as a worker is free."""
    seconds = 0.0
    for phase in ("extract", "assemble"):
        used = [getattr(split, phase) for split in splits]
        slowness = sum(one.wall_seconds for one in used) / max(1e-9, sum(one.core_seconds for one in used))
        weights = [split.size if of_files else split.num_documents for split in splits]
        repeats = round(of_files / sum(weights)) if of_files else 1
        each = predicted[f"core_hours.{phase}"].value * 3600 * slowness / (sum(weights) * repeats)
        seconds += _makespan([weight * each for weight in weights] * repeats, workers)
    for phase, limit in (("index", PARTS), ("duplicates", max(1, -(-int(num_rows) // config.dedup.group_documents)))):
        found = timing["phases"].get(phase)
        if found is not None:
            slowness = found["held_core_seconds"] / max(1e-9, found["core_seconds"])
            seconds += predicted[f"core_hours.{phase}"].value * 3600 * slowness / min(workers, limit)
    return Estimate(seconds)


def _makespan(tasks: Sequence[float], workers: int) -> float:
    """When the last task ends, if each begins as soon as a worker is free."""
    free = [0.0] * workers
    for task in tasks:
        heapq.heapreplace(free, free[0] + task)
    return max(free)


def measure(folder: Path) -> dict[str, float]:
    """The quantities of a finished build that a pilot predicts. Raises ValueError if the folder holds none."""
    if not (folder / "timing.json").is_file() or not (folder / "report.json").is_file():
        raise ValueError(f"--compare {folder} holds no finished build (report.json, timing.json)")
    report, timing = read_json(folder / "report.json"), read_json(folder / "timing.json")
    found = {"documents_in": report["documents"]["in"], "documents_out": report["documents"]["out"], "images_out": report["images"]["out"]}
    found |= {f"dropped.{kind}.{reason}": count for kind in ("documents", "images") for reason, count in report[kind]["dropped"].items()}
    found |= {f"core_hours.{name}": phase["core_seconds"] / 3600 for name, phase in timing["phases"].items()}
    storage = {name: size for name, size in timing["storage_bytes"].items() if name not in ("dedup", "wanted")}
    found |= {f"storage_bytes.{name}": size for name, size in storage.items()}
    return found | {
        "core_hours.in_all": timing["total"]["core_seconds"] / 3600, "storage_bytes.in_all": sum(storage.values()), "wall_seconds.in_all": timing["total"]["wall_seconds"],
    }  # fmt: skip


def duplicates_note(report: Mapping[str, Any], predicted: Mapping[str, Estimate], *, growth: float, of_files: bool) -> dict[str, float]:
    """What sampling hides of duplicates: of pairs, a sample of a part f holds f * f, so what it finds expands by 1/f if they come in many copies, by 1/f^2 if in pairs.

    Pairs can halve the documents at most. Captures of one address are sampled together, in a sample of pages.
    """
    reasons = (*CROSS_DOCUMENT, *((Reason.DUPLICATE_URL,) if of_files else ()))
    seen = sum(report["documents"]["dropped"].get(reason, 0) for reason in reasons)
    many, out = seen * growth, predicted["documents_out"].value
    pairs = min(seen * growth**2, (many + out) / 2)
    return {"seen": seen, "dropped_if_many_copies": many, "dropped_if_pairs": max(many, pairs), "documents_out_if_pairs": out - max(0.0, pairs - many)}

