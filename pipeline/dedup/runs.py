"""Records that travel from the tasks that make them to the tasks that need them: a file per maker, sorted by receiver.

    maker m --write_runs--> one file: [bounds of each run | run 0 | run 1 | ...]
    receiver r <--read_runs-- run r of every maker's file, in the makers' order

One file per maker, not one per maker and receiver; a receiver reads slices.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lcl.core.files import open_aside

INT = np.dtype("<i8")

# 128-bit hashes are two words; `doc` numbers a document, `place` a paragraph or an image in it.
HASHED = np.dtype([("hi", "<u8"), ("lo", "<u8"), ("doc", "<i8")])
HASHED_PLACE = np.dtype([("hi", "<u8"), ("lo", "<u8"), ("doc", "<i8"), ("place", "<i4")])
BAND = np.dtype([("key", "<u8"), ("doc", "<i8")])
PAIR = np.dtype([("low", "<i8"), ("high", "<i8")])
DOC = np.dtype([("doc", "<i8")])
DROP = np.dtype([("doc", "<i8"), ("kept", "<i8")])
PLACE = np.dtype([("doc", "<i8"), ("place", "<i4")])
VALUE = np.dtype([("doc", "<i8"), ("place", "<i4"), ("documents", "<i8")])


def write_runs(path: Path, records: np.ndarray, receivers: np.ndarray, *, num_receivers: int) -> None:
    """Writes `records` by receiver, in the given order for each."""
    order = np.argsort(receivers, kind="stable")
    bounds = np.searchsorted(receivers[order], np.arange(num_receivers + 1)).astype(INT)
    with open_aside(path) as file:
        file.write(bounds.tobytes())
        file.write(records[order].tobytes())


def read_runs(paths: Sequence[Path], receiver: int, *, num_receivers: int, dtype: np.dtype) -> np.ndarray:
    """The records of one receiver out of all files, in the order of the files."""
    return np.concatenate([np.empty(0, dtype), *(_read_run(path, receiver, num_receivers, dtype) for path in paths)])


def _read_run(path: Path, receiver: int, num_receivers: int, dtype: np.dtype) -> np.ndarray:
    with open(path, "rb") as file:
        file.seek(INT.itemsize * receiver)
        start, end = np.frombuffer(file.read(2 * INT.itemsize), INT)
        file.seek(INT.itemsize * (num_receivers + 1) + int(start) * dtype.itemsize)
        return np.frombuffer(file.read(int(end - start) * dtype.itemsize), dtype)


def read_all(path: Path, *, num_receivers: int, dtype: np.dtype) -> np.ndarray:
    """All records of one file, by receiver."""
    return np.fromfile(path, dtype, offset=INT.itemsize * (num_receivers + 1))


def make_records(dtype: np.dtype, **columns: np.ndarray) -> np.ndarray:
    """A structured array from its columns."""
    records = np.empty(len(next(iter(columns.values()))), dtype)
    for name, values in columns.items():
        records[name] = values
    return records


def partition_of(hashes: np.ndarray, num_partitions: int) -> np.ndarray:
    """The partition (0 <= p < num_partitions) of uniformly distributed uint64 hashes."""
    return (((hashes >> np.uint64(32)) * np.uint64(num_partitions)) >> np.uint64(32)).astype(np.int64)
