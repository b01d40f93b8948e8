"""Rules on images: each leaves out what breaks it and nothing else, before anything is decoded where that can be."""

import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lcl.core.config import from_dict, to_dict
from lcl.core.images import decode_image
from lcl.core.rejected import Reason, Rejected
from lcl.core.shards import ShardSet
from pipeline import build_config
from pipeline.images import PRESETS, ImageRules, check_image_url, contrast, make_image_segment, rendered_px
from tests.builds import build_captures
from tests.crawls import Capture, html

URL = "https://a.example/photos/boat.jpg"


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def noise(width: int, height: int, *, spread: int = 255, seed: int = 0) -> Image.Image:
    """Large blocks of colours that differ by `spread` at most."""
    blocks = np.random.default_rng(seed).integers(0, spread + 1, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)


def animation(form: str, frames: int = 3) -> bytes:
    pictures = [noise(200, 160, seed=seed) for seed in range(frames)]
    return encoded(pictures[0], form, save_all=True, append_images=pictures[1:], duration=100)


def reason_of(data: bytes, rules: ImageRules, *, url: str = URL, rendered: tuple[str, str] = ("", "")) -> Reason | None:
    try:
        make_image_segment(data, url=url, alt="", rules=rules, rendered=rendered)
    except Rejected as rejected:
        return rejected.reason
    return None


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_animated_images(form: str) -> None:
    still, moving = animation(form, 1), animation(form)
    drop = ImageRules(animated="drop")
    assert reason_of(moving, drop) == Reason.IMAGE_ANIMATED
    assert reason_of(still, drop) is None
    assert reason_of(moving, ImageRules()) is None
    first = make_image_segment(moving, url=URL, alt="", rules=ImageRules())
    alone = make_image_segment(still, url=URL, alt="", rules=ImageRules())
    assert first.metadata.phash == alone.metadata.phash, "the first frame is kept"


def test_a_gif_of_many_frames_costs_no_more_than_one() -> None:
    frame = b"\x2c" + b"\0" * 4 + b"\xc8\0\xa0\0" + b"\0" + b"\x02\x02\x4c\x01\x00"
    head = b"GIF89a\xc8\0\xa0\0\x80\0\0" + b"\0\0\0\xff\xff\xff"
    started = time.process_time()
    assert reason_of(head + frame * 200_000 + b";", ImageRules(animated="drop")) == Reason.IMAGE_ANIMATED
    assert time.process_time() - started < 2  # a bound against reading every frame: milliseconds here


def test_an_animation_that_is_cut_short_has_a_reason() -> None:
    whole = animation("GIF")
    for end in (len(whole) // 2, len(whole) // 3, 400):
        assert reason_of(whole[:end], ImageRules(animated="drop")) in (Reason.IMAGE_ANIMATED, Reason.IMAGE_DAMAGED)


def test_images_without_contrast() -> None:
    rules = ImageRules(min_contrast=2.0)
    assert reason_of(encoded(Image.new("RGB", (200, 180), (250, 250, 250)), "PNG"), rules) == Reason.IMAGE_BLANK
    assert reason_of(encoded(noise(200, 180, spread=2), "PNG"), rules) == Reason.IMAGE_BLANK
    assert reason_of(encoded(noise(200, 180), "JPEG"), rules) is None
    assert reason_of(encoded(Image.new("RGB", (200, 180)), "PNG"), ImageRules()) is None
    grain = np.random.default_rng(0).integers(118, 139, (640, 640), dtype=np.uint8)
    assert contrast(Image.fromarray(grain)) < 1 < float(grain.std()), "grain alone is no contrast"


def test_contrast_is_the_deviation_of_the_brightness() -> None:
    halves = np.zeros((64, 64), np.uint8)
    halves[:, 32:] = 100
    assert contrast(Image.fromarray(halves)) == pytest.approx(50)
    assert contrast(Image.new("RGB", (64, 64), (10, 20, 30))) == 0


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [("300", 300), (" 300px ", 300), ("300.5", 300), ("50%", 200), ("100%", 400), ("", None), ("auto", None), ("10em", None), ("-5", None), ("9" * 5000, None), ("0", 0)],
)
def test_rendered_sides(attribute: str, expected: float | None) -> None:
    assert rendered_px(attribute, 400) == expected


@pytest.mark.parametrize(("rendered", "kept"), [(("200", "180"), True), (("20", ""), False), (("", "149"), False), (("50%", ""), False), (("auto", "100%"), True), (("30000", ""), False)])
def test_rendered_size(rendered: tuple[str, str], kept: bool) -> None:
    data = encoded(noise(200, 180), "PNG")
    assert reason_of(data, ImageRules(min_rendered_px=150), rendered=rendered) == (None if kept else Reason.IMAGE_RENDERED_SIZE)
    assert kept or rendered == ("30000", "") or reason_of(data, ImageRules(), rendered=rendered) is None


def test_formats() -> None:
    data = {form.lower(): encoded(noise(200, 180), form) for form in ("JPEG", "PNG", "WEBP", "GIF")}
    for form, image in data.items():
        assert reason_of(image, ImageRules()) is None
        assert reason_of(image, ImageRules(formats=(form,))) is None
        others = tuple(other for other in data if other != form)
        assert reason_of(image, ImageRules(formats=others)) == Reason.IMAGE_FORMAT


def test_bytes() -> None:
    data = encoded(noise(200, 180), "PNG")
    assert reason_of(data, ImageRules(min_bytes=len(data), max_bytes=len(data))) is None
    assert reason_of(data, ImageRules(min_bytes=len(data) + 1)) == Reason.IMAGE_BYTES
    assert reason_of(data, ImageRules(max_bytes=len(data) - 1)) == Reason.IMAGE_BYTES


@pytest.mark.parametrize(
    ("url", "anywhere", "whole"),
    [
        ("https://a.example/logo.png", False, False),
        ("https://a.example/Site-Logo_2.PNG", False, False),
        ("https://logo.example/a.jpg", False, False),
        ("https://a.example/silicon.jpg", False, True),
        ("https://essex.example/map.jpg", False, True),
        ("https://a.example/boat.jpg", True, True),
        ("data:image/png;base64,logoiconsex", True, True),
    ],
)
def test_words_of_addresses(url: str, anywhere: bool, whole: bool) -> None:
    words = PRESETS["obelics"].url_words
    for how, kept in (("anywhere", anywhere), ("whole", whole)):
        rules = ImageRules(url_words=words, match_url_words=how)
        if kept:
            check_image_url(url, rules)
        else:
            with pytest.raises(Rejected) as rejected:
                check_image_url(url, rules)
            assert rejected.value.reason == Reason.IMAGE_URL_WORDS
    check_image_url(url, ImageRules())


def test_addresses_are_judged_before_bytes() -> None:
    assert reason_of(b"no image", PRESETS["obelics"], url="https://a.example/logo.png") == Reason.IMAGE_URL_WORDS


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_go_through_a_file_and_keep_a_photograph(preset: str) -> None:
    rules = PRESETS[preset]
    assert from_dict(ImageRules, to_dict(rules), origin="test") == rules
    assert reason_of(encoded(noise(300, 200), "JPEG"), rules, rendered=("300", "200")) is None
    assert reason_of(encoded(noise(450, 180), "JPEG"), rules) == (None if preset == "minimal" else Reason.IMAGE_ASPECT)
    assert reason_of(encoded(noise(300, 149), "JPEG"), rules) == Reason.IMAGE_TOO_SMALL


def test_every_rule_acts_in_a_build(tmp_path: Path) -> None:
    """One page, one image that each rule leaves out, and one that none does."""
    rules = ImageRules(
        min_side_px=100, max_side_px=900, max_aspect=2.0, min_rendered_px=150, max_rendered_px=2000, formats=("jpeg", "png", "gif"),
        min_bytes=500, max_bytes=300_000, animated="drop", min_contrast=2.0, url_words=("logo",),
    )  # fmt: skip
    photo = encoded(noise(600, 400), "JPEG")
    grain = Image.fromarray(np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8))
    images = {
        "logo.jpg": (encoded(noise(600, 401), "JPEG"), "", Reason.IMAGE_URL_WORDS),
        "light.png": (encoded(Image.new("1", (200, 180)), "PNG"), "", Reason.IMAGE_BYTES),
        "heavy.png": (encoded(grain, "PNG"), "", Reason.IMAGE_BYTES),
        "form.webp": (encoded(noise(600, 400), "WEBP"), "", Reason.IMAGE_FORMAT),
        "small.jpg": (encoded(noise(160, 99), "JPEG"), "", Reason.IMAGE_TOO_SMALL),
        "large.jpg": (encoded(noise(901, 600), "JPEG"), "", Reason.IMAGE_TOO_LARGE),
        "narrow.jpg": (encoded(noise(601, 300), "JPEG"), "", Reason.IMAGE_ASPECT),
        "shown-small.jpg": (encoded(noise(600, 402), "JPEG"), "width=100", Reason.IMAGE_RENDERED_SIZE),
        "shown-large.jpg": (encoded(noise(600, 403), "JPEG"), "height='2001px'", Reason.IMAGE_RENDERED_SIZE),
        "moving.gif": (animation("GIF"), "", Reason.IMAGE_ANIMATED),
        "blank.jpg": (encoded(Image.new("RGB", (300, 200), (250, 250, 250)), "JPEG"), "", Reason.IMAGE_BLANK),
        "torn.jpg": (photo[: len(photo) // 4], "", Reason.IMAGE_DAMAGED),
        "photo.jpg": (photo, "width=600 height=400", "out"),
    }
    page = html("".join(f"<p>Some words.</p><img src='/{name}' {sides}>" for name, (_, sides, _) in images.items()))
    captures = [Capture(f"https://a.example/{name}", data, "image/jpeg") for name, (data, _, _) in images.items()]
    record = build_captures(tmp_path, [Capture("https://a.example/page", page), *captures], images=to_dict(rules))
    reasons = [reason for _, _, reason in images.values()]
    assert record["images"] == {"in": len(images)} | {reason: reasons.count(reason) for reason in reasons}


def test_the_obelics_preset_leaves_out_what_a_page_shows_small(tmp_path: Path) -> None:
    """A file of 600 px that is shown at 100; one that is shown at 300, and one of which the page says nothing that counts, stay."""
    sizes = {"thumb": "width=100", "low": "width=400 height=149", "half": "width='20%'", "shown": "width=300 height=200", "unsaid": "width=auto style='width: 100px'"}
    page = html("".join(f"<p>Some words.</p><img src='/{name}.jpg' {sides}>" for name, sides in sizes.items()))
    captures = [Capture(f"https://a.example/{name}.jpg", encoded(noise(600, 400, seed=seed), "JPEG"), "image/jpeg") for seed, name in enumerate(sizes)]
    for preset, dropped in (("obelics", {Reason.IMAGE_RENDERED_SIZE: 3}), ("mmc4", {})):
        folder = tmp_path / preset
        folder.mkdir()
        record = build_captures(folder, [Capture("https://a.example/page", page), *captures], images=to_dict(build_config.PRESETS[preset].images))
        assert record["images"] == {"in": 5, "out": 5 - sum(dropped.values())} | dropped
        kept = [image.metadata.url.rpartition("/")[2] for document in ShardSet([folder / "shards"]) for image in document.images]
        assert kept == (["shown.jpg", "unsaid.jpg"] if dropped else [f"{name}.jpg" for name in sizes])


# What lcl/core/images.py promises and test_images.py leaves open.

UPRIGHT = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40).resize((60, 40), Image.Resampling.NEAREST).convert("RGB")
TURNS = {
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
}  # fmt: skip


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_every_orientation_comes_upright(orientation: int, form: str) -> None:
    """The picture is stored turned so that its EXIF orientation turns it back (EXIF 2.32, 4.6.4 A)."""
    turn = TURNS[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {"quality": 95} if form == "JPEG" else {}
    data = encoded(UPRIGHT if turn is None else UPRIGHT.transpose(turn), form, exif=exif, **options)
    pixels = np.asarray(decode_image(data), dtype=int)
    assert pixels.shape == (40, 60, 3)
    assert np.abs(pixels - np.asarray(UPRIGHT, dtype=int)).mean() < (4 if form == "JPEG" else 0.01)


def test_a_transparent_palette_lies_on_white() -> None:
    image = Image.new("P", (20, 20), 1)
    image.putpalette([0, 0, 0, 200, 10, 10])
    data = encoded(image, "PNG", transparency=1)
    assert decode_image(data).getpixel((5, 5)) == (255, 255, 255)
    assert decode_image(encoded(image, "GIF")).getpixel((5, 5)) == (200, 10, 10)


def test_grey_bilevel_and_sixteen_bit_with_transparency() -> None:
    assert decode_image(encoded(Image.new("1", (20, 20), 1), "PNG")).getpixel((3, 3)) == (255, 255, 255)
    assert decode_image(encoded(Image.new("L", (20, 20), 77), "PNG")).getpixel((3, 3)) == (77, 77, 77)
    grey = Image.fromarray(np.full((20, 20), 77 * 257, np.uint16))
    assert decode_image(encoded(grey, "PNG")).getpixel((3, 3)) == (77, 77, 77)


def test_cmyk_keeps_its_colours() -> None:
    red = decode_image(encoded(Image.new("RGB", (32, 32), (220, 30, 30)).convert("CMYK"), "JPEG", quality=95)).getpixel((9, 9))
    assert red[0] > 180 and max(red[1:]) < 80
