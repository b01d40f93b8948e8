"""What a build left out and why, by record, document and image, where it was asked to keep that (`--keep-rejects`).

    extraction --> work/rejects/NAME.extract.parquet  --+
    assembly   --> work/rejects/NAME.assemble.parquet --+--> rejects/NAME.parquet, one per split beside its shards: rows in the order of the crawl file

Each count of a reason in report.json is the number of its rows: those of kind `record` are `records_rejected`, those of `document` and `image` the two funnels.
Images of a page that is itself left out at assembly, and that no rule of their own left out before, are rows too (image_page_dropped, the page's reason as detail);
images of pages that extraction leaves out were never counted and have none. Paragraphs are counted, not kept: their text would be a copy of what was to go.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from lcl.core.files import open_aside
from lcl.core.rejected import Rejected

FOLDER = "rejects"
REJECTS = pa.schema(
    [
        ("kind", pa.string()),          # record, document or image
        ("crawl_file", pa.string()),
        ("crawl_offset", pa.int64()),   # bytes, of the page's record; of a damaged one: of the last before it that could be read, -1 for none
        ("page_url", pa.string()),
        ("image_url", pa.string()),     # first candidate; empty where the source itself holds the image
        ("reason", pa.string()),        # lcl/core/rejected.py
        ("detail", pa.string()),        # what broke the rule, where that is known; of a duplicate: the key of the document that was kept for it
    ]
)
MAX_DETAIL = 500        # characters
ROWS = 4096             # in a group: what is held at one time
GROUP_CHARACTERS = 16 << 20

Kind = Literal["record", "document", "image"]
Keep = Callable[[Mapping[str, Any]], None]


def reject_row(kind: Kind, rejected: Rejected, *, crawl_file: str, crawl_offset: int, page_url: str = "", image_url: str = "") -> dict[str, Any]:
    """The row of what was left out. A data: address holds the image itself and is named, not kept; a detail that repeats an address is empty."""
    address = "data:" if image_url.startswith("data:") else image_url
    detail = "" if rejected.detail in (page_url, image_url) else rejected.detail[:MAX_DETAIL]
    texts = {"page_url": page_url, "image_url": address, "detail": detail}
    return {
        "kind": kind, "crawl_file": crawl_file, "crawl_offset": crawl_offset, "reason": str(rejected.reason),
        **{name: text.encode("utf-8", "backslashreplace").decode() for name, text in texts.items()},  # an address of the web may be no text
    }  # fmt: skip


@contextmanager
def open_rejects(path: Path | None) -> Iterator[Keep]:
    """A function that takes rows as they come; the file is there, whole, when the block ends well. Without a path, rows are not kept.

    Groups of rows are in memory at one time. The same rows give the same bytes.
    """
    if path is None:
        yield lambda row: None
        return
    path.parent.mkdir(exist_ok=True)
    group: list[Mapping[str, Any]] = []
    num_characters = 0
    with open_aside(path) as file, pq.ParquetWriter(file, REJECTS, compression="zstd") as writer:

        def flush() -> None:
            nonlocal num_characters
            writer.write_table(pa.Table.from_pylist(group, schema=REJECTS))
            group.clear()
            num_characters = 0

        def keep(row: Mapping[str, Any]) -> None:
            nonlocal num_characters
            group.append(row)
            num_characters += len(row["page_url"]) + len(row["image_url"])
            if len(group) == ROWS or num_characters >= GROUP_CHARACTERS:
                flush()

        yield keep
        if group:
            flush()


def write_rejects(folder: Path, name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Writes the rows of one split beside its shards in `folder`, as they come, and returns the file."""
    path = folder / FOLDER / f"{name}.parquet"
    with open_rejects(path) as keep:
        for row in rows:
            keep(row)
    return path


def read_rejects(folder: Path, crawl_file: str) -> list[dict[str, Any]]:
    """The rows of one crawl file in the order of their offsets; none where no rejects were kept. Inverse of `write_rejects`."""
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob(f"{FOLDER}/*.parquet")):
        rows += pq.read_table(path, schema=REJECTS, filters=[("crawl_file", "=", crawl_file)]).to_pylist()
    return sorted(rows, key=lambda row: row["crawl_offset"])


def count_rejects(path: Path) -> dict[str, Counter[str]]:
    """How many rows of a file there are, by kind and reason."""
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in ("record", "document", "image")}
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["kind", "reason"]):
            for kind, reason in zip(batch["kind"].to_pylist(), batch["reason"].to_pylist(), strict=True):
                counts[kind][reason] += 1
    return counts
