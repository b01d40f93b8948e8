"""Conditions on documents: equal to plain Python over the rows, and clear where they have no meaning."""

import operator

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcl.core.shards import CATALOGUE, catalogue_row
from pipeline.tools.where import Condition, score_names
from tests.made_shards import made_document

DOCUMENTS = [made_document(number) for number in range(20)]
ROWS = [catalogue_row(document, offset=0, length=0) for document in DOCUMENTS]
TABLE = pa.Table.from_pylist(ROWS, schema=CATALOGUE)


def chosen(text: str, table: pa.Table = TABLE) -> list[int]:
    return [number for number, met in enumerate(Condition(text)(table)) if met]


def score(row: dict, name: str) -> float:
    return dict(row["scores"]).get(name, float("nan"))


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("score.language_rank < 900 and num_images >= 2 and domain != 'd1.example'",
         lambda row: score(row, "language_rank") < 900 and row["num_images"] >= 2 and row["domain"] != "d1.example"),
        ("2 <= num_images + 1 < 3", lambda row: 2 <= row["num_images"] + 1 < 3),
        ("not (domain == 'd0.example' or language in ('en', 'de'))", lambda row: not (row["domain"] == "d0.example" or row["language"] in ("en", "de"))),
        ("'/1' in page_url", lambda row: "/1" in row["page_url"]),
        ("'/1' not in page_url", lambda row: "/1" not in row["page_url"]),
        ("num_images not in (0, 2)", lambda row: row["num_images"] not in (0, 2)),
        ("license == '' and key > '8'", lambda row: row["license"] == "" and row["key"] > "8"),
        ("score.words / num_images > 4", lambda row: row["num_images"] == 0 and score(row, "words") > 0 or row["num_images"] > 0 and score(row, "words") / row["num_images"] > 4),
        ("-score.words < -(10 - 2)", lambda row: -score(row, "words") < -8),
        ("True", lambda row: True),
        ("False or num_characters > 30", lambda row: row["num_characters"] > 30),
    ],
)  # fmt: skip
def test_a_condition_is_what_python_says_of_each_row(text: str, plain: object) -> None:
    expected = [number for number, row in enumerate(ROWS) if plain(row)]
    assert chosen(text) == expected
    assert sorted(chosen(text) + chosen(f"not ({text})")) == list(range(20)), "a condition and its opposite are everything"


@pytest.mark.parametrize("comparison", ["<", "<=", ">", ">=", "==", "!="])
def test_a_score_that_is_missing_meets_no_comparison(comparison: str) -> None:
    without = [number for number, row in enumerate(ROWS) if "language_rank" not in dict(row["scores"])]
    assert without and not set(chosen(f"score.language_rank {comparison} 500")) & set(without)
    assert not set(chosen(f"500 {comparison} score.language_rank")) & set(without)


OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne}


@given(st.sampled_from(sorted(OPERATORS)), st.integers(-1, 3), st.sampled_from(["and", "or"]), st.sampled_from(sorted(OPERATORS)), st.integers(0, 200))
def test_combinations_of_comparisons(first: str, images: int, joined: str, second: str, characters: int) -> None:
    text = f"num_images {first} {images} {joined} num_characters {second} {characters}"
    both = all if joined == "and" else any
    expected = [n for n, row in enumerate(ROWS) if both([OPERATORS[first](row["num_images"], images), OPERATORS[second](row["num_characters"], characters)])]
    assert chosen(text) == expected


def test_chunks_slices_and_no_rows_are_read_alike() -> None:
    text = "score.language_rank >= 300 and 'example' in domain"
    assert chosen(text, pa.concat_tables([TABLE.slice(0, 3), TABLE.slice(3)])) == chosen(text)
    assert chosen(text, TABLE.slice(5)) == [number - 5 for number in chosen(text) if number >= 5]
    assert chosen(text, TABLE.slice(0, 0)) == []


def test_only_the_columns_that_are_named_are_read() -> None:
    condition = Condition("score.words > 3 and domain == 'a'")
    assert condition.columns == ["domain", "scores"] and condition.scores == {"words"}
    assert score_names(TABLE) == {"words", "language_rank"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("num_images >", "cannot be read"),
        ("domian == 'x'", "no column is called 'domian', did you mean domain"),
        ("zzz > 1", "no column is called 'zzz', there are: num_images"),
        ("domain < 3", "cannot compare the text `domain` with the number `3`"),
        ("num_images is 3", "cannot compare"),
        ("num_images and domain == 'a'", "`num_images` is a number where a truth is needed"),
        ("num_images + domain > 1", "`domain` is a text where a number is needed"),
        ("num_images", "is a number, not a condition"),
        ("3 < 4", "both constants"),
        ("num_images in (1, 'a')", "list of constants"),
        ("domain in page_url", "write 'part' in COLUMN"),
        ("__import__('os').system('true')", "has no meaning here"),
        ("(lambda: 1)() > num_images", "has no meaning here"),
        ("[1 for x in (1,)] == num_images", "has no meaning here"),
        ("page_url.__class__ == 'x'", "has no meaning here"),
        ("10 ** 10 ** 10 > num_images", "has no meaning here"),
        ("domain * 1000000 == 'x'", "is a text where a number is needed"),
        ("num_images > " + "9" * 400, "a number is too large"),
        ("not " * 900 + "True", "nested"),
        ("1" + " + 1" * 900 + " > num_images", "nested more than 100 deep"),
        ("domain == '" + "x" * 5000 + "'", "5012 characters"),
    ],
)
def test_what_has_no_meaning_is_said(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        Condition(text)
    assert message in str(error.value) and len(str(error.value)) < 600


def test_an_unknown_score_names_the_nearest() -> None:
    condition = Condition("score.language_rnak < 3")
    with pytest.raises(ValueError, match="no document has a score called 'language_rnak', did you mean score.language_rank"):
        condition.check_scores({"words", "language_rank"})
