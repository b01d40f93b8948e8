"""What a set of shards holds, in numbers: one pass over its catalogues in bounded memory; no tar is opened.

    catalogues --> histograms with fixed bins, tallies of names --+--> stats.json
    sidecars, report.json --> counts, the funnel -----------------+
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from lcl.core.files import read_json
from lcl.core.logs import progress_bar
from lcl.core.rejected import Reason
from lcl.core.shards import Shard, find_shards
from pipeline.pages.licenses import normal_license
from pipeline.tools.tally import Tally
from pipeline.tools.where import score_names, score_of

SCHEMA = "lcl-stats/1"
COLUMNS = ("num_images", "num_characters", "domain", "language", "license", "crawl_file", "image_width", "image_height", "scores")
MAX_SCORES = 64
TOP = 20

R10 = ("1", "1.25", "1.6", "2", "2.5", "3.2", "4", "5", "6.3", "8")  # ten nearly equal steps to the next power of ten (ISO 3, rounded)
STEPS = tuple(float(f"{digit}e{power}") for power in range(-3, 10) for digit in R10)
IMAGE_COUNTS = tuple(float(number) for number in range(32))
LENGTHS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, *(step for step in STEPS if step >= 16))
SIDES_PX = (0.0, 64.0, 100.0, 150.0, 200.0, 224.0, 256.0, 320.0, 384.0, 448.0, 512.0, 640.0, 768.0, 1024.0, 1536.0, 2048.0, 4096.0)
ASPECTS = (1.0, 1.05, 1.2, 1.3, 1.4, 1.6, 1.9, 2.1, 2.5, 3.0, 4.0)
WIDE_SCORES = (*(-step for step in reversed(STEPS)), 0.0, *STEPS)
NARROW_SCORES = tuple(number / 20 for number in range(-20, 21))


@dataclass
class Histogram:
    """Counts of values in bins [edge, next edge); the last bin has no end, what lies before the first edge counts into it too."""

    title: str
    edges: tuple[float, ...]
    counts: Int[np.ndarray, " bins"] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = np.zeros(len(self.edges), dtype=np.int64)

    def add(self, values: Float[np.ndarray, " values"]) -> None:
        places = np.searchsorted(self.edges, values, side="right") - 1
        self.counts += np.bincount(np.maximum(places, 0), minlength=len(self.edges))
        self.total += float(values.sum())

    def bins(self) -> list[tuple[float, float | None, int]]:
        """(from, to, count) from the first bin that is not empty to the last; `to` is None where there is no end."""
        used = np.flatnonzero(self.counts)
        ends = [*self.edges[1:], None]
        return [(self.edges[place], ends[place], int(self.counts[place])) for place in range(used[0], used[-1] + 1)] if len(used) else []

    def record(self) -> dict[str, Any]:
        number = int(self.counts.sum())
        return {"title": self.title, "values": number, "mean": self.total / number if number else None, "bins": [list(entry) for entry in self.bins()]}


class _Score:
    """A score in wide and in narrow bins; which of them tell more is known at the end."""

    def __init__(self, name: str) -> None:
        self.wide, self.narrow = (Histogram(f"score {name}, documents", edges) for edges in (WIDE_SCORES, NARROW_SCORES))
        self.is_narrow = True

    def add(self, values: Float[np.ndarray, " values"]) -> None:
        self.is_narrow = self.is_narrow and bool((np.abs(values) <= 1).all())
        for histogram in (self.wide, self.narrow):
            histogram.add(values)

    @property
    def histogram(self) -> Histogram:
        return self.narrow if self.is_narrow else self.wide


def gather_stats(folders: Sequence[Path]) -> dict[str, Any]:
    """The statistics as JSON values. They follow from the shards alone. Raises ValueError as `find_shards` does."""
    shards = find_shards(folders)
    histograms = {
        "images_per_document": Histogram("images per document", IMAGE_COUNTS),
        "characters_per_document": Histogram("characters per document", LENGTHS),
        "words_per_document": Histogram("words per document", LENGTHS),
        "shorter_side_px": Histogram("shorter side of images, pixels", SIDES_PX),
        "aspect": Histogram("longer over shorter side of images", ASPECTS),
    }
    tallies = {"domains": Tally(), "languages": Tally(), "licenses": Tally(), "crawl_files": Tally()}
    scores: dict[str, _Score] = {}
    left_out: set[str] = set()
    with progress_bar("catalogues", total=len(shards)) as bar:
        for shard in shards:
            table = shard.catalogue(COLUMNS)
            _add_documents(table, histograms, tallies)
            for name in sorted(score_names(table)):
                if name not in scores and len(scores) >= MAX_SCORES:
                    left_out.add(name) if len(left_out) < MAX_SCORES else None
                    continue
                values = score_of(table, name)
                (histograms["words_per_document"] if name == "words" else scores.setdefault(name, _Score(name))).add(values[np.isfinite(values)])
            bar.advance()
    return {
        "schema": SCHEMA,
        "counts": _counts(shards, histograms),
        "histograms": {name: histogram.record() for name, histogram in histograms.items() if histogram.counts.any()}
        | {f"score.{name}": scores[name].histogram.record() for name in sorted(scores)},
        "scores_left_out": sorted(left_out),
        "tallies": {
            name: {"different": len(tally.counts), "is_exact": tally.undercount == 0, "undercount": tally.undercount, "top": [list(pair) for pair in tally.top(TOP)]}
            for name, tally in tallies.items()
        },
        "funnel": gather_funnel(folders, shards),
    }


def _add_documents(table: pa.Table, histograms: dict[str, Histogram], tallies: dict[str, Tally]) -> None:
    histograms["images_per_document"].add(table["num_images"].to_numpy().astype(np.float64))
    histograms["characters_per_document"].add(table["num_characters"].to_numpy().astype(np.float64))
    width, height = (_flat(table[name]) for name in ("image_width", "image_height"))
    histograms["shorter_side_px"].add(np.minimum(width, height))
    histograms["aspect"].add(np.maximum(width, height) / np.maximum(1, np.minimum(width, height)))
    tallies["domains"].add(table["domain"].to_pylist())
    tallies["languages"].add(name or "unknown" for name in table["language"].to_pylist())
    tallies["licenses"].add(map(_license_name, table["license"].to_pylist()))
    tallies["crawl_files"].add(table["crawl_file"].to_pylist())


def _flat(column: pa.ChunkedArray) -> Float[np.ndarray, " values"]:
    return np.concatenate([np.zeros(0), *(chunk.flatten().to_numpy().astype(np.float64) for chunk in column.chunks)])


def _license_name(address: str | None) -> str:
    if address is None:
        return "not recorded"  # by an early catalogue
    return normal_license(address) or ("other" if address else "none named")


def _counts(shards: Sequence[Shard], histograms: dict[str, Histogram]) -> dict[str, int]:
    whole = [shard for shard in shards if shard.rows is None]
    return {
        "shards": len(shards),
        "documents": sum(map(len, shards)),
        "images": int(histograms["images_per_document"].total),
        "characters": int(histograms["characters_per_document"].total),
        "bytes_of_whole_shards": sum(sum(shard.sidecar["bytes"].values()) for shard in whole),
    }


def gather_funnel(folders: Sequence[Path], shards: Sequence[Shard]) -> dict[str, dict[str, Any]]:
    """For documents and images, what came in, what came out and what was left out by reason, summed over the sets that have a report.

    What was removed from whole sets since they were built counts as the reason `removed`. Empty if no set has a report.
    """
    reports = [read_json(folder / "report.json") for folder in folders if (folder / "report.json").is_file()]
    removed = {kind: sum(shard.sidecar.get("removed", {}).get(kind, 0) for shard in shards if shard.rows is None) for kind in ("documents", "images")}
    funnel = {}
    for kind in removed if reports else ():
        dropped: Counter[str] = Counter()
        for report in reports:
            dropped.update(report[kind]["dropped"])
        if removed[kind]:
            dropped[Reason.REMOVED] = removed[kind]
        out = sum(report[kind]["out"] for report in reports) - removed[kind]
        funnel[kind] = {"in": sum(report[kind]["in"] for report in reports), "out": out, "dropped": dict(sorted(dropped.items()))}
    return funnel
