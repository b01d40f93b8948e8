"""A captured page to a document: extraction, its images, the rules.

    Response --> pieces --> images looked up, checked, re-encoded --> rules --> Document | Rejected
"""

import base64
import binascii
from collections import Counter
from collections.abc import Callable
from typing import Annotated
from urllib.parse import unquote_to_bytes, urlsplit

from pydantic import Field
from resiliparse.parse.lang import detect_fast

from lcl.core.config import config
from lcl.core.document import PARAGRAPH_BREAK, CrawlOrigin, Document, ImageSegment, Segment, TextSegment, key_of, sha256_hex
from lcl.core.rejected import Reason, Rejected
from pipeline.crawl import Response
from pipeline.extract import decode_page, extract_page
from pipeline.images import ImageRules, make_image_segment
from pipeline.raw import ImageReference

LANGUAGE_WORST_RANK = 1200  # resiliparse: ranks above are usually false results


@config
class PageRules:
    min_words: Annotated[int, Field(ge=0)] = 10
    """Words a document needs (OBELICS: 10)."""
    min_images: Annotated[int, Field(ge=0)] = 1
    """Images a document needs, after their own rules."""
    max_images: Annotated[int, Field(ge=0)] = 100
    """Images a document may have (OBELICS and MINT-1T: 30; a chapter of a book holds more)."""


def make_document(
    response: Response,
    *,
    crawl_file: str,
    find_image: Callable[[str], bytes | None],
    page_rules: PageRules,
    image_rules: ImageRules,
    image_counts: Counter[str],
) -> Document:
    """The document of a page. Raises Rejected with the rule that it breaks.

    `find_image` gives the bytes at an address or None. `image_counts` gains "in" for every image reference of the
    main content and, for each, "out" or the reason why it was left out.
    """
    if response.status != 200:
        raise Rejected(Reason.HTTP_STATUS, f"{response.url}: {response.status}")
    if not _is_web_address(response.url):
        raise Rejected(Reason.URL_UNUSABLE, response.url)
    if not response.body.strip():
        raise Rejected(Reason.PAGE_EMPTY, response.url)
    html = decode_page(response.body, response.headers.get("content-type", ""))
    pieces = extract_page(html, response.url).pieces
    segments: list[Segment] = []
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    for piece in pieces:
        if isinstance(piece, ImageReference):
            counts["in"] += 1
            try:
                segments.append(_load_image(piece, find_image, image_rules, seen))
            except Rejected as rejected:
                counts[rejected.reason] += 1
        elif segments and segments[-1].kind == "text":  # the image between two texts was left out
            segments[-1] = TextSegment(segments[-1].text + PARAGRAPH_BREAK + piece)
        else:
            segments.append(TextSegment(piece))
    num_images = sum(segment.kind == "image" for segment in segments)
    try:
        text = PARAGRAPH_BREAK.join(segment.text for segment in segments if segment.kind == "text")
        num_words = len(text.split())
        _check_rules(num_words, num_images, page_rules)
    except Rejected:
        if num_images:
            counts[Reason.IMAGE_PAGE_DROPPED] = num_images
        raise
    else:
        if num_images:
            counts["out"] = num_images
    finally:
        image_counts.update(counts)
    language, rank = detect_fast(text, cutoff=LANGUAGE_WORST_RANK)
    return Document(
        key=key_of(crawl_file, response.offset, response.url),
        segments=tuple(segments),
        page_url=response.url,
        crawl=CrawlOrigin(file=crawl_file, offset=response.offset, date=response.date),
        language=language,
        scores={"words": float(num_words), "language_rank": float(rank)},
    )


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and url.isprintable()
    except ValueError:
        return False


def _check_rules(num_words: int, num_images: int, rules: PageRules) -> None:
    if num_words < rules.min_words:
        raise Rejected(Reason.TOO_FEW_WORDS, str(num_words))
    if num_images < rules.min_images:
        raise Rejected(Reason.NO_IMAGES)
    if num_images > rules.max_images:
        raise Rejected(Reason.TOO_MANY_IMAGES, str(num_images))


def _load_image(reference: ImageReference, find_image: Callable[[str], bytes | None], rules: ImageRules, seen: set[str]) -> ImageSegment:
    """The first candidate that the crawl holds and the rules accept; else Rejected with the first candidate's reason."""
    first: Rejected | None = None
    for url in reference.candidates:
        data = _decode_data_url(url) if url.startswith("data:") else find_image(url)
        if data is None:
            continue
        source = sha256_hex(data)
        if source in seen:  # known before anything is decoded
            raise Rejected(Reason.IMAGE_REPEATED, url)
        seen.add(source)
        try:
            return make_image_segment(data, url=url, alt=reference.alt, rules=rules)
        except Rejected as rejected:
            first = first or rejected
    raise first or Rejected(Reason.IMAGE_NOT_IN_CRAWL, reference.candidates[0])


def _decode_data_url(url: str) -> bytes | None:
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:image/"):
        return None
    if not head.endswith(";base64"):
        return unquote_to_bytes(data)
    try:
        return base64.b64decode(unquote_to_bytes(data), validate=False)
    except binascii.Error:
        return None
