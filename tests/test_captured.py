"""Images found across crawl files: before and behind their page, through redirects and revisits, in files that cannot be sought."""

import gzip
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from warcio.statusandheaders import StatusAndHeaders

from lcl.core.files import write_json
from lcl.core.shards import ShardSet
from pipeline.captured import CapturedImages
from pipeline.image_index import ENTRY, FILES, IMAGE, PACKED, PARTS, REDIRECT, REVISIT, Entries, ImageIndex, merge_part, open_image_index, part_of
from pipeline.storage import FIRST_BYTES, bytes_read
from tests.builds import build_here, captured_images
from tests.crawls import Capture, _MemoryWriter, arc_file, html, jpeg, write_warc

RED, GREEN, BLUE = (jpeg(colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
PAGE = Capture("https://a.example/", html("<img src='/1.jpg'>"))


def captured(folder: Path, files: dict[str, list[Capture]], *, own: str) -> CapturedImages:
    crawls = [write_warc(folder / name, captures) for name, captures in files.items()]
    build_here(crawls, folder / "out", max_failed_crawls=1.0, pages__min_images=0)
    return CapturedImages(ImageIndex(folder / "out" / "work" / "index"), own_file=str(folder / own))


def test_images_before_and_behind_a_page_and_through_redirects(tmp_path: Path) -> None:
    captures = [
        Capture("https://a.example/1.jpg", RED, "image/jpeg"),
        PAGE,
        Capture("https://a.example/old.jpg", b"", status="301 Moved", headers=[("Location", "/2.jpg")]),
        Capture("https://a.example/loop", b"", status="302 Found", headers=[("Location", "/loop")]),
        Capture("https://a.example/nowhere", b"", status="302 Found", headers=[("Location", "http://[x")]),
        Capture("https://a.example/2.jpg", GREEN, "application/octet-stream"),
        Capture("https://a.example/gone.jpg", b"", "image/jpeg", status="404 Not Found"),
    ]
    with captured(tmp_path, {"a.warc.gz": captures}, own="a.warc.gz") as images:
        assert images.find("http://a.example/1.jpg#x") == RED and images.find("https://a.example/old.jpg") == GREEN
        assert not any(images.find(f"https://a.example/{name}") for name in ("gone.jpg", "loop", "nowhere", "missing", ""))


def test_images_of_other_crawl_files_and_the_own_capture_first(tmp_path: Path) -> None:
    files = {
        "a.warc.gz": [PAGE, Capture("https://a.example/both.jpg", RED, "image/jpeg")],
        "b.warc": [Capture("https://a.example/1.jpg", GREEN, "image/jpeg"), Capture("https://a.example/both.jpg", BLUE, "image/jpeg")],
    }
    with captured(tmp_path, files, own="a.warc.gz") as images:
        assert images.find("https://a.example/1.jpg") == GREEN and images.find("https://a.example/both.jpg") == RED
    assert [image.data != b"" for document in ShardSet([tmp_path / "out"]) for image in document.images] == [True]
    other = CapturedImages(ImageIndex(tmp_path / "out" / "work" / "index"), own_file=str(tmp_path / "b.warc"))
    with other as images:
        assert images.find("https://a.example/both.jpg") == BLUE


def test_revisits_are_followed_by_digest_and_by_address(tmp_path: Path) -> None:
    """A body that was not stored again: warcio writes the revisit records."""
    first = write_warc(tmp_path / "first.warc.gz", [PAGE, Capture("https://a.example/1.jpg", RED, "image/jpeg")])
    digest = _digest_of(first, "https://a.example/1.jpg")
    with open(tmp_path / "later.warc.gz", "wb") as file:
        writer = _MemoryWriter(file, gzip=True)
        for url, known in (("https://cdn.example/same.jpg", digest), ("https://cdn.example/by-address.jpg", "sha1:UNKNOWN"), ("https://cdn.example/self.jpg", "sha1:X")):
            earlier = url if "self" in url else "https://a.example/1.jpg"
            head = StatusAndHeaders("304 Not Modified", [], protocol="HTTP/1.1")
            writer.write_record(writer.create_revisit_record(url, known, earlier, "2026-01-01T00:00:00Z", http_headers=head))
    build_here([first, tmp_path / "later.warc.gz"], tmp_path / "out")
    with CapturedImages(ImageIndex(tmp_path / "out" / "work" / "index"), own_file="") as images:
        assert images.find("https://cdn.example/same.jpg") == RED and images.find("https://cdn.example/by-address.jpg") == RED
        assert images.find("https://cdn.example/self.jpg") is None


def _digest_of(crawl: Path, url: str) -> str:
    from pipeline.crawl import Response, read_crawl

    (digest,) = [item.digest for item in read_crawl(crawl) if isinstance(item, Response) and item.url == url]
    return digest


def test_a_crawl_that_was_compressed_as_a_whole(tmp_path: Path) -> None:
    captures = [PAGE, *(Capture(f"https://a.example/{number}.jpg", jpeg((number, 9, 9)), "image/jpeg") for number in range(3))]
    plain = write_warc(tmp_path / "plain.warc", captures, gzipped=False).read_bytes()
    (tmp_path / "whole.warc.gz").write_bytes(gzip.compress(plain))
    (record,) = build_here([tmp_path / "whole.warc.gz"], tmp_path / "out")
    assert record["documents"] == {"in": 1, "out": 1} and record["images"] == {"in": 1, "out": 1}
    (document,) = ShardSet([tmp_path / "out"])
    assert document.crawl.file == "whole.warc.gz"


@pytest.mark.parametrize("ending", [".warc.gz", ".warc", ".arc"])
def test_a_look_up_reads_about_one_record(tmp_path: Path, ending: str) -> None:
    """Not the start of its file again, nor what stands around it."""
    bodies = [b"\xff\xd8\xff" + random.Random(number).randbytes(150_000) for number in range(30)]
    crawl = tmp_path / f"a{ending}"
    if ending == ".arc":
        crawl.write_bytes(arc_file([b"HTTP/1.1 200 OK\r\n\r\n" + body for body in bodies]))
    else:
        write_warc(crawl, [Capture(f"https://a.example/{number}", body, "image/jpeg") for number, body in enumerate(bodies)], gzipped=ending == ".warc.gz")
    with captured_images([crawl], tmp_path / "out") as images:
        before = bytes_read()
        for number in range(0, 30, 3):
            assert images.find(f"https://a.example/{number}") == bodies[number]
        assert bytes_read() - before <= 10 * 2 * (len(bodies[0]) + 500) + 11 * FIRST_BYTES


ADDRESSES = st.binary(min_size=16, max_size=16).map(lambda value: bytes(b % 3 for b in value))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.tuples(ADDRESSES, st.integers(0, 1 << 40), st.sampled_from((IMAGE, REDIRECT, REVISIT))), max_size=12), min_size=1, max_size=4))
def test_the_index_finds_the_first_of_the_lowest_kind_and_the_own_one_before_it(tmp_path_factory, tables: list[list[tuple[bytes, int, int]]]) -> None:
    """Few different bytes, zeros at the end among them, so that hashes share beginnings and numpy's strings are short."""
    folder = tmp_path_factory.mktemp("index")
    files = [f"file {number}" for number in range(len(tables))]
    for number, table in enumerate(tables):
        entries = Entries()
        for entry in table:
            entries.add(*entry)
        entries.write(folder / f"{number}.npy")
        assert len(entries) == len(table)
    (folder / "index").mkdir()
    for part in range(PARTS):
        merge_part(part, [(folder / f"{number}.npy", file) for number, file in enumerate(files)], folder / "index")
    write_json(folder / "index" / FILES, files)
    index = ImageIndex(folder / "index")
    for address in {entry[0] for table in tables for entry in table} | {b"\x01" * 16}:
        held = [(kind, number, offset) for number, table in enumerate(tables) for other, offset, kind in table if other == address]
        for own in (-1, *range(len(tables))):
            kind, number, offset = min(held, key=lambda entry: (entry[0], entry[1] != own, entry[1:]), default=(0, 0, -1))
            assert index.find(address, own_file=f"file {own}") == ((files[number], offset, kind) if held else None)
    assert ENTRY.itemsize == PACKED.size == 29


def test_an_index_is_read_once_in_a_process_until_it_is_made_anew(tmp_path: Path) -> None:
    for number in range(2):
        entries = Entries()
        entries.add(b"\x01" * 16, 7 + number, IMAGE)
        entries.write(tmp_path / f"{number}.npy")
    found = []
    for tables in ([0], [1, 0]):
        for part in range(PARTS):
            merge_part(part, [(tmp_path / f"{number}.npy", f"file {number}") for number in tables], tmp_path)
        write_json(tmp_path / FILES, [f"file {number}" for number in tables])
        assert open_image_index(tmp_path) is open_image_index(tmp_path)
        found.append(open_image_index(tmp_path).find(b"\x01" * 16))
    assert found == [("file 0", 7, IMAGE), ("file 1", 8, IMAGE)]


def test_an_address_that_is_captured_in_many_files_costs_one_look_up(tmp_path: Path) -> None:
    """A page captured a thousand times in each of some files: one entry of each is kept."""
    for number in range(4):
        entries = Entries()
        for offset in range(1000):
            entries.add(b"a" * 16, 1000 - offset, REDIRECT)
        entries.write(tmp_path / f"{number}.npy")
    merge_part(part_of(b"a"), [(tmp_path / f"{number}.npy", "") for number in range(4)], tmp_path)
    assert np.load(tmp_path / f"{part_of(b'a'):02d}.npy")["offset"].tolist() == [1, 1, 1, 1]
