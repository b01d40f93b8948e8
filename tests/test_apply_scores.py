"""Scores from outside: the matching against all permutations, texts untouched, nothing lost uncounted, the same bytes however it was run."""

import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lcl.core.document import Document, TextSegment, content_hash, from_members, to_members, with_summary
from lcl.core.files import read_json
from lcl.core.rejected import Reason
from lcl.core.scores import NO, commit_scores, find_scores, read_scores, score_rows, write_score_file
from lcl.core.shards import ShardSet
from lcl.core.text_units import Unit, joined, text_units
from pipeline.rejects import read_rejects
from pipeline.tools.applying import ApplyConfig, apply_to_set
from pipeline.tools.assignment import UNMATCHED, before_their_texts, match, nearest_texts
from pipeline.tools.removal import without_images
from pipeline.tools.selecting import SelectConfig, select_documents
from pipeline.tools.verify_shards import VerifyConfig
from pipeline.tools.verify_shards import main as verify
from pipeline.tools.viewer import ViewConfig, page_name, view_shards
from tests.conftest import Run, assert_one_line_error
from tests.kill_and_continue import leftovers, run_killed_at, steps_of
from tests.made_documents import document
from tests.made_shards import file_bytes, made_document, made_image, made_set

TEXT = st.lists(st.text("ab.!?。」)\" ", min_size=1, max_size=30), min_size=1, max_size=4).map("\n\n".join)
VALUES = st.floats(-1, 1, width=32).map(lambda value: round(value, 3))
SIMILARITIES = st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(lambda shape: arrays(np.float64, shape, elements=VALUES))


def best_sum(similarities: np.ndarray, *, images_per_text: int) -> float:
    """The largest sum over all ways to give as many images as possible a text of their own, tried one by one."""
    columns = np.repeat(similarities, images_per_text, axis=1)
    wide = columns if columns.shape[0] <= columns.shape[1] else columns.T
    return max(wide[np.arange(len(wide)), list(chosen)].sum() for chosen in itertools.permutations(range(wide.shape[1]), len(wide)))


@given(SIMILARITIES, st.integers(1, 2))
def test_the_matching_is_the_best_of_all(similarities: np.ndarray, images_per_text: int) -> None:
    similarities = similarities[:, :4] if images_per_text == 2 else similarities
    found = match(similarities, images_per_text=images_per_text, least=None)
    matched = np.flatnonzero(found != UNMATCHED)
    assert len(matched) == min(len(similarities), images_per_text * similarities.shape[1])
    assert max(Counter(found[matched].tolist()).values()) <= images_per_text
    assert similarities[matched, found[matched]].sum() == pytest.approx(best_sum(similarities, images_per_text=images_per_text))


@given(SIMILARITIES, VALUES)
def test_images_that_are_near_no_text_take_no_place(similarities: np.ndarray, least: float) -> None:
    found = match(similarities, images_per_text=1, least=least)
    near = similarities.max(axis=1) >= least
    assert (found[~near] == UNMATCHED).all()
    assert np.array_equal(found[near], match(similarities[near], images_per_text=1, least=None))


def test_nearest_and_matched_differ_where_images_want_the_same_text() -> None:
    similarities = np.array([[0.9, 0.8], [0.8, 0.1]])
    assert nearest_texts(similarities).tolist() == [0, 0] and match(similarities, images_per_text=1, least=None).tolist() == [1, 0]
    assert match(similarities, images_per_text=2, least=None).tolist() == [0, 0]
    assert match(np.zeros((2, 0)), images_per_text=1, least=None).tolist() == [UNMATCHED] * 2 == nearest_texts(np.zeros((2, 0))).tolist()


@given(TEXT, st.sampled_from(["paragraph", "sentence"]))
def test_units_joined_give_the_text_back(text: str, unit: Unit) -> None:
    units = text_units(document(text), unit)
    assert joined(units) == text and (unit == "sentence" or [item.text for item in units] == text.split("\n\n"))


def test_sentences() -> None:
    units = text_units(document('One. Two!  "Three?" Four 3.5\n\nFive。「六。」七', made_image(0), "Eight"), "sentence")
    assert [item.text for item in units] == ["One.", "Two!", '"Three?"', "Four 3.5", "Five。", "「六。」", "七", "Eight"]


@given(TEXT, st.sampled_from(["paragraph", "sentence"]), st.data())
def test_texts_keep_their_order_around_assigned_images(text: str, unit: Unit, data: st.DataObject) -> None:
    units = text_units(document(text), unit)
    texts = data.draw(st.lists(st.integers(0, len(units) - 1), max_size=4))
    segments = before_their_texts([(made_image(number), place) for number, place in enumerate(texts)], units)
    assert [item for item in segments if item.kind == "image"] == [made_image(number) for number, _ in sorted(enumerate(texts), key=lambda item: item[1])]
    assert sum(item.kind == "text" for item in segments) == len({0, *texts})
    starts = sorted({0, *texts})
    assert [item.text for item in segments if item.kind == "text"] == [joined(units[low:high]) for low, high in zip(starts, [*starts[1:], len(units)], strict=True)]


# ---- sets of shards


def unordered(number: int) -> Document:
    """Document `number` with all its images behind its text, whose order is `none`."""
    made = made_document(number)
    return replace(made, segments=(TextSegment("\n\n".join(made.texts)), *made.images), order="none")


DOCUMENTS = [unordered(number) for number in range(21)]


def value_of(made: Document, image: int, text: int) -> float:
    """A number in [-1, 1) that only the document, the image and the text decide."""
    return random.Random(f"{made.key} {image} {text}").uniform(-1, 1)


def write_table(path: Path, documents: list[Document], *, kind: str = "pairs", unit: Unit = "paragraph") -> Path:
    tables = []
    for made in documents:
        texts = range(len(text_units(made, unit))) if kind == "pairs" else [NO]
        values = np.array([[value_of(made, image, text) for text in texts] for image in range(len(made.images))])
        tables.append(score_rows(made.key, values.reshape(len(made.images), len(texts)), texts=texts, content=content_hash(made)))
    write_score_file(path, tables)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    made_set(folder / "shards", DOCUMENTS)
    write_table(folder / "similarities.parquet", DOCUMENTS)
    write_table(folder / "nsfw.parquet", DOCUMENTS, kind="images")
    pages = pa.table({"key": [made.key for made in DOCUMENTS], "image": [NO] * 21, "text": [NO] * 21, "value": [number / 10 for number in range(21)]})
    pq.write_table(pages, folder / "fluency.parquet")
    return folder


def apply(source: Path, output: Path, **options: object) -> ShardSet:
    apply_to_set(ApplyConfig(shards=(str(source / "shards"),), output=str(output), **options))
    return ShardSet([output])


ALL = {"assign": "unordered", "min": ("similarity=-0.2",), "max": ("nsfw=0.7",)}


def all_options(source: Path) -> dict[str, object]:
    scores = (f"nsfw={source / 'nsfw.parquet'}", f"fluency={source / 'fluency.parquet'}")
    return {"similarities": str(source / "similarities.parquet"), "scores": scores, **ALL}


def test_what_came_in_came_out_or_is_counted_and_all_scores_are_kept(source: Path, tmp_path: Path) -> None:
    found = {made.key: made for made in apply(source, tmp_path / "b", **all_options(source))}
    report = read_json(tmp_path / "b" / "report.json")
    rejects = read_rejects(tmp_path / "b", "crawl.warc.gz")
    images = Counter(row["reason"] for row in rejects if row["image_url"])
    assert report["images"] == {"in": sum(len(made.images) for made in DOCUMENTS), "out": sum(len(made.images) for made in found.values()), "dropped": images}
    assert {Reason.IMAGE_SCORE} <= set(images) and report["documents"] == {"in": 21, "out": len(found), "dropped": {Reason.NO_IMAGES: 21 - len(found)}}
    assert report["images"]["in"] == report["images"]["out"] + images.total() and 0 < len(found) < 21
    checked = 0
    for number, made in enumerate(DOCUMENTS):
        if made.key not in found:
            continue
        became = found[made.key]
        assert became.order == "matched" and became.scores["fluency"] == pytest.approx(number / 10)
        assert "".join(became.texts).replace("\n\n", "") == "".join(made.texts).replace("\n\n", "")
        originals = {image.metadata.sha256: place for place, image in enumerate(made.images)}
        values = [image.metadata.similarity for image in became.images]
        for image in became.images:
            place = originals[image.metadata.sha256]
            assert image.metadata.similarity == pytest.approx(value_of(made, place, image.metadata.sentence), abs=1e-6)
            assert image.metadata.scores["nsfw"] == pytest.approx(value_of(made, place, NO), abs=1e-6)
            assert image.metadata.similarity >= -0.2 and image.metadata.scores["nsfw"] <= 0.7
            behind = became.segments[became.segments.index(image) + 1]
            assert behind.kind == "text" and behind.text.startswith(text_units(made, "paragraph")[image.metadata.sentence].text)
            checked += 1
        if values:
            assert (became.scores["similarity_min"], became.scores["similarity_max"]) == (min(values), max(values))
            assert became.scores["similarity_mean"] == pytest.approx(np.mean(values))
    assert checked > 5
    verify(VerifyConfig(shards=(str(tmp_path / "b"),), num_workers=1))
    view_shards(ViewConfig(shards=(str(tmp_path / "b"),), output=str(tmp_path / "pages"), num_documents=50))
    shown = next(image.metadata for made in found.values() for image in made.images)
    assert f"similarity {shown.similarity:.3f}, nsfw {shown.scores['nsfw']:.3f}" in (tmp_path / "pages" / page_name(1)).read_text()
    record = select_documents(SelectConfig(shards=(str(tmp_path / "b"),), where="score.similarity_mean >= 0.3", output=str(tmp_path / "picked")))
    assert record["documents"] == sum(made.scores.get("similarity_mean", -1) >= 0.3 for made in found.values()) > 0


def test_limits_are_raised_later_from_the_shards_alone(source: Path, tmp_path: Path) -> None:
    scores = all_options(source)
    apply(source, tmp_path / "kept", similarities=scores["similarities"], scores=scores["scores"])
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "shards").symlink_to(tmp_path / "kept")
    later = apply(tmp_path / "again", tmp_path / "later", min=("similarity=0.1",), max=("nsfw=0.5",), min_images=0)
    at_once = apply(source, tmp_path / "at_once", similarities=scores["similarities"], scores=scores["scores"], min=("similarity=0.1",), max=("nsfw=0.5",), min_images=0)
    assert [to_members(made) for made in later] == [to_members(made) for made in at_once]
    assert 0 < sum(len(made.images) for made in later) < sum(len(made.images) for made in ShardSet([tmp_path / "kept"])) == sum(len(made.images) for made in DOCUMENTS)


def test_without_assignment_the_order_stays(source: Path, tmp_path: Path) -> None:
    for name, assign in (("off", "off"), ("page", "unordered")):
        documents = DOCUMENTS if name == "off" else [made_document(number) for number in range(9)]
        made_set(tmp_path / name / "shards", documents)
        table = write_table(tmp_path / f"{name}.parquet", documents)
        for made, became in zip(documents, apply(tmp_path / name, tmp_path / f"{name}-out", similarities=str(table), assign=assign), strict=True):
            assert [item if item.kind == "text" else item.data for item in became.segments] == [item if item.kind == "text" else item.data for item in made.segments]
            assert became.order == made.order
            for place, image in enumerate(became.images):
                assert image.metadata.similarity == pytest.approx(max(value_of(made, place, text) for text in range(len(text_units(made, "paragraph")))), abs=1e-6)


def test_an_image_that_no_text_is_left_for(tmp_path: Path) -> None:
    base = made_document(1)
    crowded = replace(base, segments=(*(made_image(number) for number in range(4)), TextSegment("One.\n\nTwo.")), order="none")
    alone = replace(made_document(2), segments=(made_image(9),), order="none")
    made_set(tmp_path / "shards", [crowded, alone])
    table = str(write_table(tmp_path / "s.parquet", [crowded, alone]))
    for number, per_text in ((2, 1), (4, 2)):
        (became,) = apply(tmp_path, tmp_path / f"b{per_text}", similarities=table, assign="all", images_per_text=per_text)
        assert len(became.images) == min(4, number)
    assert read_json(tmp_path / "b1" / "report.json")["images"]["dropped"] == {Reason.IMAGE_UNMATCHED: 3}
    assert read_json(tmp_path / "b1" / "report.json")["documents"]["dropped"] == {Reason.NO_IMAGES: 1}


def test_the_same_bytes_with_any_workers_and_wherever_the_scores_lie(source: Path, tmp_path: Path) -> None:
    options = all_options(source)
    apply(source, tmp_path / "one", **options)
    apply(source, tmp_path / "two", num_workers=2, **options)
    folder = tmp_path / "scores"
    folder.mkdir()
    files = [write_table(folder / f"scores-{number}.parquet", DOCUMENTS[number * 8 : number * 8 + 8]) for number in range(3)]
    commit_scores(folder, files, {"kind": "pairs", "unit": "paragraph"})
    apply(source, tmp_path / "parts", **options | {"similarities": str(folder)})
    assert file_bytes(tmp_path / "one") == file_bytes(tmp_path / "two")
    assert [data for name, data in file_bytes(tmp_path / "one").items() if name.endswith((".tar", ".parquet"))] == [
        data for name, data in file_bytes(tmp_path / "parts").items() if name.endswith((".tar", ".parquet"))
    ]


def test_killed_and_run_again_gives_the_undisturbed_bytes(tmp_path: Path) -> None:
    documents = [unordered(number) for number in range(60)]
    made_set(tmp_path / "shards", documents, per_shard=3)
    options = {"similarities": str(write_table(tmp_path / "s.parquet", documents)), "assign": "all", "min": ("similarity=0",)}

    def code(output: Path) -> str:
        return f"from pipeline.tools.applying import ApplyConfig, apply_to_set; apply_to_set(ApplyConfig(shards=({str(tmp_path / 'shards')!r},), output={str(output)!r}, **{options!r}))"

    steps = steps_of(code(tmp_path / "undisturbed"), tmp_path / "undisturbed")
    expected, chance, partial = file_bytes(tmp_path / "undisturbed"), random.Random(0), 0
    for trial in range(2):
        output = tmp_path / f"trial-{trial}"
        run_killed_at(code(output), output, chance.randrange(steps // 8, steps))
        partial += 0 < len(list(output.glob("scored-*.json"))) < 20
        apply(tmp_path, output, **options)
        assert file_bytes(output) == expected and not leftovers(output)
    assert partial >= 1, "a run was cut in the middle"


@given(st.integers(1, 3), st.integers(1, 4), st.randoms(use_true_random=False))
def test_tables_keep_every_value_in_its_place(tmp_path_factory: pytest.TempPathFactory, images: int, texts: int, chance: random.Random) -> None:
    values = np.array([[round(chance.uniform(-1, 1), 4) for _ in range(texts)] for _ in range(images)])
    table = score_rows("a" * 32, values, texts=range(texts), content="c")
    order = list(range(len(table)))
    chance.shuffle(order)
    path = tmp_path_factory.getbasetemp() / "values.parquet"
    write_score_file(path, [table.take(order), score_rows("b" * 32, values[:1], texts=range(texts), content="c")])
    found = read_scores([path], ["a" * 32])
    assert list(found) == ["a" * 32] and np.array_equal(found["a" * 32].grid(range(images), range(texts)), values)  # not only nearly: see `grid`


def test_scores_of_images_survive_their_document_and_old_shards_stay_as_they_are() -> None:
    made = made_document(2)
    image = replace(made.images[0], metadata=replace(made.images[0].metadata, scores={"nsfw": 0.25}))
    assert from_members(to_members(replace(made, segments=(image,)))).images == [image]
    assert b'"similarity": null, "sentence": null}' in to_members(made)[-1][1]


def test_what_a_document_says_of_its_images_holds_after_a_removal() -> None:
    made = made_document(2)
    first, second = (replace(image, metadata=replace(image.metadata, similarity=value)) for image, value in zip(made.images, (0.1, 0.3), strict=True))
    scored = with_summary(replace(made, segments=(first, *made.segments[:1], second)), before=made)
    assert scored.scores == dict(made.scores) | {"similarity_min": 0.1, "similarity_mean": 0.2, "similarity_max": 0.3}
    assert without_images(scored, [0]).scores == dict(made.scores) | {"similarity_min": 0.3, "similarity_mean": 0.3, "similarity_max": 0.3}
    assert without_images(scored, [0, 1]).scores == made.scores


def shorter(source: Path, folder: Path) -> dict[str, object]:
    documents = [made if number != 4 else replace(made, segments=(TextSegment("One."), *made.images)) for number, made in enumerate(DOCUMENTS)]
    table = pq.read_table(write_table(folder / "s.parquet", documents)).drop_columns("content")
    pq.write_table(table, folder / "s.parquet")
    return {"similarities": str(folder / "s.parquet")}


def other_texts(source: Path, folder: Path) -> dict[str, object]:
    changed = replace(DOCUMENTS[4], segments=tuple(replace(item, text=item.text + "!") if item.kind == "text" else item for item in DOCUMENTS[4].segments))
    return {"similarities": str(write_table(folder / "s.parquet", [*DOCUMENTS[:4], changed, *DOCUMENTS[5:]]))}


def sentences(source: Path, folder: Path) -> dict[str, object]:
    path = write_table(folder / "scores-0.parquet", DOCUMENTS, unit="sentence")
    commit_scores(folder, [path], {"kind": "pairs", "unit": "sentence"})
    return {"similarities": str(folder)}


def damaged(source: Path, folder: Path) -> dict[str, object]:
    options = sentences(source, folder)
    with open(folder / "scores-0.parquet", "ab") as file:
        file.write(b"x")
    return options


def not_finite(source: Path, folder: Path) -> dict[str, object]:
    table = pq.read_table(source / "nsfw.parquet")
    pq.write_table(table.set_column(3, "value", pa.array([np.nan] * len(table), pa.float32())), folder / "n.parquet")
    return {"scores": (f"nsfw={folder / 'n.parquet'}",)}


def no_columns(source: Path, folder: Path) -> dict[str, object]:
    pq.write_table(pa.table({"key": ["a"], "value": [1.0]}), folder / "n.parquet")
    return {"scores": (f"nsfw={folder / 'n.parquet'}",)}


KEY = DOCUMENTS[4].key


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda source, folder: {"similarities": str(write_table(folder / "s.parquet", DOCUMENTS[:4]))}, f"document {KEY} .* has no scores in similarity: score this set"),
        (shorter, f"document {KEY} .*similarity has 1 scores that are not one for each of 1 images and 2 texts; they are of another set"),
        (other_texts, f"document {KEY} .* has other texts or images than were scored as similarity"),
        (lambda source, folder: {"similarities": str(write_table(folder / "s.parquet", [made_document(99, num_images=1)]))}, "has no scores of any document of --shards"),
        (sentences, "was made for each sentence: give --unit sentence"),
        (damaged, "scores-0.parquet is missing or damaged"),
        (not_finite, "nsfw has a score that is no finite number"),
        (no_columns, "has no column image, text; scores have key, image, text, value"),
        (lambda source, folder: {"similarities": str(folder)}, "holds no scores: it is no parquet file, nor a folder with a scores.json"),
        (lambda source, folder: {"similarities": str(source / "shards" / "made-00000.tar")}, "is no parquet file"),
        (lambda source, folder: {"similarities": str(source / "nsfw.parquet")}, "holds scores of images: give it as --scores NAME=PATH"),
        (lambda source, folder: {"scores": (f"a={source / 'similarities.parquet'}",)}, "holds scores of pairs: give it as --similarities"),
        (lambda source, folder: {"scores": ("nsfw",)}, "--scores 'nsfw' is not NAME=PATH"),
        (lambda source, folder: {"scores": ("a_min=x",)}, "names in _min, _mean, _max are for documents"),
        (lambda source, folder: {"max": ("nsfw=many",)}, "--max nsfw=many: 'many' is no number"),
        (lambda source, folder: {"max": ("nsfw=0.1", "nsfw=0.2")}, "--max names nsfw twice"),
        (lambda source, folder: {"max": ("nsfw=0.1",), "min": ("nsfw=0.2",)}, "no image is between"),
        (lambda source, folder: {"max": ("nsfw=0.1",)}, "has an image without the score nsfw.*give --scores nsfw=PATH"),
        (lambda source, folder: {"min": ("similarity=0.1",)}, "has an image without the score similarity.*give --similarities PATH"),
        (lambda source, folder: {"assign": "all"}, "--assign all needs --similarities"),
        (lambda source, folder: {}, "nothing to apply"),
    ],
)  # fmt: skip
def test_mistakes_are_refused(source: Path, tmp_path: Path, mistake: Callable[[Path, Path], dict[str, object]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply(source, tmp_path / "b", **mistake(source, tmp_path))


def test_an_output_with_other_scores_is_refused(source: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "s.parquet", DOCUMENTS)
    apply(source, tmp_path / "b", similarities=str(table))
    pq.write_table(pq.read_table(table).drop_columns("content"), table)
    with pytest.raises(ValueError, match="holds scored shards of other documents or settings"):
        apply(source, tmp_path / "b", similarities=str(table))
    apply(source, tmp_path / "c", similarities=str(table), min=("similarity=0.5",))
    for path in (tmp_path / "c" / "rejects").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="are in rejects/: it was changed"):
        apply(source, tmp_path / "c", similarities=str(table), min=("similarity=0.5",))


def test_a_file_of_scores_without_any_is_named(tmp_path: Path) -> None:
    write_score_file(tmp_path / "s.parquet", [])
    with pytest.raises(ValueError, match="s.parquet holds no score"):
        find_scores(tmp_path / "s.parquet")


def test_as_a_command(run: Run, source: Path, tmp_path: Path) -> None:
    words = ("python", "-m", "lcl.cli", "apply-scores", "--shards", source / "shards", "--output", tmp_path / "b", "--similarities", source / "similarities.parquet")
    result = run(*words, "--assign", "unordered", "--min", "similarity=0.2", "--scores", f"nsfw={source / 'nsfw.parquet'}", "--max", "nsfw=0.9")
    assert result.returncode == 0, result.stderr
    assert "of 21 images; left out: " in result.stdout and "image_score" in result.stdout and "3 shards: " in result.stdout
    assert_one_line_error(run(*words), "other documents or settings")
