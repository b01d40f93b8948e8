"""Shards: a tar of documents, its catalogue, and the sidecar that commits both.

    NAME.tar       members of each document, contiguous; the same documents give the same bytes
    NAME.parquet   one row per document: where it lies in the tar, sizes, hashes, scores
    NAME.json      counts, checksums, versions; written last: a shard without it does not exist
"""

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lcl.core.document import SCHEMA, Document, from_members, text_hash, to_members
from lcl.core.files import open_aside, read_json, sha256_of, write_json

CATALOGUE = pa.schema(
    [
        ("key", pa.string()),
        ("offset", pa.int64()),            # bytes from the start of the tar to the document's first member
        ("length", pa.int64()),            # bytes of all its members, headers and padding included
        ("num_images", pa.int32()),
        ("num_characters", pa.int64()),
        ("domain", pa.string()),
        ("language", pa.string()),
        ("page_url", pa.string()),
        ("crawl_file", pa.string()),
        ("crawl_offset", pa.int64()),
        ("text_xxh128", pa.string()),
        ("image_sha256", pa.list_(pa.string())),
        ("image_phash", pa.list_(pa.string())),
        ("scores", pa.map_(pa.string(), pa.float64())),
    ]
)
IN_MEMORY = ("key", "offset", "length", "num_images", "num_characters")  # what readers hold of 10^8 documents, in each process
SUFFIXES = (".tar", ".parquet", ".json")
BUILD_RECORDS = ("run.json", "report.json")  # stand beside the sidecars of a shard build
MEMBER_NAME = re.compile(r"[0-9a-f]{32}(\.[0-9]{3,}\.[a-z0-9]{1,8}|\.json)")
BLOCK = 512  # bytes; members of a tar start at multiples of it
OCTAL = re.compile(rb"([0-7]+)[\0 ]+")  # a number in a header


def write_shard(folder: Path, name: str, documents: Sequence[Document], *, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Writes one shard and returns its sidecar. `origin` says what made it (config hash, input, versions).

    Every byte of the three files follows from the documents, `origin` and the versions of the libraries.
    """
    rows: list[dict[str, Any]] = []
    paths = {suffix: folder / f"{name}{suffix}" for suffix in SUFFIXES}
    with open_aside(paths[".tar"]) as raw:
        file = _HashingWriter(raw)
        with tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
            for document in documents:
                offset = tar.offset
                for member, data in to_members(document):
                    tar.addfile(_header(member, len(data)), io.BytesIO(data))
                rows.append(_catalogue_row(document, offset=offset, length=tar.offset - offset))
    with open_aside(paths[".parquet"]) as raw:
        pq.write_table(pa.Table.from_pylist(rows, schema=CATALOGUE), raw, compression="zstd")
    sidecar = {
        "schema": SCHEMA,
        "name": name,
        "documents": len(rows),
        "images": sum(row["num_images"] for row in rows),
        "characters": sum(row["num_characters"] for row in rows),
        "bytes": {suffix: paths[suffix].stat().st_size for suffix in (".tar", ".parquet")},
        "sha256": {".tar": file.digest.hexdigest(), ".parquet": sha256_of(paths[".parquet"])},
        "origin": dict(origin),
    }
    write_json(paths[".json"], sidecar)
    return sidecar


class _HashingWriter:
    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)


def _header(name: str, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)  # owner 0, mtime 0 and mode 0o644 are its defaults, the same on every machine
    header.size = size
    return header


def _catalogue_row(document: Document, *, offset: int, length: int) -> dict[str, Any]:
    images = document.images
    return {
        "key": document.key,
        "offset": offset,
        "length": length,
        "num_images": len(images),
        "num_characters": sum(len(text) for text in document.texts),
        "domain": document.domain,
        "language": document.language,
        "page_url": document.page_url,
        "crawl_file": document.crawl.file,
        "crawl_offset": document.crawl.offset,
        "text_xxh128": text_hash(document),
        "image_sha256": [image.metadata.sha256 for image in images],
        "image_phash": [image.metadata.phash for image in images],
        "scores": list(document.scores.items()),
    }


def read_members(data: bytes) -> list[tuple[str, bytes]]:
    """The (name, bytes) of every member in a slice of a tar, up to its end or an empty block. Inverse of what `write_shard` writes.

    Raises ValueError on anything but whole, plain files with our names and a right header (USTAR, POSIX.1-1988). The standard
    library's reader takes twice as long, and follows extensions that no shard has.
    """
    members, at = [], 0
    while any(header := data[at : at + BLOCK]):
        name, size = _read_header(header)
        start, end = at + BLOCK, at + BLOCK + size
        if end > len(data):
            raise ValueError(f"not a readable tar: member {name!r} ends after the data")
        members.append((name, data[start:end]))
        at = end + -size % BLOCK
    return members


def _read_header(header: bytes) -> tuple[str, int]:
    """Name and size (bytes) of the member that a block of a tar announces."""
    checksum = OCTAL.fullmatch(header[148:156])
    if checksum is None or len(header) != BLOCK or sum(header) - sum(header[148:156]) + 8 * ord(" ") != int(checksum[1], 8):
        raise ValueError("not a readable tar: a header is damaged")
    name, size = header[:100].rstrip(b"\0").decode("latin-1"), OCTAL.fullmatch(header[124:136])
    is_plain_file = header[156:157] == b"0" and header[257:265] == b"ustar\x0000" and not any(header[345:500])
    if not MEMBER_NAME.fullmatch(name) or size is None or not is_plain_file:
        raise ValueError(f"member {name!r} does not belong in a shard")
    return name, int(size[1], 8)


def is_whole(sidecar_path: Path) -> bool:
    """Whether the shard is there, each file with the size that its sidecar says."""
    try:
        read_sidecar(sidecar_path)
    except ValueError:
        return False
    return True


def read_sidecar(path: Path) -> dict[str, Any]:
    """The sidecar at `path`. Raises ValueError naming the file that is missing, has another size, or is no sidecar of this schema."""
    sidecar = read_json(path) if path.exists() else None
    schema = sidecar.get("schema") if isinstance(sidecar, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"{path}: schema {schema!r}, this version reads {SCHEMA!r}: rebuild the shards")
    for suffix in (".tar", ".parquet"):
        file = path.with_suffix(suffix)
        actual, expected = (file.stat().st_size if file.exists() else None), sidecar["bytes"][suffix]
        if actual != expected:
            raise ValueError(f"{file}: {'missing' if actual is None else f'{actual} bytes'}, but its sidecar says {expected} bytes: build the shard again")
    return sidecar


class ShardSet:
    """All committed shards of some folders, as one list of documents in a fixed order (by shard name).

    Only catalogues are read at the start; a document is one read of its byte range. Raises ValueError if there
    is no shard, if a sidecar is of another schema, or if a file is missing or has another size than its sidecar says.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.sidecars: list[dict[str, Any]] = []
        self.tars: list[Path] = []
        tables = []
        for number, folder in enumerate(folders):
            if folder.resolve() in {other.resolve() for other in folders[:number]}:
                raise ValueError(f"{folder} is given twice: name it once (weights make documents come more often)")
            if not folder.is_dir():
                raise ValueError(f"{folder}: no such folder of shards")
            found = [path for path in sorted(folder.glob("*.json")) if path.name not in BUILD_RECORDS]
            if not found:
                raise ValueError(f"{folder} holds no shard (NAME.tar with NAME.parquet and NAME.json); build some with `lcl build-shards`")
            for path in found:
                self._add(path, tables)
        self.catalogue = pa.concat_tables(tables)  # the columns IN_MEMORY
        self.starts = np.cumsum([0] + [sidecar["documents"] for sidecar in self.sidecars])
        self._offsets = self.catalogue["offset"].to_numpy()
        self._lengths = self.catalogue["length"].to_numpy()

    def _add(self, path: Path, tables: list[pa.Table]) -> None:
        sidecar = read_sidecar(path)
        self.sidecars.append(sidecar)
        self.tars.append(path.with_suffix(".tar"))
        tables.append(_read_catalogue(path, sidecar, columns=IN_MEMORY))

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def fingerprint(self) -> str:
        """Changes when any document does: a hash over the checksums of all tars, in order."""
        return hashlib.sha256("".join(sidecar["sha256"][".tar"] for sidecar in self.sidecars).encode()).hexdigest()[:16]

    def read(self, index: int) -> Document:
        """Document `index`, 0 <= index < len. Raises ValueError naming the shard if its bytes are damaged."""
        shard = int(np.searchsorted(self.starts, index, side="right")) - 1
        data = _read_bytes(self.tars[shard], offset=int(self._offsets[index]), length=int(self._lengths[index]))
        try:
            return from_members(read_members(data))
        except ValueError as error:
            raise ValueError(f"{self.tars[shard]}, document {index - int(self.starts[shard])}: {error}") from error

    def __iter__(self) -> Iterator[Document]:
        return (self.read(index) for index in range(len(self)))


def _read_bytes(path: Path, *, offset: int, length: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, length, offset)
    finally:
        os.close(descriptor)


def verify_shard(sidecar_path: Path) -> None:
    """Reads the whole shard and raises ValueError at the first checksum, count or catalogue row that disagrees."""
    sidecar = read_json(sidecar_path)
    for suffix, checksum in sidecar["sha256"].items():
        file = sidecar_path.with_suffix(suffix)
        if not file.exists() or sha256_of(file) != checksum:
            raise ValueError(f"{file} is damaged: its bytes do not give the checksum in {sidecar_path.name}. Build the shard again.")
    _read_catalogue(sidecar_path, sidecar, columns=CATALOGUE.names)


def _read_catalogue(sidecar_path: Path, sidecar: Mapping[str, Any], *, columns: Sequence[str]) -> pa.Table:
    path = sidecar_path.with_suffix(".parquet")
    try:
        table = pq.read_table(path, schema=CATALOGUE, columns=list(columns))
    except (pa.ArrowException, OSError) as error:  # a damaged block is an OSError to pyarrow
        raise ValueError(f"{path} is damaged ({error}): build the shard again") from error
    if len(table) != sidecar["documents"]:
        raise ValueError(f"{path}: {len(table)} rows, but its sidecar says {sidecar['documents']} documents: build the shard again")
    return table
