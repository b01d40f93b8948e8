"""The model: the published one's numbers, no leak between packed documents, causality, degenerate batches."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from lcl.attention import _by_document, _masked
from lcl.core.config import from_dict, to_dict
from lcl.losses import contrastive_loss, text_nll_sum
from lcl.model import LCL, ModelConfig, TextConfig, VisionConfig
from lcl.rows import IGNORED, Batch, SpecialIds, next_token_targets
from tests.made_rows import EOI, EOT, IMAGE, SETTINGS, SOI, SOT, VOCAB_SIZE, batch_of, make_batch, make_model, make_row


@pytest.fixture(scope="module")
def published(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "data" / "reference" / "lcl_tiny.npz") as file:
        return dict(file)


def published_model(published: dict[str, np.ndarray]) -> LCL:
    given = json.loads(str(published["config"]))
    vision, text, pool = given["vision_cfg"], given["text_cfg"], given["pool_project_cfg"]
    settings = ModelConfig(
        embed_width=given["embed_dim"], pool_heads=pool["attn_num_heads"],
        vision=VisionConfig(
            image_px=vision["image_size"], patch_px=vision["patch_size"], width=vision["width"], layers=vision["layers"], head_width=vision["head_width"]
        ),
        text=TextConfig(context_length=text["context_length"], width=text["width"], layers=text["layers"], heads=text["heads"]),
    )
    ids = given["special_token_ids"]
    model = LCL(settings, vocab_size=text["vocab_size"], special=SpecialIds(image=ids["<img_placehold>"], eoi=ids["<end_of_img>"]))
    model.load_state_dict({name[3:]: torch.from_numpy(value) for name, value in published.items() if name.startswith("sd/")})
    return model.eval()


def as_batch(ids: np.ndarray, lengths: list[int], soi: int) -> Batch:
    rows, length = ids.shape
    inside = np.arange(length) < np.array(lengths)[:, None]
    starts = torch.from_numpy(np.flatnonzero((ids == soi) & inside))
    return Batch(
        ids=torch.from_numpy(ids), document_ids=torch.from_numpy(inside.astype(np.int64)), positions=torch.arange(length).expand(rows, length),
        pixels=torch.zeros(len(starts), 3, 1, 1, dtype=torch.uint8), image_starts=starts, has_context=starts % length > 0,
        document_lengths=tuple((value,) for value in lengths),
    )


@torch.no_grad()
def test_numbers_of_the_published_model(published: dict[str, np.ndarray]) -> None:
    """Features, logits and losses of the official code from its own state dict, to 1e-5."""
    model = published_model(published)
    ids = published["text"]
    batch = as_batch(ids, [int(np.flatnonzero(row).max()) + 1 for row in ids], soi=198)
    hidden, latents = model.read_rows(batch, torch.from_numpy(published["images"]))
    contexts = model.context_vectors(hidden, batch.image_starts)
    kept = batch.has_context  # the published rule: only an image at index 0 is left out
    targets = next_token_targets(batch, model.special)
    counted = targets != IGNORED
    captions = np.where(published["captions"] == 196, 198, published["captions"])
    ends = [int(np.flatnonzero(row == 198)[0]) for row in captions]
    texts = as_batch(captions, [end + 1 for end in ends], soi=198)
    text_hidden, _ = model.read_rows(texts, torch.zeros(0, 3, 32, 32))
    places = torch.tensor([row * captions.shape[1] + end for row, end in enumerate(ends)])
    pairs = {
        "encode_image": normalize(latents.pooled, dim=-1),
        "image_features": normalize(latents.pooled[kept], dim=-1),
        "text_features": normalize(contexts[kept], dim=-1),
        "labels": targets[counted],
        "logits": model.lm_head(hidden)[counted],
        "logit_scale": model.logit_scale.exp()[0],
        "loss/contrastive_loss": 0.1 * contrastive_loss(latents.pooled[kept], contexts[kept], model.logit_scale[0]),
        "loss/caption_loss": text_nll_sum(hidden, targets, model.lm_head) / counted.sum(),
        "encode_text": normalize(model.context_vectors(text_hidden, places), dim=-1),
    }
    for name, value in pairs.items():
        np.testing.assert_allclose(value.numpy(), published[name], atol=1e-5, rtol=1e-5, err_msg=name)


DOCUMENTS = ("ttittit", "itt", "ttttttt", "tii")


def test_packed_equals_unpacked() -> None:
    """Outputs and gradients of documents packed in one row and of the same documents in rows of their own."""
    model = make_model()
    packed_row = make_row(DOCUMENTS, seed=0)
    packed = make_batch([packed_row])
    counts = [len(piece.images) for piece in packed_row.pieces]
    ends = np.cumsum(counts)
    alone = make_batch([replace(packed_row, pieces=(piece,), pixels=packed_row.pixels[end - count : end]) for piece, count, end in zip(packed_row.pieces, counts, ends, strict=True)])
    results = []
    for batch in (packed, alone):
        model.zero_grad()
        outputs = model(batch)
        value = outputs.nll_sum / outputs.num_targets + contrastive_loss(outputs.pooled, outputs.contexts, outputs.logit_scale)
        value.backward()
        results.append((value, outputs, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}))
    (value_1, outputs_1, gradients_1), (value_2, outputs_2, gradients_2) = results
    assert int(outputs_1.num_targets) == int(outputs_2.num_targets) > 10
    torch.testing.assert_close(value_1, value_2, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(outputs_1.contexts, outputs_2.contexts, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients_1.items():
        if name != "text.positional_embedding":  # rows of padding differ in length, used positions do not
            torch.testing.assert_close(gradient, gradients_2[name], atol=1e-5, rtol=1e-5, msg=name)


@torch.no_grad()
def test_a_change_to_one_document_changes_no_other() -> None:
    model = make_model()
    row = make_row(DOCUMENTS, seed=0)
    other = make_row(DOCUMENTS, seed=99)
    mixed = replace(row, pieces=(other.pieces[0], *row.pieces[1:]), pixels=np.concatenate([other.pixels[:2], row.pixels[2:]]))
    batches = [make_batch([item]) for item in (row, mixed)]
    hidden = [model.read_rows(batch, model.normalise(batch.pixels))[0] for batch in batches]
    first = len(row.pieces[0].ids)
    used = batches[0].num_tokens
    assert (hidden[0][0, :first] != hidden[1][0, :first]).any()
    assert (hidden[0][0, first:used] - hidden[1][0, first:used]).abs().max() == 0


def test_both_paths_of_attention_agree() -> None:
    batch = batch_of(["ttit", "tt"], ["ttttttttt"], ["iti", "t", "t"])
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 3, 2, batch.ids.shape[1], 8, generator=generator)
    by_document = _by_document(query, key, value, batch.document_lengths)
    masked = _masked(query, key, value, batch.document_ids)
    torch.testing.assert_close(by_document, masked, atol=1e-6, rtol=1e-5)
    assert (masked[:, :, -1] == 0).all()


def test_a_context_vector_sees_what_came_before_its_image_and_nothing_of_it() -> None:
    model = make_model()
    batch = batch_of(["ttittitti"])
    images = model.normalise(batch.pixels).requires_grad_()
    hidden, _ = model.read_rows(batch, images)
    contexts = model.context_vectors(hidden, batch.image_starts)
    for number in range(3):
        (gradient,) = torch.autograd.grad(contexts[number].sum(), images, retain_graph=True)
        reached = gradient.abs().amax(dim=(1, 2, 3))
        assert (reached[:number] > 0).all() and (reached[number:] == 0).all()


def test_targets_count_soi_and_eot_but_no_slot_no_eoi_no_padding() -> None:
    batch = batch_of(["tit", "t"])
    targets = next_token_targets(batch, SpecialIds(image=IMAGE, eoi=EOI))[0]
    slots = SETTINGS.vision.num_patches
    ids = batch.ids[0].tolist()
    assert ids[: slots + 6] == [SOT, ids[1], SOI, *[IMAGE] * slots, EOI, ids[slots + 4], EOT]
    expected = [ids[1], SOI, *[IGNORED] * (slots + 1), ids[slots + 4], EOT, IGNORED]  # <soi>, slots | <eoi> predicts the word
    assert targets.tolist()[: slots + 6] == expected
    assert targets.tolist()[slots + 6 : slots + 9] == [ids[slots + 7], EOT, IGNORED]
    assert (targets[slots + 9 :] == IGNORED).all()


def test_an_image_with_nothing_before_it_has_no_context_wherever_it_stands() -> None:
    batch = batch_of(["it", "ti", "ii"])
    assert batch.has_context.tolist() == [False, True, False, True]


@pytest.mark.parametrize("rows", [(["ttt"],), (["i", "it"],), (["ti"],), (["t"], ["ttittit"])])
def test_degenerate_batches_are_finite(rows: tuple[list[str], ...]) -> None:
    model = make_model()
    batch = batch_of(*rows)
    outputs = model(batch)
    value = outputs.nll_sum + contrastive_loss(outputs.pooled[batch.has_context], outputs.contexts[batch.has_context], outputs.logit_scale)
    value.backward()
    assert torch.isfinite(value)
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in model.parameters()), "every rank takes part in every collective"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision": {"image_px": 30}}, "vision.image_px is no multiple of vision.patch_px"),
        ({"vision": {"head_width": 5}}, "vision.width is no multiple of vision.head_width"),
        ({"text": {"heads": 3}}, "text.width is no multiple of text.heads"),
        ({"embed_width": 32}, "embed_width .32. must equal text.width .16."),
        ({"pool_heads": 3}, "embed_width is no multiple of pool_heads"),
    ],
)
def test_sizes_that_do_not_fit_are_named(change: dict, message: str) -> None:
    values = to_dict(SETTINGS)
    for key, value in change.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    with pytest.raises(ValueError, match=message):
        LCL(from_dict(ModelConfig, values, origin="test"), vocab_size=VOCAB_SIZE, special=SpecialIds(image=IMAGE, eoi=EOI))
