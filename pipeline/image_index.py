"""Where a crawl holds the answer to an address: found across all crawl files of a build, without their bodies in memory.

    extraction: images, redirects, revisits --> work/images/SPLIT.npy --merge_part--> work/index/PART.npy, sorted by hash of address
    assembly:   address --binary search--> (crawl file, offset) --> the record is read again --> body, or the next address

A redirect or revisit is followed by reading its record, so the index holds no addresses: 29 bytes an entry.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from lcl.core.files import open_aside, read_json
from pipeline.addresses import normal_url

ENTRY = np.dtype([("address", "S16"), ("file", "<u4"), ("offset", "<i8"), ("kind", "u1")], align=False)
IMAGE, REDIRECT, REVISIT = range(3)
PARTS = 64  # files of the merged index; a part of 10^9 entries is 450 MB, and is mapped, not read


class Entry(NamedTuple):
    """A hash of an address or a digest, and the record that answers it."""

    address: bytes
    offset: int
    kind: int


def address_hash(url: str) -> bytes:
    """16 bytes that are equal for spellings of one address."""
    return xxhash.xxh128_digest(normal_url(url).encode("utf-8", "surrogatepass"))


def digest_hash(digest: str) -> bytes:
    """16 bytes for a payload digest as WARC writes it (`sha1:...`), under which the first capture of a body is found."""
    return xxhash.xxh128_digest(f"\n{digest}".encode())  # no address begins with a line feed


def write_entries(path: Path, entries: Iterable[Entry]) -> int:
    """Writes the entries of one split, sorted, and returns their number."""
    table = np.array([(address, 0, offset, kind) for address, offset, kind in entries], dtype=ENTRY)
    with open_aside(path) as file:
        np.save(file, table[np.lexsort((table["offset"], table["address"]))])
    return len(table)


def merge_part(part: int, tables: Sequence[tuple[Path, str]], output: Path) -> dict[str, int]:
    """Merges the entries of all splits, (table, crawl file), that belong to `part` into `output`, sorted by hash, then crawl file, then offset.

    Memory holds a part of all entries.
    """
    pieces = []
    for number, (table, _) in enumerate(tables):
        entries = np.load(table, mmap_mode="r")
        chosen = np.array(entries[slice(*(_first_of(entries, one) for one in (part, part + 1)))])
        chosen["file"] = number
        pieces.append(chosen)
    merged = np.concatenate(pieces)
    merged = merged[np.lexsort((merged["offset"], merged["file"], merged["address"]))]
    with open_aside(output / f"{part:02d}.npy") as file:
        np.save(file, merged)
    return {"entries": len(merged)}


def part_of(address: bytes) -> int:
    """The part of the index that holds a hash."""
    return address[0] * PARTS >> 8 if address else 0  # numpy cuts zeros off the end of byte strings


def _first_of(entries: np.ndarray, part: int) -> int:
    return bisect_left(range(len(entries)), part, key=lambda place: part_of(entries[place]["address"]))


class ImageIndex:
    """Reads a merged index."""

    def __init__(self, folder: Path) -> None:
        self.files: list[str] = read_json(folder / "files.json")
        self._part = lru_cache(maxsize=PARTS)(lambda part: np.load(folder / f"{part:02d}.npy", mmap_mode="r"))

    def find(self, address: bytes) -> list[tuple[str, int, int]]:
        """(crawl file, offset, kind) of every entry with this hash, in the order of crawl files and offsets."""
        part = self._part(part_of(address))
        wanted = address.rstrip(b"\0")  # as numpy gives byte strings
        start = bisect_left(range(len(part)), wanted, key=lambda place: part[place]["address"])  # searchsorted would copy the column
        found = []
        for entry in part[start:]:
            if entry["address"] != wanted:
                break
            found.append((self.files[int(entry["file"])], int(entry["offset"]), int(entry["kind"])))
        return found
