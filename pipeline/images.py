"""Source bytes to a stored image: checked by its address and header first, decoded once, re-encoded without metadata.

    address --> words | bytes --> size in bytes --> header: format, sides, frames --> decoded and shrunk --> contrast --> JPEG
"""

import re
from typing import Annotated, Literal

import numpy as np
from PIL import Image
from pydantic import Field
from scipy.fft import dctn

from lcl.core.config import config
from lcl.core.document import ImageMetadata, ImageSegment, sha256_hex
from lcl.core.images import decode_image, encode_jpeg, probe_image
from lcl.core.rejected import Reason, Rejected

Format = Literal["jpeg", "png", "webp", "gif"]
Positive = Annotated[int, Field(ge=1)]

CONTRAST_SIDE_PX = 32
RENDERED_SIDE = re.compile(r"\s*([0-9]{1,6})(?:\.[0-9]{0,9})?\s*(px|%)?\s*", re.IGNORECASE)


@config
class ImageRules:
    min_side_px: Positive = 150
    """Shorter side of an image that is kept, at least (OBELICS and MMC4: 150)."""
    max_side_px: Positive = 20_000
    """Longer side, at most (OBELICS: 20000)."""
    max_aspect: Annotated[float, Field(ge=1)] = 3.0
    """Longer over shorter side, at most (data-juicer: 3; OBELICS and MMC4: 2)."""
    min_rendered_px: Annotated[int, Field(ge=0)] = 0
    """Width and height at which the page shows the image, at least, where it says so (OBELICS: 150)."""
    max_rendered_px: Positive = 20_000
    """The same, at most (OBELICS: 20000)."""
    formats: tuple[Format, ...] = ("jpeg", "png", "webp", "gif")
    """Formats to keep (OBELICS: jpeg png webp; MMC4: jpeg png)."""
    min_bytes: Annotated[int, Field(ge=0)] = 0
    """Bytes of the source, at least."""
    max_bytes: Positive = 64 << 20
    """Bytes of the source, at most."""
    animated: Literal["first_frame", "drop"] = "first_frame"
    """What becomes of an image of several frames."""
    min_contrast: Annotated[float, Field(ge=0, le=128)] = 0.0
    """Standard deviation of the brightness (0 to 255) at 32 x 32 pixels, at least; 2 leaves out what looks empty (no published rule)."""
    url_words: tuple[str, ...] = ()
    """Words that the address of an image may not hold (OBELICS: logo button icon plugin widget porn xxx sex)."""
    match_url_words: Literal["anywhere", "whole"] = "anywhere"
    """anywhere: also inside another word, as published (`icon` in silicon.jpg); whole: between characters that are no letters."""
    stored_side_px: Positive = 512
    """An image with a longer shorter side is stored at this one."""
    quality: Annotated[int, Field(ge=1, le=95)] = 90
    """JPEG quality of stored images."""


PRESETS: dict[str, ImageRules] = {
    "minimal": ImageRules(),
    # obelics/configs/config_filter_web_documents.yaml, and the words of build_obelics/04_merge_web_docs_with_images.py (0fca7ba)
    "obelics": ImageRules(
        max_aspect=2.0, min_rendered_px=150, formats=("jpeg", "png", "webp"),
        url_words=("logo", "button", "icon", "plugin", "widget", "porn", "xxx", "sex"),
    ),
    # MMC4, arXiv:2304.06939, section 3: endings png, jpeg, jpg; these words; shorter side and aspect
    "mmc4": ImageRules(max_aspect=2.0, formats=("jpeg", "png"), url_words=("logo", "button", "icon", "plugin", "widget")),
}  # fmt: skip


def check_image_url(url: str, rules: ImageRules) -> None:
    """Raises Rejected if the address holds a word that the rules ban: known before anything is fetched. Case does not matter; data: has no words."""
    if not rules.url_words or url.startswith("data:"):
        return
    address = url.lower()
    words = set(re.findall(r"[^\W\d_]+", address)) if rules.match_url_words == "whole" else address
    for word in rules.url_words:
        if word.lower() in words:
            raise Rejected(Reason.IMAGE_URL_WORDS, f"{word} in {url}")


def rendered_px(attribute: str, original_px: int) -> float | None:
    """Pixels that a width or height attribute asks for (`300`, `300px`, or `50%` of the image's own), None where it says nothing of the kind."""
    match = RENDERED_SIDE.fullmatch(attribute)
    if match is None:
        return None
    return original_px * int(match[1]) / 100 if match[2] == "%" else float(match[1])


def make_image_segment(data: bytes, *, url: str, alt: str, rules: ImageRules, rendered: tuple[str, str] = ("", "")) -> ImageSegment:
    """The image segment for source bytes `data`. Raises Rejected with the rule that the image breaks.

    `rendered` holds the width and height attributes of the page, empty where there are none.
    """
    check_image_url(url, rules)
    if not rules.min_bytes <= len(data) <= rules.max_bytes:
        raise Rejected(Reason.IMAGE_BYTES, str(len(data)))
    probed = probe_image(data)
    width, height = probed.size
    if (probed.format or "").lower() not in rules.formats:
        raise Rejected(Reason.IMAGE_FORMAT, str(probed.format))
    if min(width, height) < rules.min_side_px:
        raise Rejected(Reason.IMAGE_TOO_SMALL, f"{width} x {height}")
    if max(width, height) > rules.max_side_px:
        raise Rejected(Reason.IMAGE_TOO_LARGE, f"{width} x {height}")
    if max(width, height) > rules.max_aspect * min(width, height):
        raise Rejected(Reason.IMAGE_ASPECT, f"{width} x {height}")
    for attribute, original in zip(rendered, (width, height), strict=True):
        shown = rendered_px(attribute, original)
        if shown is not None and not rules.min_rendered_px <= shown <= rules.max_rendered_px:
            raise Rejected(Reason.IMAGE_RENDERED_SIZE, f"{attribute} of {original}")
    if rules.animated == "drop" and _has_frames(probed):
        raise Rejected(Reason.IMAGE_ANIMATED, url)
    image = shrink(decode_image(data, draft_px=rules.stored_side_px), rules.stored_side_px)
    if rules.min_contrast and (found := contrast(image)) < rules.min_contrast:
        raise Rejected(Reason.IMAGE_BLANK, f"{found:.2f}")
    stored = encode_jpeg(image, quality=rules.quality)
    metadata = ImageMetadata(
        url="data:" if url.startswith("data:") else url, width=image.width, height=image.height,
        sha256=sha256_hex(stored), source_sha256=sha256_hex(data), phash=perceptual_hash(image), alt=alt,
    )
    return ImageSegment(stored, metadata)


def _has_frames(probed: Image.Image) -> bool:
    """Whether there is a second frame: read from the header, or up to where that frame begins."""
    try:
        return bool(getattr(probed, "is_animated", False))
    except Exception as error:  # see probe_image
        raise Rejected(Reason.IMAGE_DAMAGED, str(error)) from error


def contrast(image: Image.Image) -> float:
    """Standard deviation of the brightness (ITU-R 601 luma, 0 to 255) of the image at 32 x 32 pixels, so that noise and thin lines hardly count."""
    grey = image.convert("L").resize((CONTRAST_SIDE_PX, CONTRAST_SIDE_PX), Image.Resampling.BOX)
    return float(np.asarray(grey, dtype=np.float64).std())


def shrink(image: Image.Image, side_px: int) -> Image.Image:
    """The image with its shorter side at most `side_px`, proportions kept."""
    scale = side_px / min(image.size)
    if scale >= 1:
        return image
    size = tuple(max(side_px, round(side * scale)) for side in image.size)
    return image.resize(size, Image.Resampling.LANCZOS)


def perceptual_hash(image: Image.Image) -> str:
    """16 hex digits: the signs about their median of the 8 x 8 lowest DCT coefficients at 32 x 32 grey pixels (pHash)."""
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=np.float64)
    low = dctn(grey)[:8, :8]
    return np.packbits(low > np.median(low)).tobytes().hex()
