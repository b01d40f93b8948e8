"""The documents of all splits as one numbered sequence, in the order of (crawl file, offset): which of two comes first is a comparison of numbers.

    extracted/*.parquet --inspect--> splits in order --> Corpus: document i is row i - starts[s] of split s
    known/*.parquet: documents of sets that a build extends, before all others, in any order among themselves; they are never dropped and get no list
    groups: documents [g * G, (g + 1) * G), the unit of a task that reads documents, whatever the splits' sizes
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lcl.core.config import from_dict, to_dict
from pipeline.dedup.signature import SignatureConfig, settings_of
from pipeline.storage import fingerprint

BATCH_ROWS = 1024  # documents in memory at once
COLUMNS = ("key", "file", "offset", "page_url", "domain", "text", "image_urls", "url_hash", "text_hash", "minhash")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """`paths` of the splits in order; split s holds documents starts[s] to starts[s + 1]. The first `num_known_splits` are of known documents."""

    paths: tuple[Path, ...]
    starts: np.ndarray
    num_known_splits: int
    group_documents: int
    signature: SignatureConfig
    has_image_hashes: bool

    @property
    def num_documents(self) -> int:
        return int(self.starts[-1])

    @property
    def num_known(self) -> int:
        """Documents below this number are known ones."""
        return int(self.starts[self.num_known_splits])

    @property
    def num_groups(self) -> int:
        return max(1, -(-self.num_documents // self.group_documents))

    def group_of(self, documents: np.ndarray) -> np.ndarray:
        return documents // self.group_documents

    def bounds(self, group: int) -> tuple[int, int]:
        """First document of the group, and the first behind it."""
        return group * self.group_documents, min((group + 1) * self.group_documents, self.num_documents)

    def read(self, start: int, end: int, columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Documents `start` to `end` in batches, each with the number of its first document."""
        split = int(np.searchsorted(self.starts, start, side="right")) - 1
        while start < end:
            first, behind = int(self.starts[split]), int(self.starts[split + 1])
            if behind > start:
                yield from _read_rows(self.paths[split], start - first, min(end, behind) - first, columns, first)
                start = behind
            split += 1


def _read_rows(path: Path, start: int, end: int, columns: Sequence[str], first_document: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    with pq.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)]
        starts = np.cumsum([0, *sizes])
        wanted = [index for index in range(len(sizes)) if starts[index] < end and starts[index + 1] > start]
        row = int(starts[wanted[0]])
        for batch in file.iter_batches(BATCH_ROWS, row_groups=wanted, columns=list(columns)):
            low, high = max(start, row), min(end, row + len(batch))
            if low < high:
                yield first_document + low, batch.slice(low - row, high - low)
            row += len(batch)


def inspect(path: Path, *, is_known: bool) -> dict[str, Any]:
    """Of a split: number of rows, first and last (file, offset), fingerprint, settings of its signatures.

    Raises ValueError naming the file if it lacks a column or is damaged, or if its rows are not in order, which known ones need not be.
    """
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            missing = [column for column in COLUMNS if column not in schema.names]
            if missing:
                raise ValueError(f"it has no column {', '.join(missing)}: extract it again")
            signature = to_dict(settings_of(schema))
            last: tuple[str, int] | None = None
            first = None
            for batch in () if is_known else file.iter_batches(columns=["file", "offset"]):
                for place in zip(batch["file"].to_pylist(), batch["offset"].to_pylist(), strict=True):
                    first = first or place
                    if last is not None and place < last:
                        raise ValueError(f"{place} stands behind {last}: documents must be in the order of (file, offset); extract it again")
                    last = place
            return {
                "path": path, "rows": file.metadata.num_rows, "is_known": is_known, "first": first, "last": last, "fingerprint": fingerprint(path), "signature": signature,
                "image_hashes": "image_sha256" in schema.names,
            }  # fmt: skip
    except (pa.ArrowException, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def order_splits(inspected: Sequence[dict[str, Any]], *, group_documents: int) -> Corpus:
    """The corpus of inspected splits. Raises ValueError if two of them overlap, or if their signatures cannot be compared."""
    known = sorted((split for split in inspected if split["is_known"] and split["rows"]), key=lambda split: split["path"])
    filled = sorted((split for split in inspected if not split["is_known"] and split["rows"]), key=lambda split: split["first"])
    for before, behind in zip(filled, filled[1:]):
        if tuple(before["last"]) >= tuple(behind["first"]):
            raise ValueError(
                f"splits {before['path'].stem} and {behind['path'].stem} in {before['path'].parent} overlap: one ends at {before['last']}, the other begins at "
                f"{behind['first']}. Remove what was extracted twice."
            )  # fmt: skip
    compared = [*known, *filled]
    for before, behind in zip(compared, compared[1:]):
        for what in ("signature", "image_hashes"):
            if before[what] != behind[what]:
                raise ValueError(f"{before['path']} and {behind['path']} have different {what}: {before[what]} and {behind[what]}; extract them again")
    empty = sorted((split for split in inspected if not split["is_known"] and not split["rows"]), key=lambda split: split["path"])
    splits = [*compared, *empty]
    signature = compared[0]["signature"] if compared else to_dict(SignatureConfig())
    return Corpus(
        paths=tuple(split["path"] for split in splits), starts=np.cumsum([0, *(split["rows"] for split in splits)]), num_known_splits=len(known),
        group_documents=group_documents, signature=from_dict(SignatureConfig, signature, origin="extracted documents"),
        has_image_hashes=bool(compared) and compared[0]["image_hashes"],
    )  # fmt: skip


def binary_column(column: pa.Array) -> np.ndarray:
    """uint8 (rows, width) of a fixed-width binary column without nulls, not copied."""
    width = column.type.byte_width
    values = np.frombuffer(column.buffers()[1], np.uint8)
    return values[column.offset * width : (column.offset + len(column)) * width].reshape(len(column), width)
