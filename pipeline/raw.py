"""A document before its images are loaded: what every source gives, and what filters and deduplication work on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lcl.core.document import CrawlOrigin, Order
from lcl.core.rejected import Rejected


@dataclass(frozen=True)
class ImageReference:
    """An image of a document: absolute candidate addresses (http, https or data:), the best first, and what is known of it."""

    candidates: tuple[str, ...]
    alt: str = ""
    data: bytes | None = None         # the image itself, where the source holds it
    similarity: float | None = None   # to its matched sentence, where a source gives one (MMC4)
    sentence: int | None = None       # index of that sentence
    rendered: tuple[str, str] = ("", "")  # width and height attributes of the page, as written; empty where there are none


Piece = str | ImageReference
LostImages = list[tuple[ImageReference, Rejected]]  # that a document had, each with why it was left out


@dataclass(frozen=True, kw_only=True)
class RawDocument:
    """Text runs (paragraphs split by a blank line) and image references in order, never two texts in a row."""

    pieces: tuple[Piece, ...]
    page_url: str
    crawl: CrawlOrigin                # file name, offset (bytes of a record, or number of a row), date
    order: Order = "page"
    license: str = ""                 # address of the licence that the page names, if any
    headers: Mapping[str, str] = field(default_factory=dict)  # of the HTTP answer, names in lower case
    scores: Mapping[str, float] = field(default_factory=dict)
