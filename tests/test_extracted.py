"""Documents to rows of a table and back."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from lcl.core.document import CrawlOrigin
from pipeline.dedup.signature import SignatureConfig
from pipeline.extracted import ROWS, from_row, read_rows, text_of, to_row, write_rows
from pipeline.raw import ImageReference, RawDocument

SIGNATURE = SignatureConfig()
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
images = st.builds(
    ImageReference, st.lists(words, min_size=1, max_size=3).map(tuple), st.just("") | words, st.none() | st.binary(min_size=1, max_size=9),
    st.none() | st.floats(0, 1), st.none() | st.integers(0, 99), st.just(("", "")) | st.tuples(st.just("") | words, st.just("") | words),
)  # fmt: skip
documents = st.builds(
    RawDocument, pieces=st.lists(words | images, max_size=6).map(tuple), page_url=words.map("https://a.example/{}".format),
    crawl=st.builds(CrawlOrigin, file=words, offset=st.integers(0, 1 << 50), date=words), order=st.sampled_from(["page", "matched", "none"]), license=st.just("") | words,
    scores=st.dictionaries(words, st.floats(allow_nan=False), max_size=3),
)  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(st.lists(documents, max_size=5))
def test_rows_give_the_documents_back(tmp_path_factory, some: list[RawDocument]) -> None:
    path = tmp_path_factory.mktemp("rows") / "a.parquet"
    assert write_rows(path, [to_row(document, language="en", signature=SIGNATURE) for document in some], SIGNATURE) == len(some)
    rows = list(read_rows(path))
    assert [from_row(row) for row in rows] == some
    assert [row["text"] for row in rows] == [text_of(document.pieces) for document in some]


def test_many_rows_come_in_groups_and_in_order(tmp_path: Path) -> None:
    origin = CrawlOrigin(file="a", offset=0, date="")
    some = [RawDocument(pieces=(str(number),), page_url="https://a.example/", crawl=origin) for number in range(2 * ROWS + 3)]
    path = tmp_path / "a.parquet"
    write_rows(path, (to_row(document, language="", signature=SIGNATURE) for document in some), SIGNATURE)
    assert [row["text"] for row in read_rows(path)] == [str(number) for number in range(len(some))]
