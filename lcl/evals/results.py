"""What an evaluation prints and writes: values with intervals beside their controls, and the prediction for every image.

    OUTPUT.json                  what was measured, on what, how, with which seeds and versions
    OUTPUT.predictions.parquet   a row for each model, metric, seed and test item
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from lcl.core.config import commit, versions
from lcl.core.files import open_aside, read_json, sha256_of, write_json
from lcl.evals.intervals import EXACT, Estimate

SCHEMA = "lcl-evaluation/2"
TRAINED = "trained encoder"  # the model of the rows that are no control
PREDICTIONS = pa.schema(
    [
        ("model", pa.string()), ("metric", pa.string()), ("seed", pa.int64()),
        ("item", pa.string()),       # the image, or the text or context that asks for one
        ("cluster", pa.string()),    # items of one cluster (captions of an image, contexts of a document) are drawn together in a bootstrap
        ("label", pa.string()), ("predicted", pa.string()), ("right", pa.bool_()), ("score", pa.float64()),
    ]
)  # fmt: skip
Unit = Literal["share", "rank", "number"]
Task = Literal[
    "linear probe", "attentive probe", "nearest neighbours", "few-shot classification", "zero-shot classification", "image-text retrieval",
    "context retrieval (set)", "context retrieval (document)", "dense probe", "fine-tuning", "captioning",
]  # fmt: skip
PAGE_WIDTH = 150  # columns of the table where it goes to a file


@dataclass(frozen=True)
class Row:
    """One line of a result: a metric of a model, or of a control, on the test items. `unit` says whether it is a fraction of 1, counts from 1, or is another number."""

    model: str
    metric: str
    estimate: Estimate
    detail: str = ""
    unit: Unit = "share"

    def record(self) -> dict[str, Any]:
        of = self.estimate
        return {
            "model": self.model, "metric": self.metric, "value": of.value, "low": of.low, "high": of.high, "interval": of.method, "n": of.n,
            "unit": self.unit, "detail": self.detail,
        }  # fmt: skip


@dataclass(frozen=True)
class Predictions:
    """What a model said of each test item. `clusters` are the items themselves where none are given."""

    model: str
    metric: str
    items: Sequence[str]
    labels: Sequence[str]
    predicted: Sequence[str]
    right: Sequence[bool]
    scores: Sequence[float]
    seed: int = 0
    clusters: Sequence[str] = ()

    def table(self) -> pa.Table:
        num = len(self.items)
        columns = [[self.model] * num, [self.metric] * num, [self.seed] * num, self.items, self.clusters or self.items, self.labels, self.predicted]
        right, scores = np.asarray(self.right, dtype=bool), np.asarray(self.scores, dtype=np.float64)
        arrays = [pa.array(column, field.type) for column, field in zip([*columns, right, scores], PREDICTIONS, strict=True)]
        return pa.Table.from_arrays(arrays, schema=PREDICTIONS)


@dataclass(frozen=True)
class Result:
    """A finished evaluation. `sweeps` hold what was tried for each model, with its score on the images that it was chosen on."""

    task: Task
    dataset: Mapping[str, Any]
    model: Mapping[str, Any]
    protocol: Mapping[str, Any]
    rows: Sequence[Row]
    predictions: Sequence[Predictions]
    seeds: Sequence[int]
    seconds: float
    sweeps: Mapping[str, Any] = field(default_factory=dict)
    left_out: Sequence[str] = ()

    def value(self, model: str, metric: str = "accuracy") -> float:
        """The value of a row. Raises KeyError if there is none."""
        for row in self.rows:
            if row.model == model and row.metric == metric:
                return row.estimate.value
        raise KeyError(f"{self.task} has no row of {model}, {metric}")

    def record(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "schema": SCHEMA, "task": self.task, "dataset": dict(self.dataset), "model": dict(self.model), "rows": [row.record() for row in self.rows],
            "left_out": list(self.left_out), "protocol": dict(self.protocol), "sweeps": dict(self.sweeps), "seeds": list(self.seeds), "seconds": round(self.seconds, 3),
            "environment": {
                "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]), "commit": commit(), "cores": os.cpu_count(),
                "versions": versions(("lcl", "torch", "numpy", "scikit-learn", "scipy", "pillow", "open_clip_torch", "timm", "transformers", "tokenizers")),
            },
        }  # fmt: skip


def publish(result: Result, output: Path) -> None:
    """Writes the predictions, then the result that names them, and prints the rows as a table."""
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = _predictions_of(output)
    table = pa.concat_tables([predictions.table() for predictions in result.predictions]) if result.predictions else PREDICTIONS.empty_table()
    with open_aside(beside) as file:
        pq.write_table(table, file, compression="zstd")
    write_json(output, result.record() | {"predictions": {"file": beside.name, "sha256": sha256_of(beside)}})
    print_rows(f"{result.task}: {result.dataset['name']}", result.rows, result.left_out)


def by_metric(rows: Sequence[Row]) -> list[Row]:
    """Rows of the same metric beside each other, otherwise in their order."""
    metrics = list(dict.fromkeys(row.metric for row in rows))
    return sorted(rows, key=lambda row: metrics.index(row.metric))


def print_rows(title: str, rows: Sequence[Row], left_out: Sequence[str] = ()) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("metric", "model", "value", "95 % interval", "n", ""):
        table.add_column(column, justify="right" if column in ("value", "n") else "left")
    for row in rows:
        of = row.estimate
        interval = "" if of.method == EXACT else f"{shown(of.low, row.unit)} to {shown(of.high, row.unit)}"
        table.add_row(row.metric, row.model, shown(of.value, row.unit), interval, str(of.n), row.detail)
    page = console()
    page.print(table)
    methods: dict[str, list[str]] = {}
    for row in rows:
        if row.estimate.method != EXACT and row.metric not in methods.setdefault(row.estimate.method, []):
            methods[row.estimate.method].append(row.metric)
    for method, metrics in methods.items():
        page.print(f"intervals of {', '.join(metrics)}: {method}")
    for reason in left_out:
        page.print(f"left out: {reason}")


def console() -> Console:
    """Where tables are printed: a terminal at its own width, anything else at PAGE_WIDTH."""
    return Console() if sys.stdout.isatty() else Console(width=PAGE_WIDTH)


def shown(value: float, unit: Unit = "share") -> str:
    """The value as people read it."""
    return f"{value:.1%}" if unit == "share" else f"{value:,.1f}" if unit == "rank" else f"{value:,.2f}"


def check_output(output: Path, *, task: Task | None = None, schema: str = SCHEMA) -> Path:
    """`output`. Raises ValueError before any work if it is no name for a result, or the name of a file that is none of this task and kind."""
    if output.suffix != ".json" or output.is_dir():
        raise ValueError(f"--output {output} is no name for a result: give one that ends in .json; its predictions go beside it")
    if output.exists() and not _holds(output, schema.partition("/")[0], task):
        raise ValueError(f"--output {output} is there and holds something else ({task or schema} would be written): give another name")
    beside = _predictions_of(output)
    if beside.exists() and not _holds_predictions(beside):
        raise ValueError(f"{beside} is there and holds no predictions, which would be written over it: give another --output")
    return output


def _holds(path: Path, kind: str, task: Task | None) -> bool:
    try:
        record = read_json(path)
        return schema_of(record).partition("/")[0] == kind and (task is None or record.get("task") == task)
    except ValueError:
        return False


def _predictions_of(output: Path) -> Path:
    return output.with_name(f"{output.stem}.predictions.parquet")


def _holds_predictions(path: Path) -> bool:
    try:
        return pq.read_schema(path).names == PREDICTIONS.names
    except (pa.ArrowInvalid, OSError):
        return False


def schema_of(record: Any) -> str:
    """The name under "schema"; empty where there is none."""
    schema = record.get("schema") if isinstance(record, dict) else None
    return schema if isinstance(schema, str) else ""


def read_result(path: Path) -> dict[str, Any]:
    """A result that `publish` wrote. Raises ValueError if the file holds something else."""
    if not path.is_file():
        raise ValueError(f"{path}: no such result; `lcl eval ... --output {path}` makes one")
    record = read_json(path)
    schema = schema_of(record)
    if schema != SCHEMA:
        if schema.startswith("lcl-evaluation/"):
            raise ValueError(f"{path} is a result of another version ({schema}, this one reads {SCHEMA}); run its evaluation again")
        raise ValueError(f"{path} is no result of an evaluation ({SCHEMA}); give the files that `lcl eval ... --output` wrote")
    return record


def read_predictions(path: Path) -> pa.Table:
    """The predictions of the result at `path`. Raises ValueError if they are missing or are others than those of the result."""
    record = read_result(path)["predictions"]
    beside = path.with_name(record["file"])
    if not beside.exists():
        raise ValueError(f"{beside} is missing; it belongs beside {path.name}")
    if sha256_of(beside) != record["sha256"]:
        raise ValueError(f"{beside} is of another run than {path.name}; run the evaluation again")
    return pq.read_table(beside)
