"""Lists of hashes: every distance against a plain scan, every mistake in a file named."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcl.core.rejected import Reason, Rejected
from pipeline.dedup.hash_lists import ImageLists, ImageListsConfig, NearHashes, read_hashes


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


def test_pdq_lists_need_a_way_to_compute_them(tmp_path: Path) -> None:
    settings = ImageListsConfig(forbidden_pdq=write(tmp_path / "q", "0f" * 32))
    with pytest.raises(ValueError, match="forbidden_pdq.*pdqhash"):
        ImageLists(settings)
    lists = ImageLists(settings, pdq_of=lambda data: data)
    with pytest.raises(Rejected) as caught:
        lists.check_bytes(b"\x0f" * 30 + b"\xf0\xff")
    assert caught.value.reason == Reason.IMAGE_FORBIDDEN
    lists.check_bytes(b"\x0f" * 28 + b"\xf0" * 4)
