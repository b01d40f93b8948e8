"""Samples of pages: which belong follows from their addresses alone, so that a smaller sample lies within a larger one.

All captures of one address are in or out together: duplicates by address are as frequent in a sample as in the whole.
"""

from typing import Annotated

import tyro
import xxhash
from pydantic import Field

from pipeline.image_index import address_hash


def parse_fraction(text: str) -> float:
    """`0.001` or `0.1%` as a number. Raises ValueError for what is neither."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError as error:
        raise ValueError(f"{text!r} is no fraction: write 0.001 or 0.1%") from error


Fraction = Annotated[
    float,
    Field(gt=0, le=1),
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1, metavar="FRACTION|PERCENT", instance_from_str=lambda words: parse_fraction(words[0]), is_instance=lambda value: isinstance(value, float | int),
        str_from_instance=lambda value: [f"{value:g}"],
    ),
]  # fmt: skip


def page_in_sample(url: str, *, file: str, offset: int, fraction: float) -> bool:
    """Whether the page at `url` belongs to the sample; one without an address goes by its place."""
    return fraction == 1 or _below(address_hash(url) if url else _hash(f"{file}\n{offset}"), fraction)


def name_in_sample(name: str, *, fraction: float) -> bool:
    """Whether the file of this name belongs to a sample of files."""
    return _below(_hash(name), fraction)


def _hash(text: str) -> bytes:
    return xxhash.xxh128_digest(text.encode("utf-8", "surrogatepass"))


def _below(digest: bytes, fraction: float) -> bool:
    return int.from_bytes(digest[:8], "big") < fraction * 2**64
