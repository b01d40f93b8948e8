"""Lists of image hashes that a user gives: evaluation images, and material that must not be kept. No list ships.

    files of hex lines --> md5, sha256: a set            } ImageLists.check(image) raises Rejected
                       --> phash, PDQ: NearHashes        }
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from lcl.core.config import config
from lcl.core.files import sha256_of
from lcl.core.rejected import Reason, Rejected
from pipeline.dedup.pdq import pdq_of_image

WORD_BITS = 64


@config
class ImageListsConfig:
    """Files of hashes, one in hex per line; what follows a hash behind a space or a comma, blank lines and lines with # do not count."""

    evaluation_sha256: tuple[str, ...] = ()
    """SHA-256 of evaluation images, as fetched."""
    evaluation_phash: tuple[str, ...] = ()
    """Perceptual hashes (16 hex digits, as in the shards) of evaluation images."""
    max_phash_distance: Annotated[int, Field(ge=0, le=31)] = 4
    """Bits in which a perceptual hash may differ from a listed one and still match."""
    forbidden_md5: tuple[str, ...] = ()
    """MD5 of files that must not be kept, as fetched."""
    forbidden_sha256: tuple[str, ...] = ()
    """SHA-256 of such files."""
    forbidden_pdq: tuple[str, ...] = ()
    """PDQ hashes (64 hex digits) of such images."""
    max_pdq_distance: Annotated[int, Field(ge=0, le=127)] = 31
    """Bits of 256 in which a PDQ hash may differ and still match (the PDQ paper's threshold: 31)."""


def list_hashes(settings: ImageListsConfig) -> list[str]:
    """SHA-256 of each file that the settings name. Raises ValueError for one that is missing."""
    files = [Path(path) for paths in vars(settings).values() if isinstance(paths, tuple) for path in paths]
    for file in files:
        if not file.is_file():
            raise ValueError(f"{file}: no such file of hashes (--image-lists)")
    return [sha256_of(file) for file in files]


def read_hashes(paths: Sequence[str], *, bits: int, flag: str) -> list[bytes]:
    """The hashes of all files, sorted, each once. Raises ValueError naming the file, line and flag of what is no hash of this length."""
    found: set[bytes] = set()
    for path in map(Path, paths):
        if not path.is_file():
            raise ValueError(f"{path}: no such file of hashes ({flag})")
        with open(path, encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                words = line.partition("#")[0].replace(",", " ").split()
                if words:
                    found.add(_hash_of(words[0], bits, f"{path}, line {number}", flag))
    return sorted(found)


def _hash_of(word: str, bits: int, place: str, flag: str) -> bytes:
    try:
        value = bytes.fromhex(word)
    except ValueError:
        value = b""
    if len(value) * 8 != bits:
        raise ValueError(f"{place}: {word[:80]!r} is no hash of {bits // 4} hex digits; {flag} takes one per line")
    return value


class NearHashes:
    """A list of hashes of equal length to look up with a Hamming distance.

    Two hashes that differ in at most t bits are equal in one of t + 1 bands of their bits, so only listed hashes with an equal band are compared
    (Norouzi et al., arXiv:1307.2982, section 3). The fewer bits a band has, the more of the list is compared.
    """

    def __init__(self, hashes: Sequence[bytes], *, bits: int, max_distance: int) -> None:
        self._bits, self._max_distance = bits, max_distance
        self._words = np.frombuffer(b"".join(hashes), ">u8").astype(np.uint64).reshape(len(hashes), bits // WORD_BITS)
        edges = np.linspace(0, bits, max_distance + 2).astype(int)
        self._bands = [slice(low, high) for low, high in zip(edges, edges[1:], strict=False)]
        spread = np.unpackbits(np.frombuffer(b"".join(hashes), np.uint8).reshape(len(hashes), bits // 8), axis=1)
        self._tables = [self._table(spread[:, band]) for band in self._bands]

    @staticmethod
    def _table(bits: np.ndarray) -> dict[bytes, np.ndarray]:
        packed = np.packbits(bits, axis=1)
        values, owners = np.unique(packed, axis=0, return_inverse=True)
        order = np.argsort(owners, kind="stable")
        parts = np.split(order, np.searchsorted(owners[order], np.arange(1, len(values))))
        return {value.tobytes(): part for value, part in zip(values, parts, strict=False)}

    def distance(self, value: bytes) -> int | None:
        """The least number of bits in which a listed hash differs, if it is at most `max_distance`; else None."""
        spread = np.unpackbits(np.frombuffer(value, np.uint8))
        found = [table[key] for band, table in zip(self._bands, self._tables, strict=True) if (key := np.packbits(spread[band]).tobytes()) in table]
        if not found:
            return None
        words = np.frombuffer(value, ">u8").astype(np.uint64)
        least = min(int(np.bitwise_count(self._words[rows] ^ words).sum(axis=1, dtype=np.int64).min()) for rows in found)
        return least if least <= self._max_distance else None


class ImageLists:
    """All lists of a config, read once per worker."""

    def __init__(self, settings: ImageListsConfig) -> None:
        """Raises ValueError for a file that is missing or holds something else than hashes."""
        self._evaluation_sha256 = set(read_hashes(settings.evaluation_sha256, bits=256, flag="evaluation_sha256"))
        self._forbidden_md5 = set(read_hashes(settings.forbidden_md5, bits=128, flag="forbidden_md5"))
        self._forbidden_sha256 = set(read_hashes(settings.forbidden_sha256, bits=256, flag="forbidden_sha256"))
        phashes = read_hashes(settings.evaluation_phash, bits=64, flag="evaluation_phash")
        self._evaluation_phash = NearHashes(phashes, bits=64, max_distance=settings.max_phash_distance)
        pdqs = read_hashes(settings.forbidden_pdq, bits=256, flag="forbidden_pdq")
        self._forbidden_pdq = NearHashes(pdqs, bits=256, max_distance=settings.max_pdq_distance) if pdqs else None

    def check_bytes(self, data: bytes) -> None:
        """Raises Rejected if an image's bytes, as fetched, are listed; and where PDQ hashes are, for which it is decoded, if it cannot be."""
        sha256 = hashlib.sha256(data)
        if sha256.digest() in self._forbidden_sha256 or (self._forbidden_md5 and hashlib.md5(data, usedforsecurity=False).digest() in self._forbidden_md5):
            raise Rejected(Reason.IMAGE_FORBIDDEN, sha256.hexdigest())
        if sha256.digest() in self._evaluation_sha256:
            raise Rejected(Reason.IMAGE_CONTAMINATED, sha256.hexdigest())
        if self._forbidden_pdq is not None and self._forbidden_pdq.distance(pdq_of_image(data)) is not None:
            raise Rejected(Reason.IMAGE_FORBIDDEN, sha256.hexdigest())

    def check_phash(self, phash: str) -> None:
        """Raises Rejected if an image's perceptual hash (16 hex digits) is near a listed one."""
        if (distance := self._evaluation_phash.distance(bytes.fromhex(phash))) is not None:
            raise Rejected(Reason.IMAGE_CONTAMINATED, f"{phash}, {distance} bits from a listed one")
