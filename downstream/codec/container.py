"""The header of a compressed image, format LCLC version 1: 40 bytes, little-endian.

    magic "LCLC" | version u8 | profile u8 | channels u8 (1 grey, 3 colour) | flags u8 (1: semantic) | model u64 | width u32 | height u32 | level u16 | zero u16
    payload length u32 | checksum of the symbols u32 | CRC-32 u32 of the 36 bytes before and of the payload

`model` begins the SHA-256 of the model's file; `level` is in 1/256. Tiles are no part of it: they bound memory, and change no bit.
"""

import struct
import zlib
from dataclasses import dataclass

from downstream.codec.coding import Profile
from lcl.core.images import MAX_PIXELS

MAGIC, VERSION = b"LCLC", 1
HEADER = struct.Struct("<4sBBBBQIIHHII")
CRC = struct.Struct("<I")
HEADER_BYTES = HEADER.size + CRC.size
PROFILES: tuple[Profile, ...] = ("fast", "portable")
LEVEL_ONE = 256
STRIDE_PX = 64  # to which models fill up the sides of pictures
MAX_PADDED_PIXELS = 2 * MAX_PIXELS  # a line of 64 million pixels would be filled up to 4 thousand million


@dataclass(frozen=True)
class Header:
    profile: Profile
    channels: int
    model: int
    width: int
    height: int
    level: float
    """Of the model's rates."""
    checksum: int
    """Of the symbols."""
    semantic: bool = False
    """Whether latents were fitted to what an encoder sees, so that detail may be what a model makes of the picture: decoded pictures then say so."""


def is_too_large(width: int, height: int) -> bool:
    """Whether a picture has more pixels than are coded, its filled sides included."""
    return width * height > MAX_PIXELS or -(-width // STRIDE_PX) * -(-height // STRIDE_PX) * STRIDE_PX**2 > MAX_PADDED_PIXELS


def pack(header: Header, payload: bytes) -> bytes:
    """The file."""
    fields = (MAGIC, VERSION, PROFILES.index(header.profile), header.channels, int(header.semantic), header.model, header.width, header.height, round(header.level * LEVEL_ONE), 0, len(payload), header.checksum)
    front = HEADER.pack(*fields)
    return front + CRC.pack(zlib.crc32(payload, zlib.crc32(front))) + payload


def unpack(data: bytes) -> tuple[Header, bytes]:
    """Header and payload. Raises ValueError for bytes that are no such file, of another version, cut short, or changed anywhere."""
    if data[:4] != MAGIC:
        raise ValueError("this is no compressed image of lcl codec (it does not begin with LCLC)")
    if len(data) < HEADER_BYTES:
        raise ValueError(f"the file is cut short: {len(data)} bytes, and the header alone has {HEADER_BYTES}")
    _, version, profile, channels, flags, model, width, height, level, zero, length, checksum = HEADER.unpack_from(data)
    if version != VERSION:
        raise ValueError(f"the file has version {version} of the format, this program reads {VERSION}: use the program that wrote it, or a newer one")
    payload = data[HEADER_BYTES:]
    if len(payload) != length:
        raise ValueError(f"the file is {'cut short' if len(payload) < length else 'too long'}: {len(payload)} bytes of payload, {length} were written")
    if CRC.unpack_from(data, HEADER.size)[0] != zlib.crc32(payload, zlib.crc32(data[: HEADER.size])):
        raise ValueError("the file is damaged (its checksum does not fit): take another copy")
    if profile >= len(PROFILES) or channels not in (1, 3) or flags > 1 or zero or not width * height or is_too_large(width, height):
        raise ValueError("the file's header says what no encoder writes; it was not written by this format")
    return Header(PROFILES[profile], channels, model, width, height, level / LEVEL_ONE, checksum, bool(flags)), payload
