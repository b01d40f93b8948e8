"""Source bytes to a stored image: checked by its header first, decoded once, re-encoded without metadata."""

from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import Field
from scipy.fft import dctn

from lcl.core.config import config
from lcl.core.document import ImageMetadata, ImageSegment, sha256_hex
from lcl.core.images import decode_image, encode_jpeg, probe_image
from lcl.core.rejected import Reason, Rejected


@config
class ImageRules:
    min_side_px: Annotated[int, Field(ge=1)] = 150
    """Shorter side of an image that is kept, at least (OBELICS and MMC4: 150)."""
    max_side_px: Annotated[int, Field(ge=1)] = 20_000
    """Longer side, at most (OBELICS: 20000)."""
    max_aspect: Annotated[float, Field(ge=1)] = 3.0
    """Longer over shorter side, at most (data-juicer: 3; OBELICS and MMC4: 2)."""
    stored_side_px: Annotated[int, Field(ge=1)] = 512
    """An image with a longer shorter side is stored at this one."""
    quality: Annotated[int, Field(ge=1, le=95)] = 90
    """JPEG quality of stored images."""


def make_image_segment(data: bytes, *, url: str, alt: str, rules: ImageRules) -> ImageSegment:
    """The image segment for source bytes `data`. Raises Rejected with the rule that the image breaks."""
    width, height = probe_image(data).size
    if min(width, height) < rules.min_side_px:
        raise Rejected(Reason.IMAGE_TOO_SMALL, f"{width} x {height}")
    if max(width, height) > rules.max_side_px:
        raise Rejected(Reason.IMAGE_TOO_LARGE, f"{width} x {height}")
    if max(width, height) > rules.max_aspect * min(width, height):
        raise Rejected(Reason.IMAGE_ASPECT, f"{width} x {height}")
    image = shrink(decode_image(data, draft_px=rules.stored_side_px), rules.stored_side_px)
    stored = encode_jpeg(image, quality=rules.quality)
    metadata = ImageMetadata(
        url="data:" if url.startswith("data:") else url, width=image.width, height=image.height,
        sha256=sha256_hex(stored), source_sha256=sha256_hex(data), phash=perceptual_hash(image), alt=alt,
    )
    return ImageSegment(stored, metadata)


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
