"""Where a crawl holds the answer to an address: found across all crawl files of a build, without their bodies in memory.

    extraction: images, redirects, revisits --> work/images/SPLIT.npy --merge_index--> work/index/PART.npy, sorted by hash of address
    assembly:   address --binary search--> (crawl file, offset) --> the record is read again --> body, or the next address

A redirect or revisit is followed by reading its record, so the index holds no addresses: 29 bytes an entry.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import xxhash

from lcl.core.files import open_aside, read_json, write_json
from pipeline.addresses import normal_url

ENTRY = np.dtype([("address", "S16"), ("file", "<u4"), ("offset", "<i8"), ("kind", "u1")], align=False)
IMAGE, REDIRECT, REVISIT = range(3)
PARTS = 64  # files of the merged index; a part of 10^9 entries is 450 MB, and is mapped, not read


def address_hash(url: str) -> bytes:
    """16 bytes that are equal for spellings of one address."""
    return xxhash.xxh128_digest(normal_url(url).encode("utf-8", "surrogatepass"))


def digest_hash(digest: str) -> bytes:
    """16 bytes for a payload digest as WARC writes it (`sha1:...`), under which the first capture of a body is found."""
    return xxhash.xxh128_digest(f"\n{digest}".encode())  # no address begins with a line feed


def write_entries(path: Path, entries: Iterable[tuple[bytes, int, int]]) -> int:
    """Writes (hash, offset, kind) of one split and returns their number."""
    table = np.array([(address, 0, offset, kind) for address, offset, kind in entries], dtype=ENTRY)
    with open_aside(path) as file:
        np.save(file, table)
    return len(table)


def merge_index(tables: Sequence[tuple[Path, str]], output: Path) -> None:
    """Sorts the entries of all splits, (table, crawl file), into `output`: PART.npy and files.json, which is written last.

    Of one address the entries stand in the order of crawl files and offsets. Done part by part, so memory holds a part of all entries.
    """
    files = [file for _, file in tables]
    if (output / "files.json").exists() and read_json(output / "files.json") == files:
        return
    output.mkdir(parents=True, exist_ok=True)
    for part in range(PARTS):
        pieces = []
        for number, (table, _) in enumerate(tables):
            entries = np.load(table, mmap_mode="r")
            chosen = entries[_part_of(entries["address"]) == part]
            chosen["file"] = number
            pieces.append(chosen)
        merged = np.concatenate(pieces) if pieces else np.zeros(0, ENTRY)
        merged = merged[np.lexsort((merged["offset"], merged["file"], merged["address"]))]
        with open_aside(output / f"{part:02d}.npy") as file:
            np.save(file, merged)
    write_json(output / "files.json", files)


def _part_of(addresses: np.ndarray) -> np.ndarray:
    first = np.ascontiguousarray(addresses).view(np.uint8).reshape(len(addresses), 16)[:, 0] if len(addresses) else np.zeros(0, np.uint8)
    return first.astype(int) * PARTS >> 8


class ImageIndex:
    """Reads a merged index."""

    def __init__(self, folder: Path) -> None:
        self.files: list[str] = read_json(folder / "files.json")
        self._part = lru_cache(maxsize=PARTS)(lambda part: np.load(folder / f"{part:02d}.npy", mmap_mode="r"))

    def find(self, address: bytes) -> list[tuple[str, int, int]]:
        """(crawl file, offset, kind) of every entry with this hash, in the order of crawl files and offsets."""
        part = self._part(address[0] * PARTS >> 8)
        wanted = address.rstrip(b"\0")  # as numpy gives byte strings
        start = bisect_left(range(len(part)), wanted, key=lambda place: part[place]["address"])  # searchsorted would copy the column
        found = []
        for entry in part[start:]:
            if entry["address"] != wanted:
                break
            found.append((self.files[int(entry["file"])], int(entry["offset"]), int(entry["kind"])))
        return found
