"""Crawl files in other wrappings: zstandard, lz4, one compressed block, WACZ; and revisits, which hold no body of their own."""

import gzip
import io
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from warcio.statusandheaders import StatusAndHeaders

from lcl.core.document import key_of
from lcl.core.rejected import Reason, Rejected
from pipeline import crawl, expand
from pipeline.crawl import NotACrawl, Response, Revisit, read_crawl
from tests.builds import captured_images
from tests.crawls import Capture, _MemoryWriter, html, jpeg, write_warc

CAPTURES = [
    Capture("https://a.example/", html("<img src='/1.jpg'>")),
    Capture("https://a.example/1.jpg", jpeg((255, 0, 0)), "image/jpeg"),
    Capture("https://a.example/", html("<p>later</p>")),
]


def records_of(path: Path) -> list[bytes]:
    """The records of an uncompressed WARC, one by one."""
    raw = path.read_bytes()
    starts = [item.offset for item in read_crawl(path)] + [len(raw)]
    return [raw[start:end] for start, end in zip(starts, starts[1:], strict=False)]


def zst_with_dictionary(records: list[bytes]) -> bytes:
    """As the IIPC's proposal has it: a skippable frame with the dictionary, then a frame for each record."""
    dictionary = zstandard.train_dictionary(2048, [record + bytes([number]) for number in range(100) for record in records])
    compressor = zstandard.ZstdCompressor(dict_data=dictionary)
    data = zstandard.compress(dictionary.as_bytes())
    return struct.pack("<II", 0x184D2A5D, len(data)) + data + b"".join(map(compressor.compress, records))


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.warc.zst", lambda records: b"".join(map(zstandard.compress, records))),
        ("a.warc.zst", lambda records: zstandard.compress(b"".join(records))),
        ("a.warc.zst", zst_with_dictionary),
        ("a.warc.gz", lambda records: gzip.compress(b"".join(records))),
        ("a.warc", lambda records: b"".join(map(gzip.compress, records))),
    ],
)
def test_every_compression_gives_the_same_responses_with_keys_of_their_own(tmp_path: Path, name: str, pack) -> None:
    plain = write_warc(tmp_path / "plain.warc", CAPTURES, gzipped=False)
    path = tmp_path / name
    path.write_bytes(pack(records_of(plain)))
    items = list(read_crawl(path))
    assert [(item.url, item.body, item.digest) for item in items] == [(item.url, item.body, item.digest) for item in read_crawl(plain)]
    assert items[0].digest.startswith("sha1:")
    keys = {key_of(name, item.offset, item.url) for item in items}
    assert len(keys) == len(items) and [item.offset for item in items] == sorted(item.offset for item in items)


def write_wacz(path: Path, members: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_a_wacz_is_its_crawl_files_one_behind_the_other(tmp_path: Path) -> None:
    one = write_warc(tmp_path / "1.warc.gz", CAPTURES[:1]).read_bytes()
    two = write_warc(tmp_path / "2.warc.gz", CAPTURES[1:]).read_bytes()
    others = {"datapackage.json": b"{}", "indexes/index.cdx.gz": b"x", "pages/pages.jsonl": b"", "archive/readme.txt": b"no crawl"}
    path = write_wacz(tmp_path / "a.wacz", {"archive/b.warc.gz": two, "archive/a.warc.gz": one, **others})
    joined = tmp_path / "joined.warc.gz"
    joined.write_bytes(one + two)
    expected = [replace(item, seekable=False) for item in read_crawl(joined)]
    assert list(read_crawl(path)) == expected and len(expected) == 3
    assert list(read_crawl(write_wacz(tmp_path / "b.wacz", {"archive/b.warc.gz": two, "archive/a.warc.gz": one}, compression=zipfile.ZIP_DEFLATED))) == expected
    with captured_images([path], tmp_path / "out") as images:  # the image lies in another member than its page
        assert images.find("https://a.example/1.jpg") == CAPTURES[1].body


def test_damaged_and_hostile_wacz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = write_warc(tmp_path / "1.warc.gz", CAPTURES).read_bytes()
    path = write_wacz(tmp_path / "a.wacz", {"archive/a.warc.gz": one, "archive/b.warc.gz": one[:-300]})
    items = list(read_crawl(path))
    assert [item.url for item in items[:3]] == [capture.url for capture in CAPTURES] and items[-1].reason == Reason.RECORD_DAMAGED
    path.write_bytes(path.read_bytes()[:-50])
    (torn,) = read_crawl(path)
    assert isinstance(torn, Rejected) and torn.reason == Reason.RECORD_DAMAGED
    with pytest.raises(NotACrawl, match="a.wacz is no crawl"):
        list(read_crawl(write_wacz(tmp_path / "a.wacz", {"datapackage.json": b"{}"})))
    monkeypatch.setattr(expand, "FREE_BYTES", 1 << 16)
    bomb = write_warc(tmp_path / "bomb.warc", [Capture("https://a.example/", b"\0" * 50_000_000)], gzipped=False).read_bytes()
    items = list(read_crawl(write_wacz(tmp_path / "bomb.wacz", {"archive/a.warc": bomb}, compression=zipfile.ZIP_DEFLATED)))
    assert items and all(isinstance(item, Rejected) for item in items) and items[-1].reason == Reason.ARCHIVE_TOO_LARGE


def revisit(writer: _MemoryWriter, url: str, *, digest: str, refers_to: str) -> None:
    head = StatusAndHeaders("200 OK", [("Content-Type", "image/jpeg")], protocol="HTTP/1.1")
    writer.write_record(writer.create_revisit_record(url, digest=digest, refers_to_uri=refers_to, refers_to_date="2024-01-01T00:00:00Z", http_headers=head))


def test_revisits_tell_what_a_look_up_needs_and_are_followed_within_a_file(tmp_path: Path) -> None:
    path = write_warc(tmp_path / "a.warc.gz", CAPTURES[1:2])
    (image,) = read_crawl(path)
    with open(path, "ab") as file:
        writer = _MemoryWriter(file, gzip=True)
        revisit(writer, "https://b.example/same-bytes.jpg", digest=image.digest, refers_to="https://elsewhere.example/x.jpg")
        revisit(writer, "https://b.example/same-page.jpg", digest="sha1:" + "A" * 32, refers_to="https://a.example/1.jpg")
        revisit(writer, "https://b.example/elsewhere.jpg", digest="sha1:" + "B" * 32, refers_to="https://elsewhere.example/y.jpg")
        revisit(writer, "https://b.example/loop.jpg", digest="sha1:" + "C" * 32, refers_to="https://b.example/loop.jpg")
        head = StatusAndHeaders("301 Moved", [("Location", "https://b.example/same-bytes.jpg")], protocol="HTTP/1.1")
        writer.write_record(writer.create_warc_record("https://a.example/old.jpg", "response", payload=io.BytesIO(b""), http_headers=head))
    items = list(read_crawl(path))
    assert isinstance(items[0], Response)
    found = items[3]
    assert isinstance(found, Revisit) and found.offset > items[2].offset
    assert (found.url, found.digest) == ("https://b.example/elsewhere.jpg", "sha1:" + "B" * 32)
    assert (found.refers_to_url, found.refers_to_date) == ("https://elsewhere.example/y.jpg", "2024-01-01T00:00:00Z")
    with captured_images([path], tmp_path / "out") as images:
        assert images.find("https://b.example/same-bytes.jpg") == images.find("https://b.example/same-page.jpg") == image.body
        assert images.find("https://a.example/old.jpg") == image.body
        assert images.find("https://b.example/elsewhere.jpg") is None and images.find("https://b.example/loop.jpg") is None


@pytest.mark.parametrize("name", ["a.warc.gz", "A.WARC", "b.arc", "b.arc.gz", "c.warc.zst", "d.warc.lz4", "e.wacz"])
def test_names_of_crawls(name: str) -> None:
    assert crawl.CRAWL_NAME.search(name) and name.lower().endswith(crawl.CRAWL_ENDINGS)
    assert not crawl.CRAWL_NAME.search(name + ".json") and not crawl.CRAWL_NAME.search("marc")
