"""Objectives: their weights, which rows they read, and that each adds up the losses it says, and no other."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.distributed as dist

from lcl.contrastive import Twins, contrastive_loss
from lcl.core.config import from_dict
from lcl.core.document import Document
from lcl.core.tokenizer import Tokenizer, TokenizerConfig
from lcl.layout import Layout, LayoutConfig, Setting, lay_out
from lcl.model import LCL, ModelConfig
from lcl.objectives import OBJECTIVES, LossConfig
from lcl.rows import Batch, ImageInput, Row, SpecialIds, collate
from lcl.train_step import global_losses, look
from lcl.vision import normalise
from tests.made_documents import document, image
from tests.made_rows import SETTINGS

MODEL = dataclasses.replace(SETTINGS, tokenizer=TokenizerConfig(num_merges=0), text=dataclasses.replace(SETTINGS.text, context_length=128))
TOKENIZER = Tokenizer(MODEL.tokenizer)
PAIRS = [document(image(name), text) for name, text in (("a", "a red fox"), ("b", "two"), ("c", "the sea"), ("a", "again a fox"))]
PAGE = [document("one", image("a"), "two and more", image("b"), image("c"), "the end"), document(image("d"), "last")]


def batch_of(documents: list[Document], layout: Layout) -> Batch:
    """One row for each document. Equal bytes become equal pixels."""
    setting = Setting(TOKENIZER, layout, LayoutConfig(), 128, MODEL, evaluation=True)
    rows = []
    for one in documents:
        pieces = tuple(lay_out(one, setting, np.random.default_rng(0)))
        places = [place for piece in pieces for place in piece.images]
        pixels = [np.random.default_rng(abs(place.image_id)).integers(0, 256, (8, 8, 3), dtype=np.uint8) for place in places]
        rows.append(Row(pieces, tuple(ImageInput(values, place.crop.grid) for values, place in zip(pixels, places, strict=True))))
    return collate(rows, row_length=128, special=SpecialIds.of(TOKENIZER))


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def make_model(*, regression: bool = False, settings: ModelConfig = MODEL) -> LCL:
    torch.manual_seed(0)
    return LCL.for_tokenizer(settings, TOKENIZER, regression=regression)


def losses(loss: LossConfig, batches: list[Batch], model: LCL | None = None) -> dict[str, float]:
    model = model or make_model(regression=loss.regresses)
    return global_losses(look(model, batches), batches, loss)[0]


def test_weights_are_the_objectives_unless_they_are_given() -> None:
    assert {name: LossConfig(objective=name).weights for name in OBJECTIVES} == {
        "lcl": (1.0, 0.1, 0.0), "contrastive": (0.0, 1.0, 0.0), "generation": (1.0, 0.0, 0.0), "regression": (1.0, 0.0, 1.0),
        "clip": (0.0, 1.0, 0.0), "coca": (2.0, 1.0, 0.0),
    }  # fmt: skip
    assert LossConfig(objective="coca", generation_weight=0.0, regression_weight=0.5).weights == (0.0, 1.0, 0.5)
    assert [name for name in OBJECTIVES if LossConfig(objective=name).regresses] == ["regression"] and LossConfig(regression_weight=0.1).regresses


def test_each_objective_reads_its_layout() -> None:
    assert {name: LossConfig(objective=name).layout for name in OBJECTIVES} == dict.fromkeys(OBJECTIVES, "document") | {"clip": "pairs", "coca": "pairs_read"}


def test_nothing_left_to_train_on_is_an_error() -> None:
    with pytest.raises(ValueError, match="all loss weights are 0; raise --loss.generation-weight or --loss.contrastive-weight"):
        LossConfig(generation_weight=0.0, contrastive_weight=0.0).check()
    for name in OBJECTIVES:
        LossConfig(objective=name).check()


@pytest.mark.parametrize("values", [{"objective": "siglip"}, {"generation_weight": -1.0}, {"contrastive_weights": 1.0}])
def test_what_is_no_objective_is_named(values: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        from_dict(LossConfig, values, origin="here")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_is_the_weighted_sum_of_its_parts(name: str) -> None:
    loss = LossConfig(objective=name)
    found = losses(loss, [batch_of(PAGE, loss.layout)])
    generation, contrastive, regression = loss.weights
    assert found["loss"] == pytest.approx(generation * found["text_nats"] + contrastive * found["contrastive_nats"] + regression * found["regression"])
    assert found["loss"] > 0 and (found["regression"] > 0) == loss.regresses


@torch.no_grad()
def test_clip_contrasts_each_image_with_its_own_text_and_nothing_else() -> None:
    batch, model = batch_of(PAIRS, "pairs"), make_model()
    found = losses(LossConfig(objective="clip"), [batch], model)
    assert (found["targets"], found["slots"], found["text_nats"], found["images"], found["positives"]) == (0, 0, 0, 4, 4)
    outputs = model(batch)
    twins = Twins(batch.image_ids, batch.context_ids)
    plain = contrastive_loss(outputs.pooled, outputs.contexts, outputs.logit_scale, twins=twins)
    assert found["loss"] == found["contrastive_nats"] == pytest.approx(float(plain), rel=1e-5)
    assert found["loss"] != pytest.approx(float(contrastive_loss(outputs.pooled, outputs.contexts, outputs.logit_scale)), rel=1e-4), "the first and last are twins"
    assert losses(LossConfig(objective="clip", mask_twins=False), [batch], model)["loss"] != pytest.approx(found["loss"], rel=1e-4)


def test_clip_gives_the_text_alone_to_the_language_model() -> None:
    """The context vector of a pair does not change with the pixels, nor the pooled latent with the text."""
    batch, model = batch_of(PAIRS, "pairs"), make_model()
    first = model(batch)
    dark = model(dataclasses.replace(batch, images=batch.images // 2))
    assert torch.equal(first.contexts, dark.contexts) and not torch.allclose(first.pooled, dark.pooled)
    (first.contexts.sum() + 0 * first.pooled.sum()).backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.visual.parameters())


def test_coca_is_clip_and_the_caption_that_generation_learns() -> None:
    """Its matching part is clip's, and its caption part reads like a document of the image and its text."""
    model = make_model()
    coca, clip = (losses(LossConfig(objective=name), [batch_of(PAIRS, LossConfig(objective=name).layout)], model) for name in ("coca", "clip"))
    captions = losses(LossConfig(objective="generation"), [batch_of(PAIRS, "document")], model)
    assert coca["contrastive_nats"] == pytest.approx(clip["contrastive_nats"], rel=1e-5)
    assert (coca["text_nats"], coca["targets"], coca["slots"]) == (pytest.approx(captions["text_nats"], rel=1e-5), captions["targets"], captions["slots"])
    assert coca["loss"] == pytest.approx(2 * captions["text_nats"] + clip["contrastive_nats"], rel=1e-5)


def test_lcl_is_its_two_parts_on_the_same_rows() -> None:
    model, batches = make_model(), [batch_of(PAGE, "document")]
    lcl, contrastive, generation = (losses(LossConfig(objective=name), batches, model)["loss"] for name in ("lcl", "contrastive", "generation"))
    assert lcl == pytest.approx(generation + 0.1 * contrastive, rel=1e-6)


@torch.no_grad()
def test_regression_is_the_mean_squared_error_of_the_next_latent() -> None:
    model, batch = make_model(regression=True), batch_of(PAGE, "document")
    found = losses(LossConfig(objective="regression"), [batch], model)
    read, latents = model.read_rows(batch, normalise(batch.images, dtype=torch.float32))
    before = read.hidden.reshape(-1, read.hidden.shape[-1])[batch.slots - 1]
    wanted = latents.tokens.reshape(-1, latents.tokens.shape[-1])[batch.latent_index]
    assert found["regression"] == pytest.approx(float((model.regression_head(before) - wanted).square().mean()), rel=1e-5)
    assert found["loss"] == pytest.approx(found["text_nats"] + found["regression"])


def test_batches_of_text_alone_and_of_nothing_are_finite() -> None:
    """No image anywhere, and a row that damaged images have left empty."""
    empty = collate([Row((), ())], row_length=128, special=SpecialIds.of(TOKENIZER))
    for name in OBJECTIVES:
        loss = LossConfig(objective=name)
        assert losses(loss, [batch_of([document("words")], "document")])["positives"] == 0
        assert losses(loss, [empty])["loss"] == 0
        assert losses(loss, [batch_of(PAGE, loss.layout), empty])["loss"] == pytest.approx(losses(loss, [batch_of(PAGE, loss.layout)])["loss"], rel=1e-5)
