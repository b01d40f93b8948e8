"""Where a crawl holds the answer to an address: found across all crawl files of a build, without their bodies in memory.

    extraction: images, redirects, revisits --> work/images/SPLIT.npy --merge_part--> work/index/PART.npy, sorted by hash of address
    assembly:   address --binary search--> (crawl file, offset) --> the record is read again --> body, or the next address

A redirect or revisit is followed by reading its record, so the index holds no addresses: 29 bytes an entry.
"""

import struct
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import xxhash

from lcl.core.files import open_aside, read_json
from pipeline.addresses import normal_url

ENTRY = np.dtype([("address", "S16"), ("file", "<u4"), ("offset", "<i8"), ("kind", "u1")], align=False)
PACKED = struct.Struct("<16sIqB")  # the same bytes
IMAGE, REDIRECT, REVISIT = range(3)
PARTS = 64  # files of the merged index; a part of 10^9 entries is 450 MB, and is mapped, not read
FILES = "files.json"  # written last: the crawl files, by the numbers that entries have


class Entries:
    """What one split's records answer, as they come: hashes of addresses or digests."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def __len__(self) -> int:
        return len(self._bytes) // PACKED.size

    def add(self, address: bytes, offset: int, kind: int) -> None:
        self._bytes += PACKED.pack(address, 0, offset, kind)

    def write(self, path: Path) -> None:
        """Writes them sorted; of captures of one address as one kind, the first."""
        with open_aside(path) as file:
            np.save(file, _sorted(np.frombuffer(self._bytes, dtype=ENTRY)))


def _sorted(table: np.ndarray) -> np.ndarray:
    """Sorted by hash, kind and file, with the first offset of each."""
    table = table[np.lexsort((table["offset"], table["file"], table["kind"], table["address"]))]
    others = [table[name][1:] != table[name][:-1] for name in ("address", "kind", "file")]
    return table[np.concatenate(([True], others[0] | others[1] | others[2]))] if len(table) else table


def address_hash(url: str) -> bytes:
    """16 bytes that are equal for spellings of one address."""
    return xxhash.xxh128_digest(normal_url(url).encode("utf-8", "surrogatepass"))


def digest_hash(digest: str) -> bytes:
    """16 bytes for a payload digest as WARC writes it (`sha1:...`), under which the first capture of a body is found."""
    return xxhash.xxh128_digest(f"\n{digest}".encode())  # no address begins with a line feed


def merge_part(part: int, tables: Sequence[tuple[Path, str]], output: Path) -> dict[str, int]:
    """Merges the entries of all splits, (table, crawl file), that belong to `part` into `output`.

    Memory holds a part of all entries.
    """
    pieces = [np.empty(0, dtype=ENTRY)]
    for number, (table, _) in enumerate(tables):
        entries = np.load(table, mmap_mode="r")
        chosen = np.array(entries[slice(*(_first_of(entries, one) for one in (part, part + 1)))])
        chosen["file"] = number
        pieces.append(chosen)
    merged = _sorted(np.concatenate(pieces))
    with open_aside(output / f"{part:02d}.npy") as file:
        np.save(file, merged)
    return {"entries": len(merged)}


def part_of(address: bytes) -> int:
    """The part of the index that holds a hash."""
    return address[0] * PARTS >> 8 if address else 0  # numpy cuts zeros off the end of byte strings


def _first_of(entries: np.ndarray, part: int) -> int:
    return bisect_left(range(len(entries)), part, key=lambda place: part_of(entries[place]["address"]))


def open_image_index(folder: Path) -> "ImageIndex":
    """The merged index in `folder`, read once in a process: for 100,000 crawl files their names alone take longer than a small split."""
    record = (folder / FILES).stat()
    return _opened(folder, record.st_mtime_ns, record.st_ino)


@lru_cache(maxsize=1)
def _opened(folder: Path, *_version: int) -> "ImageIndex":
    return ImageIndex(folder)


class ImageIndex:
    """Reads a merged index. A look-up costs some binary searches, in however many files an address was captured."""

    def __init__(self, folder: Path) -> None:
        self.files: list[str] = read_json(folder / FILES)
        self._numbers = {file: number for number, file in enumerate(self.files)}
        self._part = lru_cache(maxsize=PARTS)(lambda part: np.load(folder / f"{part:02d}.npy", mmap_mode="r"))

    def find(self, address: bytes, *, own_file: str = "") -> tuple[str, int, int] | None:
        """(crawl file, offset, kind) of an entry with this hash: of the lowest kind, there the one in `own_file`, else that of the first file."""
        part = self._part(part_of(address))
        wanted = address.rstrip(b"\0")  # as numpy gives byte strings
        first = _place(part, wanted)
        if first == len(part) or part[first]["address"] != wanted:
            return None
        if own_file in self._numbers:
            key = (wanted, int(part[first]["kind"]), self._numbers[own_file])
            own = _place(part, *key)
            if own < len(part) and (part[own]["address"], part[own]["kind"], part[own]["file"]) == key:
                first = own
        entry = part[first]
        return self.files[int(entry["file"])], int(entry["offset"]), int(entry["kind"])


def _place(part: np.ndarray, address: bytes, kind: int = 0, file: int = 0) -> int:
    """Where an entry stands or would stand (searchsorted would copy the columns)."""
    return bisect_left(range(len(part)), (address, kind, file), key=lambda place: (part[place]["address"], part[place]["kind"], part[place]["file"]))
