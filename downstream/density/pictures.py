"""Image files taken apart into planes of bytes and the rest of the file, and put together again.

    PNG --> everything but its pixels, samples            TIFF without compression --> everything but its samples, samples
    samples --> colours (or each band) of the highest byte | alpha, and lower bytes, plane by plane

A TIFF comes back byte for byte. A PNG comes back with all of its chunks and the same pixels, compressed anew. All other files (JPEG, palettes, interlaced PNG, 16-bit colour PNG,
compressed TIFF, ...) are not taken apart: an archive keeps them as they are.
"""

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import tifffile
from jaxtyping import UInt8
from PIL import Image

from lcl.core.config import config

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_BANDS = {0: 1, 2: 3, 4: 2, 6: 4}              # of a colour type
PNG_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # that Pillow has for so many bytes in a pixel
TIFF_MAGICS = (b"II*\0", b"MM\0*")
MAX_PIXELS = 1 << 28

Plane = UInt8[np.ndarray, "_ _ _"]  # height, width, channels


@config
class Layout:
    """How samples lie in a file."""

    height: int
    width: int
    bands: int
    bytes: int
    """Of a sample."""
    big_endian: bool = True
    planar: bool = False
    """Band by band, not pixel by pixel."""
    integers: bool = True
    """The highest byte of a sample looks like a picture."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (self.bands, self.height, self.width, self.bytes) if self.planar else (self.height, self.width, self.bands, self.bytes)


@dataclass(frozen=True)
class Parts:
    form: Literal["png", "tiff"]
    rest: bytes
    """The file without its samples."""
    samples: bytes
    layout: Layout


@dataclass(frozen=True)
class Planes:
    pictures: tuple[Plane, ...]
    """What looks like pictures: colour, or one band each."""
    others: tuple[Plane, ...]
    """Alpha and lower bytes."""


def take_apart(data: bytes) -> Parts | None:
    """The parts of a file of the kinds above that a decoder reads without complaint; None for any other bytes."""
    try:
        if data.startswith(PNG_MAGIC):
            return _png_parts(data)
        if data.startswith(TIFF_MAGICS):
            return _tiff_parts(data)
    except Exception:  # a decoder meets any bytes: whatever it raises means that the file is kept as it is
        return None
    return None


def put_together(parts: Parts) -> bytes:
    """The file: the inverse of `take_apart`, for a PNG up to the compression of its pixels."""
    return _png_file(parts) if parts.form == "png" else _tiff_file(parts)


def split(samples: bytes, layout: Layout) -> Planes:
    """Samples as planes of bytes."""
    values = np.frombuffer(samples, dtype=np.uint8).reshape(layout.shape)
    values = np.moveaxis(values, 0, 2) if layout.planar else values
    order = range(layout.bytes) if layout.big_endian else range(layout.bytes - 1, -1, -1)
    by_byte = [values[..., number] for number in order]
    highest = by_byte.pop(0) if layout.integers else values[..., :0, 0]
    colours, alpha = _colours(layout.bands) if layout.integers else ((), 0)
    edges = np.cumsum((0, *colours))
    pictures = tuple(np.ascontiguousarray(highest[..., first:last]) for first, last in zip(edges, edges[1:], strict=False))
    others = [highest[..., layout.bands - alpha + number] for number in range(alpha)] + [one[..., band] for one in by_byte for band in range(layout.bands)]
    return Planes(pictures, tuple(np.ascontiguousarray(one)[..., None] for one in others))


def join(planes: Planes, layout: Layout) -> bytes:
    """The inverse of `split`."""
    values = np.zeros((layout.height, layout.width, layout.bands, layout.bytes), dtype=np.uint8)
    order = list(range(layout.bytes) if layout.big_endian else range(layout.bytes - 1, -1, -1))
    others = [one[..., 0] for one in planes.others]
    if layout.integers:
        alpha = _colours(layout.bands)[1]
        values[..., order.pop(0)] = np.concatenate([*planes.pictures, *(one[..., None] for one in others[:alpha])], axis=2)
        others = others[alpha:]
    for number, one in enumerate(others):
        values[..., number % layout.bands, order[number // layout.bands]] = one
    return (np.moveaxis(values, 2, 0) if layout.planar else values).tobytes()


def _colours(bands: int) -> tuple[tuple[int, ...], int]:
    """Bands of each picture among so many, and how many of alpha stand behind them."""
    return {1: ((1,), 0), 2: ((1,), 1), 3: ((3,), 0), 4: ((3,), 1)}.get(bands, ((1,) * bands, 0))


# PNG


def _png_parts(data: bytes) -> Parts | None:
    chunks = _png_chunks(data)
    kinds = [kind for kind, _, _ in chunks]
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", data[chunks[0][1] + 8 : chunks[0][1] + 21])
    bands, size = PNG_BANDS.get(colour, 0), depth // 8
    if kinds[0] != b"IHDR" or depth not in (8, 16) or bands * size not in PNG_MODES or not bands or interlaced or b"acTL" in kinds or width * height > MAX_PIXELS:
        return None
    places = [place for place, kind in enumerate(kinds) if kind == b"IDAT"]
    if not places or places != list(range(places[0], places[-1] + 1)) or kinds[-1] != b"IEND":
        return None
    head, body, tail = data[: chunks[places[0]][1]], data[chunks[places[0]][1] : chunks[places[-1]][2]], data[chunks[places[-1]][2] :]
    samples = _png_samples(body, height=height, width=width, bytes_each=bands * size)
    return Parts("png", struct.pack("<I", len(head)) + head + tail, samples, Layout(height=height, width=width, bands=bands, bytes=size))


def _png_chunks(data: bytes) -> list[tuple[bytes, int, int]]:
    """Kind, begin and end of each chunk, whose checksums hold and which fill the file. Raises ValueError otherwise."""
    found, place = [], len(PNG_MAGIC)
    while place < len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if end > len(data) or zlib.crc32(data[place + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise ValueError("a chunk is cut short or damaged")
        found.append((kind, place, end))
        place = end
    return found


def _png_samples(body: bytes, *, height: int, width: int, bytes_each: int) -> bytes:
    """The samples of IDAT chunks, by a PNG of 8 bits with as many bytes in a pixel, which filters do not tell from one of 16."""
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[bytes_each]
    plain = PNG_MAGIC + _png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)) + body + _png_chunk(b"IEND", b"")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is our own limit
        with Image.open(io.BytesIO(plain), formats=("PNG",)) as image:
            image.load()
            if image.mode != PNG_MODES[bytes_each]:
                raise ValueError(f"decoded as {image.mode}")
            return image.tobytes()


def _png_file(parts: Parts) -> bytes:
    length = struct.unpack_from("<I", parts.rest)[0]
    head, tail = parts.rest[4 : 4 + length], parts.rest[4 + length :]
    layout, buffer = parts.layout, io.BytesIO()
    Image.frombytes(PNG_MODES[layout.bands * layout.bytes], (layout.width, layout.height), parts.samples).save(buffer, "PNG")
    data = buffer.getvalue()
    body = b"".join(data[begin:end] for kind, begin, end in _png_chunks(data) if kind == b"IDAT")
    return head + body + tail


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


# TIFF


def _tiff_parts(data: bytes) -> Parts | None:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        if len(file.pages) != 1:
            return None
        page = file.pages[0]
        separate = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
        kind = page.dtype
        if page.compression != 1 or page.is_tiled or kind is None or page.bitspersample != 8 * kind.itemsize or page.imagedepth != 1:
            return None
        spans = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        layout = Layout(
            height=page.imagelength, width=page.imagewidth, bands=page.samplesperpixel, bytes=kind.itemsize, big_endian=file.byteorder == ">", planar=separate, integers=kind.kind == "u"
        )
    samples = b"".join(data[begin : begin + length] for begin, length in spans)
    ordered = all(before[0] + before[1] <= after[0] for before, after in zip(spans, spans[1:], strict=False))
    if len(samples) != int(np.prod(layout.shape)) or not ordered or layout.height * layout.width > MAX_PIXELS:
        return None
    places = struct.pack(f"<I{2 * len(spans)}Q", len(spans), *(value for span in spans for value in span))
    kept, last = [], 0
    for begin, length in spans:
        kept.append(data[last:begin])
        last = begin + length
    return Parts("tiff", places + b"".join(kept) + data[last:], samples, layout)


def _tiff_file(parts: Parts) -> bytes:
    num = struct.unpack_from("<I", parts.rest)[0]
    numbers = struct.unpack_from(f"<{2 * num}Q", parts.rest, 4)
    rest, parts_of_file, length_so_far, taken, used = parts.rest[4 + 16 * num :], [], 0, 0, 0
    for begin, length in zip(numbers[::2], numbers[1::2], strict=True):
        gap = begin - length_so_far
        parts_of_file += [rest[taken : taken + gap], parts.samples[used : used + length]]
        taken, used, length_so_far = taken + gap, used + length, begin + length
    return b"".join(parts_of_file) + rest[taken:]
