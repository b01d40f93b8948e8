"""Pages to documents to shards: every reason, exact accounts, the same bytes again."""

import base64
import errno
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lcl.core.rejected import Reason
from lcl.core.shards import ShardSet, verify_shard
from pipeline import assemble_split, extract_split, run_splits
from pipeline.assemble_split import check_accounts
from pipeline.pages import extract
from pipeline.sources.parquet_rows import NotASource
from pipeline.splits import CrawlChanged, split_name
from pipeline.storage import Input, InputUnreadable
from tests.builds import OF_THE_RUN, build_captures, build_here, built_bytes
from tests.crawls import FILLER, Capture, html, jpeg, write_warc

NO_DEDUP = {f"dedup__{name}": False for name in ("exact_url", "exact_text", "image_set", "paragraphs")} | {"dedup__max_image_url_documents": 0}
RED, GREEN = jpeg((200, 0, 0)), jpeg((0, 200, 0), (300, 200))
IMAGES = [
    Capture("https://a.example/red.jpg", RED, "image/jpeg"),
    Capture("https://a.example/green.jpg", GREEN, "image/jpeg"),
    Capture("https://a.example/icon.jpg", jpeg((1, 2, 3), (20, 20)), "image/jpeg"),
    Capture("https://a.example/strip.jpg", jpeg((1, 2, 3), (1000, 160)), "image/jpeg"),
    Capture("https://a.example/vector.jpg", b"<svg></svg>", "image/jpeg"),
    Capture("https://a.example/torn.jpg", RED[:200], "image/jpeg"),
]


def page(url: str, body: str, **options: object) -> Capture:
    return Capture(f"https://a.example/{url}", html(body), **options)


ONE_IMAGE = "<p>Some words here.</p><img src='/red.jpg'>"


@pytest.mark.parametrize(
    ("capture", "reason", "rules"),
    [
        (page("a", ONE_IMAGE, status="404 Not Found"), Reason.HTTP_STATUS, {}),
        (Capture("urn:x", html(ONE_IMAGE)), Reason.URL_UNUSABLE, {}),
        (Capture("http://[a.example/2", html(ONE_IMAGE)), Reason.URL_UNUSABLE, {}),
        (Capture("https://a.example/a", b"  "), Reason.PAGE_EMPTY, {}),
        (page("a", "<p>" + "<div>" * 3000), Reason.PAGE_TOO_COMPLEX, {}),
        (Capture("https://a.example/a", b"<html></html>"), Reason.NO_TEXT, {}),
        (page("a", ONE_IMAGE), Reason.TOO_FEW_WORDS, {"text__document": {"min_words": 1000}}),
        (page("a", "<p>no picture</p>"), Reason.NO_IMAGES, {}),
        (page("a", ONE_IMAGE + "<img src='/green.jpg'>"), Reason.TOO_MANY_IMAGES, {"pages__max_images": 1}),
    ],
)
def test_each_reason_to_leave_out_a_page(tmp_path: Path, capture: Capture, reason: Reason, rules: dict) -> None:
    record = build_captures(tmp_path, [capture, *IMAGES], **rules)
    assert record["documents"] == {"in": 1, reason: 1} and record["shards"] == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.jpg", Reason.IMAGE_NOT_IN_CRAWL),
        ("icon.jpg", Reason.IMAGE_TOO_SMALL),
        ("strip.jpg", Reason.IMAGE_ASPECT),
        ("vector.jpg", Reason.IMAGE_UNKNOWN_FORMAT),
        ("torn.jpg", Reason.IMAGE_DAMAGED),
        ("red.jpg?", Reason.IMAGE_REPEATED),
    ],
)
def test_each_reason_to_leave_out_an_image(tmp_path: Path, name: str, reason: Reason) -> None:
    record = build_captures(tmp_path, [page("a", f"{ONE_IMAGE}<p>between</p><img src='/{name}'>"), *IMAGES])
    assert record["images"] == {"in": 2, "out": 1, reason: 1}
    (document,) = ShardSet([tmp_path / "shards"])
    assert [segment.kind for segment in document.segments] == ["text", "image", "text"], "texts around a left-out image are one"
    assert "between" in document.texts[1]


def test_duplicates_are_left_out_and_images_of_dropped_pages_are_counted(tmp_path: Path) -> None:
    captures = [page("a", ONE_IMAGE), page("a", ONE_IMAGE + "<p>new</p>"), page("b", ONE_IMAGE), page("c", ONE_IMAGE + "<p>own</p>"), *IMAGES]
    record = build_captures(tmp_path, captures)
    assert record["documents"] == {"in": 4, "out": 2, Reason.DUPLICATE_URL: 1, Reason.DUPLICATE_CONTENT: 1}
    assert record["images"] == {"in": 4, "out": 2, Reason.IMAGE_PAGE_DROPPED: 2}


def test_dedup_can_be_switched_off(tmp_path: Path) -> None:
    assert build_captures(tmp_path, [page("a", ONE_IMAGE), page("b", ONE_IMAGE), *IMAGES], **NO_DEDUP)["documents"] == {"in": 2, "out": 2}


def test_a_smaller_candidate_stands_in_for_a_missing_larger_one(tmp_path: Path) -> None:
    build_captures(tmp_path, [page("a", "<img src='/red.jpg' srcset='/huge.jpg 3000w, /green.jpg 640w'>"), *IMAGES])
    (document,) = ShardSet([tmp_path / "shards"])
    assert [image.metadata.url for image in document.images] == ["https://a.example/green.jpg"]


def test_inline_images_are_decoded(tmp_path: Path) -> None:
    inline = base64.b64encode(GREEN).decode()
    build_captures(tmp_path, [page("a", f"<img src='data:image/jpeg;base64,{inline}'><p>x</p><img src='data:image/jpeg;base64,AAAA'>")])
    (document,) = ShardSet([tmp_path / "shards"])
    assert [(image.metadata.url, image.metadata.width) for image in document.images] == [("data:", 300)]


def test_shards_are_closed_by_number_and_named_from_the_crawl(tmp_path: Path) -> None:
    captures = [page(str(number), f"{ONE_IMAGE}<p>{number}</p>") for number in range(5)] + IMAGES
    record = build_captures(tmp_path, captures, shard_documents=2)
    name = split_name(tmp_path / "crawl.warc.gz")
    assert record["shards"] == [f"{name}-{number:05d}" for number in range(3)]
    shards = ShardSet([tmp_path / "shards"])
    assert [document.page_url for document in shards] == [f"https://a.example/{number}" for number in range(5)]
    assert shards.read(0).crawl.file == "crawl.warc.gz" and shards.read(0).language == "en"
    for tar in (tmp_path / "shards").glob("*.tar"):
        verify_shard(tar.with_suffix(".json"))


def test_a_paragraph_that_a_domain_repeats_is_left_out_and_counted(tmp_path: Path) -> None:
    again = "<p>We use the same words, of which there are enough to be a paragraph, below every page of this site.</p>"
    captures = [page(str(number), f"<p>Page {number} has words of its own, of which there are some more.</p><img src='/red.jpg'>{again}") for number in range(3)]
    record = build_captures(tmp_path, [*captures, *IMAGES], **NO_DEDUP | {"dedup__paragraphs": True})
    texts = ["\n".join(document.texts) for document in ShardSet([tmp_path / "shards"])]
    assert ["the same words" in text for text in texts] == [True, False, False]
    assert record["paragraphs"][Reason.PARAGRAPH_REPEATED] >= 2 and record["paragraphs"] == json.loads((tmp_path / "shards" / "report.json").read_text())["paragraphs"]


def test_too_many_words_and_a_page_that_no_parser_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("words", "parser"):
        (tmp_path / name).mkdir()
    record = build_captures(tmp_path / "words", [page("a", ONE_IMAGE), *IMAGES], text__document={"max_words": 5})
    assert record["documents"] == {"in": 1, Reason.TOO_MANY_WORDS: 1}

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no tree")

    monkeypatch.setattr(extract, "LexborHTMLParser", refuse)
    record = build_captures(tmp_path / "parser", [page("a", ONE_IMAGE), *IMAGES])
    assert record["documents"] == {"in": 1, Reason.PAGE_UNPARSABLE: 1}


@pytest.mark.parametrize(
    ("raised", "reason"),
    [(NotASource("x"), Reason.NOT_A_SOURCE), (CrawlChanged("x"), Reason.CRAWL_CHANGED), (InputUnreadable("x"), Reason.CRAWL_UNREADABLE), (KeyError("x"), Reason.CRAWL_CRASHES)],
)
def test_each_reason_to_leave_out_an_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, reason: Reason) -> None:
    crawls = [write_warc(tmp_path / f"{name}.warc.gz", [page(name, ONE_IMAGE), *IMAGES]) for name in "ab"]

    def fail(source: Input, *arguments: object) -> dict[str, Any]:
        if source.name.startswith("b"):
            raise raised
        return extract_split.extract_split(source, *arguments)

    monkeypatch.setattr(run_splits, "extract_split", fail)
    with pytest.raises(FileNotFoundError):  # the helper asks for the record of b, too
        build_here(crawls, tmp_path / "shards", max_failed_crawls=0.5)
    failed = json.loads((tmp_path / "shards" / "report.json").read_text())["crawls"]
    assert failed["out"] == 1 and failed["failed"]["b.warc.gz"]["reason"] == reason


def test_a_full_disk_ends_the_build_and_is_no_failure_of_the_crawl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crawl = write_warc(tmp_path / "crawl.warc.gz", [page("a", ONE_IMAGE), *IMAGES])

    def full(*arguments: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device, assembling crawl-"):
        patch.setattr(assemble_split, "write_shard", full)
        build_here([crawl], tmp_path / "shards", max_failed_crawls=1.0)
    assert not (tmp_path / "shards" / "report.json").exists()
    (record,) = build_here([crawl], tmp_path / "shards", max_failed_crawls=1.0)
    assert record["documents"] == {"in": 1, "out": 1}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"image_lists__forbidden_md5": ["none.txt"]}, "none.txt: no such file of hashes"),
        ({"text__language": {"model": "none.bin"}}, r"none.bin: no such file \(--text.language.model\)"),
        ({"text__language": {"keep": ["en", "english"]}}, "--text.language.keep english: the detector knows af ar "),
        ({"dedup__contamination": {"texts": ["none.txt"]}}, r"none.txt: no such file of evaluation texts \(--dedup.contamination.texts\)"),
    ],
)
def test_files_and_names_that_rules_give_are_checked_before_anything_is_written(tmp_path: Path, rules: dict, message: str) -> None:
    crawl = write_warc(tmp_path / "crawl.warc.gz", [page("a", ONE_IMAGE), *IMAGES])
    with pytest.raises(ValueError, match=message):
        build_here([crawl], tmp_path / "shards", **rules)
    assert not (tmp_path / "shards").exists()


def test_a_repeated_build_gives_the_same_bytes_and_a_finished_one_is_not_redone(tmp_path: Path) -> None:
    captures = [page(str(number), f"{ONE_IMAGE}<p>{number}</p>") for number in range(3)] + IMAGES
    crawl = write_warc(tmp_path / "crawl.warc.gz", captures)
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        build_here([crawl], folder, shard_documents=2)
    before = built_bytes(one)
    assert before == built_bytes(two) and sum(name.endswith(".tar") for name in before) == 2
    times = {path: path.stat().st_mtime_ns for path in one.rglob("*") if path.is_file() and path.name not in ("report.json", *OF_THE_RUN) and path.parent.name != "timing"}
    build_here([crawl], one, shard_documents=2)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    next(one.glob("*-00001.json")).unlink()  # as if killed before the last commit
    next(one.glob("splits/*.json")).unlink()
    build_here([crawl], one, shard_documents=2)
    assert built_bytes(one) == before
    shutil.rmtree(one / "work")  # not needed any more
    build_here([crawl], one, shard_documents=2)
    assert built_bytes(one) == before


def test_a_shard_that_lost_a_file_is_built_again_and_a_failed_split_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_captures(tmp_path, [page("a", ONE_IMAGE), *IMAGES])
    crawl, shards = tmp_path / "crawl.warc.gz", tmp_path / "shards"
    for suffix in (".tar", ".parquet"):
        (lost,) = shards.glob(f"*{suffix}")
        whole = lost.read_bytes()
        lost.unlink()
        build_here([crawl], shards)
        assert lost.read_bytes() == whole

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    for record in shards.glob("splits/*.json"):
        record.unlink()
    monkeypatch.setattr(assemble_split, "check_accounts", fail)
    with pytest.raises(ValueError, match=r"its task failed \(RuntimeError: in the middle\)"):
        build_here([crawl], shards)
    assert {path.name for path in shards.iterdir()} == {"splits", "work", "run.json", "report.json", "timing.json", "README.md"} and not list((shards / "splits").iterdir())


def test_a_changed_crawl_file_is_refused(tmp_path: Path) -> None:
    build_captures(tmp_path, [page("a", ONE_IMAGE), *IMAGES])
    with pytest.raises(ValueError, match="shards of crawl.warc.gz made with another fingerprint; give another --output"):
        build_captures(tmp_path, [page("b", ONE_IMAGE), *IMAGES])


def test_accounts_that_do_not_add_up_are_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="documents do not add up"):
        check_accounts({"documents": {"in": 3, "out": 1, "no_text": 1}, "images": {}})


def test_the_sample_crawl_adds_up(shards: Path) -> None:
    (record,) = [json.loads(path.read_text()) for path in (shards / "splits").glob("*.json")]
    check_accounts(record)
    assert record["documents"]["out"] >= 12
    assert set(record["documents"]) > {"in", "out", Reason.NO_IMAGES, Reason.DUPLICATE_URL}
    assert sum(len(document.images) for document in ShardSet([shards])) == record["images"]["out"]
    languages = Counter(document.language for document in ShardSet([shards]))
    assert languages.most_common(1)[0][0] == "en"


WEB_FILES = (
    "books.toscrape-2018.warc", "clueweb09-quirk.warc.gz", "commoncrawl-whirlwind-2024.warc.gz", "distill-deconv-checkerboard.warc.gz",
    "gutenberg-14838-peter-rabbit.warc.gz", "iah-2008-archive.org.arc.gz", "iah-2008-archive.org.warc.gz", "iah-urls-wget.warc", "iana-2021.warc",
    "jwarc-cc.warc.gz", "lil-projects-2023.warc.gz", "resiliparse-cc-2020.warc.gz", "resiliparse-clipped.warc.gz", "warcio-example-bad-non-chunked.warc.gz",
    "warcio-example-iana.org-chunked.warc", "warcio-example-space-in-url.arc", "warcio-example-trunc.warc", "warcio-example-wrong-chunks.warc.gz",
)  # fmt: skip


@pytest.mark.parametrize("name", WEB_FILES)
def test_every_real_crawl_file_gives_pages_and_exact_accounts(shared: Path, tmp_path: Path, name: str) -> None:
    (record,) = build_here([shared / "data" / "web" / name], tmp_path)
    check_accounts(record)
    assert record["documents"]["in"] > 0


def test_scipy_lectures_gives_enough_documents_and_images(shared: Path, tmp_path: Path) -> None:
    (record,) = build_here([shared / "data" / "web" / "scipy-lectures.warc.gz"], tmp_path, **NO_DEDUP)
    documents = list(ShardSet([tmp_path]))
    interleaved = [document for document in documents if document.texts and document.images]
    sides = [min(image.metadata.width, image.metadata.height) for document in interleaved for image in document.images]
    assert len(interleaved) >= 140 and sum(side >= 150 for side in sides) >= 430
    assert record["documents"]["in"] == 243


def test_filler_is_long_enough_for_every_test_above() -> None:
    assert len(FILLER.split()) > 30
