"""Documents as pieces: nothing lost or cut, contexts and pairs as each objective reads them, and what a batch makes of them."""

import dataclasses
from collections import Counter
from itertools import groupby

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lcl.core.document import PARAGRAPH_BREAK, Document
from lcl.core.tokenizer import Tokenizer, TokenizerConfig
from lcl.layout import Layout, LayoutConfig, Setting, lay_out, without_image
from lcl.model import ModelConfig
from lcl.rows import IGNORED, NO_CONTEXT, ImageInput, ImagePlace, Piece, Row, SpecialIds, collate
from lcl.vision import VisionConfig
from tests.made_documents import document, image

SQUARES = ModelConfig(vision=VisionConfig(image_px=32, patch_px=8, width=32, layers=1, head_width=16), tokenizer=TokenizerConfig(num_merges=500))
FLEXIBLE = dataclasses.replace(SQUARES, vision=VisionConfig(kind="naflex", patch_px=8, max_patches=16, width=32, layers=1, head_width=16))
QUERIES = dataclasses.replace(FLEXIBLE, image_latents=5)
MODELS = (SQUARES, FLEXIBLE, QUERIES)
TOKENIZER = Tokenizer(SQUARES.tokenizer)
SOT, EOT, IMAGE, SOI, EOI = TOKENIZER.sot, TOKENIZER.eot, TOKENIZER.image, TOKENIZER.soi, TOKENIZER.eoi
SLOTS = 16
MARKERS = "<start_of_text> <end_of_text> <img_placehold> <start_of_img> <end_of_img> <sot> <eot> <image> <soi> <eoi> <|endoftext|>".split()


def pieces_of(
    made: Document, *, layout: Layout = "document", length: int = 10_000, model: ModelConfig = SQUARES, evaluation: bool = True, seed: int = 0, **rules: object
) -> list[Piece]:
    """Crops of evaluation by default: then nothing is random on a page."""
    return lay_out(made, Setting(TOKENIZER, layout, LayoutConfig(**rules), length, model, evaluation), np.random.default_rng(seed))


def spelled(piece: Piece) -> str:
    """`sot a soi * eoi eot`: markers by name, * for the slots of one image, text as text."""
    names = {SOT: "sot", EOT: "eot", SOI: "soi", EOI: "eoi", IMAGE: "*"}
    return " ".join(names.get(key, "") or TOKENIZER.decode(list(ids)) for key, ids in groupby(piece.ids, key=lambda token: token if token >= SOT else 0))


texts = st.lists(st.sampled_from(["a", "red fox", "don't", "<soi>", "é", PARAGRAPH_BREAK, "  ", *MARKERS]) | st.text(max_size=12), max_size=8).map(" ".join)
images = st.builds(image, st.sampled_from("abcdef"), width=st.integers(1, 200), height=st.integers(1, 200))
documents = st.builds(lambda parts, order: document(*parts, order=order), st.lists(texts | images, max_size=9), st.sampled_from(["page", "matched", "none"]))
models = st.sampled_from(MODELS)


def text_of(ids: tuple[int, ...]) -> list[int]:
    return [token for token in ids if token < SOT]


@given(documents, models, st.integers(20, 90), st.integers(0, 3))
def test_every_text_token_and_image_comes_once_in_order(made: Document, model: ModelConfig, length: int, max_images: int) -> None:
    """In the layout of documents, whatever is swapped: images pass texts, but no text a text and no image an image."""
    pieces = pieces_of(made, model=model, length=length, max_images=max_images, evaluation=False)
    assert all(len(piece) <= length and len(piece.parts) == 1 for piece in pieces)
    assert [token for piece in pieces for token in text_of(piece.ids)] == [token for text in made.texts for token in TOKENIZER.encode(text)]
    num_images = min(len(made.images), max_images or len(made.images))
    assert [place.image for piece in pieces for place in piece.images] == list(range(num_images))
    assert all(piece.ids[0] == SOT and piece.ids.count(SOT) == 1 for piece in pieces)
    assert [piece.ids.count(EOT) for piece in pieces] == [0] * (len(pieces) - 1) + [1] and pieces[-1].ids[-1] == EOT
    for piece in pieces:
        runs = []
        for place in piece.images:
            start, end = place.first_slot, place.first_slot + place.num_slots
            assert piece.ids[start - 1 : end + 1] == (SOI, *[IMAGE] * place.num_slots, EOI), "an image is never cut"
            assert place.num_slots == (model.image_latents or place.crop.grid[0] * place.crop.grid[1]) > 0
            runs.append(end - start)
        assert (piece.ids.count(IMAGE), piece.ids.count(SOI), piece.ids.count(EOI)) == (sum(runs), len(runs), len(runs)), "no marker comes from text"


@given(documents, st.integers(1, 9))
def test_only_the_nearest_text_is_kept(made: Document, most: int) -> None:
    """The last tokens before each image, the first behind the last one, and all images."""
    if made.order != "page":
        return
    (piece,) = pieces_of(made, near_tokens=most)
    wanted, run = [], []
    for segment in made.segments:
        if segment.kind == "text":
            run += TOKENIZER.encode(segment.text)
        else:
            wanted += [*run[-most:], SOI]
            run = []
    assert [token for token in piece.ids if token < SOT or token == SOI] == [*wanted, *run[:most]]
    assert len(piece.images) == len(made.images)


@given(documents, models, st.sampled_from(["pairs", "pairs_read"]), st.integers(24, 60))
def test_pairs_hold_one_image_with_text_of_the_document(made: Document, model: ModelConfig, layout: Layout, length: int) -> None:
    pieces = pieces_of(made, layout=layout, model=model, length=length, pair_tokens=9, evaluation=False)
    has_text = any(TOKENIZER.encode(text) for text in made.texts)
    if made.order == "page":
        assert [piece.images[0].image for piece in pieces] == list(range(len(made.images))) * has_text
    for piece in pieces:
        assert len(piece) <= length
        (place,) = piece.images
        matched, *captions = piece.parts
        text = text_of(matched.ids)
        assert 0 < len(text) <= 9 and matched.ids == (SOT, *text, SOI) and not matched.predicted
        assert piece.ids[place.context] == SOI and place.context == len(matched.ids) - 1
        if layout == "pairs":
            assert not captions and place.num_slots == 0
            continue
        (caption,) = captions
        assert caption.ids == (SOT, SOI, *[IMAGE] * place.num_slots, EOI, *text, EOT) and caption.predicted
        assert piece.ids[place.first_slot : place.first_slot + place.num_slots] == (IMAGE,) * place.num_slots != () and piece.ids[place.first_slot - 1] == SOI


@given(documents, st.sampled_from(["document", "pairs", "pairs_read"]), st.integers(0, 5))
def test_the_same_randomness_gives_the_same_pieces(made: Document, layout: Layout, seed: int) -> None:
    """Continuing a run rests on it: waiting pieces are laid out again."""
    first, second = (pieces_of(made, layout=layout, length=64, evaluation=False, seed=seed, crop_scale=(0.2, 1.0), flip=0.5) for _ in range(2))
    assert first == second


def test_golden_pieces() -> None:
    made = document("one", image("a"), "two", image("b"))
    assert [spelled(piece) for piece in pieces_of(made)] == ["sot one soi * eoi two soi * eoi eot"]
    assert [spelled(piece) for piece in pieces_of(made, length=24)] == ["sot one soi * eoi two", "sot soi * eoi eot"]
    assert [spelled(piece) for piece in pieces_of(made, layout="pairs")] == ["sot one soi", "sot two soi"]
    assert [spelled(piece) for piece in pieces_of(made, layout="pairs_read")] == ["sot one soi sot soi * eoi one eot", "sot two soi sot soi * eoi two eot"]


def test_long_text_is_split_and_not_dropped() -> None:
    made = document(*(part for number in range(9) for part in (f"part {number} with a few words of text " * 6, image(str(number)))))
    pieces = pieces_of(made, length=64)
    (whole,) = pieces_of(made)
    assert len(pieces) > 5 and [token for piece in pieces for token in piece.ids if token not in (SOT, EOT)] == list(whole.ids[1:-1])
    assert max(len(piece) for piece in pieces) == 63, "where text is cut, only the place of <eot> stays free"


def test_text_that_spells_markers_stays_text() -> None:
    made = document("<soi> <img_placehold> <start_of_text> <eoi>", image("a"))
    (piece,) = pieces_of(made)
    assert [token for token in piece.ids if token >= SOT] == [SOT, SOI, *[IMAGE] * SLOTS, EOI, EOT]


@pytest.mark.parametrize(("rule", "expected"), [("with_context", [False, True, True]), ("published", [True, True, True])])
def test_positives_are_images_with_something_before_them(rule: str, expected: list[bool]) -> None:
    """Published: only an image at index 0 would be left out, and with <sot> in front none is."""
    (piece,) = pieces_of(document("  ", image("a"), image("b"), "text", image("c")), positives=rule)
    assert [place.context != NO_CONTEXT for place in piece.images] == expected
    assert all(piece.ids[place.context] == SOI for place in piece.images if place.context != NO_CONTEXT)


def test_an_image_at_the_start_of_a_later_piece_has_no_context() -> None:
    first, second = pieces_of(document("a", image("a"), image("b")), length=22)
    assert first.images[0].context == 2 and second.images[0].context == NO_CONTEXT


@pytest.mark.parametrize("order", ["none", "matched"])
def test_image_first_decides_where_no_page_does(order: str) -> None:
    made = document(image("a"), "one", image("b"), "two", order=order)
    assert spelled(pieces_of(made, image_first=1.0)[0]) == "sot soi * eoi one soi * eoi two eot"
    assert spelled(pieces_of(made, image_first=0.0)[0]) == "sot one soi * eoi two soi * eoi eot"
    found = Counter(spelled(piece) for seed in range(400) for piece in pieces_of(made, seed=seed))
    assert len(found) == 4 and min(found.values()) > 70, "each image by itself, half of the time"


def test_a_page_keeps_its_order() -> None:
    for image_first in (0.0, 1.0):
        assert spelled(pieces_of(document("one", image("a"), "two", image("b")), image_first=image_first)[0]) == "sot one soi * eoi two soi * eoi eot"


def test_a_sentence_is_the_text_behind_after_a_matching_and_the_other_half_in_pairs() -> None:
    made = ("title", image("a"), "one", "more", image("b"), "two")
    assert spelled(pieces_of(document(*made, order="matched"), image_first=0.0)[0]) == "sot title one soi * eoi more two soi * eoi eot"
    pairs = document("one", image("a"), "two", image("b"), order="none")
    assert spelled(pieces_of(pairs, image_first=1.0)[0]) == "sot soi * eoi one soi * eoi two eot"


@pytest.mark.parametrize(
    ("made", "texts"),
    [
        (document("one\n\ntwo", image("a"), "three"), ["two"]),                        # the last paragraph before
        (document("one\n\n", image("a"), "  ", image("b"), "three"), ["one", "one"]),   # blank ones do not count
        (document(image("a"), "three\n\nfour"), ["three"]),                             # or the first behind
        (document(image("a"), image("b")), []),
        (document("title", image("a"), "one", image("b"), "two", order="matched"), ["one", "two"]),
        (document(image("a"), "one", image("b"), order="matched"), ["one", "one"]),      # the second has no sentence
        (document("one", image("a"), "two", image("b"), order="none"), ["one", "two"]),
        (document(image("a"), "one", image("b"), "two", order="none"), ["one", "two"]),
    ],
)  # fmt: skip
def test_an_images_own_text(made: Document, texts: list[str]) -> None:
    for image_first in (0.0, 1.0):
        assert [TOKENIZER.decode(piece.ids) for piece in pieces_of(made, layout="pairs", image_first=image_first)] == texts


def test_the_text_of_a_pair_is_cut_to_what_fits() -> None:
    made = document("many words " * 50, image("a"))
    assert len(pieces_of(made, layout="pairs")[0]) == 75 + 2
    assert len(pieces_of(made, layout="pairs", length=20)[0]) == 20
    assert len(pieces_of(made, layout="pairs_read", length=SLOTS + 8)[0]) == SLOTS + 8
    assert len(pieces_of(made, layout="pairs_read", pair_tokens=7)[0]) == 2 * 7 + SLOTS + 6


def test_equal_bytes_and_equal_contexts_have_equal_ids() -> None:
    alone, after = document("text", image("a")), document("text", image("a"), "more", image("a"), "more", image("b"))
    (first,) = pieces_of(alone)[0].images
    places = pieces_of(after)[0].images
    assert [place.image_id == first.image_id for place in places] == [True, True, False]
    assert [place.context_id == first.context_id for place in places] == [True, False, False]
    assert pieces_of(document("text", image("b"), "more", image("a")))[0].images[1].context_id != places[1].context_id, "the images before count"
    assert pieces_of(document("text", image("b")))[0].images[0].context_id == first.context_id, "the image itself does not"
    assert -(1 << 63) <= min(place.image_id for place in places) and max(place.image_id for place in places) < 1 << 63


@given(st.lists(documents, min_size=2, max_size=4))
def test_context_ids_are_equal_exactly_for_equal_contexts(made: list[Document]) -> None:
    seen: dict[int, tuple] = {}
    for piece in (piece for one in made for piece in pieces_of(one, length=60)):
        for number, place in enumerate(piece.images):
            context = (piece.ids[: place.first_slot - 1], [other.image_id for other in piece.images[:number]])
            assert seen.setdefault(place.context_id, context) == context
    assert len({repr(context) for context in seen.values()}) == len(seen)


@given(documents, models, st.sampled_from(["with_context", "published"]), st.data())
def test_without_an_image_a_piece_is_as_if_it_had_never_been_there(made: Document, model: ModelConfig, rule: str, data: st.DataObject) -> None:
    made = dataclasses.replace(made, order="page")
    fixed = {"model": model, "positives": rule, "evaluation": model is SQUARES, "crop_scale": (1.0, 1.0)}  # crops that nothing moves
    (piece,) = pieces_of(made, **fixed)
    if not piece.images:
        return
    number = data.draw(st.integers(0, len(piece.images) - 1))
    gone = [index for index, segment in enumerate(made.segments) if segment.kind == "image"][number]
    (expected,) = pieces_of(dataclasses.replace(made, segments=made.segments[:gone] + made.segments[gone + 1 :]), **fixed)
    left = without_image(piece, number, LayoutConfig(positives=rule))
    renumbered = [dataclasses.replace(place, image=place.image - (place.image > number)) for place in left.images]
    assert dataclasses.replace(left, images=tuple(renumbered)) == expected


def test_a_pair_without_its_image_is_none() -> None:
    for layout in ("pairs", "pairs_read"):
        (piece,) = pieces_of(document("text", image("a")), layout=layout)
        assert without_image(piece, 0, LayoutConfig()) is None


@pytest.mark.parametrize(
    ("layout", "length", "message"),
    [
        ("document", SLOTS + 3, r"the smaller is 19\) cannot hold an image of 16 tokens with its markers; raise them to 20 or more"),
        ("pairs", 2, "raise them to 3 or more"),
        ("pairs_read", SLOTS + 7, "cannot hold an image of 16 tokens with its markers; raise them to 24 or more"),
    ],
)
def test_a_row_that_cannot_hold_an_image_is_an_error(layout: Layout, length: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pieces_of(document("text", image("a")), layout=layout, length=length)
    assert len(pieces_of(document("text", image("a")), layout=layout, length=length + 1)[-1]) <= length + 1


def test_areas_in_the_wrong_order_are_an_error() -> None:
    with pytest.raises(ValueError, match="data.layout.crop_scale goes from 1.0 to 0.5; give the smaller area first"):
        pieces_of(document("text"), crop_scale=(1.0, 0.5))


def test_crops_are_random_in_training_and_fixed_in_evaluation() -> None:
    made = document("text", image("a", width=640, height=640))
    for evaluation, most in ((True, 1), (False, 20)):
        crops = {pieces_of(made, evaluation=evaluation, seed=seed, flip=0.5, crop_scale=(0.3, 0.9))[0].images[0].crop for seed in range(20)}
        assert len(crops) == most
    assert {crop.mirrored for crop in crops} == {False, True}


def inputs_of(place: ImagePlace) -> ImageInput:
    """Patches that are not zero."""
    rows, columns = place.crop.grid
    return ImageInput(np.full((rows * columns, 192), 1 + place.image, np.uint8), place.crop.grid)


@pytest.mark.parametrize("layout", ["document", "pairs", "pairs_read"])
@pytest.mark.parametrize("model", MODELS, ids=["vit", "naflex", "queries"])
@settings(max_examples=20)
@given(st.lists(st.lists(documents, min_size=1, max_size=3), max_size=2))
def test_a_batch_says_where_everything_lies(model: ModelConfig, layout: Layout, made: list[list[Document]]) -> None:
    made = [[document("a", image("a", width=24, height=64)), document("b", image("b", width=64, height=16), image("c"))], *made]
    rows = [[piece for one in row for piece in pieces_of(one, layout=layout, length=48, model=model, evaluation=False)] for row in made]
    length = max(1, *(sum(map(len, row)) for row in rows)) + 3
    special = SpecialIds.of(TOKENIZER)
    batch = collate([Row(tuple(row), tuple(inputs_of(place) for piece in row for place in piece.images)) for row in rows], row_length=length, special=special)
    places = [place for row in rows for piece in row for place in piece.images]
    for index, row in enumerate(rows):
        parts = [part for piece in row for part in piece.parts]
        column = 0
        for number, part in enumerate(parts, start=1):
            at = slice(column, column + len(part.ids))
            column = at.stop
            assert tuple(batch.ids[index, at].tolist()) == part.ids
            assert (batch.document_ids[index, at] == number).all() and batch.positions[index, at].tolist() == list(range(len(part.ids)))
            wanted = [after if part.predicted and after not in (IMAGE, EOI) else IGNORED for after in part.ids[1:]] + [IGNORED]
            assert batch.targets[index, at].tolist() == wanted
        assert (batch.document_ids[index, column:] == 0).all() and (batch.targets[index, column:] == IGNORED).all()
        assert batch.document_lengths[index] == tuple(len(part.ids) for part in parts)
    flat = batch.ids.flatten()
    assert (flat[batch.slots] == IMAGE).all() and len(batch.slots) == len(set(batch.slots.tolist())) == int((flat == IMAGE).sum()) == len(batch.latent_index)
    assert (flat[batch.contexts] == SOI).all() and len(batch.positives) == len(batch.contexts) == len(batch.image_ids) == len(batch.context_ids)
    assert batch.grids == tuple(place.crop.grid for place in places)
    kept = [place for place in places if place.context != NO_CONTEXT]
    assert [places[index] for index in batch.positives.tolist()] == kept
    assert batch.image_ids.tolist() == [place.image_id for place in kept] and batch.context_ids.tolist() == [place.context_id for place in kept]
    most = max(place.num_slots for place in places)
    owners = [(number, slot) for number, place in enumerate(places) for slot in range(place.num_slots)]
    assert [divmod(index, most) for index in batch.latent_index.tolist()] == owners if most else not owners
    filled = [int((batch.images[number] != 0).any(dim=-1).sum()) for number in range(len(places))]
    assert filled == [rows * columns for rows, columns in batch.grids], "patches of an image, and zeros behind them"


def test_a_batch_of_no_images_and_of_an_empty_row() -> None:
    (piece,) = pieces_of(document("text"))
    batch = collate([Row((piece,), ()), Row((), ())], row_length=len(piece) + 1, special=SpecialIds.of(TOKENIZER))
    assert not len(batch.images) and not len(batch.slots) and batch.grids == () and batch.document_lengths == ((len(piece),), ())
    assert torch.equal(batch.document_ids[1], torch.zeros(len(piece) + 1, dtype=torch.int64))
