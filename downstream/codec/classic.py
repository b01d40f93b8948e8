"""The codecs that people have: files and pictures at a row of qualities. By Pillow, and JPEG XL by imagecodecs, of the extra `peers`."""

import io
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Pixels = UInt8[np.ndarray, "height width 3"]


class Classic(NamedTuple):
    compress: Callable[[Pixels, float], bytes]
    """The file of a picture at a quality."""
    expand: Callable[[bytes], Pixels]
    qualities: tuple[float, ...]
    """From few bits to many."""


def by_pillow(form: str, options: Callable[[float], dict[str, Any]], qualities: tuple[float, ...]) -> Classic:
    def compress(pixels: Pixels, quality: float) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, form, **options(quality))
        return buffer.getvalue()

    return Classic(compress, lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), qualities)


def _to_jxl(pixels: Pixels, distance: float) -> bytes:
    from imagecodecs import jpegxl_encode

    return jpegxl_encode(pixels, distance=distance, effort=7, numthreads=1)


def _from_jxl(data: bytes) -> Pixels:
    from imagecodecs import jpegxl_decode

    return jpegxl_decode(data)


CLASSIC: dict[str, Classic] = {
    "JPEG": by_pillow("JPEG", lambda quality: {"quality": int(quality), "optimize": True}, (5, 10, 20, 35, 50, 65, 80, 90, 95)),
    "WebP": by_pillow("WEBP", lambda quality: {"quality": int(quality), "method": 6}, (1, 10, 25, 45, 65, 80, 90, 96)),
    "AVIF": by_pillow("AVIF", lambda quality: {"quality": int(quality), "speed": 4, "subsampling": "4:4:4"}, (10, 22, 35, 48, 60, 72, 84, 92)),
    # mct: colours apart from brightness, which Pillow leaves out by itself, at 93 % more bits (BD-rate, the middle 384 px of six photographs).
    "JPEG 2000": by_pillow("JPEG2000", lambda ratio: {"quality_mode": "rates", "quality_layers": [ratio], "irreversible": True, "mct": 1}, (200, 120, 70, 40, 24, 14, 8)),
    "JPEG XL": Classic(_to_jxl, _from_jxl, (15.0, 9.0, 6.0, 4.0, 2.5, 1.5, 0.8)),
}


def check_available(names: Sequence[str]) -> None:
    """Raises ValueError for JPEG XL without its library."""
    if "JPEG XL" in names and find_spec("imagecodecs") is None:
        raise ValueError("JPEG XL is measured by imagecodecs, which is not installed: pip install 'lcl[peers]', or leave it out of --classic")
