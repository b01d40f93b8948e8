"""The shard format: round trips, deterministic bytes, plain webdataset as a reader, and what damage says."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lcl.core.document import CrawlOrigin, Document, ImageMetadata, ImageSegment, TextSegment, from_members, key_of, sha256_hex, to_members
from lcl.core.images import encode_jpeg
from lcl.core.shards import ShardSet, read_members, verify_shard, write_shard

PIXELS = encode_jpeg(Image.new("RGB", (8, 6), (200, 30, 30)), quality=90)
METADATA = ImageMetadata(url="https://a.example/x.jpg", width=8, height=6, sha256=sha256_hex(PIXELS), source_sha256="0" * 64, phash="f" * 16, alt="a <b>")
IMAGE = ImageSegment(PIXELS, METADATA)

segments = st.lists(st.one_of(st.builds(TextSegment, st.text(st.characters(exclude_categories=("Cs",)))), st.just(IMAGE)), max_size=6)


def make_document(number: int, parts: list) -> Document:
    url = f"https://a.example/{number}"
    return Document(
        key=key_of("crawl.warc.gz", number, url), segments=tuple(parts), page_url=url,
        crawl=CrawlOrigin(file="crawl.warc.gz", offset=number, date="2024-01-01T00:00:00Z"), language="en", scores={"words": 3.0},
    )


SOME = [make_document(number, [TextSegment(f"text {number}"), IMAGE, TextSegment("more"), IMAGE][: number + 1]) for number in range(5)]


@given(segments)
def test_members_give_the_document_back(parts: list) -> None:
    document = make_document(1, parts)
    members = to_members(document)
    assert from_members(members) == document
    assert [name for name, _ in members] == sorted(name for name, _ in members), "images first, in order, then the json"


def test_the_json_is_what_the_contract_says() -> None:
    document = SOME[2]
    record = json.loads(dict(to_members(document))[f"{document.key}.json"])
    assert record["kinds"] == ["text", "image", "text"]
    assert record["texts"] == ["text 2", None, "more"]
    assert record["images"] == [None, f"{document.key}.000.jpg", None]
    assert record["image_metadata"][0] is None and record["image_metadata"][2] is None
    assert set(record["image_metadata"][1]) == {"url", "width", "height", "sha256", "source_sha256", "phash", "alt", "similarity", "sentence"}
    assert record["crawl"] == {"file": "crawl.warc.gz", "offset": 2, "date": "2024-01-01T00:00:00Z"}
    assert record["order"] == "page" and record["schema"] == "lcl-shard/1"


def test_keys_are_hex_and_depend_on_each_part() -> None:
    keys = {key_of("a", 1, "u"), key_of("b", 1, "u"), key_of("a", 2, "u"), key_of("a", 1, "v")}
    assert len(keys) == 4 and all(len(key) == 32 and int(key, 16) >= 0 for key in keys)


def test_a_shard_gives_its_documents_back_by_index(tmp_path: Path) -> None:
    for name, part in (("b", SOME[3:]), ("a", SOME[:3])):
        write_shard(tmp_path, name, part, origin={})
    shards = ShardSet([tmp_path])
    assert list(shards) == SOME and len(shards) == 5
    assert [shards.read(index) for index in (4, 0)] == [SOME[4], SOME[0]]
    assert shards.catalogue["key"].to_pylist() == [document.key for document in SOME]
    for path in tmp_path.glob("*.json"):
        verify_shard(path)


def test_the_catalogue_says_where_each_document_lies(tmp_path: Path) -> None:
    write_shard(tmp_path, "a", SOME, origin={})
    data = (tmp_path / "a.tar").read_bytes()
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert len(rows) == len(SOME)
    for row, document in zip(rows, SOME, strict=True):
        assert from_members(read_members(data[row["offset"] : row["offset"] + row["length"]])) == document
        assert (row["num_images"], row["num_characters"]) == (len(document.images), sum(map(len, document.texts)))
        assert (row["domain"], dict(row["scores"])) == ("a.example", {"words": 3.0})


def test_the_same_documents_give_the_same_bytes(tmp_path: Path) -> None:
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        write_shard(folder, "a", SOME, origin={"by": "test"})
    for suffix in (".tar", ".parquet", ".json"):
        assert (tmp_path / "one" / f"a{suffix}").read_bytes() == (tmp_path / "two" / f"a{suffix}").read_bytes()
    with tarfile.open(tmp_path / "one" / "a.tar") as tar:
        assert {(header.mtime, header.uid, header.gid, header.uname) for header in tar} == {(0, 0, 0, "")}


WDS_READER = """
import sys, json, webdataset
for sample in webdataset.WebDataset(sys.argv[1], shardshuffle=False):
    record = json.loads(sample["json"])
    images = [name for name in record["images"] if name]
    assert all(sample[name.split(".", 1)[1]][:2] == b"\\xff\\xd8" for name in images)
    print(sample["__key__"], len(images))
"""


def test_plain_webdataset_reads_a_shard(tmp_path: Path) -> None:
    """In a process of its own, with the switch that keeps webdataset from unpickling."""
    write_shard(tmp_path, "a", SOME, origin={})
    result = subprocess.run([sys.executable, "-c", WDS_READER, str(tmp_path / "a.tar")], capture_output=True, text=True, env=os.environ | {"WDS_SECURE": "1"})
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[:-1] == [f"{document.key} {len(document.images)}" for document in SOME]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shard(tmp_path, "a", SOME, origin={})
    return tmp_path


def test_a_shard_without_its_sidecar_does_not_exist(folder: Path) -> None:
    write_shard(folder, "b", SOME, origin={})
    (folder / "b.json").unlink()
    assert len(ShardSet([folder])) == len(SOME)


def test_a_folder_given_twice_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="is given twice"):
        ShardSet([folder, folder / ".." / folder.name])


def test_a_damaged_catalogue_is_named(folder: Path) -> None:
    path = folder / "a.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:60] + bytes(200) + data[260:])
    with pytest.raises(ValueError, match="a.parquet is damaged .*: build the shard again"):
        ShardSet([folder])


@pytest.mark.parametrize("suffix", [".tar", ".parquet"])
def test_a_flipped_bit_is_found(folder: Path, suffix: str) -> None:
    path = folder / f"a{suffix}"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"a{suffix} is damaged"):
        verify_shard(folder / "a.json")


def test_a_truncated_shard_is_refused(folder: Path) -> None:
    os.truncate(folder / "a.tar", 1000)
    with pytest.raises(ValueError, match="a.tar: 1000 bytes, but its sidecar says .* bytes: build the shard again"):
        ShardSet([folder])


@pytest.mark.parametrize("suffix", [".tar", ".parquet"])
def test_a_missing_file_is_named(folder: Path, suffix: str) -> None:
    (folder / f"a{suffix}").unlink()
    with pytest.raises(ValueError, match=f"a{suffix}: missing"):
        ShardSet([folder])


def test_a_sidecar_that_is_none_is_named(folder: Path) -> None:
    (folder / "a.json").write_text("[]")
    with pytest.raises(ValueError, match="a.json is no sidecar of a shard"):
        ShardSet([folder])


def test_another_schema_is_refused(folder: Path) -> None:
    sidecar = json.loads((folder / "a.json").read_text())
    (folder / "a.json").write_text(json.dumps(sidecar | {"schema": "lcl-shard/99"}))
    with pytest.raises(ValueError, match="schema 'lcl-shard/99', this version reads 'lcl-shard/1'"):
        ShardSet([folder])


def test_no_shards_is_said_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no shard .*lcl build-shards"):
        ShardSet([tmp_path])
    with pytest.raises(ValueError, match="no such folder"):
        ShardSet([tmp_path / "missing"])


def test_damage_inside_a_document_names_the_shard(folder: Path) -> None:
    data = bytearray((folder / "a.tar").read_bytes())
    data[:100] = b"\xff" * 100
    (folder / "a.tar").write_bytes(data)
    with pytest.raises(ValueError, match="a.tar, document 0"):
        ShardSet([folder]).read(0)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "0" * 32 + ".pickle", "0" * 32 + ".000.JPG/x"])
def test_foreign_members_are_refused(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(ValueError, match="does not belong in a shard"):
        read_members((tmp_path / "evil.tar").read_bytes())


KEY = "0" * 32


def tar_of(*headers: tarfile.TarInfo, form: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar by the standard library, each member with as many bytes as its header says."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for header in headers:
            tar.addfile(header, io.BytesIO(b"x" * header.size))
    return buffer.getvalue()


def header_of(name: str = f"{KEY}.json", **fields: object) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(header, field, value)
    return header


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE])
def test_what_is_no_plain_file_is_refused(kind: bytes) -> None:
    with pytest.raises(ValueError, match="does not belong in a shard"):
        read_members(tar_of(header_of(type=kind, linkname="/etc/passwd")))


@pytest.mark.parametrize(("form", "fields"), [(tarfile.PAX_FORMAT, {"mtime": 0.5}), (tarfile.PAX_FORMAT, {"uname": "é"}), (tarfile.GNU_FORMAT, {})])
def test_other_kinds_of_tar_are_refused(form: int, fields: dict) -> None:
    """Their extension headers could name one file and give another."""
    assert read_members(tar_of(header_of(size=700))) == [(f"{KEY}.json", b"x" * 700)]
    with pytest.raises(ValueError, match="does not belong in a shard"):
        read_members(tar_of(header_of(size=700, **fields), form=form))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ((345, 500), b"etc/"),               # a prefix to the name
        ((124, 136), b"-0000000010\0"),
        ((124, 136), b"000000 0010\0"),
        ((124, 136), b"\x80" + bytes(11)),  # GNU's binary sizes
        ((124, 136), bytes(12)),
        ((0, 100), KEY.encode() + b".json\0../x"),
    ],
)
def test_fields_of_a_header_that_we_never_write_are_refused(field: tuple[int, int], value: bytes) -> None:
    """With a right checksum, as somebody would make it who wants to be read."""
    data = bytearray(tar_of(header_of(size=8)))
    data[slice(*field)] = value.ljust(field[1] - field[0], b"\0")
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    with pytest.raises(ValueError, match="does not belong in a shard"):
        read_members(bytes(data))


@pytest.mark.parametrize(("length", "message"), [(100, "a header is damaged"), (512, "ends after the data"), (512 + 699, "ends after the data")])
def test_a_part_of_a_tar_is_refused(length: int, message: str) -> None:
    data = tar_of(header_of(size=700))
    with pytest.raises(ValueError, match=f"not a readable tar: .*{message}"):
        read_members(data[:length])
    assert read_members(data[: 512 + 700]) == read_members(data) and read_members(b"") == read_members(bytes(1024)) == []


@given(st.lists(st.integers(0, 300), max_size=4), st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=3))
def test_damage_is_refused_or_read_as_by_the_standard_library(sizes: list[int], changes: list[tuple[int, int]]) -> None:
    data = bytearray(tar_of(*(header_of(f"{KEY}.{number:03d}.jpg", size=size) for number, size in enumerate(sizes)), header_of(size=40)))
    for at, value in changes:
        data[at] = value
    try:
        members = read_members(bytes(data))
    except ValueError as error:
        assert changes and str(error)
        return
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", ignore_zeros=False) as tar:
        assert members == [(header.name, tar.extractfile(header).read()) for header in tar]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "x"}, "its schema is 'x'"),
        ({"order": "random"}, "order is 'random'"),
        ({"kinds": ["text", "sound", "text"]}, "segment kind 'sound'"),
        ({"texts": [5, None, "x"]}, "segment kind 'text' with text 5"),
        ({"texts": ["a"]}, "zip"),
        ({"images": [None, "missing.jpg", None]}, "missing.jpg"),
        ({"crawl": None}, "NoneType"),
    ],
)
def test_a_wrong_json_names_its_member(change: dict, message: str) -> None:
    *images, (name, data) = to_members(SOME[2])
    with pytest.raises(ValueError, match=message) as error:
        from_members([*images, (name, json.dumps(json.loads(data) | change).encode())])
    assert name in str(error.value)


def test_several_folders_are_one_set(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(folder, other, dirs_exist_ok=True)
    both = ShardSet([folder, other])
    assert list(both) == SOME + SOME
    assert both.fingerprint != ShardSet([folder]).fingerprint == ShardSet([other]).fingerprint
