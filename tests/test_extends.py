"""A build that extends sets: it keeps of its crawls what a build of all together keeps of them, and leaves the sets as they are."""

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lcl.core.document import text_hash
from lcl.core.files import read_json
from lcl.core.rejected import Reason
from lcl.core.shards import ShardSet, find_shards, read_last_member
from pipeline import run_splits
from pipeline.dedup.find_duplicates import find_duplicates
from pipeline.dedup.settings import DedupConfig, NearConfig
from pipeline.dedup.signature import SignatureConfig
from pipeline.extracted import read_rows
from pipeline.known_documents import list_known
from pipeline.rejects import read_rejects
from pipeline.splits import split_name
from pipeline.storage import InputUnreadable
from pipeline.tools.selecting import SelectConfig, select_documents
from tests.builds import build_here, built_bytes
from tests.conftest import Run
from tests.crawls import Capture, jpeg, write_warc
from tests.made_corpora import Extracted, read_lists, write_corpus, write_split
from tests.made_shards import file_states, made_document, made_set

NEAR = {"dedup__near": {"on": True}}


@pytest.fixture(scope="module", autouse=True)
def without_fsync() -> Iterator[None]:
    """No power is cut here, and the waits for the disk would be most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def words(seed: int) -> list[str]:
    """Text that is like no other."""
    chance = random.Random(seed)
    return ["".join(chance.choices("abcdefgh", k=6)) for _ in range(150)]


def page(url: str, text: Sequence[str], image: str = "/i.jpg") -> Capture:
    return Capture(url, f"<html><body><article><p>{' '.join(text)}</p><img src='{image}'></article></body></html>".encode())


def changed(text: Sequence[str], seed: int) -> list[str]:
    """The text with one word replaced: a near-duplicate."""
    place = random.Random(seed).randrange(10, 140)
    return [*text[:place], f"changed{seed}", *text[place + 1 :]]


def crawls(folder: Path) -> tuple[Path, Path]:
    """Two crawl files: pages of the second are at an address of the first, have its text, nearly have it, or are like each other, or are new."""
    first = [page(f"https://a.example/{number}", words(number)) for number in range(6)]
    second = [
        page("https://a.example/0", words(100)),                 # address
        page("https://b.example/1", words(1)),                   # text
        page("https://b.example/2", changed(words(2), 1)),       # nearly the text
        page("https://b.example/3", words(103)),                 # new
        page("http://b.example/3#again", words(104)),            # address of another new one
        page("https://b.example/4", changed(words(103), 2)),     # nearly the text of another new one
        page("https://b.example/5", words(105)),                 # new
    ]  # fmt: skip
    image = [Capture(f"https://{site}.example/i.jpg", jpeg((200, 0, 90)), "image/jpeg") for site in "ab"]
    return tuple(write_warc(folder / f"{name}.warc.gz", [*pages, *image]) for name, pages in (("a", first), ("b", second)))


def documents(*folders: Path, of: str = "") -> dict[str, str]:
    """Address and hash of the text of each document, of one crawl file or of all."""
    return {document.key: f"{document.page_url} {text_hash(document)}" for document in ShardSet(folders) if not of or document.crawl.file == of}


@pytest.mark.parametrize("rules", [{}, NEAR, {"dedup__exact_text": False}, {"dedup__exact_url": False}])
def test_what_is_kept_is_what_a_build_of_both_keeps_of_the_second(tmp_path: Path, rules: dict) -> None:
    a, b = crawls(tmp_path)
    rules = {"dedup__max_image_url_documents": 0, **rules}
    build_here([a], tmp_path / "set", **rules)
    before = file_states(tmp_path / "set")
    (record,) = build_here([b], tmp_path / "more", extends=[str(tmp_path / "set")], **rules)
    build_here([a, b], tmp_path / "both", **rules)
    assert documents(tmp_path / "more") == documents(tmp_path / "both", of="b.warc.gz")
    assert documents(tmp_path / "set", tmp_path / "more") == documents(tmp_path / "both")
    together = read_json(tmp_path / "both" / "splits" / f"{split_name(b)}.json")
    assert record["documents"] == together["documents"] and record["documents"]["out"] < 7
    assert file_states(tmp_path / "set") == before, "a set that is extended stays as it is"


@pytest.mark.slow
def test_a_real_set_extended_by_real_crawls(shared: Path, tmp_path: Path) -> None:
    """The same site packed by two tools, and packs of one publisher whose pages share a frame."""
    corpus, web = shared / "data" / "corpus", shared / "data" / "web"
    first = [web / "iah-2008-archive.org.arc.gz", *(corpus / f"carpentries-{name}.warc.gz" for name in ("git-novice", "lc-spreadsheets"))]
    second = [web / "iah-2008-archive.org.warc.gz", *(corpus / f"carpentries-{name}.warc.gz" for name in ("r-novice-gapminder", "spreadsheet-ecology-lesson"))]
    rules = {**NEAR, "pages__min_images": 0, "dedup__max_image_url_documents": 0}
    build_here(first, tmp_path / "set", **rules)
    build_here(second, tmp_path / "more", extends=[str(tmp_path / "set")], **rules)
    known, new = documents(tmp_path / "set"), documents(tmp_path / "more")
    crawls_in_order = [tmp_path / f"{number}-{path.name}" for number, path in enumerate([*first, *second])]
    for link, path in zip(crawls_in_order, [*first, *second], strict=True):
        link.symlink_to(path)
    build_here(crawls_in_order, tmp_path / "both", **rules)
    assert sorted(documents(tmp_path / "both").values()) == sorted([*known.values(), *new.values()])
    report = read_json(tmp_path / "more" / "report.json")
    assert len(new) > 10 and report["documents"]["dropped"][Reason.DUPLICATE_URL] > 10


def test_the_survivor_of_a_duplicate_is_the_known_one(tmp_path: Path) -> None:
    a, b = crawls(tmp_path)
    build_here([a], tmp_path / "set")
    build_here([b], tmp_path / "more", extends=[str(tmp_path / "set")], keep_rejects=True, **NEAR)
    known = {document.page_url: document.key for document in ShardSet([tmp_path / "set"])}
    rows = {row["page_url"]: (row["reason"], row["detail"]) for row in read_rejects(tmp_path / "more", "b.warc.gz") if row["kind"] == "document"}
    assert rows["https://a.example/0"] == (Reason.DUPLICATE_URL, known["https://a.example/0"])
    assert rows["https://b.example/1"] == (Reason.DUPLICATE_CONTENT, known["https://a.example/1"])
    assert rows["https://b.example/2"] == (Reason.NEAR_DUPLICATE, known["https://a.example/2"])


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.integers(0, 3), st.booleans()), min_size=1, max_size=12), st.integers(1, 9), st.integers(1, 9))
def test_known_documents_come_first_and_stay(pages: list, group: int, partition: int) -> None:
    """The pass with a known corpus drops what one over both drops of the new one, whatever the sizes of groups; no list names a known document.

    Known documents are here alike to no other known one, as those of a set that was deduplicated are.
    """
    config = DedupConfig(near=NearConfig(bands=112, rows=1), image_set=False, paragraphs=False, max_image_url_documents=0, group_documents=group, partition_documents=partition)
    made = [
        Extracted(" ".join(changed(words(topic), number) if near else words(topic)), f"https://s.example/{url}", f"{file}.warc.gz", number, ())
        for number, (file, topic, url, near) in enumerate(pages)
    ]  # fmt: skip
    with TemporaryDirectory() as name:
        alone = Path(name) / "alone"
        kept = [document for document in made if document.file == "a.warc.gz"]
        if kept:
            find_duplicates(write_corpus(alone, kept), config)
            kept = [document for document in kept if document.key not in read_lists(alone)]
        new = [document for document in made if document.file == "b.warc.gz"]
        find_duplicates(write_corpus(Path(name) / "both", [*kept, *new]), config)
        folder = write_corpus(Path(name) / "extended", [replace(document, file="b.warc.gz") for document in new])
        if not new:
            return
        for number, document in enumerate(kept[::-1]):  # in any order
            write_split(Path(name) / "known" / f"{number:06d}.parquet", [document])
        report = find_duplicates(folder, config, known=Path(name) / "known")
        own = {document.key for document in new}
        strip = {key: row["reason"] for key, row in read_lists(folder).items()}
        assert strip == {key: row["reason"] for key, row in read_lists(Path(name) / "both").items() if key in own}
        assert report["documents"]["in"] == len(new) and set(strip) <= own


def test_known_documents_that_are_like_each_other_all_stay(tmp_path: Path) -> None:
    """Two sets may share addresses: what is like the second of two is dropped all the same."""
    write_split(tmp_path / "known" / "0.parquet", [Extracted(" ".join(words(1)), "https://s.example/same", "k.warc.gz", 0)])
    write_split(tmp_path / "known" / "1.parquet", [Extracted(" ".join(words(2)), "https://s.example/same", "k.warc.gz", 0)])
    new = [Extracted(" ".join(words(2)), "https://s.example/new", "b.warc.gz", 0), Extracted(" ".join(changed(words(2), 1)), "https://s.example/newer", "b.warc.gz", 1)]
    find_duplicates(write_corpus(tmp_path, new), DedupConfig(), known=tmp_path / "known")
    assert [row["reason"] for row in read_lists(tmp_path).values()] == [Reason.DUPLICATE_CONTENT, Reason.NEAR_DUPLICATE]


def test_images_of_known_documents_count_towards_the_limit(tmp_path: Path) -> None:
    icon = ("https://i.example/icon.png",)
    write_split(tmp_path / "known" / "0.parquet", [Extracted(" ".join(words(n)), f"https://s.example/{n}", "k.warc.gz", n, icon) for n in range(3)])
    write_corpus(tmp_path, [Extracted(" ".join(words(9)), "https://s.example/9", "b.warc.gz", 0, icon)])
    report = find_duplicates(tmp_path, DedupConfig(max_image_url_documents=3), known=tmp_path / "known")
    assert [row["images"] for row in read_lists(tmp_path).values()] == [[0]]
    assert report["images"]["image_url"] == {"in": 1, "dropped": 1, "values": 1}


def test_a_set_extended_by_its_own_crawl_gives_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture, run: Run) -> None:
    a, _ = crawls(tmp_path)
    build_here([a], tmp_path / "set")
    (record,) = build_here([a], tmp_path / "more", extends=[str(tmp_path / "set")])
    assert record["documents"] == {"in": 6, Reason.DUPLICATE_URL: 6} and record["shards"] == []
    result = run("python", "-m", "lcl.cli", "build-shards", "--crawl", a, "--output", tmp_path / "as_command", "--extends", tmp_path / "set", "--executor", "here")
    assert result.returncode == 0 and "nothing is new: 6 of 6 pages are in" in result.stdout + result.stderr, result.stderr


def test_selections_and_several_sets_can_be_extended(tmp_path: Path) -> None:
    a, b = crawls(tmp_path)
    build_here([a], tmp_path / "set", shard_documents=2)
    select_documents(SelectConfig(shards=(str(tmp_path / "set"),), where="page_url != 'https://a.example/1'", output=str(tmp_path / "picked")))
    build_here([b], tmp_path / "more", extends=[str(tmp_path / "picked")], **NEAR)
    assert "https://b.example/1" in {document.page_url for document in ShardSet([tmp_path / "more"])}, "what the selection left out is not known"
    build_here([b], tmp_path / "most", extends=[str(tmp_path / "picked"), str(tmp_path / "more")], **NEAR)
    assert not list((tmp_path / "most").glob("*.tar"))


def test_another_set_is_refused_and_the_same_one_elsewhere_is_not(tmp_path: Path) -> None:
    a, b = crawls(tmp_path)
    build_here([a], tmp_path / "set")
    build_here([b], tmp_path / "more", extends=[str(tmp_path / "set")], max_failed_crawls=1.0)
    origin = find_shards([tmp_path / "more"])[0].sidecar["origin"]
    assert origin["extends"] == ShardSet([tmp_path / "set"]).fingerprint
    build_here([b], tmp_path / "without")
    assert "extends" not in find_shards([tmp_path / "without"])[0].sidecar["origin"]
    (tmp_path / "set").rename(tmp_path / "moved")
    build_here([b], tmp_path / "more", extends=[str(tmp_path / "moved")], max_failed_crawls=1.0)
    made_set(tmp_path / "moved", [made_document(3)])
    for extends in ([str(tmp_path / "moved")], []):
        with pytest.raises(ValueError, match="has another --extends"):
            build_here([b], tmp_path / "more", extends=extends, max_failed_crawls=1.0)
    with pytest.raises(ValueError, match="is one of --extends"):
        build_here([b], tmp_path / "moved", extends=[str(tmp_path / "moved")])
    with pytest.raises(ValueError, match="no such folder of shards"):
        build_here([b], tmp_path / "new", extends=[str(tmp_path / "missing")])
    assert not (tmp_path / "new").exists()


def test_an_interrupted_build_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the first table of known documents, then while duplicates are looked for."""
    a, b = crawls(tmp_path)
    build_here([a], tmp_path / "set", shard_documents=2)
    extends = [str(tmp_path / "set")]
    build_here([b], tmp_path / "whole", extends=extends, **NEAR)

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    done: list[Path] = []

    def first_only(shard: object, path: Path, signature: SignatureConfig) -> dict[str, int]:
        if done:
            raise Killed
        done.append(path)
        return list_known(shard, path, signature)

    output = tmp_path / "more"
    for name, function in (("list_known", first_only), ("find_duplicates", killed), ("assemble_and_publish", killed)):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(run_splits, name, function)
            build_here([b], output, extends=extends, **NEAR)
    (table,) = done
    state = table.stat().st_mtime_ns
    build_here([b], output, extends=extends, **NEAR)
    assert table.stat().st_mtime_ns == state
    assert built_bytes(output) == built_bytes(tmp_path / "whole") and len(built_bytes(output)) >= 5


def test_the_table_of_a_shard_says_what_its_documents_are(tmp_path: Path) -> None:
    items = [made_document(number) for number in range(10)]
    shard = find_shards([made_set(tmp_path / "set", items, per_shard=10)])[0]
    assert list_known(shard, tmp_path / "table.parquet", SignatureConfig()) == {"documents": 10}
    rows = list(read_rows(tmp_path / "table.parquet"))
    assert [(row["key"], row["text_hash"].hex()) for row in rows] == [(item.key, text_hash(item)) for item in items]
    assert [row["image_urls"] for row in rows] == [[image.metadata.url for image in item.images] for item in items]
    table = shard.catalogue(["offset", "length"])
    for offset, length, item in zip(table["offset"].to_pylist(), table["length"].to_pylist(), items, strict=True):
        assert item.key.encode() in read_last_member(shard.tar, offset=offset, length=length)


def test_a_damaged_set_is_named(tmp_path: Path) -> None:
    _, b = crawls(tmp_path)
    made_set(tmp_path / "set", [made_document(number) for number in range(4)])
    (tar,) = (tmp_path / "set").glob("*.tar")
    tar.write_bytes(b"x" * tar.stat().st_size)
    with pytest.raises(InputUnreadable, match="made-00000 of --extends cannot be read"):
        list_known(find_shards([tmp_path / "set"])[0], tmp_path / "table.parquet", SignatureConfig())
    with pytest.raises(ValueError, match=r"made-00000 of --extends cannot be read \(not a readable tar.*lcl verify"):
        build_here([b], tmp_path / "more", extends=[str(tmp_path / "set")])
