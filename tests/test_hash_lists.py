"""Lists of hashes: every distance against a plain scan, every mistake in a file named."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lcl.core.images import encode_jpeg
from lcl.core.rejected import Reason, Rejected
from lcl.core.shards import ShardSet
from pipeline.dedup.hash_lists import ImageLists, ImageListsConfig, NearHashes, read_hashes
from pipeline.dedup.pdq import pdq_hash, pdq_of_image
from tests.builds import build_captures
from tests.crawls import Capture, html


def distance(ours: bytes, theirs: bytes) -> int:
    return (int.from_bytes(ours) ^ int.from_bytes(theirs)).bit_count()


@given(st.sampled_from([64, 256]), st.data())
def test_a_near_hash_is_found_as_by_a_scan(bits: int, data: st.DataObject) -> None:
    hashes = sorted(data.draw(st.sets(st.binary(min_size=bits // 8, max_size=bits // 8), max_size=20)))
    max_distance = data.draw(st.integers(0, 31))
    near = NearHashes(hashes, bits=bits, max_distance=max_distance)
    queries = [data.draw(st.binary(min_size=bits // 8, max_size=bits // 8))]
    for value in hashes[:5]:  # at, just inside and just outside the distance
        places = data.draw(st.lists(st.integers(0, bits - 1), unique=True, min_size=max_distance, max_size=max_distance + 1))
        queries.append((int.from_bytes(value) ^ sum(1 << place for place in places)).to_bytes(bits // 8))
    for query in [*queries, *hashes]:
        least = min((distance(query, value) for value in hashes), default=bits + 1)
        assert near.distance(query) == (least if least <= max_distance else None)


def write(path: Path, *lines: str) -> tuple[str, ...]:
    path.write_text("\n".join(lines))
    return (str(path),)


def test_files_of_hashes_may_hold_notes(tmp_path: Path) -> None:
    paths = write(tmp_path / "list.txt", "# a list", "", "AA" * 16 + "  some/file.jpg", "aa" * 16 + ",0.5", "bb" * 16)
    assert read_hashes(paths, bits=128, flag="forbidden_md5") == [b"\xaa" * 16, b"\xbb" * 16]


@pytest.mark.parametrize("line", ["zz" * 16, "aa" * 15, "aa" * 32, "a"])
def test_what_is_no_hash_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError, match="list.txt, line 2.*32 hex digits; forbidden_md5"):
        read_hashes(write(tmp_path / "list.txt", "aa" * 16, line), bits=128, flag="forbidden_md5")
    with pytest.raises(ValueError, match=r"none.txt: no such file of hashes \(forbidden_md5\)"):
        read_hashes([str(tmp_path / "none.txt")], bits=128, flag="forbidden_md5")


def test_listed_images_are_rejected(tmp_path: Path) -> None:
    evaluation, md5, sha256, other = (f"image {number}".encode() for number in range(4))
    settings = ImageListsConfig(
        evaluation_sha256=write(tmp_path / "e", hashlib.sha256(evaluation).hexdigest()), forbidden_md5=write(tmp_path / "m", hashlib.md5(md5).hexdigest()),
        forbidden_sha256=write(tmp_path / "s", hashlib.sha256(sha256).hexdigest()), evaluation_phash=write(tmp_path / "p", "00" * 8), max_phash_distance=3,
    )  # fmt: skip
    lists = ImageLists(settings)
    for data, reason in ((evaluation, Reason.IMAGE_CONTAMINATED), (md5, Reason.IMAGE_FORBIDDEN), (sha256, Reason.IMAGE_FORBIDDEN)):
        with pytest.raises(Rejected) as caught:
            lists.check_bytes(data)
        assert caught.value.reason == reason
    lists.check_bytes(other)
    with pytest.raises(Rejected, match="3 bits from a listed one"):
        lists.check_phash("0000000000010101")
    lists.check_phash("0000000001010101")
    ImageLists(ImageListsConfig()).check_phash("00" * 8)


def smooth_picture(seed: int, *, width: int, height: int) -> Image.Image:
    """A picture of soft blobs, no two alike, made without any resampling."""
    chance = np.random.default_rng(seed)
    down, across = np.mgrid[0:height, 0:width] / max(width, height)
    blobs = [
        np.exp(-((down - chance.uniform()) ** 2 + (across - chance.uniform()) ** 2) / chance.uniform(0.01, 0.08) ** 2) * chance.uniform(-1, 1) for _ in range(240)
    ]
    channels = [np.clip(sum(blobs[channel::3]) / 4 + 0.5, 0, 1) for channel in range(3)]
    return Image.fromarray((np.stack(channels, axis=-1) * 255).round().astype(np.uint8))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


PDQ_BY_SIZE = {  # by pdqhash 0.2.8, bindings of the reference code: np.packbits(pdqhash.compute(np.asarray(picture))[0]).tobytes().hex()
    (300, 200): "96689ce56b908d3c26e376cf1d9e79e2896f6358b179ce1bcf0710f182f81026",
    (64, 64): "f0c307be3d869ce2c923a6bb235cb3f92c75ce1a4f175d4790f0a7d0902c5827",
    (1000, 90): "21a302312c2e426324ae061a65aee27365af467367ae467367aec259bdae9b5f",
    (130, 513): "c80d37d7dcec2bf3ddd82627d893622b8805f4945544c97caabbd5c22f788889",
    (40, 50): "1f2770ce0762cf3af2539d2f68ded4e9873f2b8d1987b343f0381168f4142613",
}


@pytest.mark.parametrize("size", PDQ_BY_SIZE, ids=str)
def test_pdq_is_that_of_the_reference_code(size: tuple[int, int]) -> None:
    assert pdq_hash(np.asarray(smooth_picture(0, width=size[0], height=size[1]))).hex() == PDQ_BY_SIZE[size]


def test_pdq_finds_a_picture_again_and_no_other() -> None:
    pictures = [smooth_picture(seed, width=300, height=200) for seed in range(6)]
    hashes = [pdq_hash(np.asarray(picture)) for picture in pictures]
    for number, picture in enumerate(pictures):
        smaller = picture.resize((210, 140), Image.Resampling.LANCZOS)
        assert distance(pdq_of_image(encode_jpeg(smaller, quality=40)), hashes[number]) <= 31
        assert all(distance(hashes[number], other) > 60 for other in hashes[:number] + hashes[number + 1 :])


def test_images_near_a_listed_pdq_hash_are_rejected(tmp_path: Path) -> None:
    listed, other = (smooth_picture(seed, width=300, height=200) for seed in (1, 2))
    lists = ImageLists(ImageListsConfig(forbidden_pdq=write(tmp_path / "q", pdq_hash(np.asarray(listed)).hex())))
    for data in (png(listed), encode_jpeg(listed.resize((150, 100)), quality=50)):
        with pytest.raises(Rejected) as caught:
            lists.check_bytes(data)
        assert caught.value.reason == Reason.IMAGE_FORBIDDEN
    lists.check_bytes(png(other))
    with pytest.raises(Rejected) as caught:
        lists.check_bytes(b"no image")
    assert caught.value.reason == Reason.IMAGE_UNKNOWN_FORMAT


@pytest.mark.parametrize("kind", ["md5", "sha256", "pdq"])
def test_a_build_leaves_out_what_is_listed(tmp_path: Path, kind: str) -> None:
    listed, other = (png(smooth_picture(seed, width=300, height=200)) for seed in (1, 2))
    value = pdq_of_image(listed).hex() if kind == "pdq" else hashlib.new(kind, listed).hexdigest()
    captures = [
        Capture("https://a.example/1", html("<img src='/a.png'><p>text</p><img src='/b.png'>")),
        Capture("https://a.example/a.png", listed, "image/png"), Capture("https://a.example/b.png", other, "image/png"),
    ]  # fmt: skip
    record = build_captures(tmp_path, captures, image_lists={f"forbidden_{kind}": list(write(tmp_path / "list.txt", value))})
    assert record["images"] == {"in": 2, "out": 1, Reason.IMAGE_FORBIDDEN: 1}
    (document,) = ShardSet([tmp_path / "shards"])
    assert [image.metadata.url for image in document.images] == ["https://a.example/b.png"]
