"""Planes of bytes by coders that everybody has: the smallest of PNG, WebP without loss, and lzma. What the model does not code, and what it is compared with."""

import io
import lzma
import struct
import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Plane = UInt8[np.ndarray, "_ _ _"]  # height, width, channels
PlainKind = Literal["png", "webp", "lzma"]
Buffer = bytes | memoryview

WEBP_SIDE = 16_383        # the largest
MOST_PIXELS = 89_478_485  # that Pillow opens without complaint (Image.MAX_IMAGE_PIXELS)
LZMA_BYTES = 1 << 26      # that a decoder may take for itself; `pack_bytes` makes one take nine million


def pack(plane: Plane) -> tuple[PlainKind, bytes]:
    """The smallest form of a plane of one or three channels that comes back."""
    kinds: dict[PlainKind, bytes] = {kind: packed for kind, coder in PACKERS.items() if (packed := coder(plane)) is not None}
    height, width, channels = plane.shape
    for kind in sorted(kinds, key=lambda kind: len(kinds[kind])):
        if np.array_equal(unpack(kind, kinds[kind], height=height, width=width, channels=channels), plane):
            return kind, kinds[kind]
    raise AssertionError("lzma always gives back what it was given")


def unpack(kind: PlainKind, data: Buffer, *, height: int, width: int, channels: int) -> Plane:
    """Raises ValueError for bytes that are none of that size, and for those of a larger picture before a pixel of it is made."""
    if kind == "lzma":
        return np.frombuffer(unpack_bytes(data, length=height * width * channels), dtype=np.uint8).reshape(height, width, channels)
    try:
        if kind == "webp" and _webp_size(data) != (width, height):  # opening one makes room for its pixels
            raise ValueError("of another size")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=(kind.upper(),)) as image:
                if image.size != (width, height) or image.mode not in ("RGB", "L"):
                    raise ValueError(f"{image.mode} of {image.width} x {image.height}")
                plane = np.asarray(image).reshape(height, width, -1)[..., :channels]
        if plane.shape[2] != channels:
            raise ValueError("without its colours")
    except MemoryError:
        raise
    except Exception as error:  # a decoder meets any bytes: whatever it raises means damage
        raise ValueError(f"a plane of {kind} is damaged ({error})") from error
    return plane


def _webp_size(data: Buffer) -> tuple[int, int]:
    """Width and height of a WebP without loss and without anything beside its pixels (RFC 9649, section 3.4). Raises ValueError for others."""
    if bytes(data[:4]) != b"RIFF" or bytes(data[8:16]) != b"WEBPVP8L":
        raise ValueError("no WebP of pixels alone")
    (bits,) = struct.unpack_from("<I", data, 21)
    return (bits & WEBP_SIDE) + 1, (bits >> 14 & WEBP_SIDE) + 1


def to_png(plane: Plane) -> bytes | None:
    """None for a plane that Pillow would take for a bomb."""
    if plane.shape[0] * plane.shape[1] > MOST_PIXELS:
        return None
    return _saved(plane, "PNG", optimize=True)


def to_webp(plane: Plane) -> bytes | None:
    """None where a side is too long for the format; grey is stored as three equal channels."""
    if max(plane.shape[:2]) > WEBP_SIDE or plane.shape[0] * plane.shape[1] > MOST_PIXELS:
        return None
    return _saved(np.repeat(plane, 3, axis=2) if plane.shape[2] == 1 else plane, "WEBP", lossless=True, quality=100, method=4)


def to_jxl(plane: Plane) -> bytes | None:
    """JPEG XL without loss, at its usual effort; None where imagecodecs is missing. For comparison alone: who decodes may not have it."""
    try:
        from imagecodecs import jpegxl_encode
    except ModuleNotFoundError:
        return None
    return jpegxl_encode(plane, lossless=True, effort=7, numthreads=1)


def from_jxl(data: bytes, shape: tuple[int, int, int]) -> Plane:
    """The inverse."""
    from imagecodecs import jpegxl_decode

    return jpegxl_decode(data).reshape(shape)


def to_lzma(plane: Plane) -> bytes:
    return pack_bytes(np.ascontiguousarray(plane).tobytes())


def pack_bytes(data: bytes) -> bytes:
    return lzma.compress(data, preset=6)


def unpack_bytes(data: Buffer, *, length: int) -> bytes:
    """The inverse. Raises ValueError for bytes that are not of so many, without making more of them."""
    try:
        found = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=LZMA_BYTES).decompress(data, max_length=length + 1)
    except lzma.LZMAError as error:
        raise ValueError(f"compressed bytes are damaged ({error})") from error
    if len(found) != length:
        raise ValueError(f"compressed bytes are damaged ({len(found)} or more bytes, {length} were written)")
    return found


def _saved(plane: Plane, form: str, **options: int | bool) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(plane if plane.shape[2] == 3 else plane[:, :, 0]).save(buffer, form, **options)
    return buffer.getvalue()


PACKERS: dict[PlainKind, Callable[[Plane], bytes | None]] = {"png": to_png, "webp": to_webp, "lzma": to_lzma}
