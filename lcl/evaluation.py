"""What an evaluation prints and writes: rows of accuracy with intervals, beside their controls."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int
from rich.console import Console
from rich.table import Table

from lcl.core.config import config, versions
from lcl.core.files import read_json, write_json
from lcl.probe import wilson_interval

SCHEMA = "lcl-evaluation/1"


@config
class EvalConfig:
    checkpoint: str
    """A run folder (its newest checkpoint) or one checkpoint (step-N)."""
    data: str
    """Labelled images: train/<class>/ and test/<class>/, with an optional classes.json."""
    output: str
    """JSON file for the result."""
    weights: Literal["model", "ema"] = "model"
    """Weights of the last step, or their moving average."""
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """One line of a result: accuracy on the test images with its 95 % interval (Wilson)."""

    name: str
    accuracy: float
    low: float
    high: float
    detail: str = ""


def score(name: str, predicted: Int[np.ndarray, " images"], labels: Int[np.ndarray, " images"], detail: str = "") -> Row:
    right = int((predicted == labels).sum())
    return Row(name, right / len(labels), *wilson_interval(right, len(labels)), detail)


def majority(labels: Int[np.ndarray, " images"]) -> Row:
    """The score of always naming the most frequent class."""
    return score("most frequent class", np.full_like(labels, np.bincount(labels).argmax()), labels)


def read_result(path: Path) -> dict[str, Any]:
    """A result that `publish` wrote. Raises ValueError if the file holds something else."""
    if not path.exists():
        raise ValueError(f"{path}: no such result; `lcl eval ... --output {path}` makes one")
    record = read_json(path)
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ValueError(f"{path} is no result of an evaluation ({SCHEMA}); give the files that `lcl eval ... --output` wrote")
    return record


def publish(task: str, rows: Sequence[Row], *, settings: EvalConfig, protocol: dict[str, Any], checkpoint: Path, num_images: int) -> None:
    """Prints the rows as a table and writes them, with all that is needed to make them again, to `settings.output`."""
    table = Table(title=f"{task}, {num_images} test images")
    for column in ("", "accuracy", "95 % interval", ""):
        table.add_column(column)
    for row in rows:
        table.add_row(row.name, f"{row.accuracy:.1%}", f"{row.low:.1%} to {row.high:.1%}", row.detail)
    Console().print(table)
    path = Path(settings.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        path,
        {
            "schema": SCHEMA, "task": task, "rows": [asdict(row) for row in rows], "num_images": num_images, "data": settings.data,
            "checkpoint": str(checkpoint), "weights": settings.weights, "protocol": protocol, "seed": settings.seed, "versions": versions(),
        },
    )
