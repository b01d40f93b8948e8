"""What deduplication keeps of a document beside its text: computed once, where the text is extracted.

    page URL --normal form--> xxh128            } equal ones are exact duplicates
    text -----------------------> xxh128        }
    text --5-word shingles--> MinHash           alike ones are candidates; the text itself verifies them
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pyarrow as pa
import xxhash
from pydantic import Field

from lcl.core.config import config
from pipeline.addresses import normal_url
from pipeline.dedup.words import MULTIPLIER, mix, shingles_of

VERSION = "1"  # of words, shingles and MinHash together: signatures of two versions cannot be compared
ROUNDS = 3     # more find a slot for fewer and fewer shingles: 800 fill 112 slots in the first one nine times out of ten
EMPTY = np.uint64(1 << 32)
BLOCK_VALUES = 1 << 20  # of the table that fills the last slots


@config
class SignatureConfig:
    shingle_words: Annotated[int, Field(ge=1, le=100)] = 5
    """Words in a shingle."""
    num_hashes: Annotated[int, Field(ge=1, le=4096)] = 112
    """MinHash values per document; bands times rows of the deduplication may be as many (14 x 8 by default)."""


@dataclass(frozen=True)
class DocumentSignature:
    """16 bytes each for URL and text, 4 per MinHash value (little-endian uint32); None for a text without a word."""

    url_hash: bytes
    text_hash: bytes
    minhash: bytes | None


def signature_of(page_url: str, text: str, settings: SignatureConfig) -> DocumentSignature:
    """The signature of a document. `text` is its whole text; the text hash is the digest that `text_hash` of lcl/core/document.py spells in hex."""
    shingles = shingles_of(text, settings.shingle_words)
    minhash = minhash_of(shingles, settings.num_hashes).astype("<u4").tobytes() if len(shingles) else None
    return DocumentSignature(url_hash=hash_bytes(normal_url(page_url)), text_hash=hash_bytes(text), minhash=minhash)


def signature_fields(settings: SignatureConfig) -> list[pa.Field]:
    """Columns of a parquet file for `DocumentSignature`, with the settings in the metadata of the last."""
    about = {"version": VERSION, "shingle_words": str(settings.shingle_words)}
    return [
        pa.field("url_hash", pa.binary(16), nullable=False),
        pa.field("text_hash", pa.binary(16), nullable=False),
        pa.field("minhash", pa.binary(4 * settings.num_hashes), metadata=about),
    ]


def settings_of(schema: pa.Schema) -> SignatureConfig:
    """Inverse of `signature_fields`. Raises ValueError if the file has no signatures, or some of another version."""
    index = schema.get_field_index("minhash")
    about = (schema.field(index).metadata or {}) if index >= 0 else {}
    version = about.get(b"version", b"none").decode()
    if version != VERSION:
        raise ValueError(f"signatures of version {version}, this one compares version {VERSION}: extract the file again")
    return SignatureConfig(shingle_words=int(about[b"shingle_words"]), num_hashes=schema.field(index).type.byte_width // 4)


def hash_bytes(value: str) -> bytes:
    return xxhash.xxh128_digest(value.encode("utf-8", "surrogatepass"))


def minhash_of(shingles: np.ndarray, num_hashes: int) -> np.ndarray:
    """uint32 per slot; two sets agree in a slot with probability J, their Jaccard similarity. `shingles` is not empty.

    In each of a few rounds a shingle falls into one slot with one value, and a slot that is still empty takes the least; what then is
    empty takes the least of a hash of its own over all shingles. So each slot ranks all shingles at random, as in a plain MinHash,
    at the cost of about one hash per shingle and not of one per slot (Fast Similarity Sketching, Dahlgaard et al., arXiv:1704.04370).
    """
    slots = np.full(num_hashes, EMPTY)
    seeds = mix(np.arange(1, ROUNDS + num_hashes + 1, dtype=np.uint64) * MULTIPLIER)
    for seed in seeds[:ROUNDS]:
        mixed = mix(shingles + seed)
        slot = (((mixed >> np.uint64(32)) * np.uint64(num_hashes)) >> np.uint64(32)).astype(np.intp)
        open_ones = slots[slot] == EMPTY
        np.minimum.at(slots, slot[open_ones], mixed[open_ones] & np.uint64(0xFFFFFFFF))
    empty = np.flatnonzero(slots == EMPTY)
    step = max(1, BLOCK_VALUES // len(shingles))
    for start in range(0, len(empty), step):
        block = empty[start : start + step]
        slots[block] = (mix(shingles[None, :] + seeds[ROUNDS + block][:, None]) & np.uint64(0xFFFFFFFF)).min(axis=1)
    return slots.astype(np.uint32)


def band_keys(minhashes: np.ndarray, *, bands: int, rows: int) -> np.ndarray:
    """uint64 (documents, bands) from uint32 (documents, slots): equal where the `rows` values of the band are, and different from band to band.

    Two documents share at least one with probability 1 - (1 - J^rows)^bands.
    """
    values = minhashes[:, : bands * rows].reshape(len(minhashes), bands, rows).astype(np.uint64)
    keys = np.broadcast_to(mix(np.arange(1, bands + 1, dtype=np.uint64)), (len(minhashes), bands))
    for row in range(rows):
        keys = mix(keys * MULTIPLIER + values[:, :, row])
    return keys


def expected_recall(similarity: float | np.ndarray, *, bands: int, rows: int) -> float | np.ndarray:
    """The probability that two documents of this Jaccard similarity become candidates: 1 - (1 - s^rows)^bands."""
    return 1 - (1 - similarity**rows) ** bands


def minhash_table(values: Sequence[bytes]) -> np.ndarray:
    """uint32 (documents, slots) from the bytes of signatures."""
    return np.frombuffer(b"".join(values), "<u4").reshape(len(values), -1)
