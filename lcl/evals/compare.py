"""Two results on the same test items: the difference with a paired interval, and an exact paired test."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float
from scipy import stats

from lcl.core.files import read_json
from lcl.evals.intervals import Estimate, clustered_bootstrap
from lcl.evals.results import TRAINED, read_predictions, read_result, schema_of

SCHEMA = "lcl-comparison/1"


@dataclass(frozen=True)
class Difference:
    """Of one metric: shares of the first and second, second - first with its interval, and McNemar's exact p (None where it does not apply, with the reason)."""

    metric: str
    first: float
    second: float
    difference: Estimate
    only_first: int | None
    only_second: int | None
    p_value: float | None
    p_value_note: str = ""

    def record(self) -> dict[str, Any]:
        of = self.difference
        return {
            "metric": self.metric, "first": self.first, "second": self.second, "difference": of.value, "low": of.low, "high": of.high, "interval": of.method, "n": of.n,
            "only_first_right": self.only_first, "only_second_right": self.only_second, "mcnemar_p": self.p_value, "mcnemar_note": self.p_value_note,
        }  # fmt: skip


@dataclass(frozen=True)
class Rights:
    """Of one metric: each test item, the cluster it is drawn with, and whether it was right: 0 or 1, with several seeds the share of them that have it right."""

    items: list[str]
    clusters: list[str]
    shares: Float[np.ndarray, " items"]


def compare(first: Path, second: Path, *, seed: int = 0) -> list[Difference]:
    """The trained encoders of two results, metric by metric.

    Raises ValueError for results of different tasks, data or test items, and for a result of another version.
    """
    records = read_result(first), read_result(second)
    for key, name in (("task", "tasks"), ("dataset.index_sha256", "images")):
        values = [record["dataset"]["index_sha256"] if key.startswith("dataset") else record[key] for record in records]
        if values[0] != values[1]:
            raise ValueError(f"{first} and {second} are results of different {name} ({values[0]} and {values[1]}); compare results of one task on one set")
    ones, others = rights_of(first), rights_of(second)
    if ones.keys() != others.keys():
        raise ValueError(f"{first} has the metrics {', '.join(ones)}, {second} has {', '.join(others)}; give both the same options")
    return [_difference(metric, ones[metric], others[metric], first=first, second=second, seed=seed) for metric in ones]


def rights_of(path: Path) -> dict[str, Rights]:
    """Of the trained encoder of a result, by metric. Raises ValueError as `read_predictions`."""
    table = read_predictions(path)
    table = table.filter(pc.equal(table["model"], TRAINED))
    return {metric: _by_item(table.filter(pc.equal(table["metric"], metric))) for metric in sorted(set(table["metric"].to_pylist()))}


def _by_item(table: pa.Table) -> Rights:
    grouped = table.append_column("one", pc.cast(table["right"], pa.float64())).group_by(["item", "cluster"]).aggregate([("one", "mean")]).sort_by("item")
    return Rights(grouped["item"].to_pylist(), grouped["cluster"].to_pylist(), grouped["one_mean"].to_numpy())


def read_comparison(path: Path) -> dict[str, Any]:
    """What `lcl eval compare` wrote. Raises ValueError if the file holds something else."""
    if not path.is_file():
        raise ValueError(f"{path}: no such comparison; `lcl eval compare FIRST SECOND --output {path}` makes one")
    record = read_json(path)
    if schema_of(record) != SCHEMA:
        raise ValueError(f"{path} is no comparison ({SCHEMA}); give the files that `lcl eval compare ... --output` wrote")
    return record


def settings_apart(first: Path, second: Path) -> dict[str, tuple[Any, Any]]:
    """Settings of the two protocols that are not the same, by their dotted names: a difference may come of these, and not of the encoders."""
    one, other = (_flat(read_result(path)["protocol"]) for path in (first, second))
    return {name: (one.get(name), other.get(name)) for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)}


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {before + name: value}
    return found


def mcnemar(first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"]) -> tuple[int, int, float]:
    """Items that only the first and only the second has right, and the two-sided p of the exact test.

    Under equal accuracies each of the b + c items that one alone has right is a fair coin: p = 2 P(X <= min(b, c)), X ~ Binomial(b + c, 1/2), at most 1
    (McNemar 1947, in its exact form).
    """
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    return b, c, 1.0 if b + c == 0 else float(stats.binomtest(b, b + c).pvalue)


def _difference(metric: str, one: Rights, other: Rights, *, first: Path, second: Path, seed: int) -> Difference:
    items, clusters, rights, other_rights = one.items, one.clusters, one.shares, other.shares
    if items != other.items:
        raise ValueError(f"{first} and {second} were tested on different items of {metric} ({len(items)} and {len(other.items)}); give both the same options")
    estimate = clustered_bootstrap(other_rights - rights, clusters, of="items" if clusters == items else "clusters of items", seed=seed)
    note = ""
    if not all(set(np.unique(values)) <= {0.0, 1.0} for values in (rights, other_rights)):
        note = "several seeds: an item is right by a share"
    elif clusters != items:
        note = "items of one image or document are no independent coins"
    b, c, p_value = (None, None, None) if note else mcnemar(rights == 1, other_rights == 1)
    return Difference(metric, float(rights.mean()), float(other_rights.mean()), estimate, b, c, p_value, note)
