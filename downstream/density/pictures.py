"""Image files taken apart into planes of bytes and the rest of the file, and put together again.

    PNG --> everything but its pixels, samples            TIFF without compression --> everything but its samples, samples
    samples --> colours (or each band), of deeper samples their eight highest bits | alpha, and the lower bits, plane by plane

A TIFF comes back byte for byte. A PNG comes back with all of its chunks and the same pixels, compressed anew. All other files (JPEG, palettes, interlaced PNG, 16-bit colour PNG,
compressed TIFF, ...) are not taken apart: an archive keeps them as they are.
"""

import io
import math
import struct
import warnings
import zlib
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import tifffile
from jaxtyping import UInt, UInt8
from PIL import Image
from pydantic import Field

from lcl.core.config import config, from_dict, to_dict

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_BANDS = {0: 1, 2: 3, 4: 2, 6: 4}              # of a colour type
PNG_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # that Pillow has for so many bytes in a pixel
TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two of BigTIFF
TIFF_ALPHA = (1, 2)  # of ExtraSamples
MAX_PIXELS = 1 << 28
MAX_BANDS = (1 << 16) - 1  # a TIFF's tag has 16 bits for them
PICTURE_BITS = 8

Plane = UInt8[np.ndarray, "_ _ _"]  # height, width, channels
Side = Annotated[int, Field(ge=1, le=MAX_PIXELS)]
Channels = Literal[1, 3]


@config
class Layout:
    """How samples lie in a file."""

    height: Side
    """In a TIFF of several pages or tiles that of all, one below the other."""
    width: Side
    bands: Annotated[int, Field(ge=1, le=MAX_BANDS)]
    bytes: Literal[1, 2, 4, 8, 16]
    """Of a sample."""
    colours: Annotated[tuple[Channels, ...], Field(max_length=MAX_BANDS)]
    """Bands of each picture; those that are left are alpha."""
    big_endian: bool = True
    planar: bool = False
    """Band by band, not pixel by pixel."""
    kind: Literal["unsigned", "signed", "other"] = "unsigned"
    """Of samples; others (floats) look like pictures in no bits."""
    least: Annotated[int, Field(ge=0, lt=1 << 64)] = 0
    """Of the samples that are deeper than a byte, as unsigned: it is subtracted."""
    shift: Annotated[int, Field(ge=0, le=64 - PICTURE_BITS)] = 0
    """Bits below the eight that are a picture: those in use of such samples, less eight."""

    def check(self) -> None:
        """Raises ValueError for values that are in their ranges and do not fit together."""
        if self.height * self.width > MAX_PIXELS:
            raise ValueError(f"{self.width} x {self.height} pixels, more than {MAX_PIXELS}")
        if sum(self.colours) > self.bands:
            raise ValueError(f"pictures of {sum(self.colours)} bands, and there are {self.bands}")
        if self.kind != "other" and self.bytes > 8:
            raise ValueError(f"whole numbers of {self.bytes} bytes")
        if self.least >> 8 * self.bytes or self.shift > 8 * self.bytes - PICTURE_BITS:
            raise ValueError(f"samples of {self.bytes} bytes from {self.least} up, {self.shift} bits below the picture")

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.bands, self.height, self.width) if self.planar else (self.height, self.width, self.bands)

    @property
    def length(self) -> int:
        """Bytes of all samples."""
        return math.prod(self.shape) * self.bytes

    @property
    def num_alpha(self) -> int:
        return self.bands - sum(self.colours)

    @property
    def num_bands(self) -> tuple[int, int]:
        """Channels of all planes that `split` makes, those of pictures and the others."""
        if self.kind == "other":
            return 0, self.bands * self.bytes
        return sum(self.colours), self.num_alpha + len(_lower(self)) * self.bands

    @property
    def sign(self) -> int:
        """The bit that makes signed samples rise with their value when they are read as unsigned."""
        return 1 << 8 * self.bytes - 1 if self.kind == "signed" else 0


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
    """Alpha and lower bits."""


def take_apart(data: bytes) -> Parts | None:
    """The parts of a file of the kinds above that a decoder reads without complaint; None for any other bytes, for pictures without pixels, and for those beyond the ranges of `Layout`."""
    try:
        parts = _png_parts(data) if data.startswith(PNG_MAGIC) else _tiff_parts(data) if data.startswith(TIFF_MAGICS) else None
        if parts is not None:
            from_dict(Layout, to_dict(parts.layout), origin="the picture").check()
    except Exception:  # a decoder meets any bytes: whatever it raises means that the file is kept as it is
        return None
    return parts


def put_together(parts: Parts) -> bytes:
    """The file: the inverse of `take_apart`, for a PNG up to the compression of its pixels. Raises ValueError for a rest of a file that does not say where samples of this length go."""
    return _png_file(parts) if parts.form == "png" else _tiff_file(parts)


def same_file(data: bytes, other: bytes) -> bool:
    """Whether they are equal, or for a PNG equal in pixels and all other chunks."""
    if data == other:
        return True
    parts = take_apart(data)
    return parts is not None and parts == take_apart(other)


def with_range(layout: Layout, samples: bytes) -> Layout:
    """The layout with the bits that deeper samples use: scans of 12 bits in 16 become a picture of their highest 8 and one plane of 4."""
    if layout.bytes == 1 or layout.kind == "other":
        return layout
    values = _unsigned(samples, layout)
    least, most = int(values.min()), int(values.max())
    return replace(layout, least=least, shift=max(0, (most - least).bit_length() - PICTURE_BITS))


def split(samples: bytes, layout: Layout) -> Planes:
    """Samples as planes of bytes."""
    if layout.kind == "other":
        values = np.frombuffer(samples, dtype=np.uint8).reshape(*layout.shape, layout.bytes)
        values = np.moveaxis(values, 0, 2) if layout.planar else values
        return Planes((), tuple(np.ascontiguousarray(values[:, :, band, number, None]) for number in range(layout.bytes) for band in range(layout.bands)))
    values = _unsigned(samples, layout)
    values = (np.moveaxis(values, 0, 2) if layout.planar else values) - values.dtype.type(layout.least)
    highest = (values >> layout.shift).astype(np.uint8)
    edges = np.cumsum((0, *layout.colours))
    pictures = tuple(np.ascontiguousarray(highest[..., first:last]) for first, last in zip(edges, edges[1:], strict=False))
    others = [highest[..., band] for band in range(int(edges[-1]), layout.bands)]
    others += [(values[..., band] >> below & mask).astype(np.uint8) for below, mask in _lower(layout) for band in range(layout.bands)]
    return Planes(pictures, tuple(np.ascontiguousarray(one)[..., None] for one in others))


def join(planes: Planes, layout: Layout) -> bytes:
    """The inverse of `split`."""
    others = [one[..., 0] for one in planes.others]
    if layout.kind == "other":
        found = np.stack([np.stack(others[number * layout.bands : (number + 1) * layout.bands], axis=2) for number in range(layout.bytes)], axis=3)
        return (np.moveaxis(found, 2, 0) if layout.planar else found).tobytes()
    highest = np.concatenate([*planes.pictures, *(one[..., None] for one in others[: layout.num_alpha])], axis=2)
    values = highest.astype(f"u{layout.bytes}") << layout.shift
    for place, (below, _) in enumerate(_lower(layout)):
        for band in range(layout.bands):
            values[..., band] |= others[layout.num_alpha + place * layout.bands + band].astype(values.dtype) << below
    values = (values + values.dtype.type(layout.least)) ^ values.dtype.type(layout.sign)
    return (np.moveaxis(values, 2, 0) if layout.planar else values).astype(values.dtype.newbyteorder(">" if layout.big_endian else "<")).tobytes()


def _unsigned(samples: bytes, layout: Layout) -> UInt[np.ndarray, "_ _ _"]:
    """Samples that rise with their value, in this machine's order of bytes."""
    values = np.frombuffer(samples, dtype=f"{'>' if layout.big_endian else '<'}u{layout.bytes}").reshape(layout.shape).astype(f"u{layout.bytes}")
    return values ^ values.dtype.type(layout.sign)


def _lower(layout: Layout) -> list[tuple[int, int]]:
    """Of each byte below the eight highest bits, from above: where it begins, and its mask."""
    edges = [*range(layout.shift, 0, -8), 0]
    return [(last, (1 << first - last) - 1) for first, last in zip(edges, edges[1:], strict=False)]


def _numbers(form: str, data: bytes, place: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(form, data, place)
    except struct.error as error:
        raise ValueError(f"the rest of a picture is cut short ({error})") from error


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
    packed = b"".join(data[begin + 8 : end - 4] for _, begin, end in chunks[places[0] : places[-1] + 1])
    if not _is_exactly(packed, length=height * (1 + width * bands * size)):
        return None
    samples = _png_samples(body, height=height, width=width, bytes_each=bands * size)
    layout = Layout(height=height, width=width, bands=bands, bytes=size, colours=(3,) if bands > 2 else (1,))
    return Parts("png", struct.pack("<I", len(head)) + head + tail, samples, with_range(layout, samples))


def _is_exactly(packed: bytes, *, length: int) -> bool:
    """Whether a zlib stream is whole, holds so many bytes, and nothing stands behind it: else a decoder shows pixels, and they are not all that the file holds."""
    inflating = zlib.decompressobj()
    found = inflating.decompress(packed, length + 1)
    return len(found) == length and inflating.eof and not inflating.unused_data


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
    (length,) = _numbers("<I", parts.rest, 0)
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
    """Of the first page and of all that lie as it does, one below the other; so do the tiles of a tiled one. Other pages (masks, smaller copies) stay in the rest."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        layout = _page_layout(file.pages[0], big_endian=file.byteorder == ">")
        if layout is None:
            return None
        pages = [page for page in file.pages if _page_layout(page, big_endian=layout.big_endian) == layout]
        spans = [span for page in pages for span in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if layout.planar and len(pages) > 1:
        return None
    layout = replace(layout, height=layout.height * len(pages))
    ordered = all(before[0] + before[1] <= after[0] for before, after in zip(spans, spans[1:], strict=False))
    if not ordered or sum(length for _, length in spans) != layout.length or layout.height * layout.width > MAX_PIXELS:
        return None
    samples = b"".join(data[begin : begin + length] for begin, length in spans)
    if len(samples) != layout.length:
        return None
    places = struct.pack(f"<I{2 * len(spans)}Q", len(spans), *(value for span in spans for value in span))
    kept, last = [], 0
    for begin, length in spans:
        kept.append(data[last:begin])
        last = begin + length
    return Parts("tiff", places + b"".join(kept) + data[last:], samples, with_range(layout, samples))


def _page_layout(page: tifffile.TiffPage, *, big_endian: bool) -> Layout | None:
    """How the samples of a page lie that has them whole and uncompressed; of a tiled one those of its tiles, the rims that are beyond the picture with them."""
    kind, separate = page.dtype, page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    if page.compression != 1 or kind is None or page.bitspersample != 8 * kind.itemsize or page.imagedepth != 1 or not page.dataoffsets:
        return None
    alpha = 1 if page.extrasamples and page.extrasamples[-1] in TIFF_ALPHA else 0
    num = page.samplesperpixel - alpha
    tiles_of_a_band = len(page.dataoffsets) // (page.samplesperpixel if separate else 1)
    height, width = (page.tilelength * tiles_of_a_band, page.tilewidth) if page.is_tiled else (page.imagelength, page.imagewidth)
    return Layout(
        height=height, width=width, bands=page.samplesperpixel, bytes=kind.itemsize, big_endian=big_endian, planar=separate,
        colours=(3,) + (1,) * (num - 3) if page.photometric == tifffile.PHOTOMETRIC.RGB and num >= 3 else (1,) * num,
        kind="unsigned" if kind.kind == "u" else "signed" if kind.kind == "i" else "other",
    )  # fmt: skip


def _tiff_file(parts: Parts) -> bytes:
    (num,) = _numbers("<I", parts.rest, 0)
    numbers = _numbers(f"<{2 * num}Q", parts.rest, 4)
    if sum(numbers[1::2]) != len(parts.samples):
        raise ValueError(f"the rest of a TIFF has places for {sum(numbers[1::2])} bytes of samples, and there are {len(parts.samples)}")
    rest, parts_of_file, length_so_far, taken, used = parts.rest[4 + 16 * num :], [], 0, 0, 0
    for begin, length in zip(numbers[::2], numbers[1::2], strict=True):
        gap = begin - length_so_far
        if not 0 <= gap <= len(rest) - taken:
            raise ValueError(f"the rest of a TIFF has {len(rest)} bytes, and its samples would lie beyond them")
        parts_of_file += [rest[taken : taken + gap], parts.samples[used : used + length]]
        taken, used, length_so_far = taken + gap, used + length, begin + length
    return b"".join(parts_of_file) + rest[taken:]
