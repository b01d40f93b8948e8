"""The codecs that people have, through Pillow: sizes and pictures at a row of qualities."""

import io
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image


class Classic(NamedTuple):
    format: str
    options: Callable[[float], Mapping[str, Any]]
    """Pillow's options of a quality."""
    qualities: tuple[float, ...]


CLASSIC: dict[str, Classic] = {
    "JPEG": Classic("JPEG", lambda quality: {"quality": int(quality), "optimize": True}, (5, 10, 20, 35, 50, 65, 80, 90, 95)),
    "WebP": Classic("WEBP", lambda quality: {"quality": int(quality), "method": 6}, (1, 10, 25, 45, 65, 80, 90, 96)),
    "AVIF": Classic("AVIF", lambda quality: {"quality": int(quality), "speed": 4, "subsampling": "4:4:4"}, (10, 22, 35, 48, 60, 72, 84, 92)),
    "JPEG 2000": Classic("JPEG2000", lambda ratio: {"quality_mode": "rates", "quality_layers": [ratio], "irreversible": True, "mct": 1}, (200, 120, 70, 40, 24, 14, 8)),
}


def compress(pixels: UInt8[np.ndarray, "height width 3"], codec: Classic, quality: float) -> bytes:
    """The file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, codec.format, **codec.options(quality))
    return buffer.getvalue()


def expand(data: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """What it decodes to."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
