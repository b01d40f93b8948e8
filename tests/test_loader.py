"""Rows from shards: nothing lost, order free of ranks and workers, exact continuation."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lcl.core.document import CrawlOrigin, Document, ImageMetadata, ImageSegment, TextSegment
from lcl.core.shards import ShardSet, write_shard
from lcl.core.tokenizer import Tokenizer, TokenizerConfig
from lcl.crops import Crop, centre_box, cut, random_box
from lcl.layout import Layout, LayoutConfig, Setting, lay_out
from lcl.loader import DataConfig, RowLoader, RowSource
from lcl.model import ModelConfig
from lcl.rows import Piece, Row, SpecialIds, collate
from lcl.vision import VisionConfig
from tests.crawls import jpeg

MODEL = ModelConfig(vision=VisionConfig(image_px=32, patch_px=8, width=32, layers=1, head_width=16), tokenizer=TokenizerConfig(num_merges=500))
ROW_LENGTH = 160
TOKENIZER = Tokenizer(MODEL.tokenizer)


def source_of(*shards: Path, model: ModelConfig = MODEL, layout: Layout = "document", validation: bool = False, **settings: object) -> RowSource:
    data = DataConfig(**{"shards": tuple(map(str, shards)), "num_lanes": 4, "pack_window": 4} | settings)
    return RowSource(data, model, ROW_LENGTH, seed=3, tokenizer=TOKENIZER, layout=layout, validation=validation)


def fingerprints(rows: list[Row]) -> list[tuple]:
    return [(tuple(piece.ids for piece in row.pieces), tuple(image.values.tobytes() for image in row.images)) for row in rows]


def take_all(source: RowSource, world_size: int, steps: int, *, state: dict | None = None, batch_rows: int = 4) -> tuple[list[tuple], dict]:
    """Rows of all ranks in global order, and the merged state after them."""
    loaders = [RowLoader(source, rank=rank, world_size=world_size, batch_rows=batch_rows, state=state) for rank in range(world_size)]
    rows: list[Row] = []
    for _ in range(steps):
        taken = [loader.take(batch_rows // world_size) for loader in loaders]
        rows += [taken[index % world_size][index // world_size] for index in range(batch_rows)]
    return fingerprints(rows), RowLoader.merge_states([loader.state() for loader in loaders])


def test_order_depends_on_neither_ranks_nor_workers(shards: Path) -> None:
    expected, state = take_all(source_of(shards), 1, 5)
    assert len(set(expected)) > 15
    for world_size, workers in ((2, 0), (4, 0), (1, 2), (2, 2)):
        rows, other = take_all(source_of(shards, num_workers=workers), world_size, 5)
        assert rows == expected and other == state, (world_size, workers)


@pytest.mark.parametrize("batch_rows", [4, 12])
def test_a_continued_loader_gives_the_rest_at_any_number_of_ranks(shards: Path, batch_rows: int) -> None:
    """With 12 rows a step and 4 lanes, or 4 rows and 8 lanes, a step ends inside or at the end of a round over the lanes."""
    for lanes in (4, 8):
        source = source_of(shards, num_lanes=lanes)
        expected, _ = take_all(source, 1, 6, batch_rows=batch_rows)
        for before, after in ((1, 2), (2, 4), (4, 1)):
            first, state = take_all(source, before, 3, batch_rows=batch_rows)
            rest, _ = take_all(source, after, 3, state=state, batch_rows=batch_rows)
            assert first + rest == expected, (lanes, before, after)


def test_every_piece_comes_once_an_epoch(shards: Path) -> None:
    """The pieces of the first rows, with those that wait, are the pieces of the first documents of the sequence."""
    source = source_of(shards)
    rows, state = take_all(source, 1, 12)
    taken = Counter(ids for pieces, _ in rows for ids in pieces)
    waiting = Counter(source.pieces(document)[number].piece.ids for lane in state["lanes"].values() for document, number in lane["waiting"])
    opened = Counter(
        waiting.piece.ids
        for number, lane in state["lanes"].items()
        for position in range(int(number), lane["next_document"], 4)
        for waiting in source.pieces(position)
    )
    assert taken + waiting == opened and len(taken) > 20
    epoch = [source.document(position).key for position in range(len(source))]
    assert sorted(epoch) == sorted(document.key for document in source.sets[0])


def test_another_epoch_has_another_order(shards: Path) -> None:
    source = source_of(shards)
    epochs = [[source.document(epoch * len(source) + index).key for index in range(len(source))] for epoch in range(2)]
    assert epochs[0] != epochs[1] and sorted(epochs[0]) == sorted(epochs[1])


def test_fewer_documents_than_lanes_is_fine(shards: Path, tmp_path: Path) -> None:
    write_shard(tmp_path, "one", list(ShardSet([shards]))[:1], origin={})
    rows, _ = take_all(source_of(tmp_path), 2, 2)
    assert len(rows) == 8


LONG = Document(
    key="0" * 32, page_url="https://a.example/", crawl=CrawlOrigin(file="f", offset=0, date=""),
    segments=tuple(
        segment
        for number in range(9)
        for segment in (
            TextSegment(f"part {number} with a few words of text " * 6),
            ImageSegment(jpeg((number, 0, 0), (32, 32)), ImageMetadata(url="u", width=32, height=32, sha256="", source_sha256="", phash="")),
        )
    ),
)  # fmt: skip


def pieces_of(document: Document, *, length: int) -> list[Piece]:
    return lay_out(document, Setting(TOKENIZER, "document", LayoutConfig(), length, MODEL, evaluation=True), np.random.default_rng(0))


def test_long_documents_are_split_and_not_dropped() -> None:
    pieces = pieces_of(LONG, length=64)
    assert len(pieces) > 5 and all(len(piece.ids) <= 64 for piece in pieces)
    assert all(piece.ids[0] == TOKENIZER.sot for piece in pieces) and [piece.ids[-1] == TOKENIZER.eot for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert [place.image for piece in pieces for place in piece.images] == list(range(9))
    for piece in pieces:
        for place in piece.images:
            start = place.first_slot - 1
            assert piece.ids[start : start + 18] == (TOKENIZER.soi, *[TOKENIZER.image] * 16, TOKENIZER.eoi), "an image is never cut"
    joined = [index for piece in pieces for index in piece.ids if index not in (TOKENIZER.sot, TOKENIZER.eot)]
    whole = pieces_of(LONG, length=10_000)
    assert len(whole) == 1 and joined == [index for index in whole[0].ids if index not in (TOKENIZER.sot, TOKENIZER.eot)]


def test_text_that_spells_markers_stays_text() -> None:
    document = dataclasses.replace(LONG, segments=(TextSegment("<soi> <img_placehold> <start_of_text> <eoi>"), LONG.segments[1]))
    (piece,) = pieces_of(document, length=128)
    special = [index for index in piece.ids if index >= TOKENIZER.sot]
    assert special == [TOKENIZER.sot, TOKENIZER.soi, *[TOKENIZER.image] * 16, TOKENIZER.eoi, TOKENIZER.eot]


def test_a_row_that_cannot_hold_an_image_is_an_error() -> None:
    with pytest.raises(ValueError, match="the smaller is 19. cannot hold an image of 16 tokens"):
        pieces_of(LONG, length=19)


def test_a_batch_says_where_everything_lies(shards: Path) -> None:
    source = source_of(shards)
    rows = RowLoader(source, rank=0, world_size=1, batch_rows=4).take(4)
    batch = collate(rows, row_length=ROW_LENGTH, special=SpecialIds.of(TOKENIZER))
    flat = batch.ids.flatten()
    assert (flat[batch.contexts] == TOKENIZER.soi).all() and 0 < len(batch.contexts) == len(batch.positives) <= len(batch.grids) == len(batch.images)
    assert (flat[batch.slots] == TOKENIZER.image).all() and int((batch.ids == TOKENIZER.image).sum()) == 16 * len(batch.images) == len(batch.slots)
    assert batch.latent_index.tolist() == list(range(16 * len(batch.images)))
    for row in range(4):
        positions = [int(value) for value in batch.positions[row] if value == 0]
        lengths = batch.document_lengths[row]
        assert [int((batch.document_ids[row] == number).sum()) for number in range(1, len(lengths) + 1)] == list(lengths)
        assert len(positions) >= len(lengths)


@pytest.mark.parametrize(
    ("world_size", "settings", "batch_rows", "message"),
    [
        (3, {}, 3, r"data.num_lanes \(4\) must be a multiple of ranks x data.num_workers \(3 x 1\)"),
        (2, {"num_workers": 4}, 4, r"\(2 x 4\)"),
        (2, {}, 5, r"batch_rows \(5\) must be a multiple of the number of ranks \(2\)"),
    ],
)
def test_numbers_that_do_not_divide_are_named(shards: Path, world_size: int, settings: dict, batch_rows: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RowLoader(source_of(shards, **settings), rank=0, world_size=world_size, batch_rows=batch_rows)


def test_an_empty_shard_set_is_an_error(tmp_path: Path) -> None:
    write_shard(tmp_path, "none", [], origin={})
    with pytest.raises(ValueError, match="hold no document"):
        source_of(tmp_path)


def test_crops_lie_inside_the_image() -> None:
    from PIL import Image

    columns, rows = np.meshgrid(np.arange(200), np.arange(120))
    image = Image.fromarray(np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8))
    generator = np.random.default_rng(0)
    means = []
    for _ in range(50):
        crop = np.asarray(cut(image, Crop(random_box(200, 120, (0.2, 0.5), generator), (2, 2)), patch_px=8), int)
        assert crop.shape == (16, 16, 3)
        width, height = np.ptp(crop[..., 0]), np.ptp(crop[..., 1])
        assert 0.1 < width * height / (200 * 120) < 0.55
        means.append(crop.mean(axis=(0, 1))[:2])
    assert np.ptp(np.array(means), axis=0).min() > 20, "crops move about"
    centre = np.asarray(cut(image, Crop(centre_box(200, 120), (2, 2)), patch_px=8), int).mean(axis=(0, 1))
    assert abs(centre[0] - 99.5) < 2 and abs(centre[1] - 59.5) < 2
