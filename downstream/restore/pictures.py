"""Picture files in and out with all that a restorer has to keep: 8 or 16 bits, grey or colour, transparency, EXIF, colour profile and size in print.

    bytes --read_picture--> pixels in [0, 1], alpha, the rest as it was --write_picture--> bytes

Pillow has no 16-bit colour: it reads the high bytes of such a PNG, and, asked to take its numbers the other way round, the low ones. So two passes give both.
"""

import io
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8, UInt16
from PIL import Image
from PIL.PngImagePlugin import putchunk

from downstream.origin_marks import PNG_KEYWORD, Mark, saving_options, to_xmp, xmp_of
from lcl.core.images import probe_image, why_unreadable
from lcl.core.rejected import Rejected

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
OPTIONS: dict[str, dict[str, Any]] = {"PNG": {}, "JPEG": {"quality": 95, "subsampling": "4:4:4"}, "WEBP": {"lossless": True}}
MOST_DPI = 65535  # that JPEG has place for
INCH_M = 0.0254
EXIF_HEADER = b"Exif\x00\x00"  # JPEG's, which a PNG leaves out
ORIENTATION = 0x0112
TURNS = {  # EXIF's orientations: whether rows are columns, then whether rows and columns run backwards
    1: (False, False, False), 2: (False, False, True), 3: (False, True, True), 4: (False, True, False),
    5: (True, False, False), 6: (True, False, True), 7: (True, True, True), 8: (True, True, False),
}  # fmt: skip
Pixels = Float[torch.Tensor, "channels height width"]
Numbers = UInt8[np.ndarray, "height width channels"] | UInt16[np.ndarray, "height width channels"]


@dataclass(frozen=True)
class Picture:
    pixels: Pixels
    """In [0, 1]; one channel of a grey picture, else three. As stored: `upright` turns them by the EXIF orientation, which stays in the EXIF."""
    alpha: UInt8[np.ndarray, "height width 1"] | UInt16[np.ndarray, "height width 1"] | None
    bits: int
    """Of a channel: 8 or 16."""
    exif: bytes
    """With the header that JPEG has before it."""
    profile: bytes
    """ICC."""
    xmp: bytes
    dpi: tuple[float, float] | None = None
    """Pixels per inch across and down; None where a file does not say them. WebP has no place for them, but in EXIF."""

    @property
    def orientation(self) -> int:
        """1 to 8; 1 where none is said, or none that there is."""
        exif = Image.Exif()
        try:
            exif.load(self.exif)
            found = exif.get(ORIENTATION, 1)
        except Exception:  # damaged EXIF may raise anything, and turns nothing
            return 1
        return found if found in TURNS else 1


def read_picture(data: bytes) -> Picture:
    """Raises ValueError for what is no PNG, JPEG, WebP or GIF, is damaged or too large, moves, or has other than grey or RGB channels."""
    if not data:
        raise ValueError("the file is empty")
    try:
        image = probe_image(data)
    except Rejected as error:
        raise ValueError(why_unreadable(error)) from error
    info = dict(image.info)
    numbers = _read_numbers(data, image)
    channels = 1 if numbers.shape[2] < 3 else 3
    most = np.iinfo(numbers.dtype).max
    pixels = torch.from_numpy(numbers[:, :, :channels].astype(np.float32) / most)
    alpha = numbers[:, :, channels:] if numbers.shape[2] > channels else None
    pixels = rearrange(pixels, "height width channels -> channels height width")
    exif = info.get("exif", b"")
    exif = exif if exif.startswith(EXIF_HEADER) or not exif else EXIF_HEADER + exif  # WebP leaves it out
    return Picture(pixels, alpha, 8 * numbers.itemsize, exif, info.get("icc_profile", b""), xmp_of(info), _dpi(info))


def _dpi(info: Mapping[str, Any]) -> tuple[float, float] | None:
    """What Pillow says of a file, where that is a size."""
    found = tuple(float(one) for one in info.get("dpi", ()))
    return found if len(found) == 2 and all(0 < one <= MOST_DPI for one in found) else None


def upright(pixels: Pixels, orientation: int) -> Float[torch.Tensor, "channels _ _"]:
    """Stored pixels as they are to be seen."""
    across, rows, columns = TURNS[orientation]
    turned = pixels.transpose(1, 2) if across else pixels
    return turned.flip([1] * rows + [2] * columns)


def as_stored(pixels: Pixels, orientation: int) -> Float[torch.Tensor, "channels _ _"]:
    """The inverse of `upright`."""
    across, rows, columns = TURNS[orientation]
    flipped = pixels.flip([1] * rows + [2] * columns)
    return flipped.transpose(1, 2) if across else flipped


def write_picture(picture: Picture, ending: str, *, mark: Mark | None) -> bytes:
    """The bytes of a file with this ending. Raises ValueError for one that cannot hold the picture."""
    if ending not in FORMATS:
        raise ValueError(f"{ending or 'no ending'} is no ending of pictures that can be written; there are {', '.join(FORMATS)}")
    format = FORMATS[ending]
    if picture.bits == 16 and format != "PNG":
        raise ValueError(f"has 16 bits, which {format} cannot keep: write .png")
    if picture.alpha is not None and format == "JPEG":
        raise ValueError("has transparency, which JPEG cannot keep: write .png or .webp")
    most, kind = (65535, np.uint16) if picture.bits == 16 else (255, np.uint8)
    numbers = rearrange((picture.pixels.clamp(0, 1) * most).round(), "channels height width -> height width channels").numpy().astype(kind)
    if picture.alpha is not None:
        numbers = np.concatenate([numbers, picture.alpha], axis=2)
    if picture.bits == 16:
        return _png_16(numbers, picture, mark)
    buffer = io.BytesIO()
    options = OPTIONS[format] | ({} if mark is None else saving_options(format, mark))
    options |= {name: value for name, value in (("exif", picture.exif), ("icc_profile", picture.profile), ("dpi", None if format == "WEBP" else picture.dpi)) if value}
    Image.fromarray(numbers[:, :, 0] if numbers.shape[2] == 1 else numbers).save(buffer, format, **options)
    return buffer.getvalue()


def _read_numbers(data: bytes, image: Image.Image) -> Numbers:
    """Grey, grey and alpha, RGB or RGBA. Raises ValueError as `read_picture`."""
    raw = image.tile[0].args if image.format == "PNG" and image.tile else ""
    if image.mode == "CMYK":
        raise ValueError("has CMYK channels, whose colours depend on a press: convert it to RGB first")
    try:
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # cameras put previews and depth behind a JPEG; the photograph is the first
        if frames > 1:
            raise ValueError(f"has {frames} frames: give single pictures")
        if isinstance(raw, str) and raw.endswith(";16B"):
            if raw == "LA;16B" or "transparency" in image.info:
                raise ValueError("is a 16-bit PNG of grey with alpha or with a transparent colour: save it with RGBA channels")
            return _read_16(data, image)
        image.load()
    except ValueError:
        raise
    except Exception as error:  # a decoder meets hostile bytes: whatever it raises means the same
        raise ValueError(f"cannot be read to its end ({error})") from error
    if image.mode in ("I", "F"):
        raise ValueError(f"has pixels of 32 bits ({image.mode}): save it with 8 or 16")
    grey = image.mode in ("1", "L", "LA")
    transparent = "A" in image.mode or "transparency" in image.info
    found = np.asarray(image.convert(("L" if grey else "RGB") + ("A" if transparent else "")))
    return found[:, :, None] if found.ndim == 2 else found


def _read_16(data: bytes, image: Image.Image) -> UInt16[np.ndarray, "height width channels"]:
    if image.mode == "I;16":
        return np.asarray(image).astype(np.uint16)[:, :, None]
    halves = []
    for order in "BL":
        image = probe_image(data)
        image.tile = [image.tile[0]._replace(args=image.tile[0].args[:-1] + order)]
        halves.append(np.asarray(image).astype(np.uint16))
    return halves[0] << 8 | halves[1]


def _png_16(numbers: UInt16[np.ndarray, "height width channels"], picture: Picture, mark: Mark | None) -> bytes:
    height, width, channels = numbers.shape
    raw = np.ascontiguousarray(numbers, dtype=">u2").reshape(height, -1).view(np.uint8)
    filtered = np.full((height, raw.shape[1] + 1), 2, dtype=np.uint8)  # each row: filter 2, the difference to the row above
    filtered[0, 1:], filtered[1:, 1:] = raw[0], raw[1:] - raw[:-1]
    buffer = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    buffer.seek(0, io.SEEK_END)
    putchunk(buffer, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0))
    if picture.profile:
        putchunk(buffer, b"iCCP", b"ICC Profile\x00\x00" + zlib.compress(picture.profile))
    if picture.dpi:
        putchunk(buffer, b"pHYs", struct.pack(">IIB", *(round(one / INCH_M) for one in picture.dpi), 1))  # pixels per metre
    if picture.exif:
        putchunk(buffer, b"eXIf", picture.exif.removeprefix(EXIF_HEADER))
    if mark is not None:
        putchunk(buffer, b"iTXt", PNG_KEYWORD.encode() + bytes(5) + to_xmp(mark))
    putchunk(buffer, b"IDAT", zlib.compress(filtered.tobytes()))
    putchunk(buffer, b"IEND", b"")
    return buffer.getvalue()
