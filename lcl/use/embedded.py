"""Features of images in files: a folder that `lcl embed` writes and `lcl search` reads.

    features-000000.parquet ...      id, source, width, height, sha256, pooled: one row per image; what was left out of the unit, in the file's metadata
    features-000000.safetensors ...  in that format, `pooled` is here: [images, width], row by row those of the parquet file
    features.json                    encoder, preprocessing, counts, rejects, checksums; written last: a folder without it does not exist
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float
from safetensors.numpy import load_file, save

from lcl.core.files import open_aside, read_json, sha256_of, write_json

SCHEMA = "lcl-features/1"
RECORD = "features.json"
POOLED = "pooled"
REJECTS = b"rejects"
ROWS = pa.schema(
    [
        ("id", pa.string()),      # a file's path below its folder; a document's key and the image's number in it
        ("source", pa.string()),  # name of the folder or of the shard
        ("width", pa.int32()),    # px, as stored
        ("height", pa.int32()),
        ("sha256", pa.string()),  # of the stored bytes
    ]
)

Format = Literal["parquet", "safetensors"]
Reject = dict[str, str]  # id, source, reason, detail


def part_path(folder: Path, number: int) -> Path:
    """The file that makes unit `number` done."""
    return folder / f"features-{number:06d}.parquet"


def write_part(path: Path, rows: Sequence[Mapping[str, Any]], pooled: Float[np.ndarray, "images width"], *, rejects: Sequence[Reject], format: Format) -> None:
    """Writes the features of one unit, whole or not at all; the parquet file last."""
    table = pa.Table.from_pylist(list(rows), schema=ROWS)
    if format == "safetensors":
        with open_aside(path.with_suffix(".safetensors")) as file:
            file.write(save({POOLED: np.ascontiguousarray(pooled, np.float32)}))
    else:
        values = pa.array(np.ascontiguousarray(pooled, np.float32).reshape(-1))
        table = table.append_column(POOLED, pa.FixedSizeListArray.from_arrays(values, pooled.shape[1]))
    table = table.replace_schema_metadata({REJECTS: json.dumps(list(rejects))})
    with open_aside(path) as file:
        pq.write_table(table, file, compression="zstd")


def read_part(path: Path) -> tuple[pa.Table, Float[np.ndarray, "images width"]]:
    """The rows (ROWS) and pooled features of one unit. Inverse of `write_part`."""
    table = pq.read_table(path)
    if POOLED not in table.column_names:
        return table.select(ROWS.names), load_file(path.with_suffix(".safetensors"))[POOLED]
    column = table[POOLED].combine_chunks()
    return table.select(ROWS.names), column.flatten().to_numpy().reshape(len(table), column.type.list_size)


def part_account(path: Path) -> tuple[int, list[Reject]]:
    """How many images a unit has features of, and which it left out."""
    with pq.ParquetFile(path) as file:
        return file.metadata.num_rows, json.loads(file.schema_arrow.metadata[REJECTS])


def commit_features(folder: Path, parts: Sequence[Path], record: Mapping[str, Any]) -> dict[str, Any]:
    """Writes `features.json`, after which the folder can be read, and returns it."""
    files = [file for part in parts for file in (part, part.with_suffix(".safetensors")) if file.exists()]
    whole = {"schema": SCHEMA, **record, "sha256": {file.name: sha256_of(file) for file in files}}
    write_json(folder / RECORD, whole)
    return whole


@dataclass(frozen=True)
class FeatureFiles:
    """Finished features: their record, and the files of their units in order."""

    folder: Path
    record: Mapping[str, Any] = field(repr=False)
    parts: tuple[Path, ...] = field(repr=False)

    def __iter__(self) -> Iterator[tuple[pa.Table, Float[np.ndarray, "images width"]]]:
        """Rows and pooled features of one unit after another."""
        return (read_part(path) for path in self.parts)


def find_features(folder: Path) -> FeatureFiles:
    """The features in a folder of `lcl embed`. Raises ValueError naming what is missing, unfinished or damaged."""
    if not (folder / RECORD).is_file():
        raise ValueError(f"{folder} holds no features ({RECORD}); make some with `lcl embed`, or let it finish")
    record = read_json(folder / RECORD)
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ValueError(f"{folder / RECORD} is no record of features ({SCHEMA}): embed again")
    for name, checksum in record["sha256"].items():
        if not (folder / name).is_file() or sha256_of(folder / name) != checksum:
            raise ValueError(f"{folder / name} is missing or damaged: its bytes do not give the checksum in {RECORD}: delete it and {RECORD}, and run `lcl embed` again")
    return FeatureFiles(folder, record, tuple(folder / name for name in record["sha256"] if name.endswith(".parquet")))
