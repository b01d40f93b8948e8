"""Decoding what anyone may send: right pixels, bounded cost, a reason for each refusal."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lcl.core.images import MAX_PIXELS, decode_image, encode_jpeg, probe_image
from lcl.core.rejected import Reason, Rejected
from pipeline.images import ImageRules, make_image_segment, perceptual_hash

RULES = ImageRules(min_side_px=16, stored_side_px=64)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    columns, rows = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([columns, rows, 255 - columns], axis=-1).astype(np.uint8))


def png_claiming(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\0\0IDAT" + b"\0" * 8


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
def test_known_formats_decode(form: str) -> None:
    image = decode_image(encoded(gradient(40, 30), form))
    assert image.size == (40, 30) and image.mode == "RGB"
    assert np.abs(np.asarray(image, int) - np.asarray(gradient(40, 30), int)).mean() < 12


def test_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert decode_image(encoded(gradient(40, 30), "JPEG", exif=exif)).size == (30, 40)


def test_transparency_becomes_white() -> None:
    assert decode_image(encoded(Image.new("RGBA", (20, 20), (255, 0, 0, 0)), "PNG")).getpixel((5, 5)) == (255, 255, 255)
    half = decode_image(encoded(Image.new("LA", (20, 20), (0, 128)), "PNG")).getpixel((5, 5))
    assert all(abs(value - 127) <= 1 for value in half)


def test_sixteen_bits_scale_to_eight() -> None:
    values = np.linspace(0, 65535, 400).reshape(20, 20).astype(np.uint16)
    pixels = np.asarray(decode_image(encoded(Image.fromarray(values), "PNG")))[..., 0]
    assert np.array_equal(pixels, np.rint(values / 257).astype(np.uint8))


def test_cmyk_and_palette_decode() -> None:
    assert decode_image(encoded(gradient(20, 20).convert("CMYK"), "JPEG")).mode == "RGB"
    assert decode_image(encoded(gradient(20, 20).convert("P"), "PNG")).mode == "RGB"


def test_draft_gives_a_smaller_picture_but_not_too_small() -> None:
    image = decode_image(encoded(gradient(800, 600), "JPEG"), draft_px=100)
    assert 100 <= min(image.size) < 300


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.IMAGE_UNKNOWN_FORMAT),
        (b"<html>", Reason.IMAGE_UNKNOWN_FORMAT),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", Reason.IMAGE_UNKNOWN_FORMAT),
        (encoded(gradient(40, 30), "BMP"), Reason.IMAGE_UNKNOWN_FORMAT),
        (encoded(gradient(400, 300), "JPEG")[:900], Reason.IMAGE_DAMAGED),
        (encoded(gradient(400, 300), "PNG")[:300], Reason.IMAGE_DAMAGED),
        (png_claiming(10_000, 10_000), Reason.IMAGE_TOO_LARGE),
        (png_claiming(60_000, 60_000), Reason.IMAGE_TOO_LARGE),
    ],
)
def test_each_refusal_has_its_reason(data: bytes, reason: Reason) -> None:
    with pytest.raises(Rejected) as rejected:
        decode_image(data)
    assert rejected.value.reason == reason


def test_the_pixel_limit_is_checked_on_the_header() -> None:
    assert 10_000 * 10_000 > MAX_PIXELS
    with pytest.raises(Rejected):
        probe_image(png_claiming(10_000, 10_000))


@pytest.mark.parametrize(
    ("size", "reason"),
    [((15, 40), Reason.IMAGE_TOO_SMALL), ((40, 15), Reason.IMAGE_TOO_SMALL), ((20, 61), Reason.IMAGE_ASPECT), ((4000, 3000), None), ((16, 48), None)],
)
def test_rules_on_size(size: tuple[int, int], reason: Reason | None) -> None:
    data = encoded(gradient(*size), "PNG")
    if reason is None:
        segment = make_image_segment(data, url="https://a.example/x", alt="", rules=RULES)
        assert min(segment.metadata.width, segment.metadata.height) == min(*size, 64)
    else:
        with pytest.raises(Rejected) as rejected:
            make_image_segment(data, url="https://a.example/x", alt="", rules=RULES)
        assert rejected.value.reason == reason


def test_too_long_a_side_is_refused() -> None:
    with pytest.raises(Rejected, match="image_too_large"):
        make_image_segment(encoded(gradient(90, 80), "PNG"), url="u", alt="", rules=ImageRules(min_side_px=1, max_side_px=85))


def test_stored_bytes_carry_no_metadata_and_match_their_checksum() -> None:
    exif = Image.Exif()
    exif[0x010F] = "camera of a person"
    data = encoded(gradient(100, 100), "JPEG", exif=exif, comment=b"secret")
    segment = make_image_segment(data, url="data:image/jpeg;base64,AAAA", alt="x", rules=RULES)
    stored = Image.open(io.BytesIO(segment.data))
    assert not stored.getexif() and b"secret" not in segment.data and b"camera" not in segment.data
    assert stored.size == (segment.metadata.width, segment.metadata.height) == (64, 64)
    assert segment.metadata.url == "data:", "an inline image has no address"


def test_perceptual_hash_survives_a_resize_and_tells_pictures_apart() -> None:
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((200, 200), Image.Resampling.BICUBIC) for _ in range(8)]

    def distance(one: Image.Image, two: Image.Image) -> int:
        return (int(perceptual_hash(one), 16) ^ int(perceptual_hash(two), 16)).bit_count()

    for picture in pictures:
        assert distance(picture, decode_image(encode_jpeg(picture.resize((120, 120)), quality=70))) <= 4
    assert min(distance(one, two) for one in pictures for two in pictures if one is not two) > 10
