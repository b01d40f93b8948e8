"""An interleaved document: text and image segments in page order, and its members in a shard.

    KEY.000.jpg  KEY.001.jpg ...  KEY.json        images first, one contiguous run of tar members
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import xxhash

SCHEMA = "lcl-shard/1"
PARAGRAPH_BREAK = "\n\n"
SIMILARITY = "similarity"  # the name under which an image's similarity goes among its scores

Order = Literal["page", "matched", "none"]


@dataclass(frozen=True, kw_only=True)
class ImageMetadata:
    """What is known of one image. Sizes (px) and `sha256` are of the stored bytes, `source_sha256` of those fetched."""

    url: str
    width: int
    height: int
    sha256: str
    source_sha256: str
    phash: str
    alt: str = ""
    similarity: float | None = None  # of the image to its matched text, from a source (MMC4) or from `lcl apply-scores`
    sentence: int | None = None      # index of that text: of MMC4's sentence, or of a text unit (lcl/core/text_units.py)
    scores: Mapping[str, float] = field(default_factory=dict)  # of `lcl apply-scores`, by name


@dataclass(frozen=True)
class TextSegment:
    """A run of text between images; paragraphs are split by a blank line."""

    text: str
    kind: Literal["text"] = "text"


@dataclass(frozen=True)
class ImageSegment:
    """One image: the stored bytes, the file extension that names their format, and what is known of it."""

    data: bytes = field(repr=False)
    metadata: ImageMetadata
    extension: str = "jpg"
    kind: Literal["image"] = "image"


Segment = TextSegment | ImageSegment


@dataclass(frozen=True, kw_only=True)
class CrawlOrigin:
    """Where a document was read: crawl file name, byte offset of its record, capture date (ISO 8601)."""

    file: str
    offset: int
    date: str


@dataclass(frozen=True, kw_only=True)
class Document:
    """Segments in order, with provenance. `order` says what the order rests on: the page, a matching, or nothing."""

    key: str
    segments: tuple[Segment, ...]
    page_url: str
    crawl: CrawlOrigin
    order: Order = "page"
    language: str = ""
    license: str = ""  # address of the licence that the page names (rel=license, Creative Commons), as it was written; empty: none
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def texts(self) -> list[str]:
        return [segment.text for segment in self.segments if segment.kind == "text"]

    @property
    def images(self) -> list[ImageSegment]:
        return [segment for segment in self.segments if segment.kind == "image"]

    @property
    def domain(self) -> str:
        return urlsplit(self.page_url).hostname or ""


def key_of(crawl_file: str, offset: int, page_url: str) -> str:
    """The document's name: 32 hex digits, xxh128 of (crawl file name, record offset in bytes, page URL)."""
    return xxhash.xxh128_hexdigest(f"{crawl_file}\n{offset}\n{page_url}".encode("utf-8", "surrogatepass"))


def to_members(document: Document) -> list[tuple[str, bytes]]:
    """The document's tar members (name, bytes): its images in order, then its JSON. Inverse of `from_members`."""
    members: list[tuple[str, bytes]] = []
    texts: list[str | None] = []
    images: list[str | None] = []
    metadata: list[dict[str, Any] | None] = []
    for segment in document.segments:
        if segment.kind == "text":
            texts.append(segment.text)
            images.append(None)
            metadata.append(None)
        else:
            name = f"{document.key}.{len(members):03d}.{segment.extension}"
            members.append((name, segment.data))
            texts.append(None)
            images.append(name)
            metadata.append(_record_of(segment.metadata))
    record = {
        "schema": SCHEMA,
        "key": document.key,
        "kinds": [segment.kind for segment in document.segments],
        "texts": texts,
        "images": images,
        "image_metadata": metadata,
        "order": document.order,
        "page_url": document.page_url,
        "crawl": asdict(document.crawl),
        "language": document.language,
        "license": document.license,
        "scores": dict(document.scores),
    }
    members.append((f"{document.key}.json", json.dumps(record, ensure_ascii=False, allow_nan=False).encode()))
    return members


def _record_of(metadata: ImageMetadata) -> dict[str, Any]:
    """The metadata as JSON values; `scores` only where there are any, so that shards without stay as they were."""
    record = asdict(metadata)
    return record if record["scores"] else {name: value for name, value in record.items() if name != "scores"}


def from_members(members: Sequence[tuple[str, bytes]]) -> Document:
    """The document that `members` hold. Raises ValueError naming the member and what is wrong with it."""
    if not members or not members[-1][0].endswith(".json"):
        raise ValueError(f"a document's members must end with its .json, these are {[name for name, _ in members]}")
    name, data = members[-1]
    files = dict(members[:-1])
    try:
        record = json.loads(data)
        if record["schema"] != SCHEMA:
            raise ValueError(f"its schema is {record['schema']!r}, this version reads {SCHEMA!r}: rebuild or convert the shards")
        if record["order"] not in get_args(Order):
            raise ValueError(f"order is {record['order']!r}, not one of {get_args(Order)}")
        segments: list[Segment] = []
        parallel = (record["kinds"], record["texts"], record["images"], record["image_metadata"])
        for kind, text, image, metadata in zip(*parallel, strict=True):
            if kind == "text" and isinstance(text, str):
                segments.append(TextSegment(text))
            elif kind == "image":
                segments.append(ImageSegment(files[image], ImageMetadata(**metadata), image.rpartition(".")[2]))
            else:
                raise ValueError(f"segment kind {kind!r} with text {text!r} is not known")
        return Document(
            key=record["key"], segments=tuple(segments), page_url=record["page_url"], crawl=CrawlOrigin(**record["crawl"]),
            order=record["order"], language=record["language"], license=record.get("license", ""), scores=record["scores"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        detail = f"{type(error).__name__}: {str(error)[:200]}"  # the error of a decoder holds all that it was given
        raise ValueError(f"{name} is no document of this schema ({detail}): build its shard again") from error


def text_hash(document: Document) -> str:
    """xxh128 over all text, for exact deduplication."""
    return xxhash.xxh128_hexdigest(PARAGRAPH_BREAK.join(document.texts).encode("utf-8", "surrogatepass"))


def content_hash(document: Document) -> str:
    """xxh128 over all text and the stored images, in order: equal where scores of one document hold for the other."""
    return xxhash.xxh128_hexdigest("\n".join([text_hash(document), *(image.metadata.sha256 for image in document.images)]).encode())


def summary_of_images(images: Sequence[ImageSegment]) -> dict[str, float]:
    """`NAME_min`, `NAME_mean`, `NAME_max` over the images that have a score NAME, their similarity included: what `lcl select` can ask for."""
    values: dict[str, list[float]] = {}
    for image in images:
        own = {} if image.metadata.similarity is None else {SIMILARITY: image.metadata.similarity}
        for name, value in (own | dict(image.metadata.scores)).items():
            values.setdefault(name, []).append(value)
    return {
        f"{name}_{kind}": value
        for name, found in sorted(values.items())
        for kind, value in (("min", min(found)), ("mean", math.fsum(found) / len(found)), ("max", max(found)))
    }


def with_summary(document: Document, *, before: Document) -> Document:
    """The document, changed from `before`, with scores that sum up the images that it has now."""
    others = {name: value for name, value in document.scores.items() if name not in summary_of_images(before.images)}
    return replace(document, scores=others | summary_of_images(document.images))


def sha256_hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
