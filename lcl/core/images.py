"""Bytes from anywhere to RGB pixels, and nothing that a hostile file could ask for beyond that."""

import io
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile, ImageOps

from lcl.core.rejected import Reason, Rejected

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")  # Pillow would otherwise hand EPS to a PostScript interpreter
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif")  # of files that people keep in these formats
FOREIGN_ENDINGS = (".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jp2", ".jxl", ".ppm", ".pgm")  # what people keep pictures in, and is not read here
MAX_PIXELS = 64_000_000

ImageFile.LOAD_TRUNCATED_IMAGES = False  # a truncated file is an error here, not a half-grey picture


def is_image_name(name: str) -> bool:
    """Whether a file of this name is one of an image: by its ending, and not hidden (`._photo.jpg` is a Mac's note beside it)."""
    base = PurePosixPath(name).name.lower()
    return base.endswith(ENDINGS) and not base.startswith(".")


def is_foreign_name(name: str) -> bool:
    """Whether a file of this name is a picture of a format that is not read, and not hidden."""
    base = PurePosixPath(name).name.lower()
    return base.endswith(FOREIGN_ENDINGS) and not base.startswith(".")


def passed_over(names: Iterable[str]) -> str:
    """How many of the files are pictures of formats that are not read, for people; empty if none are."""
    found = Counter(PurePosixPath(name).suffix.lower() for name in names if is_foreign_name(name))
    endings = ", ".join(f"{number} {ending}" for ending, number in sorted(found.items()))
    return f"{found.total()} pictures of formats that are not read are passed over ({endings}): convert them" if found else ""


def why_unreadable(error: Rejected) -> str:
    """For a person who gave the file."""
    said = {
        Reason.IMAGE_UNKNOWN_FORMAT: f"cannot be read (none of the formats {', '.join(FORMATS)}, or empty; others are to be converted first)",
        Reason.IMAGE_TOO_LARGE: f"cannot be read (more than {MAX_PIXELS / 1e6:.0f} million pixels)",
    }
    return said.get(error.reason, f"cannot be read ({error})")


def probe_image(data: bytes) -> Image.Image:
    """The image with its header read and nothing decoded (`.size`, `.format` are known).

    Raises Rejected: unknown format, damaged header, or more than MAX_PIXELS.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit below is stricter
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        raise Rejected(Reason.IMAGE_UNKNOWN_FORMAT) from error
    except Image.DecompressionBombError as error:
        raise Rejected(Reason.IMAGE_TOO_LARGE) from error
    except Exception as error:  # a decoder meets hostile bytes: whatever it raises means the same
        raise Rejected(Reason.IMAGE_DAMAGED, str(error)) from error
    if image.width * image.height > MAX_PIXELS:
        raise Rejected(Reason.IMAGE_TOO_LARGE, f"{image.width} x {image.height}")
    return image


def decode_image(data: bytes, *, draft_px: int | tuple[int, int] | None = None) -> Image.Image:
    """The first frame in RGB, upright by its EXIF orientation, transparency on white, 16 bits scaled to 8.

    `draft_px` lets a JPEG be decoded at the smallest scale (1, 1/2, 1/4, 1/8) whose shorter side, or width and height,
    are still at least that long. Raises Rejected as `probe_image` does, and if the pixels cannot be decoded.
    """
    image = probe_image(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if draft_px is not None:
                image.draft("RGB", (draft_px, draft_px) if isinstance(draft_px, int) else draft_px)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
    except Exception as error:  # see probe_image
        raise Rejected(Reason.IMAGE_DAMAGED, str(error)) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "F"):  # Pillow's own conversion clips at 255
        values = np.asarray(image, dtype=np.float64)
        return Image.fromarray(np.clip(np.rint(values / 257.0), 0, 255).astype(np.uint8)).convert("RGB")
    if is_transparent(image):
        above = image.convert("RGBA")
        below = Image.new("RGBA", above.size, (255, 255, 255, 255))
        return Image.alpha_composite(below, above).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def is_transparent(image: Image.Image) -> bool:
    """Whether it has an alpha channel or a transparent colour; nothing is decoded for it."""
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def encode_jpeg(image: Image.Image, *, quality: int) -> bytes:
    """The image as JPEG bytes without metadata (EXIF, GPS and profiles stay behind)."""
    buffer = io.BytesIO()
    Image.frombytes("RGB", image.size, image.tobytes()).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def to_pixels(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels of an RGB image."""
    return np.asarray(image)
