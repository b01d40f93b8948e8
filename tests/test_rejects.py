"""What a build leaves out is kept, row by row: the rows are those that the report counts, and the bytes follow from the inputs."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lcl.core.files import read_json
from lcl.core.rejected import Reason, Rejected
from lcl.core.shards import ShardSet, find_shards
from pipeline import assemble_split, rejects
from pipeline.rejects import MAX_DETAIL, open_rejects, reject_row
from pipeline.tools.check_shard import check_accounts
from pipeline.tools.viewer import ViewConfig, view_shards
from tests.builds import build_here, built_bytes
from tests.crawls import FILLER, Capture, html, jpeg, write_warc

RED = jpeg((200, 0, 0))
IMAGES = [
    *(Capture(f"https://a.example/{number}.jpg", jpeg((60 * number, 0, 99)), "image/jpeg") for number in (1, 2, 3)),
    Capture("https://a.example/again.jpg", jpeg((180, 0, 99)), "image/jpeg"),
    Capture("https://a.example/red.jpg", RED, "image/jpeg"),
    Capture("https://a.example/green.jpg", jpeg((0, 200, 0), (300, 200)), "image/jpeg"),
    Capture("https://a.example/icon.jpg", jpeg((1, 2, 3), (20, 20)), "image/jpeg"),
    Capture("https://a.example/strip.jpg", jpeg((1, 2, 3), (1000, 160)), "image/jpeg"),
    Capture("https://a.example/vector.jpg", b"<svg></svg>", "image/jpeg"),
    Capture("https://a.example/torn.jpg", RED[:200], "image/jpeg"),
    Capture("https://a.example/logo.jpg", jpeg((9, 9, 9), (200, 160)), "image/jpeg"),
    Capture("https://a.example/refused.jpg", jpeg((5, 5, 9), (200, 160)), "image/jpeg", headers=[("X-Robots-Tag", "noai")]),
]
DAMAGED = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:1>\r\nWARC-Target-URI: https://a.example/cut\r\nContent-Length: 900\r\n\r\nHTTP/1.1 200 OK\r\n\r\ncut"
LONG = " ".join(f"word{number}" for number in range(200))


@pytest.fixture(scope="module", autouse=True)
def without_fsync() -> Iterator[None]:
    """No power is cut here, and the waits for the disk would be most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def page(name: str, body: str, **options: object) -> Capture:
    return Capture(f"https://a.example/{name}", html(f"<p>{body}</p>"), **options)


def losses(folder: Path) -> list[Path]:
    """Two crawl files: each way to lose a record, a page and an image that needs no lists or limits of its own."""
    pages = [
        page("error", "x", status="404 Not Found"),
        Capture("urn:x", html("x")),
        Capture("https://a.example/empty", b"  "),
        page("deep", "<div>" * 3000),
        Capture("https://a.example/silent", b"<html></html>"),
        Capture("https://a.example/short", f"<html><body><article><p>{FILLER[: len(FILLER) // 2]}<img src='/1.jpg'></p></article></body></html>".encode()),
        page("refused", "x", headers=[("X-Robots-Tag", "noai")]),
        page("nothing", "no picture at all"),
        page("gone", "its picture is <img src='/none.jpg'><img src='/icon.jpg'> not there"),
        page("many", "own words <img src='/1.jpg'><img src='/2.jpg'><img src='data:image/gif;base64,R0lG'><img src='/3.jpg'>"),
        page("a", f"{LONG} <img src='/red.jpg'>"),
        page("a", f"{LONG} again <img src='/red.jpg'>"),
        page("b", f"{LONG} <img src='/green.jpg'>"),
        page("near", f"{LONG} nearly <img src='/green.jpg'>"),
        *(page(f"own/{name}", f"{' '.join(f'{name}{n}' for n in range(60))} <img src='/{number % 3 + 1}.jpg'><p>x</p><img src='/{name}.jpg'><p>y</p><img src='/logo.jpg'>")
          for number, name in enumerate(("icon", "strip", "vector", "torn", "refused", "again")))
    ]  # fmt: skip
    first = write_warc(folder / "a.warc", [*pages, *IMAGES], gzipped=False)
    first.write_bytes(first.read_bytes() + DAMAGED)
    second = write_warc(folder / "b.warc", [page("b2", f"other {LONG} <img src='/none.jpg'>"), page("a", "elsewhere <img src='/red.jpg'>")], gzipped=False)
    return [first, second]


RULES = {"keep_rejects": True, "pages__max_images": 2, "text__document": {"min_words": 30}, "dedup__max_image_url_documents": 5, "dedup__near": {"on": True}}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("rejects/*.parquet")) for row in pq.read_table(path).to_pylist()]


def assert_rows_are_those_counted(folder: Path) -> dict[str, Counter[str]]:
    report = read_json(folder / "report.json")
    rows = rows_of(folder)
    counts = {kind: Counter(row["reason"] for row in rows if row["kind"] == kind) for kind in ("record", "document", "image")}
    assert counts == {"record": report["records_rejected"], "document": report["documents"]["dropped"], "image": report["images"]["dropped"]}
    assert sum(map(Counter.total, counts.values())) == len(rows) and check_accounts(folder, find_shards([folder])) == []
    return counts


def test_the_rows_are_those_that_the_report_counts(tmp_path: Path) -> None:
    crawls, output = losses(tmp_path), tmp_path / "shards"
    build_here(crawls, output, **RULES)
    counts = assert_rows_are_those_counted(output)
    assert set(counts["record"]) == {Reason.RECORD_DAMAGED}
    assert set(counts["document"]) == {
        Reason.HTTP_STATUS, Reason.URL_UNUSABLE, Reason.PAGE_EMPTY, Reason.PAGE_TOO_COMPLEX, Reason.NO_TEXT, Reason.TOO_FEW_WORDS, Reason.OPT_OUT_ROBOTS_TAG, Reason.NO_IMAGES,
        Reason.TOO_MANY_IMAGES, Reason.DUPLICATE_URL, Reason.DUPLICATE_CONTENT, Reason.NEAR_DUPLICATE,
    }  # fmt: skip
    assert set(counts["image"]) >= {
        Reason.IMAGE_NOT_IN_CRAWL, Reason.IMAGE_TOO_SMALL, Reason.IMAGE_ASPECT, Reason.IMAGE_UNKNOWN_FORMAT, Reason.IMAGE_DAMAGED, Reason.IMAGE_REPEATED,
        Reason.IMAGE_FREQUENT, Reason.IMAGE_PAGE_DROPPED, Reason.OPT_OUT_ROBOTS_TAG,
    }  # fmt: skip
    rows = {(row["page_url"], row["image_url"]): row for row in rows_of(output)}
    kept = {document.page_url: document.key for document in ShardSet([output])}
    assert rows["https://a.example/b", ""]["detail"] == rows["https://a.example/near", ""]["detail"] == kept["https://a.example/a"], "the survivor is named"
    assert rows["https://a.example/many", "data:"]["reason"] == Reason.IMAGE_UNKNOWN_FORMAT
    assert rows["https://a.example/many", "https://a.example/1.jpg"]["detail"] == Reason.TOO_MANY_IMAGES
    assert rows["https://a.example/own/icon", "https://a.example/icon.jpg"]["detail"] == "20 x 20"
    for path in output.glob("rejects/*.parquet"):
        offsets = pq.read_table(path)["crawl_offset"].to_pylist()
        assert offsets == sorted(offsets) and len(offsets) > 1


REAL = ["iah-2008-archive.org.arc.gz", "clueweb09-quirk.warc.gz", "resiliparse-clipped.warc.gz", "img2dataset-test_1000.parquet", "scipy-lectures.warc.gz"]


@pytest.mark.parametrize("name", [*REAL[:-1], pytest.param(REAL[-1], marks=pytest.mark.slow)])
def test_the_rows_of_a_real_crawl_are_those_counted(shared: Path, tmp_path: Path, name: str) -> None:
    build_here([shared / "data" / "web" / name], tmp_path, keep_rejects=True, dedup__near={"on": True}, pages__min_images=0, max_failed_crawls=1.0)
    assert sum(map(Counter.total, assert_rows_are_those_counted(tmp_path).values())) > 1


def test_rows_of_sources_that_are_no_crawls(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text('{"text": "' + LONG + '", "url": "https://a.example/1"}\nno json\n{"text": "few words", "url": "https://a.example/2"}\n')
    build_here([source], tmp_path / "shards", keep_rejects=True, pages__min_images=0)
    assert set(assert_rows_are_those_counted(tmp_path / "shards")["document"]) == {Reason.ROW_MALFORMED, Reason.TOO_FEW_WORDS}


def test_the_bytes_of_the_shards_do_not_depend_on_it_and_those_of_rejects_not_on_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crawls = losses(tmp_path)
    build_here(crawls, tmp_path / "one", **RULES)
    build_here(crawls, tmp_path / "without", **{**RULES, "keep_rejects": False})
    one, without = (built_bytes(tmp_path / name) for name in ("one", "without"))
    same = {name: data for name, data in without.items() if not name.startswith("splits")}
    assert sum(name.endswith(".tar") for name in same) == 1 and all(one[name] == data for name, data in same.items())
    assert {name for name in one.keys() - without.keys() } == {f"rejects/{Path(name).stem}.parquet" for name in one if name.startswith("splits")}
    monkeypatch.setattr(rejects, "ROWS", 3)
    build_here(crawls, tmp_path / "small", **RULES)
    assert rows_of(tmp_path / "small") == rows_of(tmp_path / "one")
    assert {pq.ParquetFile(path).num_row_groups > 1 for path in (tmp_path / "small").glob("rejects/a-*.parquet")} == {True}


def test_an_interrupted_split_leaves_none_and_a_rerun_makes_them_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crawls, output = losses(tmp_path), tmp_path / "shards"

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    with monkeypatch.context() as patch:
        patch.setattr(assemble_split, "check_accounts", fail)
        with pytest.raises(ValueError, match="in the middle"):
            build_here(crawls, output, **RULES)
    assert not list(output.glob("rejects/*")) and not list(output.glob("*.tar"))
    build_here(crawls, output, **RULES)
    build_here(crawls, tmp_path / "whole", **RULES)
    before = built_bytes(tmp_path / "whole")
    assert built_bytes(output) == before
    next(output.glob("rejects/b-*")).unlink()  # lost later: made again
    assert any("is missing or damaged" in problem for problem in check_accounts(output, find_shards([output])))
    build_here(crawls, output, **RULES)
    assert built_bytes(output) == before


def test_a_build_without_them_does_not_go_on_with_them(tmp_path: Path) -> None:
    crawls, output = losses(tmp_path), tmp_path / "shards"
    build_here(crawls[1:], output, **{**RULES, "keep_rejects": False})
    assert not (output / "rejects").exists()
    with pytest.raises(ValueError, match="has another --keep-rejects"):
        build_here(crawls[1:], output, **RULES)


def test_rows_that_do_not_agree_with_the_record_are_found(tmp_path: Path) -> None:
    crawls, output = losses(tmp_path), tmp_path / "shards"
    build_here(crawls, output, **RULES)
    record_path = next(output.glob("splits/a-*.json"))
    record = record_path.read_text()
    record_path.write_text(record.replace('"page_empty": 1', '"page_empty": 2'))
    assert any("counts documents left out, and rejects/" in problem for problem in check_accounts(output, find_shards([output])))
    record_path.write_text(record)
    path = next(output.glob("rejects/a-*"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert any("missing or damaged" in problem for problem in check_accounts(output, find_shards([output])))


def test_the_viewer_shows_them_beside_what_was_kept(tmp_path: Path) -> None:
    build_here(losses(tmp_path), tmp_path / "shards", **RULES)
    view_shards(ViewConfig(shards=(str(tmp_path / "shards"),), output=str(tmp_path / "view"), per_page=1))
    shown = [path.read_text() for path in sorted((tmp_path / "view").glob("page-*.html"))]
    assert any("image too small" in text and "20 x 20" in text and "image frequent" in text for text in shown)
    assert any("near duplicate" in text and "https://a.example/near" in text for text in shown)


def test_rows_hold_texts_whatever_an_address_holds(tmp_path: Path) -> None:
    broken = Rejected(Reason.URL_UNUSABLE, "https://a.example/\udc80")
    row = reject_row("document", broken, crawl_file="a.warc", crawl_offset=3, page_url="https://a.example/\udc80")
    long = reject_row("image", Rejected(Reason.IMAGE_DAMAGED, "x" * 9999), crawl_file="a.warc", crawl_offset=4, image_url="data:image/png;base64," + "A" * 9999)
    with open_rejects(tmp_path / "rejects" / "a.parquet") as keep:
        keep(row)
        keep(long)
    first, second = pq.read_table(tmp_path / "rejects" / "a.parquet").to_pylist()
    assert first == row and first["page_url"] == "https://a.example/\\udc80" and first["detail"] == ""
    assert second["image_url"] == "data:" and len(second["detail"]) == MAX_DETAIL


def test_rows_are_written_as_they_come(tmp_path: Path) -> None:
    """No more than a group of rows is alive at one time."""
    alive: list[int] = []

    class Row(dict):
        def __init__(self, number: int) -> None:
            super().__init__(reject_row("image", Rejected(Reason.IMAGE_DAMAGED), crawl_file="a", crawl_offset=number))
            alive.append(number)

        def __del__(self) -> None:
            alive.pop()

    peak = 0

    def rows() -> Iterator[Row]:
        nonlocal peak
        for number in range(3 * rejects.ROWS):
            yield Row(number)
            peak = max(peak, len(alive))

    path = rejects.write_rejects(tmp_path, "a", rows())
    assert peak <= rejects.ROWS + 1 and pq.ParquetFile(path).num_row_groups == 3
