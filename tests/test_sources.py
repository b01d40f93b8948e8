"""Every kind of source: files written by other libraries come back as the documents they hold; malformed rows are counted, not fatal."""

import gzip
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lcl.core.document import key_of
from lcl.core.rejected import Reason, Rejected
from pipeline import expand
from pipeline.crawl import NotACrawl, read_crawl
from pipeline.raw import ImageReference, RawDocument
from pipeline.sources import json_rows, mint, parquet_rows, pieces, tar_samples
from pipeline.sources.kinds import CRAWL, detect_source, read_source
from pipeline.sources.options import SourceOptions
from pipeline.sources.parquet_rows import NotASource
from pipeline.sources.tar_samples import Sample, read_samples
from pipeline.storage import Input
from tests.crawls import Capture, jpeg, write_warc

AUTO = SourceOptions()
URL = "https://a.example/{}.jpg"


def read(path: Path, options: SourceOptions = AUTO) -> list[RawDocument | Rejected]:
    return list(read_source(Input(str(path)), options))


def documents(path: Path, options: SourceOptions = AUTO) -> list[RawDocument]:
    items = read(path, options)
    assert not [item for item in items if isinstance(item, Rejected)], items
    return items


def reasons(items: Sequence[RawDocument | Rejected]) -> list[str]:
    return [item.reason if isinstance(item, Rejected) else "document" for item in items]


def shape(document: RawDocument) -> list[Any]:
    """The pieces: texts, and for images what is known of them."""
    return [piece if isinstance(piece, str) else (*piece.candidates, *([piece.data] if piece.data else [])) for piece in document.pieces]


def lines(*rows: Any) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def zipped(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def png(size: tuple[int, int] = (8, 6), mode: str = "RGB", colour: Any = 77) -> Image.Image:
    return Image.new(mode, size, colour)


# --- MMC4 ---

MMC4 = {
    "url": "https://a.example/page", "text_list": ["One.", "Two.", "Three.", "Four."], "could_have_url_duplicate": 0,
    "image_info": [
        {"image_name": "b.jpg", "raw_url": URL.format("b"), "matched_text_index": 2, "matched_sim": 0.31, "face_detections": None},
        {"image_name": "a.jpg", "raw_url": URL.format("a"), "matched_text_index": 0, "matched_sim": 0.27},
        {"image_name": "c.jpg", "raw_url": URL.format("c"), "matched_text_index": 2, "matched_sim": 0.25},
    ],
    "similarity_matrix": [[0.1] * 4] * 3,
}  # fmt: skip


@pytest.mark.parametrize("name", ["docs_no_face_shard_7_v2.jsonl.zip", "docs_shard_7_v2.jsonl.gz", "docs_no_face_shard_7_v3.jsonl"])
def test_mmc4_images_stand_before_their_sentences(tmp_path: Path, name: str) -> None:
    data = lines(MMC4, b"", MMC4 | {"could_have_url_duplicate": 1})
    path = tmp_path / name
    if name.endswith(".zip"):
        zipped(path, {name.removesuffix(".zip"): data})
    else:
        write(path, gzip.compress(data) if name.endswith(".gz") else data)
    assert detect_source(Input(str(path))) == "mmc4"
    first, second = documents(path)
    assert shape(first) == [(URL.format("a"),), "One. Two.", (URL.format("b"),), (URL.format("c"),), "Three. Four."]
    assert [(piece.similarity, piece.sentence) for piece in first.pieces if isinstance(piece, ImageReference)] == [(0.27, 0), (0.31, 2), (0.25, 2)]
    assert (first.order, first.page_url, first.crawl.file, first.crawl.offset, first.scores) == ("matched", "https://a.example/page", name, 0, {})
    assert second.crawl.offset == 1 and second.scores == {"could_have_url_duplicate": 1.0}


@settings(max_examples=60, deadline=None)
@given(
    sentences=st.lists(st.text("abcdefgh", min_size=1, max_size=6), min_size=1, max_size=8),
    places=st.lists(st.integers(0, 7), max_size=8),
)
def test_mmc4_keeps_every_sentence_and_image_in_order(tmp_path_factory: pytest.TempPathFactory, sentences: list[str], places: list[int]) -> None:
    places = [place % len(sentences) for place in places]
    info = [{"raw_url": URL.format(number), "matched_text_index": place, "matched_sim": 0.2} for number, place in enumerate(places)]
    path = write(tmp_path_factory.getbasetemp() / "mmc4.jsonl", lines({"text_list": sentences, "image_info": info}))
    (document,) = documents(path)
    words, expected = [], []
    for index, sentence in enumerate(sentences):
        expected += [URL.format(number) for number, place in enumerate(places) if place == index] + [sentence]
    for piece in document.pieces:
        words += list(piece.candidates) if isinstance(piece, ImageReference) else piece.split(" ")
    assert words == expected
    assert not any(isinstance(one, str) and isinstance(two, str) for one, two in zip(document.pieces, document.pieces[1:], strict=False))


def test_mmc4_rows_that_are_malformed(tmp_path: Path) -> None:
    bad_images = [None, {}, {"raw_url": "not an address", "matched_text_index": 0}, {"raw_url": URL, "matched_text_index": 9}, {"raw_url": URL, "matched_text_index": True}]
    rows = [
        MMC4, b"{broken", b"[1, 2]", b"\xff\xfe", b"[" * 100_000, {"text_list": "One."}, {"text_list": ["One."], "image_info": 3}, {"text_list": [], "image_info": []},
        MMC4 | {"image_info": bad_images, "text_list": ["One.", None, 3, "Two \ud800."]}, b'{"text_list": ["x"], "image_info": [], "x": ' + b"9" * 5000 + b"}",
    ]  # fmt: skip
    items = read(write(tmp_path / "a.jsonl", lines(*rows)))
    malformed = [Reason.ROW_MALFORMED] * 7
    assert reasons(items) == ["document", *malformed, "document", Reason.ROW_MALFORMED]
    assert items[8].pieces == ("One. Two \ufffd.",) and items[8].scores == {"unusable_images": 5.0} and items[8].crawl.offset == 8
    assert "a.jsonl, row 1" in items[1].detail


def test_zips_of_several_members_and_zips_that_are_damaged(tmp_path: Path) -> None:
    members = {"b.jsonl": lines(MMC4), "a.jsonl": lines(MMC4, MMC4), "__MACOSX/._a.jsonl": b"\0\1", "readme.txt": b"no rows"}
    path = zipped(tmp_path / "a.zip", members)
    found = documents(path)
    assert [document.crawl.offset for document in found] == [0, 1, 2]
    whole = path.read_bytes()
    assert reasons(read(write(path, whole[:-30]), SourceOptions(kind="mmc4"))) == [Reason.RECORD_DAMAGED]
    flipped = bytearray(whole)
    flipped[60:70] = b"\xff" * 10
    assert Reason.RECORD_DAMAGED in reasons(read(write(path, bytes(flipped)), SourceOptions(kind="mmc4")))
    zipped(path, {"a.jsonl": lines(MMC4)}, zipfile.ZIP_LZMA)
    (item,) = read(path, SourceOptions(kind="mmc4"))
    assert item.reason == Reason.RECORD_DAMAGED and "compression method 14" in item.detail


def test_bombs_end_at_their_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expand, "FREE_BYTES", 1 << 16)
    blank = lines(MMC4) + b"\n" * (3 << 20)
    for path in (zipped(tmp_path / "a.zip", {"a.jsonl": blank}), write(tmp_path / "a.jsonl.gz", gzip.compress(blank))):
        assert reasons(read(path)) == ["document", Reason.ARCHIVE_TOO_LARGE]
    many = zipped(tmp_path / "many.zip", {f"{number}.jsonl": b"\n" * 200_000 for number in range(50)})
    assert reasons(read(many, SourceOptions(kind="mmc4"))) == [Reason.ARCHIVE_TOO_LARGE]
    monkeypatch.setattr(expand, "MAX_MEMBERS", 10)
    assert reasons(read(many, SourceOptions(kind="mmc4"))) == [Reason.ARCHIVE_TOO_LARGE]
    monkeypatch.setattr(expand, "MAX_DIRECTORY_BYTES", 100)
    assert reasons(read(many, SourceOptions(kind="mmc4"))) == [Reason.ARCHIVE_TOO_LARGE]


def test_a_line_that_is_too_long_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "MAX_LINE_BYTES", 2000)
    items = read(write(tmp_path / "a.jsonl", lines(MMC4, b'{"x": "' + b"y" * 3_000_000 + b'"}', MMC4)))
    assert reasons(items) == ["document", Reason.ROW_TOO_LARGE, "document"] and items[2].crawl.offset == 2


def test_a_torn_gzip_gives_what_came_before(tmp_path: Path) -> None:
    rows = [{"text": random.Random(number).randbytes(2000).hex(), "url": URL.format(number)} for number in range(400)]
    whole = gzip.compress(lines(*rows))
    items = read(write(tmp_path / "a.jsonl.gz", whole[: len(whole) * 3 // 4]))
    assert 100 < len(items) < 400 and set(reasons(items[:-1])) == {"document"} and items[-1].reason == Reason.RECORD_DAMAGED


# --- OBELICS and MINT's HTML part ---

OBELICS = {
    "images": [URL.format("a"), None, URL.format("b"), None],
    "texts": [None, "First  paragraph.\n\n\nSecond\nparagraph.", None, "Third."],
    "metadata": json.dumps([{"alt_text": " a  bed ", "src": "x"}, None, {"document_url": "y"}, None]),
    "general_metadata": json.dumps({"url": "https://a.example/page", "warc_filename": "x.warc.gz"}),
}


def test_obelics_keeps_the_order_of_the_page(tmp_path: Path) -> None:
    path = tmp_path / "train-00000-of-01335.parquet"
    pq.write_table(pa.Table.from_pylist([OBELICS] * 3), path, row_group_size=2)
    assert detect_source(Input(str(path))) == "obelics"
    found = documents(path)
    assert shape(found[0]) == [(URL.format("a"),), "First paragraph.\n\nSecond paragraph.", (URL.format("b"),), "Third."]
    assert found[0].pieces[0].alt == "a bed" and found[0].page_url == "https://a.example/page" and found[0].order == "page"
    assert [document.crawl.offset for document in found] == [0, 1, 2]


def test_mint_html_in_parquet_is_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{"url": "https://b.example/p", "texts": ["T", None], "images": [None, URL], "image_hashes": ["x"]}]), path)
    (document,) = documents(path)
    assert shape(document) == ["T", (URL,)] and document.page_url == "https://b.example/p"


def test_obelics_rows_that_are_malformed(tmp_path: Path) -> None:
    rows = [
        OBELICS, OBELICS | {"texts": ["one"]}, OBELICS | {"texts": None}, OBELICS | {"metadata": "{broken"}, OBELICS | {"general_metadata": "[" * 99_999},
        OBELICS | {"images": [None] * 4, "texts": [None] * 4}, OBELICS | {"images": ["data:image/png;base64,AAAA", None, "ftp://x/y", None], "metadata": None, "general_metadata": "3"},
    ]  # fmt: skip
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    items = read(path)
    assert reasons(items) == ["document"] + [Reason.ROW_MALFORMED] * 5 + ["document"]
    assert shape(items[6]) == [("data:image/png;base64,AAAA",), "First paragraph.\n\nSecond paragraph.\n\nThird."] and items[6].scores == {"unusable_images": 1.0}
    assert items[6].page_url == ""


parts = st.lists(st.one_of(st.tuples(st.just("text"), st.text("ab \n", max_size=12)), st.tuples(st.just("image"), st.integers(0, 99))), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(pages=st.lists(parts, min_size=1, max_size=5))
def test_obelics_and_local_json_hold_the_same(tmp_path_factory: pytest.TempPathFactory, pages: list[list[tuple[str, Any]]]) -> None:
    """The same lists by two containers; joined words and images are those that were written."""
    folder = tmp_path_factory.getbasetemp()
    rows = [
        {"texts": [value if kind == "text" else None for kind, value in page], "images": [URL.format(value) if kind == "image" else None for kind, value in page]}
        for page in pages
    ]  # fmt: skip
    schema = pa.schema([("texts", pa.list_(pa.string())), ("images", pa.list_(pa.string()))])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "same", row_group_size=2)
    by_parquet = read(folder / "same", SourceOptions(kind="obelics"))
    by_json = read(write(folder / "same", lines(*rows)), SourceOptions(kind="jsonl"))
    assert reasons(by_parquet) == reasons(by_json) and [item for item in by_parquet if isinstance(item, RawDocument)] == [
        item for item in by_json if isinstance(item, RawDocument)
    ]
    for page, item in zip(pages, by_parquet, strict=True):
        expected = [word for kind, value in page for word in (value.split() if kind == "text" else [URL.format(value)])]
        if isinstance(item, Rejected):
            assert not expected and item.reason == Reason.ROW_MALFORMED
        else:
            assert [word for piece in item.pieces for word in (piece.split() if isinstance(piece, str) else piece.candidates)] == expected


# --- MINT-1T in tar ---


def tiff(frames: Sequence[Image.Image], **options: Any) -> bytes:
    buffer = io.BytesIO()
    frames[0].save(buffer, "TIFF", save_all=True, append_images=list(frames[1:]), **options)
    return buffer.getvalue()


def tar_file(path: Path, members: Sequence[tuple[str, bytes]], *, mode: str = "w", form: int = tarfile.DEFAULT_FORMAT) -> Path:
    with tarfile.open(path, mode, format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


MINT = {"texts": ["Intro", None, "Middle", None, None], "images": [None, "page_0_image_85", None, "page_3_image_9", "page_4_image_10"], "url": "https://a.example/x.pdf"}
FRAMES = [png((9, 7), "RGB", (200, 3, 5)), png((5, 11), "L", 90), png((6, 6), "CMYK", (10, 20, 30, 40))]
KEY = "ef8e1a893ecf4e089f2358ab3ad0e87b"


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}])
def test_mint_frames_come_back_losslessly_in_the_order_of_their_names(tmp_path: Path, options: dict[str, str]) -> None:
    path = tar_file(tmp_path / "CC-MAIN-2023.tar", [(f"{KEY}.json", json.dumps(MINT | {"language_id_whole_page_fasttext": {"en": 0.9}}).encode()), (f"{KEY}.tiff", tiff(FRAMES, **options))])
    assert detect_source(Input(str(path))) == "mint"
    (document,) = documents(path)
    images = [piece for piece in document.pieces if isinstance(piece, ImageReference)]
    assert [type(piece).__name__ for piece in document.pieces] == ["str", "ImageReference", "str", "ImageReference", "ImageReference"]
    for frame, image in zip(FRAMES, images, strict=True):
        decoded = Image.open(io.BytesIO(image.data), formats=("PNG",))
        assert decoded.size == frame.size and decoded.tobytes() == (frame if frame.mode != "CMYK" else frame.convert("RGB")).tobytes()
    assert document.page_url == "https://a.example/x.pdf" and document.scores == {"language_id_whole_page_fasttext": 0.9}
    assert documents(path) == [document]


def test_mint_with_addresses_with_members_and_with_repeated_names(tmp_path: Path) -> None:
    held = jpeg((1, 2, 3))
    samples = {
        "html": [("html.json", {"texts": ["T", None], "images": [None, URL]}, None)],
        "curator": [("k.000.jpg", None, held), ("k.json", {"texts": ["T", None], "images": [None, "k.000.jpg"]}, None)],
        "repeated": [("r.json", {"texts": [None] * 3, "images": ["a", "b", "a"]}, None), ("r.tiff", None, tiff(FRAMES[:2]))],
    }
    members = [(name, data if data is not None else json.dumps(row).encode()) for sample in samples.values() for name, row, data in sample]
    html, curator, repeated = documents(tar_file(tmp_path / "a.tar", members))
    assert shape(html) == ["T", (URL,)] and shape(curator) == ["T", (held,)]
    one, two, again = (piece.data for piece in repeated.pieces)
    assert one == again != two


@pytest.mark.parametrize(
    ("json_data", "tiff_data", "reason"),
    [
        (b"{broken", None, Reason.ROW_MALFORMED),
        (b"[]", None, Reason.ROW_MALFORMED),
        (None, tiff(FRAMES), Reason.ROW_MALFORMED),
        (json.dumps(MINT).encode(), b"II*\0no tiff", Reason.ROW_MALFORMED),
        (json.dumps(MINT).encode(), jpeg((1, 2, 3)), Reason.ROW_MALFORMED),
        (json.dumps(MINT).encode(), tiff(FRAMES[:1]), Reason.ROW_MALFORMED),
        (json.dumps(MINT | {"texts": ["one"]}).encode(), tiff(FRAMES), Reason.ROW_MALFORMED),
        (json.dumps({"texts": [None], "images": ["a"]}).encode(), None, Reason.ROW_MALFORMED),
        (json.dumps(MINT).encode() + b" " * (17 << 20), tiff(FRAMES), Reason.ROW_TOO_LARGE),
    ],
)
def test_mint_samples_that_are_malformed(tmp_path: Path, json_data: bytes | None, tiff_data: bytes | None, reason: Reason) -> None:
    good = [("good.json", json.dumps({"texts": ["T"], "images": [None]}).encode())]
    members = [(f"bad.{ending}", data) for ending, data in (("json", json_data), ("tiff", tiff_data)) if data is not None]
    assert reasons(read(tar_file(tmp_path / "a.tar", [*good, *members, ("last.json", good[0][1])]))) == ["document", reason, "document"]


def test_mint_frames_beyond_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar_file(tmp_path / "a.tar", [("a.json", json.dumps(MINT).encode()), ("a.tiff", tiff(FRAMES))])
    monkeypatch.setattr(mint, "MAX_PIXELS", 60)
    (document,) = documents(path)  # the frames have 63, 55 and 36 pixels
    assert document.scores == {"unusable_images": 1.0} and len(document.pieces) == 3
    monkeypatch.setattr(mint, "MAX_DOCUMENT_BYTES", 50)
    assert reasons(read(path)) == [Reason.ROW_TOO_LARGE]
    monkeypatch.undo()
    monkeypatch.setattr(mint, "MAX_DOCUMENT_PIXELS", 150)
    (item,) = read(path)
    assert item.reason == Reason.ROW_TOO_LARGE and "3 frames with 154 pixels" in item.detail
    monkeypatch.undo()
    many = tar_file(tmp_path / "many.tar", [("a.json", json.dumps(MINT).encode()), ("a.tiff", tiff([png()] * 50))])
    (item,) = read(many)
    assert item.reason == Reason.ROW_MALFORMED and "4 or more frames for 3 images" in item.detail


# --- pairs ---


@pytest.mark.parametrize(
    ("columns", "score"),
    [
        ({"URL": [URL], "TEXT": ["A caption"], "similarity": [0.33], "WIDTH": [640]}, {"similarity": 0.33, "width": 640.0}),
        ({"url": [URL], "top_caption": ["A caption"], "all_captions": [["x"]]}, {}),
        ({"url": [URL], "text": ["A caption"], "clip_l14_similarity_score": [0.2], "punsafe": [None]}, {"clip_l14_similarity_score": 0.2}),
        ({"image_url": [URL], "caption": ["A caption"], "AESTHETIC_SCORE": [float("nan")]}, {}),
    ],
)
def test_pairs_by_their_known_columns(tmp_path: Path, columns: dict[str, list], score: dict[str, float]) -> None:
    path = tmp_path / "part-00000.snappy.parquet"
    pq.write_table(pa.table(columns), path)
    assert detect_source(Input(str(path))) == "pairs"
    (document,) = documents(path)
    assert shape(document) == [(URL,), "A caption"] and document.order == "none" and document.page_url == URL and document.scores == score
    assert document.pieces[0].similarity == next((value for name, value in score.items() if "similarity" in name), None)


def test_pairs_by_columns_that_are_given_and_with_images(tmp_path: Path) -> None:
    path, held = tmp_path / "a.parquet", jpeg((3, 2, 1))
    pq.write_table(pa.table({"where": [URL, None], "words": ["one", "two"], "picture": [{"bytes": held, "path": None}] * 2}), path)
    with pytest.raises(NotASource, match="its columns are where, words, picture"):
        detect_source(Input(str(path)))
    with pytest.raises(NotASource, match="say which is which by --source.text-column"):
        read(path, SourceOptions(kind="pairs"))
    with pytest.raises(NotASource, match="there is no column wordz; the columns are where"):
        read(path, SourceOptions(kind="pairs", text_column="wordz"))
    found = documents(path, SourceOptions(kind="pairs", text_column="words", url_column="where", image_column="picture"))
    assert [shape(document) for document in found] == [[(URL, held), "one"], [(held,), "two"]] and found[1].page_url == ""
    pq.write_table(pa.table({"image": [{"bytes": held, "path": "x.jpg"}], "text": ["three"]}), path)  # as the datasets library stores images
    assert shape(documents(path)[0]) == [(held,), "three"]


def test_pairs_that_are_malformed(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    raw = pa.array([b"fine", b"\xff\xfe not UTF-8", None, b"only words", b"", None], pa.binary())
    text = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    pq.write_table(pa.table({"url": [URL, URL, URL, "no address", "ftp://x/y", None], "text": text}), path)
    items = read(path)
    assert reasons(items) == ["document", Reason.ROW_MALFORMED, "document", "document", Reason.ROW_MALFORMED, Reason.ROW_MALFORMED]
    assert shape(items[2]) == [(URL,)] and items[3].scores == {"unusable_images": 1.0} and items[3].crawl.offset == 3


def test_a_torn_parquet_and_one_with_damage_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = {"url": [URL.format(number) for number in range(3000)], "text": [random.Random(number).randbytes(100).hex() for number in range(3000)]}
    pq.write_table(pa.table(rows), path, row_group_size=500, write_page_checksum=False)
    whole = path.read_bytes()
    with pytest.raises(NotASource, match="a.parquet is no parquet file, or a damaged one"):
        read(write(path, whole[:-100]), SourceOptions(kind="pairs"))
    write(path, whole)
    start = pq.read_metadata(path).row_group(3).column(0).data_page_offset
    items = read(write(path, whole[:start] + b"\xff" * 400 + whole[start + 400 :]))
    assert len(items) >= 1001 and set(reasons(items[:-1])) == {"document"} and items[-1].reason == Reason.RECORD_DAMAGED


def test_a_row_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"url": [URL] * 3, "text": ["a", "b" * 200_000, "c"]}), path)
    monkeypatch.setattr(parquet_rows, "MAX_ROW_BYTES", 100_000)
    assert reasons(read(path)) == ["document", Reason.ROW_TOO_LARGE, "document"]
    monkeypatch.setattr(pieces, "MAX_DOCUMENT_BYTES", 1000)
    pq.write_table(pa.table({"jpg": [b"x" * 2000, b"y"], "text": ["a", "b"]}), path)
    assert reasons(read(path)) == [Reason.ROW_TOO_LARGE, "document"]


def test_real_tables(shared: Path) -> None:
    found = documents(shared / "data/web/img2dataset-test_1000.parquet")
    assert len(found) == 1000 and shape(found[0])[1] == "Classical Masterpieces: Xerses & More, Vol. 8 by Various Artists"
    table = shared / "data/web/datajuicer-demo-images-bytes.parquet"
    assert detect_source(Input(str(table))) == "data_juicer"
    found = documents(table)
    assert len(found) == 3 and found[0].pieces[1] == "A comfortable bed." and found[0].pieces[0].data.startswith(b"\x89PNG") and found[0].pieces[0].candidates == ()


def test_data_juicer_tokens_are_places(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = ["a <__dj__image> b <|__dj__eoc|> c<__dj__image>", "<__dj__image>", "no image", "<__dj__image>"]
    pq.write_table(pa.table({"text": texts, "images": [[URL, URL], [], None, ["../secret.png"]]}), path)
    items = read(path)
    assert reasons(items) == ["document", Reason.ROW_MALFORMED, "document", Reason.ROW_MALFORMED]
    assert shape(items[0]) == ["a", (URL,), "b\n\nc", (URL,)]


# --- local JSON ---


def test_local_json_takes_pictures_from_its_own_folder_only(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "pictures").mkdir(parents=True)
    held = jpeg((9, 9, 9))
    write(folder / "pictures/a.jpg", held)
    write(tmp_path / "secret.jpg", held)
    rows = [
        {"texts": ["One", None, "Two"], "images": [None, "pictures/a.jpg", None], "alts": [None, "a grey square", None], "url": "https://a.example/"},
        {"text": "A caption", "image": "pictures/a.jpg", "similarity": 0.5},
        {"caption": "Another", "url": URL},
        {"text": "gone", "image": "pictures/b.jpg"}, {"text": "out", "image": "../secret.jpg"}, {"text": "root", "image": str(tmp_path / "secret.jpg")}, {"text": "folder", "image": "pictures"},
        {"text": 3}, {"texts": ["x"], "images": "y"}, {"texts": [None], "images": [{}]},
    ]  # fmt: skip
    path = write(folder / "rows.jsonl", b"\xef\xbb\xbf" + lines(*rows))
    assert detect_source(Input(str(path))) == "jsonl"
    items = read(path)
    assert reasons(items) == ["document"] * 7 + [Reason.ROW_MALFORMED] * 3
    assert shape(items[0]) == ["One", (held,), "Two"] and items[0].pieces[1].alt == "a grey square" and items[0].page_url == "https://a.example/"
    assert shape(items[1]) == [(held,), "A caption"] and items[1].pieces[0].similarity == 0.5 and (items[1].order, items[0].order) == ("none", "page")
    assert shape(items[2]) == [(URL,), "Another"] and items[2].page_url == URL
    assert all(item.scores == {"unusable_images": 1.0} and len(item.pieces) == 1 for item in items[3:7])


# --- WebDataset ---


def test_pairs_of_a_webdataset(tmp_path: Path) -> None:
    held, path = jpeg((5, 6, 7)), tmp_path / "00000.tar"
    with webdataset.TarWriter(str(path)) as writer:
        writer.write({"__key__": "000000", "jpg": held, "txt": "one", "json": {"url": URL, "caption": "other", "width": 64, "similarity": 0.3, "key": "000000"}})
        writer.write({"__key__": "000001", "png": held, "json": {"caption": "two"}})
        writer.write({"__key__": "000002", "jpg": held, "cls": 7})
        writer.write({"__key__": "000003", "txt": "no image", "pyd": {"never": "unpickled"}})
    assert detect_source(Input(str(path))) == "webdataset"
    items = read(path)
    assert reasons(items) == ["document"] * 3 + [Reason.ROW_MALFORMED]
    assert shape(items[0]) == [(URL, held), "one"] and items[0].scores == {"width": 64.0, "similarity": 0.3} and items[0].pieces[0].similarity == 0.3
    assert shape(items[1]) == [(held,), "two"] and shape(items[2]) == [(held,)]
    offsets = [item.crawl.offset for item in items[:3]]
    assert offsets == sorted(set(offsets)) and offsets[0] == 0


names = st.text("ab/é", min_size=1, max_size=150).filter(lambda name: not name.startswith("/") and "//" not in name and not name.endswith("/"))


@settings(max_examples=60, deadline=None)
@given(
    samples=st.lists(st.tuples(names, st.dictionaries(st.sampled_from(["txt", "jpg", "seg.png"]), st.binary(max_size=1500), min_size=1, max_size=3)), max_size=5),
    form=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    packed=st.booleans(),
)
def test_samples_of_every_form_of_tar(tmp_path_factory: pytest.TempPathFactory, samples: list, form: int, packed: bool) -> None:
    """tarfile writes, the stream reads: names of any length, folders and links between members, compressed or not."""
    samples = [(f"{number}/{name}", members) for number, (name, members) in enumerate(samples)]
    if form == tarfile.USTAR_FORMAT:
        samples = [(name.encode()[:80].decode("utf-8", "ignore") + "x", members) for name, members in samples]
    path = tmp_path_factory.getbasetemp() / "a.tar"
    with tarfile.open(path, "w:gz" if packed else "w", format=form) as tar:
        for name, members in samples:
            folder = tarfile.TarInfo("folder")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            link = tarfile.TarInfo("link.txt")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
            for ending, data in members.items():
                info = tarfile.TarInfo(f"{name}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    found = list(read_samples(Input(str(path))))
    assert [(sample.name, sample.members) for sample in found] == samples


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_flipped_and_torn_tars_never_crash(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tar_file(tmp_path_factory.getbasetemp() / "f.tar", [("a" * 120 + ".txt", b"x" * 700), ("b.jpg", b"y" * 90), ("b.txt", b"z")])
    raw = bytearray(path.read_bytes()[:6000])
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    assert all(isinstance(item, Sample | Rejected) for item in read_samples(Input(str(path))))


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (header("a.txt", 1 << 50) + b"x", [Reason.RECORD_DAMAGED]),
        (header("x", 1 << 40, tarfile.GNUTYPE_LONGNAME) + b"x", [Reason.RECORD_DAMAGED]),
        (header("x", 1 << 30, tarfile.XHDTYPE) + b"x", [Reason.RECORD_DAMAGED]),
        (header("x", 512, tarfile.XHDTYPE) + b"99999999999 path=a.txt\n".ljust(512, b"\0"), [Reason.RECORD_DAMAGED]),
        (header("x", 12, tarfile.XHDTYPE) + b"0 a=b\n0 a=b\n".ljust(512, b"\0"), [Reason.RECORD_DAMAGED]),
        (header("a.txt", 5) + b"hello".ljust(512, b"\0"), ["sample", Reason.RECORD_DAMAGED]),
        (b"\xff" * 512, [Reason.RECORD_DAMAGED]),
        (b"", [Reason.RECORD_DAMAGED]),
        (b"\0" * 1024, []),
    ],
)
def test_hostile_headers(tmp_path: Path, data: bytes, expected: list[str]) -> None:
    found = [item.reason if isinstance(item, Rejected) else "sample" for item in read_samples(Input(str(write(tmp_path / "a.tar", data))))]
    assert [name for name in found if name != "sample"] == [name for name in expected if name != "sample"]


def test_samples_that_are_too_large_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_samples, "MAX_MEMBER_BYTES", 5_000)
    monkeypatch.setattr(tar_samples, "MAX_SAMPLE_BYTES", 8_000)
    monkeypatch.setattr(tar_samples, "MAX_SAMPLE_MEMBERS", 20)
    many = [(f"d.{number}", b"") for number in range(30)]
    path = tar_file(tmp_path / "a.tar", [("a.txt", b"x" * 6_000), ("b.txt", b"x" * 4_500), ("b.jpg", b"x" * 4_500), ("c.txt", b"fine"), *many, ("e.txt", b"fine")])
    assert [item.reason if isinstance(item, Rejected) else item.name for item in read_samples(Input(str(path)))] == [
        Reason.ROW_TOO_LARGE, Reason.ROW_TOO_LARGE, "c", Reason.ROW_TOO_LARGE, "e",
    ]  # fmt: skip


# --- hostile bytes ---


def written(folder: Path) -> dict[str, bytes]:
    """A small good file of each kind."""
    table = folder / "table"
    files = {}
    for kind, rows in (
        ("obelics", [OBELICS] * 20),
        ("pairs", [{"url": URL, "text": f"words {number}", "similarity": 0.1} for number in range(100)]),
        ("data_juicer", [{"text": "<__dj__image> x", "images": [URL], "image_bytes": [b"x" * 50]}] * 20),
    ):
        pq.write_table(pa.Table.from_pylist(rows), table, row_group_size=10)
        files[kind] = table.read_bytes()
    files["mmc4"] = zipped(table, {"a.jsonl": lines(*[MMC4] * 10), "b.jsonl": lines(MMC4)}).read_bytes()
    files["jsonl"] = lines(*[{"text": f"words {number}", "image": URL} for number in range(30)])
    files["mint"] = tar_file(table, [("a.json", json.dumps(MINT).encode()), ("a.tiff", tiff(FRAMES, compression="tiff_lzw"))]).read_bytes()
    files["webdataset"] = tar_file(table, [("a.jpg", b"x" * 900), ("a.txt", b"words"), ("b.png", b"y")]).read_bytes()
    crawl = write_warc(table, [Capture("https://a.example/", b"x" * 300)]).read_bytes()
    files[CRAWL] = zipped(table, {"archive/a.warc.gz": crawl, "archive/b.warc.gz": crawl}, zipfile.ZIP_STORED).read_bytes()
    return files


def damaged(data: bytes, rng: random.Random) -> bytes:
    raw = bytearray(data)
    for _ in range(rng.randint(1, 12)):
        at = rng.randrange(len(raw)) if rng.random() < 0.6 else max(0, len(raw) - rng.randint(1, 600))  # a parquet's or a zip's directory is its end
        choice = rng.random()
        if choice < 0.85:
            raw[at] = rng.randrange(256)
        elif choice < 0.95:
            raw[at : at + 8] = rng.choice([b"\xff", b"\0", b"\x7f"]) * 8
        else:
            del raw[at : at + rng.randint(1, 40)]
    return bytes(raw)


def test_flipped_bytes_never_crash_any_reader(tmp_path: Path) -> None:
    outcomes: dict[str, set[str]] = {}
    for kind, data in written(tmp_path).items():
        rng = random.Random(kind)
        for _ in range(120):
            source = Input(str(write(tmp_path / "file", damaged(data, rng))))
            seen = outcomes.setdefault(kind, set())
            try:
                detect_source(source)
            except NotASource:
                seen.add("of no kind")
            try:
                items = list(read_crawl(source) if kind == CRAWL else read_source(source, SourceOptions(kind=kind)))
                seen.update("rejected" if isinstance(item, Rejected) else "read" for item in items)
            except (NotASource, NotACrawl):
                seen.add("refused")
    assert all("rejected" in seen and "read" in seen for seen in outcomes.values()) and len(outcomes) == 8, outcomes


# --- kinds ---


@pytest.mark.parametrize(
    ("name", "make", "kind"),
    [
        ("x", lambda path: write_warc(path, [Capture("https://a.example/", b"x")]), CRAWL),
        ("x", lambda path: write_warc(path, [Capture("https://a.example/", b"x")], gzipped=False), CRAWL),
        ("x.zip", lambda path: zipped(path, {"archive/a.warc.gz": b"x"}), CRAWL),
        ("quirky.warc.gz", lambda path: write(path, b"anything"), CRAWL),
        ("x", lambda path: zipped(path, {"a.jsonl": lines(MMC4)}), "mmc4"),
        ("x", lambda path: write(path, lines(b"{broken", MMC4)), "mmc4"),
        ("x", lambda path: tar_file(path, [("a.txt", b"x")], mode="w:gz"), "webdataset"),
        ("x", lambda path: tar_file(path, [("a.jpg", b"x"), ("a.json", json.dumps(MINT).encode())]), "mint"),
    ],
)
def test_kinds_are_found_by_content(tmp_path: Path, name: str, make: Callable[[Path], Any], kind: str) -> None:
    make(tmp_path / name)
    assert detect_source(Input(str(tmp_path / name))) == kind


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "begins neither"), (b"<html>", "begins neither"), (b"PAR1", "no parquet file"), (b"{", "no line that is a JSON object"), (b"PK\x03\x04", "no whole zip"), (b"\x1f\x8b\x08", "EOFError")],
)
def test_a_file_of_no_kind_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(NotASource, match=f"strange.bin.*{message}"):
        detect_source(Input(str(write(tmp_path / "strange.bin", data))))


def test_the_kind_can_be_forced_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bin", lines({"text_list": ["x"], "image_info": [], "text": "y", "image": URL}))
    assert documents(path)[0].order == "matched" and documents(path, SourceOptions(kind="jsonl"))[0].order == "none"
    for kind, message in (("mmc5", "did you mean mmc4"), ("pairs", "is no parquet file"), ("obelics", "is no parquet file"), ("crawl", "by --crawl")):
        with pytest.raises(NotASource, match=message):
            read(path, SourceOptions(kind=kind))
    pq.write_table(pa.table({"a": [1]}), path)
    for kind in ("obelics", "data_juicer"):
        with pytest.raises(NotASource, match="has no column .*; it has a"):
            read(path, SourceOptions(kind=kind))


def test_keys_are_unique_and_the_same_again(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"b.jsonl": lines(*[MMC4] * 5), "a.jsonl": lines(*[MMC4] * 5)})
    keys = [key_of(item.crawl.file, item.crawl.offset, item.page_url) for item in documents(path)]
    assert len(set(keys)) == 10 and keys == [key_of(item.crawl.file, item.crawl.offset, item.page_url) for item in documents(path)]
