"""The whole pass against a plain version: what it drops, whatever its parts, its order, its workers and its interruptions."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lcl.core.rejected import Reason
from pipeline.addresses import normal_url
from pipeline.dedup.find_duplicates import find_duplicates
from pipeline.dedup.settings import ContaminationConfig, DedupConfig, NearConfig
from pipeline.dedup.signature import SignatureConfig
from pipeline.dedup.steps import Task, in_process, on_ray
from tests.made_corpora import Extracted, read_lists, result_bytes, write_corpus, write_split

EXHAUSTIVE = NearConfig(bands=112, rows=1, max_bucket=10_000)  # a pair at Jaccard 0.8 is missed once in 5 * 10^78
EVALUATED = "evaluated words that nobody else would write in a row of so many"
FEW = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module", autouse=True)
def without_fsync() -> Iterator[None]:
    """No power is cut here, and the waits for the disk would be nine tenths of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def plain(documents: Sequence[Extracted], config: DedupConfig, evaluated: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """What the lists must say, by definitions alone: sets of word tuples, all pairs, dictionaries."""
    ordered = sorted(documents, key=lambda document: (document.file, document.offset))
    dropped: dict[int, tuple[Reason, int | None]] = {}

    def drop_later(stage_values: dict[int, Any], reason: Reason) -> None:
        first: dict[Any, int] = {}
        for number, value in stage_values.items():
            kept = first.setdefault(value, number)
            if kept != number:
                dropped[number] = (reason, kept)

    def left() -> list[int]:
        return [number for number in range(len(ordered)) if number not in dropped]

    length = config.contamination.ngram_words
    runs = {tuple(text.split()[at : at + length]) for text in evaluated for at in range(len(text.split()) - length + 1)}
    for number, document in enumerate(ordered):
        words = document.text.split()
        if any(tuple(words[at : at + length]) in runs for at in range(len(words) - length + 1)):
            dropped[number] = (Reason.CONTAMINATED, None)
    drop_later({number: normal_url(ordered[number].url) for number in left()}, Reason.DUPLICATE_URL)
    drop_later({number: ordered[number].text for number in left()}, Reason.DUPLICATE_CONTENT)
    drop_later(plain_components(ordered, left(), config.near.jaccard), Reason.NEAR_DUPLICATE)
    holders = defaultdict(set)
    for number in left():
        for url in ordered[number].images:
            holders[url].add(number)
    frequent = {url for url, numbers in holders.items() if len(numbers) > config.max_image_url_documents}
    sets = {number: frozenset(ordered[number].images) - frequent for number in left()}
    drop_later({number: images for number, images in sets.items() if images}, Reason.SAME_IMAGE_SET)
    seen: set[tuple[str, str]] = set()
    rows = {}
    for number, document in enumerate(ordered):
        row: dict[str, Any] = {"key": document.key, "reason": None, "kept": None, "paragraphs": [], "images": []}
        if number in dropped:
            reason, kept = dropped[number]
            row |= {"reason": reason, "kept": None if kept is None else ordered[kept].key}
        else:
            row["images"] = [place for place, url in enumerate(document.images) if url in frequent]
            for place, paragraph in enumerate(document.text.split("\n\n") if document.text else []):
                identity = (normal_url(document.url).partition("/")[0], paragraph)
                if identity in seen:
                    row["paragraphs"].append(place)
                seen.add(identity)
        if number in dropped or row["paragraphs"] or row["images"]:
            rows[document.key] = row
    return rows


def plain_components(documents: Sequence[Extracted], numbers: Sequence[int], threshold: float) -> dict[int, int]:
    """Label of each document's component of near-duplicates: its first member."""
    shingles = {}
    for number in numbers:
        words = documents[number].text.split()
        shingles[number] = {tuple(words[at : at + 5]) for at in range(len(words) - 4)} or ({tuple(words)} if words else set())
    labels = {number: number for number in numbers}
    for ours in numbers:
        for theirs in numbers:
            union = shingles[ours] | shingles[theirs]
            if union and len(shingles[ours] & shingles[theirs]) / len(union) >= threshold:
                low, high = sorted((labels[ours], labels[theirs]))
                labels = {number: low if label == high else label for number, label in labels.items()}
    return labels


@st.composite
def corpora(draw: st.DrawFn) -> list[Extracted]:
    """Small corpora in which most relations occur: copies with a few changed words, shared paragraphs, addresses and images."""
    num = draw(st.integers(1, 14))
    documents = []
    for offset in range(num):
        topic = draw(st.integers(0, 2))
        size = draw(st.sampled_from([0, 3, 24, 48, 48, 48]))
        words = [f"t{topic}w{at}" for at in range(size)]
        for at in draw(st.lists(st.integers(0, 47), max_size=2)):
            if at < size:
                words[at] = f"x{draw(st.integers(0, 3))}"
        if size == 48 and draw(st.integers(0, 7)) == 0:
            words[20:20] = EVALUATED.split()
        halves = [" ".join(words[:24]), " ".join(words[24:])]
        text = "\n\n".join(half for half in halves if half)
        url = f"https://s{draw(st.integers(0, 1))}.org/{draw(st.sampled_from([offset, offset, offset, 'same']))}"
        images = tuple(f"https://i.org/{number}.jpg" for number in draw(st.lists(st.integers(0, 5), max_size=3)))
        documents.append(Extracted(text, url, draw(st.sampled_from(["a.warc.gz", "b.warc.gz", "c.warc.gz"])), offset, images))
    return documents


@FEW
@given(corpora(), st.integers(1, 20), st.integers(1, 20), st.integers(1, 4))
def test_the_pass_drops_what_the_definitions_say(documents: list[Extracted], group: int, partition: int, row_group: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "evaluation.txt").write_text(f"too short\n\n{EVALUATED}\n")
        config = DedupConfig(
            near=EXHAUSTIVE, max_image_url_documents=2, group_documents=group, partition_documents=partition,
            contamination=ContaminationConfig(texts=(str(folder / "evaluation.txt"),), ngram_words=8),
        )  # fmt: skip
        report = find_duplicates(write_corpus(folder, documents, row_group_size=row_group), config)
        expected = plain(documents, config, [EVALUATED])
        assert read_lists(folder) == expected
        reasons = [row["reason"] for row in expected.values() if row["reason"]]
        by_reason = {reason: reasons.count(reason) for reason in set(reasons)}
        assert report["documents"] == {"in": len(documents), "out": len(documents) - len(reasons), "dropped": by_reason}
        assert report["evaluation_texts"] == {"ngrams": len(EVALUATED.split()) - 7, "too_short": 1}
        assert sorted(path.name for path in (folder / "dedup").iterdir()) == ["frequent_image_url.parquet", "lists", "report.json"]


def made_document(number: int) -> Extracted:
    """Eight topics, one of them with nine documents; those of a topic differ in one word of 150 and in a page number."""
    topic = number % 8 if number < 24 else 0
    words = " ".join("changed" if at == 4 * number else f"t{topic}w{at}" for at in range(150))
    images = tuple(f"https://i.org/{image}.png" for image in range(number % 4))
    return Extracted(f"{words}\n\nOur address\n\nPage {number // 2}", f"https://s{number % 2}.org/{number}", f"{'abc'[number % 3]}.warc.gz", 100 * number, images)


CORPUS = [made_document(number) for number in range(30)]
CONFIG = DedupConfig(near=NearConfig(bands=28, rows=4, max_bucket=4, neighbours=2), max_image_url_documents=6)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = write_corpus(tmp_path_factory.mktemp("undisturbed"), CORPUS)
    report = find_duplicates(folder, CONFIG)
    assert len(report["documents"]["dropped"]) >= 2 and report["near_duplicates"]["large_buckets"] > 0 and report["paragraphs"]["dropped"] > 0
    return result_bytes(folder)


@pytest.mark.parametrize(("group", "partition"), [(1, 1), (7, 3), (30, 100), (4, 30)])
def test_groups_and_partitions_do_not_change_a_byte(tmp_path: Path, undisturbed: dict[str, bytes], group: int, partition: int) -> None:
    write_corpus(tmp_path, CORPUS[::-1])
    find_duplicates(tmp_path, replace(CONFIG, group_documents=group, partition_documents=partition), runner=backwards)
    assert result_bytes(tmp_path) == undisturbed


def backwards(task: Task, shared: Any, indices: Sequence[int]) -> Iterator[tuple[int, Any]]:
    return in_process(task, shared, indices[::-1])


class Killed(BaseException):
    """As sudden as a kill for the code under test: nothing in it catches one."""


def test_a_pass_that_is_killed_between_any_two_tasks_goes_on(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """Killed before each task in turn, and behind each one before its marker is written; then continued to the end, with nothing temporary left."""
    config = replace(CONFIG, group_documents=11, partition_documents=16)
    write_corpus(tmp_path, CORPUS)
    for kill_behind in (False, True):
        kills = 0
        while True:
            budget = 1 if kills else 0

            def runner(task: Task, shared: Any, indices: Sequence[int]) -> Iterator[tuple[int, Any]]:
                nonlocal budget
                for index in indices:
                    if isinstance(shared, tuple):  # splits are inspected at each start
                        yield index, task(shared, index)
                        continue
                    if not kill_behind and not budget:
                        raise Killed
                    result = task(shared, index)
                    if kill_behind and not budget:
                        raise Killed
                    budget -= 1
                    yield index, result

            try:
                find_duplicates(tmp_path, config, runner=runner)
                break
            except Killed:
                kills += 1
        assert kills > 15
        assert result_bytes(tmp_path) == undisturbed
        if not kill_behind:
            for path in sorted((tmp_path / "dedup").rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()


def test_two_workers_of_ray_give_the_same_bytes(tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    write_corpus(tmp_path / "good", CORPUS)
    write_corpus(tmp_path / "bad", CORPUS)
    (tmp_path / "bad" / "extracted" / "b.parquet").write_bytes(b"torn")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    try:
        find_duplicates(tmp_path / "good", replace(CONFIG, group_documents=16, partition_documents=20), runner=on_ray)
        with pytest.raises(ValueError, match="b.parquet"):
            find_duplicates(tmp_path / "bad", CONFIG, runner=on_ray)
    finally:
        ray.shutdown()
    assert result_bytes(tmp_path / "good") == undisturbed


def test_a_pass_that_is_done_is_not_redone_and_another_one_is_refused(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    write_corpus(tmp_path, CORPUS)
    find_duplicates(tmp_path, CONFIG)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "dedup").rglob("*")}
    find_duplicates(tmp_path, replace(CONFIG, group_documents=3))
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "dedup").rglob("*")}
    with pytest.raises(ValueError, match="other settings; remove the folder"):
        find_duplicates(tmp_path, replace(CONFIG, exact_url=False))
    write_split(tmp_path / "extracted" / "d.parquet", [Extracted("new", "https://d.org/", "d.warc.gz")])
    with pytest.raises(ValueError, match="other splits; remove the folder"):
        find_duplicates(tmp_path, CONFIG)
    assert result_bytes(tmp_path) == undisturbed


def test_an_interrupted_pass_is_not_continued_with_other_settings(tmp_path: Path) -> None:
    def dies(task: Task, shared: Any, indices: Sequence[int]) -> Iterator[tuple[int, Any]]:
        for index, result in in_process(task, shared, indices):
            if not isinstance(shared, tuple):
                raise Killed
            yield index, result

    write_corpus(tmp_path, CORPUS)
    with pytest.raises(Killed):
        find_duplicates(tmp_path, CONFIG, runner=dies)
    with pytest.raises(ValueError, match="other group documents; remove the folder"):
        find_duplicates(tmp_path, replace(CONFIG, group_documents=3))
    find_duplicates(tmp_path, CONFIG)


def test_images_of_one_hash_are_capped_whatever_their_address(tmp_path: Path) -> None:
    """The same bytes under many addresses; hashes that are not known (null) have a place and no count. data: addresses are dropped, not listed."""
    icon = "data:image/gif;base64,R0lGODlhAQABAAAAACw="
    documents = [
        Extracted(
            f"text {number} of its own", f"https://a.org/{number}", offset=number, images=(f"https://i.org/{number}.jpg", icon, "https://I.org/logo.png"),
            hashes=("AB" * 32, None, "cd" * 32),
        )
        for number in range(4)
    ]  # fmt: skip
    folder = write_corpus(tmp_path, documents, with_hashes=True)
    report = find_duplicates(folder, DedupConfig(max_image_url_documents=3, max_image_hash_documents=3))
    assert all(row["images"] == [0, 1, 2] and row["reason"] is None for row in read_lists(folder).values()) and len(read_lists(folder)) == 4
    assert pq.read_table(folder / "dedup" / "frequent_image_url.parquet").to_pylist() == [{"value": "i.org/logo.png", "documents": 4}]
    hashes = pq.read_table(folder / "dedup" / "frequent_image_sha256.parquet").to_pylist()
    assert hashes == [{"value": "ab" * 32, "documents": 4}, {"value": "cd" * 32, "documents": 4}]
    assert report["images"] == {"image_url": {"in": 12, "dropped": 8, "values": 2}, "image_sha256": {"in": 8, "dropped": 8, "values": 2}}


def test_everything_can_be_switched_off(tmp_path: Path) -> None:
    config = DedupConfig(
        exact_url=False, exact_text=False, near=NearConfig(on=False), image_set=False, paragraphs=False, max_image_url_documents=0, max_image_hash_documents=0
    )
    folder = write_corpus(tmp_path, [*CORPUS, *(replace(document, file="z.warc.gz") for document in CORPUS)])
    assert find_duplicates(folder, config)["documents"] == {"in": 60, "out": 60, "dropped": {}}
    assert not read_lists(folder) and len(list((folder / "dedup" / "lists").iterdir())) == 4


def test_splits_without_documents_have_lists_without_rows(tmp_path: Path) -> None:
    write_split(tmp_path / "extracted" / "empty.parquet", [])
    assert find_duplicates(tmp_path, DedupConfig())["documents"] == {"in": 0, "out": 0, "dropped": {}}
    assert pq.read_table(tmp_path / "dedup" / "lists" / "empty.parquet").num_rows == 0


def page(offset: int, file: str = "a.warc.gz") -> Extracted:
    return Extracted(f"page {offset}", f"https://a.org/{offset}", file, offset)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    extracted = tmp_path / "extracted"
    with pytest.raises(ValueError, match="holds no extracted split"):
        find_duplicates(tmp_path, DedupConfig())
    write_split(extracted / "a.parquet", [page(0), page(20)])
    with pytest.raises(ValueError, match=r"takes 120 MinHash values, the extracted documents have 112.*num_hashes"):
        find_duplicates(tmp_path, DedupConfig(near=NearConfig(bands=15)))
    with pytest.raises(ValueError, match="nothing.txt: no such file of evaluation texts"):
        find_duplicates(tmp_path, DedupConfig(contamination=ContaminationConfig(texts=("nothing.txt",))))
    assert not (tmp_path / "dedup").exists()
    cases = [
        ([page(5), page(3)], {}, "a.warc.gz.*3.*stands behind.*5"),
        ([page(10)], {}, "splits a and b in .* overlap"),
        ([page(0, "b.warc.gz")], {"settings": SignatureConfig(num_hashes=8)}, "different signature"),
        ([page(0, "b.warc.gz")], {"with_hashes": True}, "different image_hashes"),
    ]
    for documents, options, message in cases:
        write_split(extracted / "b.parquet", documents, **options)
        with pytest.raises(ValueError, match=message):
            find_duplicates(tmp_path, DedupConfig())
    table = pq.read_table(extracted / "a.parquet")
    pq.write_table(table.drop_columns(["text", "domain"]), extracted / "b.parquet")
    with pytest.raises(ValueError, match="b.parquet: it has no column domain, text"):
        find_duplicates(tmp_path, DedupConfig())
    pq.write_table(table.replace_schema_metadata().cast(pa.schema([field.remove_metadata() for field in table.schema])), extracted / "b.parquet")
    with pytest.raises(ValueError, match="b.parquet: signatures of version none"):
        find_duplicates(tmp_path, DedupConfig())
    (extracted / "b.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(ValueError, match="b.parquet"):
        find_duplicates(tmp_path, DedupConfig())


@pytest.mark.parametrize("line", ["17", '{"caption": "a"}', "{", '{"text": 3}'])
def test_evaluation_texts_that_are_none_are_named(tmp_path: Path, line: str) -> None:
    write_split(tmp_path / "extracted" / "a.parquet", [page(0)])
    (tmp_path / "texts.jsonl").write_text(f'"a string"\n{{"text": "an object"}}\n{line}\n')
    with pytest.raises(ValueError, match="texts.jsonl, line 3: no evaluation text"):
        find_duplicates(tmp_path, DedupConfig(contamination=ContaminationConfig(texts=(str(tmp_path / "texts.jsonl"),))))
