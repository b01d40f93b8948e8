"""Rows of a parquet file in small batches: memory follows the size of a row, not of a row group.

    footer --> columns that are wanted --> pages, read through a buffer --> batches of some MiB --> (row, values) | Rejected
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lcl.core.rejected import Reason, Rejected
from pipeline.storage import Input, open_input

BATCH_BYTES = 4 << 20   # as the footer tells the mean size of a row
MAX_BATCH_ROWS = 1_000
MAX_ROW_BYTES = 256 << 20
READ_BYTES = 1 << 20    # buffer of one column
MAX_ROW_GROUPS = 1_000_000
DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)  # not InputUnreadable: a broken connection is no damage

Row = tuple[int, dict[str, Any]]


class NotASource(ValueError):
    """A file of another kind than it was given or found as."""


def read_schema(source: Input) -> pa.Schema:
    """The columns. Raises NotASource if it is no parquet file."""
    with open_input(source) as file, _open(source, file) as parquet:
        return parquet.schema_arrow


def read_parquet_rows(source: Input, columns: Sequence[str]) -> Iterator[Row | Rejected]:
    """(number, values) of every row, numbered from 0. Behind damage in the middle a Rejected, and nothing more.

    Raises NotASource if it is no parquet file, or lacks a column.
    """
    with open_input(source) as file, _open(source, file) as parquet:
        if missing := sorted(set(columns) - set(parquet.schema_arrow.names)):
            raise NotASource(f"{source} has no column {', '.join(missing)}; it has {', '.join(parquet.schema_arrow.names)}")
        row = 0
        try:
            batches = parquet.iter_batches(batch_size=_batch_rows(parquet.metadata), columns=list(columns), use_threads=False)
            for batch in batches:
                yield from _rows(batch, row, source.name)
                row += batch.num_rows
        except DAMAGE as error:
            yield Rejected(Reason.RECORD_DAMAGED, f"{source.name}, behind row {row}: {str(error).splitlines()[0]}")


def _open(source: Input, file: Any) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file, buffer_size=READ_BYTES, pre_buffer=False)
    except DAMAGE as error:
        raise NotASource(f"{source} is no parquet file, or a damaged one: {str(error).splitlines()[0]}") from error


def _batch_rows(metadata: pq.FileMetaData) -> int:
    """Rows that take about BATCH_BYTES, by the row group with the largest rows."""
    groups = (metadata.row_group(index) for index in range(min(metadata.num_row_groups, MAX_ROW_GROUPS)))
    largest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1)
    return max(1, min(MAX_BATCH_ROWS, int(BATCH_BYTES / max(1, largest))))


def _rows(batch: pa.RecordBatch, first: int, name: str) -> Iterator[Row | Rejected]:
    """The batch at once where that goes well, else row by row: text that is not UTF-8, a date out of range, a row too large."""
    try:
        rows = batch.to_pylist() if batch.nbytes <= MAX_ROW_BYTES else None
    except (ValueError, OverflowError):
        rows = None
    if rows is not None:
        yield from enumerate(rows, start=first)
        return
    for index in range(batch.num_rows):
        one, where = batch.slice(index, 1), f"{name}, row {first + index}"
        try:
            yield (first + index, one.to_pylist()[0]) if one.nbytes <= MAX_ROW_BYTES else Rejected(Reason.ROW_TOO_LARGE, f"{where}: {one.nbytes} bytes")
        except (ValueError, OverflowError) as error:
            yield Rejected(Reason.ROW_MALFORMED, f"{where}: {error}")
