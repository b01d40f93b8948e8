"""Crawl files: every encoding of a body, damaged records, and files that are none."""

import gzip
import zlib
from pathlib import Path

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from lcl.core.rejected import Reason, Rejected
from pipeline import crawl
from pipeline.addresses import normal_url
from pipeline.crawl import Response, read_crawl
from tests.crawls import Capture, write_warc

BODY = b"<html>" + bytes(range(32, 127)) * 100 + b"</html>"


def chunked(body: bytes, size: int = 700) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x;ext=1\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def only_response(path: Path) -> Response:
    (response,) = read_crawl(path)
    assert isinstance(response, Response)
    return response


@pytest.mark.parametrize(
    ("stored", "headers"),
    [
        (BODY, []),
        (gzip.compress(BODY), [("Content-Encoding", "gzip")]),
        (zlib.compress(BODY), [("Content-Encoding", "deflate")]),
        (zlib.compress(BODY)[2:-4], [("Content-Encoding", "deflate")]),
        (brotli.compress(BODY), [("Content-Encoding", "br")]),
        (zstandard.compress(BODY), [("Content-Encoding", "zstd")]),
        (chunked(BODY), [("Transfer-Encoding", "chunked")]),
        (chunked(gzip.compress(BODY)), [("Transfer-Encoding", "chunked"), ("Content-Encoding", "gzip")]),
        (gzip.compress(zlib.compress(BODY)), [("Content-Encoding", "deflate, gzip")]),
        (BODY, [("Content-Encoding", "gzip")]),  # stored decoded, the header kept: common in archives
        (BODY, [("Transfer-Encoding", "chunked")]),
        (BODY, [("Content-Encoding", "nonsense")]),
        (b"-6\r\n" + BODY, [("Transfer-Encoding", "chunked")]),
        (b"0x5\r\n" + BODY, [("Transfer-Encoding", "chunked")]),
    ],
)
@pytest.mark.parametrize("gzipped", [True, False])
def test_bodies_are_decoded_or_kept(tmp_path: Path, stored: bytes, headers: list, gzipped: bool) -> None:
    response = only_response(write_warc(tmp_path / "a.warc", [Capture("https://a.example/", stored, headers=headers)], gzipped=gzipped))
    assert response.body == (BODY if not stored.startswith((b"-", b"0x")) else stored) and response.status == 200 and response.media_type == "text/html"


def test_a_bomb_is_rejected_at_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crawl, "MAX_BODY_BYTES", 100_000)
    bombs = [(gzip.compress(b"\0" * 10_000_000), "gzip"), (brotli.compress(b"\0" * 10_000_000), "br"), (zstandard.compress(b"\0" * 10_000_000), "zstd")]
    captures = [Capture("https://a.example/", body, headers=[("Content-Encoding", name)]) for body, name in bombs] + [Capture("https://a.example/ok", b"ok")]
    results = list(read_crawl(write_warc(tmp_path / "a.warc.gz", captures)))
    assert [item.reason for item in results if isinstance(item, Rejected)] == [Reason.BODY_TOO_LARGE] * 3
    assert [item.body for item in results if isinstance(item, Response)] == [b"ok"]


def test_a_file_of_too_many_records_or_bombs_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_warc(tmp_path / "many.warc.gz", [Capture(f"https://a.example/{number}", BODY) for number in range(6)])
    monkeypatch.setattr("pipeline.crawl.MAX_RECORDS", 4)
    *kept, last = read_crawl(path)
    assert [item.url[-1] for item in kept] == list("0123") and isinstance(last, Rejected) and last.reason == Reason.ARCHIVE_TOO_LARGE
    squeezed = gzip.compress(bytes(9_000_000))
    path = write_warc(tmp_path / "bombs.warc.gz", [Capture(f"https://a.example/{number}", squeezed, headers=[("Content-Encoding", "gzip")]) for number in range(4)])
    monkeypatch.setattr("pipeline.expand.FREE_BYTES", 20_000_000)
    assert [getattr(item, "reason", "") for item in read_crawl(path)] == ["", "", Reason.ARCHIVE_TOO_LARGE]
    monkeypatch.setattr("pipeline.crawl.MAX_BODY_BYTES", 8_000_000)
    assert [item.reason for item in read_crawl(path)] == [Reason.BODY_TOO_LARGE] * 2 + [Reason.ARCHIVE_TOO_LARGE]


def test_offsets_name_the_records(tmp_path: Path) -> None:
    path = write_warc(tmp_path / "a.warc.gz", [Capture(f"https://a.example/{number}", b"x") for number in range(3)])
    offsets = [item.offset for item in read_crawl(path)]
    assert offsets[0] == 0 and sorted(set(offsets)) == offsets
    assert all(path.read_bytes()[offset : offset + 2] == b"\x1f\x8b" for offset in offsets)


def test_a_torn_file_gives_what_came_before(tmp_path: Path) -> None:
    path = write_warc(tmp_path / "a.warc.gz", [Capture(f"https://a.example/{number}", BODY) for number in range(3)])
    whole = list(read_crawl(path))
    path.write_bytes(path.read_bytes()[: whole[2].offset + 40])
    items = list(read_crawl(path))
    assert [item.url for item in items[:2]] == [item.url for item in whole[:2]]
    assert all(isinstance(item, Rejected) and item.reason == Reason.RECORD_DAMAGED for item in items[2:])


def test_a_body_that_the_file_cuts_short_is_kept_and_counted(tmp_path: Path) -> None:
    path = write_warc(tmp_path / "a.warc", [Capture("https://a.example/", BODY)], gzipped=False)
    path.write_bytes(path.read_bytes()[:-2000])
    response, damage = read_crawl(path)
    assert 0 < len(response.body) < len(BODY) and BODY.startswith(response.body)
    assert isinstance(damage, Rejected) and damage.reason == Reason.RECORD_DAMAGED


@pytest.mark.parametrize("data", [b"", b"PAR1 something else", b"\x1f\x8b\x08\x00garbage", b"<html></html>", b"\0" * 5000])
def test_a_file_that_is_no_crawl_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.warc.gz"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="x.warc.gz (is empty|is no crawl)"):
        list(read_crawl(path))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_flipped_bytes_never_crash(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "a.warc"
    write_warc(path, [Capture("https://a.example/", chunked(BODY), headers=[("Transfer-Encoding", "chunked")]), Capture("https://a.example/b", BODY)], gzipped=False)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        items = list(read_crawl(path))
    except ValueError as error:
        assert "is no crawl" in str(error)
    else:
        assert all(isinstance(item, Response | Rejected) for item in items)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("http://A.example/x", "https://a.example/x"),
        ("https://a.example/x#part", "https://a.example/x"),
        ("https://a.example/a%20b", "https://a.example/a b"),
        ("https://a.example/%7Eme", "https://a.example/~me"),
        ("https://a.example/caf%c3%a9", "https://a.example/café"),
        ("https://a.example:443/x", "http://a.example:80/x"),
        ("https://a.example", "https://a.example/"),
    ],
)
def test_spellings_of_one_address(one: str, two: str) -> None:
    assert normal_url(one) == normal_url(two)


def test_addresses_that_differ_and_one_that_is_none() -> None:
    assert len({normal_url(f"https://a.example/{end}") for end in ("x", "X", "x?v=1", "x?v=2", "y", "caf%E9", "caf%E8", "a%2Fb", "a/b", "?a=1%26b=2", "?a=1&b=2")}) == 11
    assert normal_url("http://[broken") == "http://[broken"


def test_arc_and_warc_of_one_crawl_hold_the_same(shared: Path) -> None:
    def pages(name: str) -> dict[str, bytes]:
        return {item.url: item.body for item in read_crawl(shared / "data" / "web" / name) if isinstance(item, Response) and item.media_type == "text/html"}

    warc, arc = pages("iah-2008-archive.org.warc.gz"), pages("iah-2008-archive.org.arc.gz")
    assert len(warc) > 100 and warc == arc
