"""A raw document with its images: looked up, checked, decoded once, re-encoded.

    RawDocument --> first candidate of each image that is found and keeps the rules --> Document | Rejected
"""

import base64
import binascii
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import unquote_to_bytes

from lcl.core.document import PARAGRAPH_BREAK, Document, ImageSegment, Segment, TextSegment, sha256_hex, summary_of_images
from lcl.core.rejected import Reason, Rejected
from pipeline.build_config import BuildConfig
from pipeline.dedup.hash_lists import ImageLists
from pipeline.images import ImageRules, make_image_segment
from pipeline.raw import ImageReference, LostImages, RawDocument

FindImage = Callable[[str], bytes | None]


def load_document(raw: RawDocument, *, key: str, language: str, find_image: FindImage, config: BuildConfig, lists: ImageLists, lost: LostImages) -> Document:
    """The document with its images. Raises Rejected if, with those that are left, it breaks a rule.

    `find_image` gives the bytes at an address or None. `lost` gains every image that its own rules left out.
    """
    segments: list[Segment] = []
    seen: set[str] = set()
    num_images = 0
    for piece in raw.pieces:
        if isinstance(piece, ImageReference):
            try:
                segments.append(_load_image(piece, find_image, config.images, lists, seen))
                num_images += 1
            except Rejected as rejected:
                lost.append((piece, rejected))
        elif segments and segments[-1].kind == "text":  # the image between two texts was left out
            segments[-1] = TextSegment(segments[-1].text + PARAGRAPH_BREAK + piece)
        else:
            segments.append(TextSegment(piece))
    if num_images < config.pages.min_images:
        raise Rejected(Reason.NO_IMAGES)
    if num_images > config.pages.max_images:
        raise Rejected(Reason.TOO_MANY_IMAGES, str(num_images))
    return Document(
        key=key, segments=tuple(segments), page_url=raw.page_url, crawl=raw.crawl, order=raw.order, language=language,
        license=raw.license, scores=dict(raw.scores) | summary_of_images([segment for segment in segments if segment.kind == "image"]),
    )  # fmt: skip


def _load_image(reference: ImageReference, find_image: FindImage, rules: ImageRules, lists: ImageLists, seen: set[str]) -> ImageSegment:
    """The first candidate that is found and that the rules accept; else Rejected with the first candidate's reason."""
    first: Rejected | None = None
    for url in reference.candidates or ("",):
        try:
            data = reference.data or (_decode_data_url(url) if url.startswith("data:") else find_image(url))
        except Rejected as rejected:  # it is there, and must not be used
            first = first or rejected
            continue
        if data is None:
            continue
        source = sha256_hex(data)
        if source in seen:  # known before anything is decoded
            raise Rejected(Reason.IMAGE_REPEATED, url)
        seen.add(source)
        try:
            lists.check_bytes(data)
            image = make_image_segment(data, url=url, alt=reference.alt, rules=rules, rendered=reference.rendered)
            lists.check_phash(image.metadata.phash)
            return replace(image, metadata=replace(image.metadata, similarity=reference.similarity, sentence=reference.sentence))
        except Rejected as rejected:
            first = first or rejected
    raise first or Rejected(Reason.IMAGE_NOT_IN_CRAWL, next(iter(reference.candidates), ""))


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
