"""Picture files keep what they have, and marks of origin are in them."""

import io
import warnings
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from downstream.origin_marks import MADE, Mark, from_xmp, kind_after, read_mark, to_xmp
from downstream.restore.pictures import FORMATS, as_stored, read_picture, upright, write_picture

MARK = Mark("algorithmicallyEnhanced", "ab" * 32, "cd" * 32, 'task "rain" & <2> steps, seed 0')


def saved(array: np.ndarray, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format, **options)
    return buffer.getvalue()


def random(*shape: int, kind: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(kind).max + 1, shape, dtype=kind)


def test_a_mark_is_xmp_and_comes_back() -> None:
    packet = to_xmp(MARK)
    assert from_xmp(packet) == MARK and from_xmp(b"") is None and from_xmp(b"<x/>") is None
    tree = ElementTree.fromstring(packet.decode())
    said = tree.find(".//{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType")
    assert said is not None and said.text == "http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicallyEnhanced"
    made = Mark("trainedAlgorithmicMedia", "ef" * 32)
    assert from_xmp(to_xmp(made)) == made


def test_a_generated_picture_stays_one() -> None:
    assert kind_after("algorithmicallyEnhanced", b"") == kind_after("algorithmicallyEnhanced", to_xmp(MARK)) == "algorithmicallyEnhanced"
    for address in ("http", "https"):
        other = f'<rdf:Description Iptc4xmpExt:DigitalSourceType="{address}://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>'
        assert kind_after("algorithmicallyEnhanced", other.encode()) == "trainedAlgorithmicMedia"
    for kind in MADE:
        packet = to_xmp(Mark(kind, "ef" * 32))
        assert kind_after("algorithmicallyEnhanced", packet) == kind and from_xmp(packet) == Mark(kind, "ef" * 32)
    taken = to_xmp(MARK).replace(b"algorithmicallyEnhanced", b"digitalCapture")
    assert kind_after("algorithmicallyEnhanced", taken) == "algorithmicallyEnhanced"


@pytest.mark.parametrize(("format", "bits"), [("PNG", 8), ("JPEG", 8), ("PNG", 16)])
def test_size_in_print_is_kept(format: str, bits: int) -> None:
    picture = replace(read_picture(saved(random(13, 9, 3), format, dpi=(300, 240))), bits=bits)
    assert picture.dpi == pytest.approx((300, 240), abs=0.01)
    for ending in (".png",) if bits == 16 else (".png", ".jpg"):
        assert read_picture(write_picture(picture, ending, mark=MARK)).dpi == pytest.approx((300, 240), abs=0.01)
    assert read_picture(saved(random(13, 9, 3))).dpi is None


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("ending", [".png", ".webp"])
def test_8_bits_come_back_with_alpha_exif_profile_and_mark(channels: int, ending: str) -> None:
    array = random(13, 9, channels)
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "A maker", 6
    data = saved(array[:, :, 0] if channels == 1 else array, exif=exif.tobytes(), icc_profile=b"profile" * 20)
    picture = read_picture(data)
    assert picture.bits == 8 and picture.pixels.shape[0] == (1 if channels < 3 else 3) and (picture.alpha is None) == (channels in (1, 3))
    written = write_picture(picture, ending, mark=MARK)
    again = read_picture(written)
    assert read_mark(written) == MARK and again.profile == picture.profile
    if ending == ".png":
        assert torch.equal(again.pixels, picture.pixels)
    else:  # WebP has no grey, and forgets colours that cannot be seen
        seen = torch.ones(13, 9) if picture.alpha is None else torch.from_numpy(picture.alpha[:, :, 0] > 0)
        assert torch.equal(again.pixels * seen, picture.pixels.expand(3, -1, -1) * seen)
    assert picture.alpha is None or np.array_equal(again.alpha, picture.alpha)
    with Image.open(io.BytesIO(written)) as image:
        found = image.getexif()
        assert (found[0x010F], found[0x0112]) == ("A maker", 6)
    assert read_mark(write_picture(picture, ending, mark=None)) is None


@pytest.mark.parametrize("orientation", range(10))
def test_pictures_are_turned_as_pillow_does_and_back(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(random(5, 7, 3), exif=exif.tobytes())
    picture = read_picture(data)
    with Image.open(io.BytesIO(data)) as image:
        wanted = torch.from_numpy(np.array(ImageOps.exif_transpose(image))).permute(2, 0, 1) / 255
    seen = upright(picture.pixels, picture.orientation)
    assert torch.equal(seen, wanted) and torch.equal(as_stored(seen, picture.orientation), picture.pixels)


def test_damaged_exif_turns_nothing() -> None:
    assert replace(read_picture(saved(random(5, 7, 3))), exif=b"Exif\x00\x00nonsense").orientation == 1


@pytest.mark.parametrize("source", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("ending", list(FORMATS))
def test_exif_comes_along_between_formats(source: str, ending: str) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "A maker", 8
    written = write_picture(read_picture(saved(random(8, 8, 3), source, exif=exif.tobytes())), ending, mark=None)
    with Image.open(io.BytesIO(written)) as image:
        assert image.getexif()[0x010F] == "A maker" and read_picture(written).orientation == 8


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_come_back(channels: int) -> None:
    source = read_picture(saved(random(11, 7, 3), exif=b"Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00", icc_profile=b"profile"))
    array = random(11, 7, channels, kind=np.uint16)
    pixels = torch.from_numpy(array[:, :, : min(channels, 3)].astype(np.float32) / 65535).permute(2, 0, 1)
    deep = type(source)(pixels, array[:, :, 3:] if channels == 4 else None, 16, source.exif, source.profile, b"")
    data = write_picture(deep, ".png", mark=MARK)
    found = read_picture(data)
    assert found.bits == 16 and torch.equal(found.pixels, deep.pixels) and read_mark(data) == MARK and found.profile == b"profile"
    assert found.exif.removeprefix(b"Exif\x00\x00") == source.exif.removeprefix(b"Exif\x00\x00")
    assert deep.alpha is None or np.array_equal(found.alpha, deep.alpha)
    with Image.open(io.BytesIO(data)) as image:
        image.load()  # Pillow accepts every chunk
        if channels == 1:
            assert np.array_equal(np.asarray(image), array[:, :, 0])
        else:
            assert np.array_equal(np.asarray(image), (array >> 8).astype(np.uint8))


def test_jpeg_and_palettes() -> None:
    picture = read_picture(saved(random(16, 16, 3)))
    written = write_picture(picture, ".jpg", mark=MARK)
    assert read_mark(written) == MARK and float((read_picture(written).pixels - picture.pixels).abs().mean()) < 0.05
    buffer = io.BytesIO()
    Image.fromarray(random(8, 8, 3)).convert("P").save(buffer, "GIF")
    assert read_picture(buffer.getvalue()).pixels.shape == (3, 8, 8)
    assert read_picture(saved(random(1, 1, 3))).pixels.shape == (3, 1, 1)
    buffer = io.BytesIO()
    Image.fromarray(random(8, 12, 3)).save(buffer, "MPO", save_all=True, append_images=[Image.fromarray(random(4, 4, 3))])
    assert read_picture(buffer.getvalue()).pixels.shape == (3, 8, 12), "what phones write: a JPEG with more behind it"


def refused() -> list[tuple[str, bytes, str]]:
    frames = [Image.fromarray(random(8, 8, 3) // (number + 1)) for number in range(3)]
    moving = io.BytesIO()
    frames[0].save(moving, "WEBP", save_all=True, append_images=frames[1:])
    press = io.BytesIO()
    Image.new("CMYK", (8, 8)).save(press, "JPEG")
    whole = saved(random(64, 64, 3))
    return [
        ("empty", b"", "the file is empty"), ("text", b"no picture", "none of the formats JPEG, PNG, WEBP, GIF"), ("moving", moving.getvalue(), "has 3 frames"),
        ("CMYK", press.getvalue(), "has CMYK channels"), ("cut", whole[: len(whole) // 2], "cannot be read"), ("float", _tiff(), "none of the formats"),
    ]  # fmt: skip


def _tiff() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(buffer, "TIFF")
    return buffer.getvalue()


@pytest.mark.parametrize(("data", "message"), [pytest.param(data, message, id=name) for name, data, message in refused()])
def test_what_cannot_be_read_is_said(data: bytes, message: str) -> None:
    with warnings.catch_warnings(), pytest.raises(ValueError, match=message):
        warnings.simplefilter("error")
        read_picture(data)


def test_what_cannot_be_kept_is_said() -> None:
    picture = read_picture(saved(random(4, 4, 4)))
    deep = type(picture)(picture.pixels, None, 16, b"", b"", b"")
    for given, ending, message in ((picture, ".jpg", "has transparency"), (deep, ".webp", "has 16 bits"), (deep, ".bmp", "no ending of pictures")):
        with pytest.raises(ValueError, match=message):
            write_picture(given, ending, mark=None)
    assert set(FORMATS.values()) == {"PNG", "JPEG", "WEBP"}
