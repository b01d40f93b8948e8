"""Shards: a tar of documents, its catalogue, and the sidecar that commits both.

    NAME.tar       members of each document, contiguous; the same documents give the same bytes
    NAME.parquet   one row per document: where it lies in the tar, sizes, hashes, scores
    NAME.json      counts, checksums, versions; written last: a shard without it does not exist

A shard that documents were removed from has a revision N, and its other two files are NAME.rN.tar and NAME.rN.parquet. So one rename, that
of the sidecar, takes a reader from the old documents to the new ones.
"""

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from lcl.core.document import SCHEMA, Document, from_members, text_hash, to_members
from lcl.core.files import open_aside, read_json, sha256_of, write_json
from lcl.core.selection import is_selection, read_selection

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
        # Later than the first shards of this schema: null where a catalogue lacks them.
        ("license", pa.string()),
        ("image_url", pa.list_(pa.string())),
        ("image_source_sha256", pa.list_(pa.string())),
        ("image_width", pa.list_(pa.int32())),   # px, as stored
        ("image_height", pa.list_(pa.int32())),
    ]
)
IN_MEMORY = ("key", "offset", "length", "num_images", "num_characters")  # what readers hold of 10^8 documents, in each process
SUFFIXES = (".tar", ".parquet", ".json")
REBUILD = "build the shard again"
BUILD_RECORDS = ("run.json", "report.json", "timing.json")  # stand beside the sidecars of a shard build
MEMBER_NAME = re.compile(r"[0-9a-f]{32}(\.[0-9]{3,}\.[a-z0-9]{1,8}|\.json)")
BLOCK = 512  # bytes; members of a tar start at multiples of it
OCTAL = re.compile(rb"([0-7]+)[\0 ]+")  # a number in a header


def write_shard(
    folder: Path, name: str, documents: Iterable[Document], *, origin: Mapping[str, Any], revision: int = 0, removed: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Writes one shard and returns its sidecar. `origin` says what made it (config hash, input, versions).

    `removed` counts the documents and images that were taken down since revision 0. Documents are held one at a time.
    Every byte of the three files follows from the arguments and the versions of the libraries.
    """
    rows: list[dict[str, Any]] = []
    sidecar_path = folder / f"{name}.json"
    paths = {suffix: data_file(sidecar_path, revision, suffix) for suffix in (".tar", ".parquet")}
    with open_aside(paths[".tar"]) as raw:
        file = _HashingWriter(raw)
        with tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
            for document in documents:
                offset = tar.offset
                for member, data in to_members(document):
                    tar.addfile(_header(member, len(data)), io.BytesIO(data))
                rows.append(catalogue_row(document, offset=offset, length=tar.offset - offset))
    with open_aside(paths[".parquet"]) as raw:
        pq.write_table(pa.Table.from_pylist(rows, schema=CATALOGUE), raw, compression="zstd")
    sidecar = {
        "schema": SCHEMA,
        "name": name,
        **({"revision": revision, "removed": dict(removed or {})} if revision else {}),
        "documents": len(rows),
        "images": sum(row["num_images"] for row in rows),
        "characters": sum(row["num_characters"] for row in rows),
        "bytes": {suffix: paths[suffix].stat().st_size for suffix in (".tar", ".parquet")},
        "sha256": {".tar": file.digest.hexdigest(), ".parquet": sha256_of(paths[".parquet"])},
        "origin": dict(origin),
    }
    sidecar["sha256"][".json"] = sidecar_checksum(sidecar)
    write_json(sidecar_path, sidecar)
    return sidecar


def data_file(sidecar_path: Path, revision: int, suffix: str) -> Path:
    """The tar or the catalogue that belongs to a sidecar of this revision."""
    return sidecar_path.with_name(f"{sidecar_path.stem}{f'.r{revision}' if revision else ''}{suffix}")


def sidecar_checksum(sidecar: Mapping[str, Any]) -> str:
    """SHA-256 of the sidecar's values without this checksum itself, as JSON with sorted keys."""
    others = {suffix: value for suffix, value in sidecar["sha256"].items() if suffix != ".json"}
    return hashlib.sha256(json.dumps({**sidecar, "sha256": others}, sort_keys=True).encode()).hexdigest()


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


def catalogue_row(document: Document, *, offset: int, length: int) -> dict[str, Any]:
    """The document's row of CATALOGUE, for its place in the tar (bytes)."""
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
        "license": document.license,
        "image_url": [image.metadata.url for image in images],
        "image_source_sha256": [image.metadata.source_sha256 for image in images],
        "image_width": [image.metadata.width for image in images],
        "image_height": [image.metadata.height for image in images],
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
        raise ValueError(f"{path} is no sidecar of a shard: the folder holds something else than shards" if schema is None else f"{path}: schema {schema!r}, this version reads {SCHEMA!r}: rebuild the shards")
    try:
        sizes = [(data_file(path, int(sidecar.get("revision", 0)), suffix), sidecar["bytes"][suffix]) for suffix in (".tar", ".parquet")]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}): {REBUILD}") from error
    for file, expected in sizes:
        actual = file.stat().st_size if file.exists() else None
        if actual != expected:
            raise ValueError(f"{file}: {'missing' if actual is None else f'{actual} bytes'}, but its sidecar says {expected} bytes: {REBUILD}")
    return sidecar


@dataclass(frozen=True)
class Shard:
    """One shard of a set: its sidecar, and which of its documents belong to the set (rows of its catalogue, rising; None: all)."""

    path: Path  # of the sidecar
    sidecar: Mapping[str, Any]
    rows: Int[np.ndarray, " chosen"] | None = None

    @property
    def tar(self) -> Path:
        return data_file(self.path, self.sidecar.get("revision", 0), ".tar")

    def __len__(self) -> int:
        return self.sidecar["documents"] if self.rows is None else len(self.rows)

    def catalogue(self, columns: Sequence[str] = CATALOGUE.names) -> pa.Table:
        """The catalogue rows of its documents. Raises ValueError if the file is damaged."""
        table = read_catalogue(self.path, self.sidecar, columns=columns)
        return table if self.rows is None else table.take(self.rows)

    def stored_columns(self) -> set[str]:
        """The columns that its catalogue really has; an early one lacks some."""
        return set(pq.read_schema(data_file(self.path, self.sidecar.get("revision", 0), ".parquet")).names)


def find_shards(folders: Sequence[Path]) -> list[Shard]:
    """All committed shards of some folders, each a folder of shards or a selection (lcl/core/selection.py), by folder and name.

    Raises ValueError if a folder holds no shard, if a sidecar is of another schema, if a file is missing or has another size than
    its sidecar says, and if a selection's shards have changed.
    """
    found: list[Shard] = []
    for number, folder in enumerate(folders):
        if folder.resolve() in {other.resolve() for other in folders[:number]}:
            raise ValueError(f"{folder} is given twice: name it once (weights make documents come more often)")
        if not folder.is_dir():
            cure = "; of shards at an address only `lcl pretrain` makes its own copy, `lcl copy-shards` one for all other commands" if folder.parts[:1] and folder.parts[0].endswith(":") else ""
            raise ValueError(f"{folder}: no such folder of shards{cure}")
        if is_selection(folder):
            found += _selected(folder)
            continue
        sidecars = [path for path in sorted(folder.glob("*.json")) if path.name not in BUILD_RECORDS]
        if not sidecars:
            raise ValueError(f"{folder} holds no shard (NAME.tar with NAME.parquet and NAME.json); build some with `lcl build-shards`")
        found += [Shard(path, read_sidecar(path)) for path in sidecars]
    return found


def _selected(folder: Path) -> list[Shard]:
    shards = []
    for part in read_selection(folder):
        sidecar = read_sidecar(part.sidecar)
        if sidecar["sha256"][".tar"] != part.tar_sha256:
            raise ValueError(f"{part.sidecar} has other documents than when {folder} selected from it: select again")
        if len(part.rows) and not 0 <= part.rows.min() <= part.rows.max() < sidecar["documents"]:
            raise ValueError(f"{folder} selects rows that {part.sidecar} does not have: select again")
        shards.append(Shard(part.sidecar, sidecar, part.rows))
    return shards


def fingerprint_of(shards: Sequence[Shard]) -> str:
    """Changes when any document does: a hash over the checksums of all tars, in order, and over the rows of those that are not whole."""
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(shard.sidecar["sha256"][".tar"].encode() + (b"" if shard.rows is None else shard.rows.astype("<i8").tobytes()))
    return digest.hexdigest()[:16]


class ShardSet:
    """All committed shards of some folders or selections, as one list of documents in a fixed order (by shard name).

    Only catalogues are read at the start; a document is one read of its byte range. Raises ValueError as `find_shards` does.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.shards = find_shards(folders)
        self.tars = [shard.tar for shard in self.shards]
        self.catalogue = pa.concat_tables([shard.catalogue(IN_MEMORY) for shard in self.shards])  # the columns IN_MEMORY
        self.starts = np.cumsum([0] + [len(shard) for shard in self.shards])
        self._offsets = self.catalogue["offset"].to_numpy()
        self._lengths = self.catalogue["length"].to_numpy()

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def fingerprint(self) -> str:
        """Changes when any document does (`fingerprint_of`)."""
        return fingerprint_of(self.shards)

    def places(self, chosen: Int[np.ndarray, " documents"]) -> tuple[Int[np.ndarray, " documents"], Int[np.ndarray, " documents"], Int[np.ndarray, " documents"]]:
        """Where some documents lie: which of `shards`, and offset and length (bytes) in its tar."""
        return np.searchsorted(self.starts, chosen, side="right") - 1, self._offsets[chosen], self._lengths[chosen]

    def read(self, index: int) -> Document:
        """Document `index`, 0 <= index < len. Raises ValueError naming the shard if its bytes are damaged."""
        shard = int(np.searchsorted(self.starts, index, side="right")) - 1
        data = read_bytes(self.tars[shard], offset=int(self._offsets[index]), length=int(self._lengths[index]))
        try:
            return from_members(read_members(data))
        except ValueError as error:
            raise ValueError(f"{self.tars[shard]}, document {index - int(self.starts[shard])}: {error}") from error

    def __iter__(self) -> Iterator[Document]:
        return (self.read(index) for index in range(len(self)))


def read_bytes(path: Path, *, offset: int, length: int) -> bytes:
    """Up to `length` bytes of the file from `offset` on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, length, offset)
    finally:
        os.close(descriptor)


def read_last_member(path: Path, *, offset: int, length: int) -> bytes:
    """The bytes of the last member in a slice of a tar: a document's JSON. Of its images only the headers are read. Raises ValueError as `read_members` does."""
    end = offset + length
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while True:
            _, size = _read_header(os.pread(descriptor, BLOCK, offset))
            start, offset = offset + BLOCK, offset + BLOCK + size + -size % BLOCK
            if offset >= end:
                return os.pread(descriptor, size, start)
    finally:
        os.close(descriptor)


def verify_shard(sidecar_path: Path) -> None:
    """Raises ValueError at the first of the shard's files whose bytes do not give their checksum."""
    sidecar = read_sidecar(sidecar_path)
    for suffix in (".tar", ".parquet"):
        file = data_file(sidecar_path, sidecar.get("revision", 0), suffix)
        if sha256_of(file) != sidecar["sha256"][suffix]:
            raise ValueError(f"{file} is damaged: its bytes do not give the checksum in {sidecar_path.name}. Build the shard again.")
    if sidecar["sha256"].get(".json", sidecar_checksum(sidecar)) != sidecar_checksum(sidecar):
        raise ValueError(f"{sidecar_path} is damaged: its values do not give its own checksum. Build the shard again.")


def read_catalogue(sidecar_path: Path, sidecar: Mapping[str, Any], *, columns: Sequence[str] = CATALOGUE.names) -> pa.Table:
    """The catalogue of a whole shard. Raises ValueError if the file is damaged or has another number of rows than the sidecar says."""
    path = data_file(sidecar_path, sidecar.get("revision", 0), ".parquet")
    try:
        table = pq.read_table(path, schema=CATALOGUE, columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}): {REBUILD}") from error
    if len(table) != sidecar["documents"]:
        raise ValueError(f"{path}: {len(table)} rows, but its sidecar says {sidecar['documents']} documents: {REBUILD}")
    return table
