"""The ledger of one partition: what became of each address, and the WARC files that hold the bodies. Written by one process at a time.

    outcome --+--> body --> NNNNN.warc (appended; a body that is there already is not stored again)
              +--> row  --> ledger-NNNNNN.parquet, renamed into place after the WARC file is on disk: this commits

What a killed process appended to a WARC file behind its last commit is cut off by the next one.
"""

import fcntl
import io
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Self

import pyarrow as pa
import pyarrow.parquet as pq
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from lcl.core.files import open_aside, sync_folder
from lcl.core.rejected import Reason
from pipeline.fetch.download import Image, Outcome, Redirect
from pipeline.fetch.host_gate import PASSING
from pipeline.fetch.url_tables import Wanted

OK, REDIRECT = "ok", "redirect"
WARC_BYTES = 1 << 30  # after which another file is begun
SCHEMA = pa.schema(
    [
        ("key", pa.string()), ("url", pa.string()), ("depth", pa.int8()), ("round", pa.int16()), ("when", pa.string()),
        ("outcome", pa.string()), ("detail", pa.string()), ("status", pa.int16()), ("location", pa.string()),
        ("sha256", pa.string()), ("warc", pa.int32()), ("offset", pa.int64()), ("length", pa.int64()),
    ]
)  # fmt: skip
# Of the body as it was sent, which is not what is stored; Common Crawl keeps such headers under these names too.
RENAMED = {"content-encoding": "X-Crawl-Content-Encoding", "transfer-encoding": "X-Crawl-Transfer-Encoding", "content-length": "X-Crawl-Content-Length"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of an address: `outcome` is `ok`, `redirect` or a Reason. `warc`, `offset` and `length` place a record, in bytes."""

    key: str
    url: str
    depth: int
    round: int
    when: str
    outcome: str
    detail: str = ""
    status: int = 0
    location: str = ""
    sha256: str = ""
    warc: int = -1
    offset: int = 0
    length: int = 0


class PartitionLocked(ValueError):
    """Another process works on the partition."""


class Ledger:
    """A context manager: entering takes the partition's lock and mends what a killed process left, leaving commits and lets go.

    `rows` holds the last row of each address by key, committed or not.
    """

    def __init__(self, folder: Path, *, software: str, round_number: int, warc_bytes: int = WARC_BYTES) -> None:
        self._folder, self._software, self._round, self._warc_bytes = folder, software, round_number, warc_bytes
        self._waiting: list[Row] = []
        self._warc: BinaryIO | None = None

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self._folder / "lock", "wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise PartitionLocked(f"{self._folder} is being fetched by another process; wait for it, or end it") from error
        for aside in self._folder.glob(".*.tmp"):
            aside.unlink()
        self.rows = {row.key: row for row in read_ledger(self._folder)}
        self._num_segments = len(list(self._folder.glob("ledger-*.parquet")))
        self._places = {row.sha256: row for row in self.rows.values() if row.outcome == OK}
        ends: dict[int, int] = {}
        for row in self._places.values():
            ends[row.warc] = max(ends.get(row.warc, 0), row.offset + row.length)
        for path in self._folder.glob("*.warc"):
            if int(path.stem) not in ends:
                path.unlink()
            elif path.stat().st_size > ends[int(path.stem)]:
                os.truncate(path, ends[int(path.stem)])
        self._number = max(ends, default=-1)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.commit()
        finally:
            if self._warc is not None:
                self._warc.close()
            self._lock.close()

    def is_settled(self, key: str) -> bool:
        """True if this address is not to be asked in this round."""
        row = self.rows.get(key)
        return row is not None and (row.round >= self._round or row.outcome not in PASSING)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def add(self, wanted: Wanted, outcome: Outcome, *, max_redirects: int) -> Row:
        """Takes up an outcome, for good with the next commit. Past `max_redirects` a redirect is a refusal."""
        place = {}
        if isinstance(outcome, Image):
            place = self._store(outcome)
            result = {"outcome": OK, "status": outcome.status, "sha256": outcome.sha256}
        elif isinstance(outcome, Redirect):
            result = {"outcome": REDIRECT, "status": outcome.status, "location": outcome.location}
            if wanted.depth >= max_redirects:
                result["outcome"] = str(Reason.TOO_MANY_REDIRECTS)
        else:
            result = {"outcome": str(outcome.reason), "detail": outcome.detail[:200].encode("utf-8", "replace").decode(), "status": outcome.status}
        when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        row = Row(key=wanted.key, url=wanted.url, depth=wanted.depth, round=self._round, when=when, **result, **place)
        self.rows[row.key] = row
        self._waiting.append(row)
        if row.outcome == OK:
            self._places.setdefault(row.sha256, row)
        return row

    def _store(self, image: Image) -> dict[str, int]:
        known = self._places.get(image.sha256)
        if known is not None:
            return {"warc": known.warc, "offset": known.offset, "length": known.length}
        if self._warc is None or self._warc.tell() >= self._warc_bytes:
            self._open_warc()
        offset = self._warc.tell()
        self._warc.write(warc_record(image))
        return {"warc": self._number, "offset": offset, "length": self._warc.tell() - offset}

    def _open_warc(self) -> None:
        if self._warc is not None:
            self._sync_warc()
            self._warc.close()
        self._number += 1
        self._warc = open(self._folder / f"{self._number:05d}.warc", "wb")
        self._warc.write(warc_information(self._software))

    def _sync_warc(self) -> None:
        self._warc.flush()
        os.fsync(self._warc.fileno())

    def commit(self) -> None:
        """Writes what was taken up since the last commit for good."""
        if not self._waiting:
            return
        if self._warc is not None:
            self._sync_warc()
            sync_folder(self._folder)
        with open_aside(self._folder / f"ledger-{self._num_segments:06d}.parquet") as file:
            pq.write_table(rows_table(self._waiting), file, compression="zstd")
        self._num_segments += 1
        self._waiting = []


def rows_table(rows: Iterable[Row]) -> pa.Table:
    return pa.Table.from_pylist([asdict(row) for row in rows], SCHEMA)


def read_ledger(folder: Path, *, outcome: str | None = None) -> list[Row]:
    """The committed rows of a partition, or those with one outcome, in the order of their commits: of several for one address the last one counts."""
    filters = [("outcome", "=", outcome)] if outcome is not None else None
    return [Row(**row) for path in sorted(folder.glob("ledger-*.parquet")) for row in pq.read_table(path, filters=filters).to_pylist()]


class _MemoryWriter(WARCWriter):
    """warcio computes digests through temporary files that it leaves open; a body is in memory anyway."""

    _create_temp_file = staticmethod(io.BytesIO)


def warc_record(image: Image) -> bytes:
    """A response record (WARC 1.1), not compressed, for images do not shrink and a reader can take the body at its place."""
    headers = [(RENAMED.get(name.lower(), name), " ".join(value.split())) for name, value in image.headers]
    headers.append(("Content-Length", str(len(image.body))))
    buffer = io.BytesIO()
    writer = _MemoryWriter(buffer, gzip=False, warc_version="1.1")
    head = StatusAndHeaders(f"{image.status} OK", headers, protocol="HTTP/1.1")
    writer.write_record(writer.create_warc_record(image.url, "response", io.BytesIO(image.body), len(image.body), http_headers=head))
    return buffer.getvalue()


def warc_information(software: str) -> bytes:
    """The first record of a file: what wrote it."""
    buffer = io.BytesIO()
    writer = _MemoryWriter(buffer, gzip=False, warc_version="1.1")
    text = f"software: {software}\r\nformat: WARC File Format 1.1\r\nrobots: obey\r\n".encode()
    writer.write_record(writer.create_warc_record("", "warcinfo", io.BytesIO(text), len(text)))
    return buffer.getvalue()
