"""The model: the published one's numbers, no leak between packed documents, causality, degenerate batches."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from lcl.attention import AttentionPlan, _block_mask, _by_blocks, _by_document
from lcl.contrastive import contrastive_loss
from lcl.core.config import from_dict, to_dict
from lcl.losses import text_nll_sum
from lcl.model import LCL, ModelConfig
from lcl.published import published_config
from lcl.rows import IGNORED, Batch, Part, Row, SpecialIds, next_token_targets
from lcl.text import TextConfig
from lcl.towers import packing
from lcl.vision import VisionConfig, normalise
from tests.made_rows import EOI, EOT, IMAGE, SETTINGS, SOI, SOT, VOCAB_SIZE, batch_of, make_batch, make_model, make_row


@pytest.fixture(scope="module")
def published(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "data" / "reference" / "lcl_tiny.npz") as file:
        return dict(file)


def as_batch(ids: np.ndarray, lengths: list[int], *, soi: int, special: SpecialIds, slots: int) -> Batch:
    """Rows of one document each, as the published code pads them; `<soi>` at index 0 is no positive (`positives=published`)."""
    rows, length = ids.shape
    inside = np.arange(length) < np.array(lengths)[:, None]
    starts = torch.from_numpy(np.flatnonzero((ids == soi) & inside))
    documents = torch.from_numpy(inside.astype(np.int64))
    positives = (starts % length > 0).nonzero().flatten()
    targets = next_token_targets(torch.from_numpy(ids), documents, special)
    return Batch(
        ids=torch.from_numpy(ids), document_ids=documents, positions=torch.arange(length).expand(rows, length),
        targets=targets, predictors=(targets.flatten() != IGNORED).nonzero()[:, 0], images=torch.zeros(0, 3, 1, 1, dtype=torch.uint8),
        slots=(starts[:, None] + 1 + torch.arange(slots)).flatten() if slots else torch.zeros(0, dtype=torch.int64), latent_index=torch.arange(len(starts) * slots),
        positives=positives, contexts=starts[positives], image_ids=positives, context_ids=positives,
        grids=((4, 4),) * (len(starts) if slots else 0), document_lengths=tuple((value,) for value in lengths),
    )  # fmt: skip


@torch.no_grad()
def test_numbers_of_the_published_model(published: dict[str, np.ndarray]) -> None:
    """Features, logits and losses of the official code from its own config and state dict, to 1e-5."""
    record = json.loads(str(published["config"]))
    settings, vocab_size = published_config(record, origin="lcl_tiny.npz")
    model = LCL(settings, vocab_size=vocab_size)
    model.load_state_dict({name[3:]: torch.from_numpy(value) for name, value in published.items() if name.startswith("sd/")})
    names = record["special_token_ids"]
    special, soi = SpecialIds(image=names["<img_placehold>"], eoi=names["<end_of_img>"]), names["<start_of_img>"]
    ids = published["text"]
    batch = as_batch(ids, [int(np.flatnonzero(row).max()) + 1 for row in ids], soi=soi, special=special, slots=16)
    read, latents = model.read_rows(batch, torch.from_numpy(published["images"]))
    counted = batch.targets != IGNORED
    captions = np.where(published["captions"] == names["<end_of_text>"], soi, published["captions"])
    ends = [int(np.flatnonzero(row == soi)[0]) + 1 for row in captions]
    texts = as_batch(captions, ends, soi=soi, special=special, slots=0)
    pooled = latents.pooled[batch.positives]
    pairs = {
        "encode_image": normalize(latents.pooled, dim=-1),
        "image_features": normalize(pooled, dim=-1),
        "text_features": normalize(read.contexts, dim=-1),
        "labels": batch.targets[counted],
        "logits": model.lm_head(read.hidden)[counted],
        "logit_scale": model.logit_scale.exp()[0],
        "loss/contrastive_loss": 0.1 * contrastive_loss(pooled, read.contexts, model.logit_scale[0]),
        "loss/caption_loss": text_nll_sum(read.hidden, batch.targets, batch.predictors, model.lm_head) / counted.sum(),
        "encode_text": normalize(model.read_text(texts), dim=-1),
    }
    for name, value in pairs.items():
        np.testing.assert_allclose(value.numpy(), published[name], atol=1e-5, rtol=1e-5, err_msg=name)


DOCUMENTS = ("ttittit", "itt", "ttttttt", "tii")


SMALL = replace(SETTINGS, vision=replace(SETTINGS.vision, layers=1))
KINDS = {
    "published": SETTINGS,
    "queries": replace(SMALL, image_latents=3),
    "naflex": replace(SMALL, vision=VisionConfig(kind="naflex", patch_px=4, width=16, layers=2, head_width=8, max_patches=6)),
    "llama": replace(SMALL, text=TextConfig(kind="llama", context_length=64, width=16, layers=2, heads=4, key_heads=2)),
    "qwen3 with naflex and queries": ModelConfig(
        embed_width=16, pool_heads=2, image_latents=2, vision=VisionConfig(kind="naflex", patch_px=4, width=16, layers=1, head_width=8, max_patches=8),
        text=TextConfig(kind="qwen3", context_length=64, width=16, layers=1, heads=2, key_heads=1),
    ),
}  # fmt: skip
every_kind = pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS.keys())


def alone(row: Row) -> list[Row]:
    """The same pieces in rows of their own."""
    ends = np.cumsum([len(piece.images) for piece in row.pieces])
    return [Row((piece,), row.images[end - len(piece.images) : end]) for piece, end in zip(row.pieces, ends, strict=True)]


@every_kind
def test_packed_equals_unpacked(settings: ModelConfig) -> None:
    """Outputs and gradients of documents packed in one row and of the same documents in rows of their own."""
    model = make_model(settings)
    row = make_row(DOCUMENTS, seed=0, settings=settings)
    results = []
    for batch in (make_batch([row]), make_batch(alone(row))):
        model.zero_grad()
        outputs = model(batch)
        value = outputs.nll_sum / len(batch.predictors) + contrastive_loss(outputs.pooled, outputs.contexts, outputs.logit_scale)
        value.backward()
        results.append((value, len(batch.predictors), outputs, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}))
    (value_1, targets_1, outputs_1, gradients_1), (value_2, targets_2, outputs_2, gradients_2) = results
    assert targets_1 == targets_2 > 10 and len(outputs_1.contexts) >= 4
    torch.testing.assert_close(value_1, value_2, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(outputs_1.contexts, outputs_2.contexts, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients_1.items():
        if name != "text.positional_embedding":  # rows of padding differ in length, used positions do not
            torch.testing.assert_close(gradient, gradients_2[name], atol=1e-5, rtol=1e-5, msg=name)


@every_kind
def test_another_document_changes_nothing_at_all(settings: ModelConfig) -> None:
    """A document of other words and pictures in the same row: the hidden states of the rest are the same bits."""
    model = make_model(settings)
    row, other = (make_row(DOCUMENTS, seed=seed, settings=settings) for seed in (0, 9))
    count = len(row.pieces[0].images)
    images = tuple(replace(new, values=np.resize(new.values, old.values.shape), grid=old.grid) for new, old in zip(other.images[:count], row.images, strict=False))
    piece = replace(row.pieces[0], parts=(Part(tuple(SOT + 1 if token < SOT else token for token in row.pieces[0].ids)),))
    batches = [make_batch([item]) for item in (row, Row((piece, *row.pieces[1:]), (*images, *row.images[count:])))]
    hidden = [model.read_rows(batch, normalise(batch.images, dtype=torch.float32))[0].hidden for batch in batches]
    first = len(piece)
    used = batches[0].num_tokens
    assert (hidden[0][0, :first] != hidden[1][0, :first]).any()
    assert (hidden[0][0, first:used] - hidden[1][0, first:used]).abs().max() == 0


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")  # which is for GPUs
def test_both_paths_of_attention_agree() -> None:
    """By documents (CPU) and by FlexAttention's block mask (GPU; here its plain form), with fewer key heads too."""
    batch = batch_of(["ttit", "tt"], ["ttttttttt"], ["iti", "t", "t"])
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 4, batch.ids.shape[1], 16, generator=generator)
    plan = AttentionPlan(batch.document_ids, batch.document_lengths, _block_mask(batch.document_ids))
    for key_heads in (4, 2):
        key, value = torch.randn(2, 3, key_heads, batch.ids.shape[1], 16, generator=generator)
        by_document = _by_document(query, key, value, batch.document_lengths, None)
        by_blocks = _by_blocks(query, key, value, plan, None)
        torch.testing.assert_close(by_document, by_blocks, atol=1e-6, rtol=1e-5)
        assert (by_blocks[:, :, -1] == 0).all()


@every_kind
def test_a_context_vector_sees_what_came_before_its_image_and_nothing_of_it(settings: ModelConfig) -> None:
    model = make_model(settings)
    batch = batch_of(["ttittitti"], settings=settings)
    images = normalise(batch.images, dtype=torch.float32).requires_grad_()
    contexts = model.read_rows(batch, images)[0].contexts
    for number in range(3):
        (gradient,) = torch.autograd.grad(contexts[number].sum(), images, retain_graph=True)
        reached = gradient.abs().flatten(1).amax(dim=1)
        assert (reached[:number] > 0).all() and (reached[number:] == 0).all()


def test_targets_count_soi_and_eot_but_no_slot_no_eoi_no_padding() -> None:
    batch = batch_of(["tit", "t"])
    slots = SETTINGS.most_slots
    ids = batch.ids[0].tolist()
    assert ids[: slots + 6] == [SOT, ids[1], SOI, *[IMAGE] * slots, EOI, ids[slots + 4], EOT]
    expected = [ids[1], SOI, *[IGNORED] * (slots + 1), ids[slots + 4], EOT, IGNORED]  # <soi>, slots | <eoi> predicts the word
    targets = batch.targets[0]
    assert targets.tolist()[: slots + 6] == expected
    assert targets.tolist()[slots + 6 : slots + 9] == [ids[slots + 7], EOT, IGNORED]
    assert (targets[slots + 9 :] == IGNORED).all()


def test_images_of_any_grid_give_the_same_alone_and_together() -> None:
    """NaFlex: latents of images packed in sequences equal those of each image by itself, whatever its neighbours."""
    model = make_model(KINDS["naflex"])
    together = batch_of(["titi", "iti", "ti"], ["ttiii"], settings=KINDS["naflex"], seed=3)
    assert len(set(together.grids)) > 2
    latents = model.encode_images(normalise(together.images, dtype=torch.float32), together.grids)
    for index, grid in enumerate(together.grids):
        count = grid[0] * grid[1]
        single = model.encode_images(normalise(together.images[index : index + 1, :count], dtype=torch.float32), (grid,))
        torch.testing.assert_close(latents.pooled[index], single.pooled[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(latents.tokens[index, :count], single.tokens[0], atol=1e-5, rtol=1e-5)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=30))
def test_sequences_hold_each_image_once_and_whole(counts: list[int]) -> None:
    target, image_ids = packing(counts, 12)
    assert image_ids.flatten()[target].tolist() == [index + 1 for index, count in enumerate(counts) for _ in range(count)]
    assert len(set(target.tolist())) == sum(counts) == int((image_ids > 0).sum())
    sequences = target // 12
    for index, part in enumerate(sequences.split(counts)):
        assert len(set(part.tolist())) == 1, index
    assert len(image_ids) <= max(1, 2 * -(-sum(counts) // 12)), "first fit is never twice as long"


@pytest.mark.parametrize("rows", [(["ttt"],), (["i", "it"],), (["ti"],), (["t"], ["ttittit"])])
@every_kind
def test_degenerate_batches_are_finite(rows: tuple[list[str], ...], settings: ModelConfig) -> None:
    model = make_model(settings, regression=True)
    batch = batch_of(*rows, settings=settings)
    outputs = model(batch)
    value = outputs.nll_sum + outputs.regression_sum + contrastive_loss(outputs.pooled, outputs.contexts, outputs.logit_scale)
    value.backward()
    assert torch.isfinite(value)
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in model.parameters()), "every rank takes part in every collective"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision": {"image_px": 30}}, "vision.image_px is no multiple of model.vision.patch_px"),
        ({"vision": {"head_width": 5}}, "vision.width is no multiple of model.vision.head_width"),
        ({"text": {"heads": 3}}, "text.width is no multiple of model.text.heads"),
        ({"embed_width": 32}, "embed_width .32. must equal model.text.width .16."),
        ({"pool_heads": 3}, "embed_width is no multiple of model.pool_heads"),
    ],
)
def test_sizes_that_do_not_fit_are_named(change: dict, message: str) -> None:
    values = to_dict(SETTINGS)
    for key, value in change.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    with pytest.raises(ValueError, match=message):
        LCL(from_dict(ModelConfig, values, origin="test"), vocab_size=VOCAB_SIZE)
