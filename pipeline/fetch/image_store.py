"""Stored bodies by address, from disk: an index for each partition, searched in place.

    address --> partition --> index-keys.npy (sorted, searched by halves) --> index-places.npy --> record in a WARC file
                    ^                                                                  |
                    +-----------------------------  redirect  <-----------------------+
"""

import functools
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fastwarc.warc import ArchiveIterator

from lcl.core.files import open_aside, read_json, write_json
from lcl.core.rejected import Reason, Rejected
from pipeline.addresses import normal_url
from pipeline.fetch.addresses import parse_url
from pipeline.fetch.fetch_config import MAX_REDIRECTS
from pipeline.fetch.ledger import OK, REDIRECT, Row
from pipeline.fetch.url_tables import hash_key, partition_of

STORE_FILE, INDEX_FILE = "store.json", "index.json"
SCHEMA = "lcl-image-store/1"
OUTCOMES = (OK, REDIRECT, *Reason)
NEVER_ASKED = "never_asked"
OPEN_INDEXES = 64
# `low` is the second half of the key's hash; `target` is the hash of a redirect's target and `partition` where it is.
PLACE = np.dtype(
    [
        ("low", "<u8"), ("outcome", "u1"), ("warc", "<u4"), ("offset", "<u8"), ("length", "<u8"), ("sha256", "V32"),
        ("partition", "<u4"), ("target_high", "<u8"), ("target_low", "<u8"),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class _Index:
    highs: np.ndarray
    places: np.ndarray
    outcomes: tuple[str, ...]

    def find(self, high: int, low: int) -> np.void | None:
        position = int(np.searchsorted(self.highs, np.uint64(high)))
        while position < len(self.highs) and self.highs[position] == high:
            if self.places[position]["low"] == low:
                return self.places[position]
            position += 1
        return None


def partition_folder(store: Path, partition: int) -> Path:
    return store / "partitions" / f"{partition:05d}"


def write_index(folder: Path, rows: Sequence[Row], *, num_partitions: int) -> None:
    """Writes the index of a partition; `index.json`, last, says how many ledger files it stands for."""
    places = np.zeros(len(rows), PLACE)
    highs = np.zeros(len(rows), np.uint64)
    for number, row in enumerate(rows):
        high, low = hash_key(row.key)
        target, partition = (0, 0), 0
        if row.outcome == REDIRECT:
            target, partition = _target(row.location, num_partitions)
        highs[number] = high
        sha256 = np.void(bytes.fromhex(row.sha256) or bytes(32))
        places[number] = (low, OUTCOMES.index(row.outcome), max(row.warc, 0), row.offset, row.length, sha256, partition, *target)
    order = np.lexsort((places["low"], highs))
    for name, values in (("index-keys.npy", highs[order]), ("index-places.npy", places[order])):
        with open_aside(folder / name) as file:
            np.save(file, values, allow_pickle=False)
    write_json(folder / INDEX_FILE, {"num_segments": len(list(folder.glob("ledger-*.parquet"))), "num_rows": len(rows), "outcomes": list(OUTCOMES)})


def _target(location: str, num_partitions: int) -> tuple[tuple[int, int], int]:
    try:
        return hash_key(normal_url(location)), partition_of(parse_url(location), num_partitions)
    except Rejected:
        return (0, 0), 0  # finds nothing: no key has this hash


class ImageStore:
    """What `lcl fetch-images` stored, as of its last whole run. Raises ValueError if the folder is no store."""

    def __init__(self, folder: Path) -> None:
        if not (folder / STORE_FILE).is_file():
            raise ValueError(f"{folder} is no image store: it has no {STORE_FILE}. `lcl fetch-images --output {folder}` makes one")
        record = read_json(folder / STORE_FILE)
        self._folder, self._num_partitions = folder, record["partitions"]
        self._index = functools.lru_cache(maxsize=OPEN_INDEXES)(self._open_index)

    @property
    def fingerprint(self) -> str:
        """Changes when a fetch adds to the store."""
        segments = sorted((str(path.relative_to(self._folder)), path.stat().st_size) for path in self._folder.rglob("ledger-*.parquet"))
        return hashlib.sha256(repr(segments).encode()).hexdigest()[:16]

    def find(self, url: str) -> bytes | None:
        """The body that was fetched from `url`, through redirects; None if there is none. Raises ValueError if the store is damaged."""
        partition, place = self._last_place(url)
        if place is None or self._outcome(partition, place) != OK:
            return None
        path = partition_folder(self._folder, partition) / f"{place['warc']:05d}.warc"
        with open(path, "rb") as file:
            file.seek(int(place["offset"]))
            data = file.read(int(place["length"]))
        record = next(ArchiveIterator(io.BytesIO(data), parse_http=True), None)
        body = record.reader.read() if record is not None else b""
        if hashlib.sha256(body).digest() != place["sha256"].tobytes():
            raise ValueError(f"{path} is damaged at byte {place['offset']}: restore it from a copy")
        return body

    def outcome(self, url: str) -> str:
        """What became of `url` behind all redirects: `ok`, a Reason, or `never_asked`."""
        partition, place = self._last_place(url)
        if place is None:
            return NEVER_ASKED
        outcome = self._outcome(partition, place)
        return Reason.TOO_MANY_REDIRECTS if outcome == REDIRECT else outcome

    def knows(self, url: str) -> bool:
        """True if `url` itself has an outcome, whatever it is."""
        try:
            index = self._index(partition_of(parse_url(url), self._num_partitions))
        except Rejected:
            return False
        return index is not None and index.find(*hash_key(normal_url(url))) is not None

    def _last_place(self, url: str) -> tuple[int, np.void | None]:
        """The place that redirects end at; one that still is a redirect lies in a loop."""
        try:
            partition = partition_of(parse_url(url), self._num_partitions)
        except Rejected:
            return 0, None
        high, low = hash_key(normal_url(url))
        for _ in range(MAX_REDIRECTS + 1):
            index = self._index(partition)
            place = index.find(high, low) if index else None
            if place is None or self._outcome(partition, place) != REDIRECT:
                break
            found_in = partition
            partition, high, low = int(place["partition"]), int(place["target_high"]), int(place["target_low"])
        else:
            partition = found_in
        return partition, place

    def _outcome(self, partition: int, place: np.void) -> str:
        return self._index(partition).outcomes[place["outcome"]]

    def _open_index(self, partition: int) -> _Index | None:
        folder = partition_folder(self._folder, partition)
        num_segments = len(list(folder.glob("ledger-*.parquet")))
        if num_segments == 0:
            return None
        record = read_json(folder / INDEX_FILE) if (folder / INDEX_FILE).exists() else {}
        if record.get("num_segments") != num_segments:
            raise ValueError(f"{folder} was not fetched to its end: run the same `lcl fetch-images` again")
        highs, places = (np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in ("index-keys.npy", "index-places.npy"))
        return _Index(highs, places, tuple(record["outcomes"]))
