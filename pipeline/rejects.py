"""What a build left out, page by page and image by image, where it was asked to keep that (`--keep-rejects`).

    rejects/NAME.parquet, one per split beside its shards: rows in the order of the crawl file
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lcl.core.files import open_aside

FOLDER = "rejects"
REJECTS = pa.schema(
    [
        ("crawl_file", pa.string()),
        ("crawl_offset", pa.int64()),   # bytes, of the page's record
        ("page_url", pa.string()),
        ("image_url", pa.string()),     # empty: the page itself was left out
        ("reason", pa.string()),        # lcl/core/rejected.py
        ("detail", pa.string()),
    ]
)


def write_rejects(folder: Path, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes the rows of one split beside its shards in `folder`."""
    (folder / FOLDER).mkdir(exist_ok=True)
    with open_aside(folder / FOLDER / f"{name}.parquet") as file:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=REJECTS), file, compression="zstd")


def read_rejects(folder: Path, crawl_file: str) -> list[dict[str, Any]]:
    """The rows of one crawl file in the order of their offsets; none where no rejects were kept. Inverse of `write_rejects`."""
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob(f"{FOLDER}/*.parquet")):
        rows += pq.read_table(path, schema=REJECTS, filters=[("crawl_file", "=", crawl_file)]).to_pylist()
    return sorted(rows, key=lambda row: row["crawl_offset"])
