"""Texts and images of a row, as any source spells them, to the pieces of a document.

    texts, addresses, bytes --> cleaned --> neighbouring texts joined --> RawDocument | Rejected
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from lcl.core.document import PARAGRAPH_BREAK, CrawlOrigin, Order
from lcl.core.rejected import Reason, Rejected
from pipeline.raw import ImageReference, Piece, RawDocument

Item = TypeVar("Item")
MAX_PIECES = 10_000
MAX_DOCUMENT_BYTES = 256 << 20  # of the images that a source holds itself
MAX_ADDRESS_CHARACTERS = 8_192
MAX_INLINE_CHARACTERS = 16 << 20
SCHEMES = ("http://", "https://", "//", "data:")
BLANK_LINE = re.compile(r"\n\s*\n")
SURROGATE = re.compile("[\ud800-\udfff]")


def each(items: Iterable[Item | Rejected], make: Callable[[Item], RawDocument]) -> Iterator[RawDocument | Rejected]:
    """The document of each item, or the Rejected that comes in its place or out of `make`."""
    for item in items:
        if isinstance(item, Rejected):
            yield item
            continue
        try:
            yield make(item)
        except Rejected as rejected:
            yield rejected


def raw_document(
    pieces: Sequence[Piece | None], *, file: str, row: int, page_url: object = "", order: Order, scores: Mapping[str, float] | None = None,
) -> RawDocument:  # fmt: skip
    """The document of row `row` of `file`. None stands for an image without an address or bytes that could be used.

    Such images are no references, as on a page; their number is kept as the score `unusable_images` where there are any.
    Raises Rejected if nothing is left, or more than a document may have.
    """
    kept: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, ImageReference):
            kept.append(piece)
        elif piece is not None and (text := clean_text(piece)):
            if kept and isinstance(kept[-1], str):
                kept[-1] += PARAGRAPH_BREAK + text
            else:
                kept.append(text)
    if not kept:
        raise Rejected(Reason.ROW_MALFORMED, f"{file}, row {row}: neither text nor image")
    num_bytes = sum(len(piece.data) for piece in kept if isinstance(piece, ImageReference) and piece.data is not None)
    if len(kept) > MAX_PIECES or num_bytes > MAX_DOCUMENT_BYTES:
        raise Rejected(Reason.ROW_TOO_LARGE, f"{file}, row {row}: {len(kept)} texts and images, {num_bytes} bytes of images")
    unusable = sum(piece is None for piece in pieces)
    return RawDocument(
        pieces=tuple(kept), page_url=web_address(page_url), crawl=CrawlOrigin(file=file, offset=row, date=""), order=order,
        scores=dict(scores or {}) | ({"unusable_images": float(unusable)} if unusable else {}),
    )


def clean_text(text: str) -> str:
    """Paragraphs split by exactly one blank line, other white space folded to one space, half surrogate pairs replaced."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in BLANK_LINE.split(SURROGATE.sub("\ufffd", text)))
    return PARAGRAPH_BREAK.join(paragraph for paragraph in paragraphs if paragraph)


def web_address(value: object) -> str:
    """An absolute http(s) address, or an empty string where `value` is none. `//host/path` is taken as https."""
    if not isinstance(value, str) or len(value) > MAX_ADDRESS_CHARACTERS:
        return ""
    address = value.strip()
    address = f"https:{address}" if address.startswith("//") else address
    try:
        parts = urlsplit(address)
        return address if parts.scheme in ("http", "https") and parts.hostname and address.isprintable() else ""
    except ValueError:  # an address such as http://[broken
        return ""


def image_at(value: object, *, alt: object = "", similarity: object = None, sentence: int | None = None, data: bytes | None = None) -> ImageReference | None:
    """The image at an http(s) or data: address, or with these bytes; None without either."""
    is_inline = isinstance(value, str) and value.startswith("data:image/") and len(value) <= MAX_INLINE_CHARACTERS and not SURROGATE.search(value)
    address = value if is_inline else web_address(value)
    if not address and not data:
        return None
    text = clean_text(alt) if isinstance(alt, str) else ""
    return ImageReference((address,) if address else (), alt=text, data=data or None, similarity=finite(similarity), sentence=sentence)


def finite(value: object) -> float | None:
    """The number as a float, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def scores_of(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    """The numbers among these fields, under their names in lower case."""
    found = ((name.lower(), finite(row.get(name))) for name in names)
    return {name: value for name, value in found if value is not None}


def field(row: Mapping[str, Any], name: str, kind: type, *, where: str) -> Any:
    """`row[name]`. Raises Rejected unless it is there and of this type."""
    value = row.get(name)
    if not isinstance(value, kind):
        raise Rejected(Reason.ROW_MALFORMED, f"{where}: {name} is {type(value).__name__}, not {kind.__name__}")
    return value
