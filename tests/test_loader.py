"""Rows from shards: nothing lost, order free of ranks and workers, exact continuation, mixtures, held-out documents and damaged images."""

import dataclasses
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from lcl.core.document import Document, key_of
from lcl.core.images import decode_image
from lcl.core.shards import ShardSet, write_shard
from lcl.core.tokenizer import Tokenizer, TokenizerConfig
from lcl.layout import Layout, LayoutConfig, image_id, without_image
from lcl.loader import DataConfig, RowLoader, RowSource, held_out
from lcl.mixture import BLOCK
from lcl.model import ModelConfig
from lcl.rows import Row, SpecialIds, collate
from lcl.vision import VisionConfig
from tests.made_documents import document, image

MODEL = ModelConfig(vision=VisionConfig(image_px=32, patch_px=8, width=32, layers=1, head_width=16), tokenizer=TokenizerConfig(num_merges=500))
FLEXIBLE = dataclasses.replace(MODEL, vision=VisionConfig(kind="naflex", patch_px=8, max_patches=16, width=32, layers=1, head_width=16))
ROW_LENGTH = 160
TOKENIZER = Tokenizer(MODEL.tokenizer)
LAYOUTS = ("document", "pairs", "pairs_read")


def source_of(
    *shards: Path, model: ModelConfig = MODEL, layout: Layout = "document", rules: LayoutConfig = LayoutConfig(), validation: bool = False, **settings: object
) -> RowSource:
    data = DataConfig(**{"shards": tuple(map(str, shards)), "num_lanes": 4, "pack_window": 4, "layout": rules} | settings)
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


def photo(seed: int, size: tuple[int, int] = (60, 44)) -> bytes:
    """A small JPEG of smooth noise, another for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


def made(number: int, *parts: str | bytes) -> Document:
    """A document of texts and JPEGs with a key of its own."""
    segments = [part if isinstance(part, str) else image(part, width=(size := Image.open(io.BytesIO(part)).size)[0], height=size[1]) for part in parts]
    return document(*segments, key=key_of("f", number, ""))


def made_documents(count: int, *, first: int = 0) -> list[Document]:
    """Pages of two images and texts of different lengths."""
    return [
        made(number, f"page {number}", photo(2 * number), "some words " * (number % 9), photo(2 * number + 1, (24 + 16 * (number % 5), 40)), "the end")
        for number in range(first, first + count)
    ]


def folder_of(path: Path, documents: Sequence[Document], *, name: str = "a") -> Path:
    path.mkdir(exist_ok=True)
    write_shard(path, name, documents, origin={})
    return path


def test_order_depends_on_neither_ranks_nor_workers(shards: Path) -> None:
    expected, state = take_all(source_of(shards), 1, 5)
    assert len(set(expected)) > 15
    for world_size, workers in ((2, 0), (4, 0), (2, 2)):
        rows, other = take_all(source_of(shards, num_workers=workers), world_size, 5)
        assert rows == expected and other == state, (world_size, workers)


@pytest.mark.parametrize("layout", ["pairs", "pairs_read"])
def test_order_of_pairs_does_not_depend_on_ranks(shards: Path, layout: Layout) -> None:
    source = source_of(shards, layout=layout)
    expected, state = take_all(source, 1, 4)
    assert len(set(expected)) == 16
    for world_size in (2, 4):
        assert take_all(source, world_size, 4) == (expected, state)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch_rows", [4, 12])
def test_a_continued_loader_gives_the_rest_at_any_number_of_ranks(shards: Path, layout: Layout, batch_rows: int) -> None:
    """With 12 rows a step and 4 lanes, or 4 rows and 8 lanes, a step ends inside or at the end of a round over the lanes."""
    for lanes in (4, 8):
        source = source_of(shards, num_lanes=lanes, layout=layout)
        expected, _ = take_all(source, 1, 5, batch_rows=batch_rows)
        for before, after in ((1, 2), (2, 4), (4, 1)):
            first, state = take_all(source, before, 3, batch_rows=batch_rows)
            rest, _ = take_all(source, after, 2, state=json.loads(json.dumps(state)), batch_rows=batch_rows)
            assert first + rest == expected, (lanes, before, after)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_piece_comes_once_an_epoch(shards: Path, layout: Layout) -> None:
    """The pieces of the first rows, with those that wait, are the pieces of the first documents of the sequence."""
    source = source_of(shards, layout=layout)
    rows, state = take_all(source, 1, 12)
    taken = Counter(ids for pieces, _ in rows for ids in pieces)
    waiting = Counter(source.pieces(position)[number].piece.ids for lane in state["lanes"].values() for position, number in lane["waiting"])
    opened = Counter(
        waiting.piece.ids
        for number, lane in state["lanes"].items()
        for position in range(int(number), lane["next_document"], 4)
        for waiting in source.pieces(position)
    )
    assert taken + waiting == opened and len(taken) > 20
    epoch = [source.document(position).key for position in range(len(source))]
    assert sorted(epoch) == sorted(one.key for one in source.sets[0] if layout == "document" or (one.images and one.texts))


def test_another_epoch_has_another_order(shards: Path) -> None:
    source = source_of(shards)
    epochs = [[source.document(epoch * len(source) + index).key for index in range(len(source))] for epoch in range(2)]
    assert epochs[0] != epochs[1] and sorted(epochs[0]) == sorted(epochs[1])


def test_fewer_documents_than_lanes_is_fine(shards: Path, tmp_path: Path) -> None:
    write_shard(tmp_path, "one", list(ShardSet([shards]))[:1], origin={})
    rows, _ = take_all(source_of(tmp_path), 2, 2)
    assert len(rows) == 8


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", [MODEL, FLEXIBLE], ids=["vit", "naflex"])
def test_images_of_a_row_are_those_of_its_places(tmp_path: Path, model: ModelConfig, layout: Layout) -> None:
    """Decoded here again from the stored bytes, which the identity finds; and a batch of the rows holds as many."""
    documents = made_documents(12)
    stored = {image_id(one.data): one.data for made in documents for one in made.images}
    source = source_of(folder_of(tmp_path / "a", documents), model=model, layout=layout)
    rows = RowLoader(source, rank=0, world_size=1, batch_rows=8).take(8)
    for row in rows:
        places = [place for piece in row.pieces for place in piece.images]
        assert len(places) == len(row.images) > 0 and len(row.documents) == len(row.pieces)
        assert all(piece in [waiting.piece for waiting in source.pieces(position)] for position, piece in zip(row.documents, row.pieces, strict=True))
        for place, shown in zip(places, row.images, strict=True):
            whole = decode_image(stored[place.image_id], draft_px=model.vision.draft_px(place.crop))
            expected = model.vision.input_of(whole, place.crop)
            assert np.array_equal(shown.values, expected.values) and shown.grid == place.crop.grid
    batch = collate(rows, row_length=ROW_LENGTH, special=SpecialIds.of(TOKENIZER))
    assert len(batch.images) == len(batch.grids) == sum(len(row.images) for row in rows)
    assert (batch.ids.flatten()[batch.slots] == TOKENIZER.image).all() and len(batch.slots) == sum(h * w for h, w in batch.grids) * (layout != "pairs")
    assert len(set(batch.grids)) == 1 if model is MODEL else len(set(batch.grids)) > 2


def test_rows_are_filled_with_short_and_with_long_pieces(tmp_path: Path) -> None:
    """Though fewer pieces wait than a row takes: a lane looks for what fits until nothing that waits does."""
    generator = np.random.default_rng(0)
    short = [made(number, "a " * int(generator.integers(1, 12)), photo(0)) for number in range(60)]
    for layout, target in (("document", 0.93), ("pairs", 0.98)):
        source = source_of(folder_of(tmp_path / layout, short), layout=layout, pack_window=8)
        rows = RowLoader(source, rank=0, world_size=1, batch_rows=4).take(40)
        assert sum(len(piece) for row in rows for piece in row.pieces) / (ROW_LENGTH * len(rows)) > target
        assert layout == "document" or max(len(row.pieces) for row in rows) > 8


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_piece_is_kept_waiting(tmp_path: Path, layout: Layout) -> None:
    """The oldest one is in the next row, however little it leaves to the others."""
    source = source_of(folder_of(tmp_path / "a", made_documents(30)), layout=layout, pack_window=8)
    lane, oldest = source.open_lane(1, None), []
    for _ in range(30):
        waited = lane.state()["waiting"]
        row = source.next_row(lane)
        oldest += waited[:1]
        assert not waited or (waited[0] not in lane.state()["waiting"] and row.documents[0] == waited[0][0])
    assert len(oldest) == 29 and oldest == sorted(oldest)


def test_held_out_documents_are_the_others(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", made_documents(60))
    sources = [source_of(folder, validation_fraction=0.3, validation=validation) for validation in (False, True)]
    keys = [{source.document(position).key for position in range(len(source))} for source in sources]
    assert not keys[False] & keys[True] and len(keys[False] | keys[True]) == 60 and 8 < len(keys[True]) < 30
    write_shard(folder, "b", made_documents(30, first=60), origin={})
    more = source_of(folder, validation_fraction=0.3, validation=True)
    assert keys[True] < {more.document(position).key for position in range(len(more))}, "what was held out stays so"
    assert len(more) == len(set(map(more.mixture.locate, range(len(more)))))


def test_the_fraction_held_out_is_as_said() -> None:
    keys = [key_of("f", number, "") for number in range(4000)]
    for fraction in (0.0, 0.001, 0.1, 0.5, 0.999):
        marks = held_out(pa.chunked_array([keys]), fraction)
        assert marks.tolist() == [int(key[:13], 16) < fraction * 2**52 for key in keys]
        assert abs(marks.mean() - fraction) < 0.03
    assert not held_out(pa.chunked_array([["f" * 32]]), 1 - 2**-53).any() and held_out(pa.chunked_array([["0" * 32]]), 2**-52).all()


def test_held_out_images_are_cropped_as_in_evaluation(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", made_documents(20))
    crops = {}
    for validation in (False, True):
        source = source_of(folder, validation_fraction=0.4, validation=validation)
        crops[validation] = {
            (place.image_id, place.crop) for position in range(3 * len(source)) for waiting in source.pieces(position) for place in waiting.piece.images
        }
    images = {validation: {identity for identity, _ in found} for validation, found in crops.items()}
    assert len(crops[True]) == len(images[True]) and len(crops[False]) > len(images[False]) and not images[True] & images[False]


def test_folders_come_as_often_as_their_weights_say(tmp_path: Path) -> None:
    first, second = folder_of(tmp_path / "a", made_documents(20)), folder_of(tmp_path / "b", made_documents(5, first=20))
    source = source_of(first, second, weights=(1.0, 3.0))
    keys = [one.key for one in source.sets[0]]
    located = Counter(source.document(position).key in keys for position in range(BLOCK))
    assert located == {True: BLOCK // 4, False: 3 * BLOCK // 4}
    rows, state = take_all(source, 1, 6)
    again, other = take_all(source, 4, 6)
    assert (rows, state) == (again, other)
    plain = source_of(first, second)
    assert sorted(plain.document(position).key for position in range(25)) == sorted([*keys, *(one.key for one in source.sets[1])])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": (1.0,)}, "data.weights has 1 numbers .* each of the 2 folders of data.shards"),
        ({"weights": (1.0, 1e-9)}, "less than a 1024th"),
        ({"weights": (1.0, 1.0), "layout": "pairs"}, "hold no document with an image and text to train on; see their report.json"),
        ({"validation": True}, "hold no document held out: raise data.validation_fraction"),
        ({"rules": LayoutConfig(crop_scale=(1.0, 0.5))}, "crop_scale"),
        ({"model": dataclasses.replace(MODEL, vision=dataclasses.replace(MODEL.vision, image_px=128))}, "cannot hold an image of 256 tokens"),
    ],
)
def test_what_does_not_fit_is_named_before_any_row(tmp_path: Path, settings: dict, message: str) -> None:
    folders = folder_of(tmp_path / "a", made_documents(3)), folder_of(tmp_path / "b", [made(9, "text alone")])
    with pytest.raises(ValueError, match=message):
        source_of(*folders, **settings)


def test_pairs_are_looked_for_only_where_they_are(tmp_path: Path) -> None:
    """Documents without an image or text are not read for pairs; where there is nothing else, that is said."""
    folder = folder_of(tmp_path / "a", [*made_documents(2), made(8, "text alone"), made(9, photo(0))])
    assert [len(source_of(folder, layout=layout)) for layout in LAYOUTS] == [4, 2, 2]
    with pytest.raises(ValueError, match="hold no document with an image and text"):
        source_of(folder_of(tmp_path / "b", [made(8, "text alone"), made(9, photo(0))]), layout="pairs")


@pytest.mark.parametrize("layout", ["pairs", "pairs_read"])
def test_text_that_is_no_token_does_not_make_the_loader_search_for_ever(tmp_path: Path, layout: Layout) -> None:
    blank = folder_of(tmp_path / "a", [made(number, "  \n\n ", photo(number)) for number in range(3)])
    with pytest.raises(ValueError, match="gives a pair of image and text; take another --loss.objective"):
        RowLoader(source_of(blank, layout=layout), rank=0, world_size=1, batch_rows=4).take(1)
    some = folder_of(tmp_path / "b", [made(0, "words", photo(9)), *(made(number, "  \n\n ", photo(number)) for number in range(1, 6))])
    assert len(RowLoader(source_of(some, layout=layout), rank=0, world_size=1, batch_rows=4).take(4)) == 4


def changed(documents: Sequence[Document], number: int, which: int, data: bytes) -> list[Document]:
    """The documents with other bytes for one image."""
    changed, count = [], -1
    for segment in documents[number].segments:
        count += segment.kind == "image"
        changed.append(dataclasses.replace(segment, data=data) if segment.kind == "image" and count == which else segment)
    return [*documents[:number], dataclasses.replace(documents[number], segments=tuple(changed)), *documents[number + 1 :]]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_image_is_counted_and_closed_up_and_nothing_else_changes(tmp_path: Path, layout: Layout, which: int) -> None:
    documents = made_documents(12)
    broken = changed(documents, 5, which, documents[5].images[which].data[:200])
    folders = folder_of(tmp_path / "a", documents), folder_of(tmp_path / "b", broken)
    loaders = [RowLoader(source_of(folder, layout=layout), rank=0, world_size=1, batch_rows=8) for folder in folders]
    gone = image_id(documents[5].images[which].data)
    seen = images = 0
    for good, row in zip(*(loader.take(16) for loader in loaders), strict=True):
        expected, kept, inputs = [], [], iter(good.images)
        for piece in good.pieces:
            damaged = [number for number, place in enumerate(piece.images) if place.image_id == gone]
            left = without_image(piece, damaged[0], LayoutConfig()) if damaged else piece
            kept += [shown for number, shown in enumerate(next(inputs) for _ in piece.images) if number not in damaged]
            expected += [left] if left is not None else []
            seen, images = seen + len(damaged), images + len(piece.images)
        assert row.pieces == tuple(expected)
        assert [shown.values.tobytes() for shown in row.images] == [shown.values.tobytes() for shown in kept]
        collate([row], row_length=ROW_LENGTH, special=SpecialIds.of(TOKENIZER))
    assert loaders[1].damage() == (images, seen) and loaders[0].damage() == (images, 0) and seen > 0
    lanes = [loader.state()["lanes"] for loader in loaders]
    assert [{name: lane | {"damaged": 0} for name, lane in state.items()} for state in lanes] == [lanes[0]] * 2


def flipped(data: bytes, seed: int) -> bytes:
    """One to eight bytes replaced anywhere, and for every fourth seed the end cut off."""
    generator = np.random.default_rng(seed)
    values = bytearray(data)
    for at in generator.integers(len(values), size=int(generator.integers(1, 9))):
        values[at] = int(generator.integers(256))
    return bytes(values[: int(generator.integers(len(values)))] if seed % 4 == 0 else values)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_damage_ends_the_loading(tmp_path: Path, layout: Layout) -> None:
    """Random bytes of many images: each is shown or counted, whatever the decoder makes of it."""
    documents = [made(number, f"page {number}", photo(number), "more", photo(number + 500)) for number in range(160)]
    for number in range(len(documents)):
        documents = changed(documents, number, number % 2, flipped(documents[number].images[number % 2].data, number))
    loader = RowLoader(source_of(folder_of(tmp_path / "a", documents), layout=layout), rank=0, world_size=1, batch_rows=4)
    rows: list[Row] = []
    while sum(len(row.images) for row in rows) < 2 * len(documents):
        rows += loader.take(4)
    collate(rows, row_length=ROW_LENGTH, special=SpecialIds.of(TOKENIZER))
    images, damaged = loader.damage()
    assert sum(len(row.images) for row in rows) == images - damaged and 0.1 * images < damaged < 0.5 * images


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_is_named_in_one_line(tmp_path: Path, workers: int) -> None:
    folder = folder_of(tmp_path / "a", made_documents(3))
    data = bytearray((folder / "a.tar").read_bytes())
    data[100] ^= 1  # in the first header
    (folder / "a.tar").write_bytes(data)
    with pytest.raises(ValueError, match=r"^\S*a.tar, document 0: not a readable tar: a header is damaged$"):
        RowLoader(source_of(folder, num_workers=workers), rank=0, world_size=1, batch_rows=4).take(4)


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
    with pytest.raises(ValueError, match="hold no document to train on"):
        source_of(tmp_path)
