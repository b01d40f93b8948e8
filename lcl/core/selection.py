"""A selection: some documents of some shards, named by row and not copied. A folder that is read like a folder of shards.

    selection.json    which shards, each with the checksum of its tar; counts; the condition; written last
    rows.parquet      (shard, row): places in that list and in the shard's catalogue, in order
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from lcl.core.files import open_aside, read_json, sha256_of, write_json

SCHEMA = "lcl-selection/1"
RECORD, ROWS = "selection.json", "rows.parquet"
CURE = "select again"


@dataclass(frozen=True)
class SelectedShard:
    """Rows of one shard's catalogue, rising. `tar_sha256` ties them to the bytes that they were chosen from."""

    sidecar: Path
    tar_sha256: str
    rows: Int[np.ndarray, " chosen"] = field(repr=False)


def is_selection(folder: Path) -> bool:
    return (folder / RECORD).is_file()


def write_selection(folder: Path, chosen: Sequence[SelectedShard], *, where: str, counts: dict[str, int]) -> dict[str, Any]:
    """Writes a selection and returns its record. Shards are named by their paths relative to `folder`, so both can move together."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = np.repeat(np.arange(len(chosen), dtype=np.int32), [len(part.rows) for part in chosen])
    rows = np.concatenate([part.rows for part in chosen]).astype(np.int32) if chosen else np.zeros(0, np.int32)
    with open_aside(folder / ROWS) as file:
        pq.write_table(pa.table({"shard": shards, "row": rows}), file, compression="zstd")
    record = {
        "schema": SCHEMA,
        "where": where,
        **counts,
        "shards": [
            {"sidecar": Path(os.path.relpath(part.sidecar.resolve(), folder.resolve())).as_posix(), "tar_sha256": part.tar_sha256, "documents": len(part.rows)}
            for part in chosen
        ],
        "sha256": {ROWS: sha256_of(folder / ROWS)},
    }
    write_json(folder / RECORD, record)
    return record


def read_selection(folder: Path) -> list[SelectedShard]:
    """The shards of a selection with their chosen rows. Raises ValueError naming the file that is damaged. Inverse of `write_selection`."""
    record = read_json(folder / RECORD)
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"{folder / RECORD}: schema {schema!r}, this version reads {SCHEMA!r}: {CURE}")
    path = folder / ROWS
    if not path.is_file() or sha256_of(path) != record["sha256"][ROWS]:
        raise ValueError(f"{path} is missing or damaged: its bytes do not give the checksum in {RECORD}: {CURE}")
    table = pq.read_table(path)
    ends = np.cumsum([part["documents"] for part in record["shards"]])
    if len(table) != (ends[-1] if len(ends) else 0):
        raise ValueError(f"{path}: {len(table)} rows, but {RECORD} counts {ends[-1] if len(ends) else 0}: {CURE}")
    rows = np.split(table["row"].to_numpy(), ends[:-1])
    return [
        SelectedShard(folder / part["sidecar"], part["tar_sha256"], chosen) for part, chosen in zip(record["shards"], rows, strict=False)
    ]
