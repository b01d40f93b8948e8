"""Arithmetic by formula against PyTorch's own counter, against masks, and against published figures."""

from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lcl.contrastive import contrastive_loss
from lcl.flops import TRAINING, attention_widths, batch_flops, contrastive_flops, decoder_flops, forward_flops, mfu, named_peak, peak_flops, pooling_flops, vision_flops
from lcl.model import ModelConfig
from lcl.rows import Batch, Row, collate
from lcl.text import TextConfig
from lcl.train_config import LCL_VIT_B16_LAION, LCL_VIT_B32_MMC4
from lcl.vision import VisionConfig
from tests.made_rows import SETTINGS, SPECIAL, VOCAB_SIZE, batch_of, make_batch, make_model, make_row
from tests.test_model import DOCUMENTS, KINDS, alone, every_kind

CLIP_VOCAB_SIZE = 49411


def counted(run: Callable[[], Any]) -> tuple[int, int]:
    """FLOPs of matrix products outside and inside attention, as PyTorch counts them: all n x n pairs of a causal one, and masked ones."""
    with FlopCounterMode(display=False) as counter:
        run()
    by_operation = counter.get_flop_counts()["Global"]
    attention = sum(count for operation, count in by_operation.items() if "scaled_dot_product" in str(operation))
    return counter.get_total_flops() - attention, attention


def unpadded(settings: ModelConfig) -> tuple[ModelConfig, Row, Batch]:
    """One document with two images of equal size, in a row as long as it is and, for naflex, in a sequence that they fill."""
    rows = (make_row(["ttitit"], seed=seed, settings=settings) for seed in range(100))
    row = next(row for row in rows if row.images[0].grid == row.images[1].grid)
    if settings.vision.kind == "naflex":
        settings = replace(settings, vision=replace(settings.vision, max_patches=2 * len(row.images[0].values)))
    return settings, row, collate([row], row_length=len(row.pieces[0]), special=SPECIAL)


@pytest.mark.parametrize("regression", [False, True])
@every_kind
def test_linear_layers_and_attention_as_pytorch_counts_them(settings: ModelConfig, regression: bool) -> None:
    """Exactly, with what the counter sees beyond the useful: masked pairs, and rows that only keep parameters in the graph."""
    settings, row, batch = unpadded(settings)
    model = make_model(settings, regression=regression)
    linear, attention = counted(lambda: model(batch))

    text, tower, naflex = settings.text, settings.vision.tower(), settings.vision.kind == "naflex"
    queries, _ = attention_widths(text)
    length, patches, num_queries = len(row.pieces[0]), len(row.images[0].values) if naflex else 4, 1 + settings.image_latents
    pooling = 2 * 4 * num_queries * patches * settings.embed_width
    useful = 4 * text.layers * queries * length * (length + 1) // 2 + 2 * 4 * tower.layers * tower.width * (patches + (not naflex)) ** 2 + pooling
    in_one_sequence = 4 * tower.layers * tower.width * ((2 * patches) ** 2 if naflex else 2 * (patches + 1) ** 2)
    assert attention == 4 * text.layers * queries * length**2 + in_one_sequence + pooling

    wasted = 0
    if settings.image_latents:
        wasted += 2 * 2 * patches * settings.embed_width**2  # patch tokens through the output projection, where learned queries make the latents
    if regression:
        wasted += 2 * text.width * settings.embed_width  # one more through the regression head
    assert batch_flops(settings, VOCAB_SIZE, batch, regression=regression) == TRAINING * (linear - wasted + useful)


def test_training_is_three_forward_passes() -> None:
    """Exactly in linear layers, but for the gradient of the pixels, which nobody needs."""
    settings, _, batch = unpadded(SETTINGS)
    model = make_model(settings)

    def step() -> None:
        outputs = model(batch)
        (outputs.nll_sum + outputs.pooled.sum() + outputs.contexts.sum()).backward()

    forward, _ = counted(lambda: model(batch))
    both, _ = counted(step)
    of_pixels = 2 * 2 * 4 * 3 * settings.vision.patch_px**2 * settings.vision.width
    assert both == TRAINING * forward - of_pixels


@pytest.mark.parametrize("text", [SETTINGS.text, KINDS["llama"].text, TextConfig(kind="qwen3", width=16, layers=3, heads=2, key_heads=1, head_width=24)])
def test_decoder_counts_the_pairs_that_its_mask_leaves(text: TextConfig) -> None:
    batch = batch_of(["ttit", "tt"], ["ttttttttt"], ["iti", "t", "t"])
    ids = batch.document_ids
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    pairs = int(((ids[:, :, None] == ids[:, None, :]) & causal & (ids > 0)[:, :, None]).sum())
    lengths = list(chain(*batch.document_lengths))
    ones = [1] * sum(lengths)  # as many tokens, and each looks at itself only
    assert decoder_flops(text, lengths) - decoder_flops(text, ones) == 4 * text.layers * attention_widths(text)[0] * (pairs - len(ones))
    assert pairs > 3 * len(ones)


@every_kind
def test_neither_packing_nor_padding_counts(settings: ModelConfig) -> None:
    """Documents packed in one row, and the same in padded rows of their own: equal; in batches of their own: but for the queries' projection."""
    row = make_row(DOCUMENTS, seed=0, settings=settings)
    packed = batch_flops(settings, VOCAB_SIZE, make_batch([row]))
    assert packed == batch_flops(settings, VOCAB_SIZE, make_batch(alone(row)))
    singles = [make_batch([single]) for single in alone(row)]
    again = sum(bool(batch.grids) for batch in singles) - 1
    projection = TRAINING * 2 * (1 + settings.image_latents) * settings.vision.width * settings.embed_width
    assert packed == sum(batch_flops(settings, VOCAB_SIZE, batch) for batch in singles) - again * projection and again == 2


def test_only_targets_go_through_the_head() -> None:
    batch = batch_of(["ttit", "tt"], ["ttitit"])
    silent = replace(batch, predictors=batch.predictors[:0])
    num_targets = len(batch.predictors)
    difference = batch_flops(SETTINGS, VOCAB_SIZE, batch) - batch_flops(SETTINGS, VOCAB_SIZE, silent)
    assert difference == TRAINING * 2 * SETTINGS.text.width * VOCAB_SIZE * num_targets > 0


@pytest.mark.parametrize(("name", "of_a_slot"), [("published", 2 * SETTINGS.embed_width**2), ("queries", 0)])
def test_patch_tokens_that_nobody_reads_are_not_projected(name: str, of_a_slot: int) -> None:
    """CLIP's images have no slots; with learned queries the slots hold something else."""
    read, unread = (pooling_flops(KINDS[name], [(2, 2)], num_slots=num_slots) for num_slots in (4, 0))
    assert read - unread == 4 * of_a_slot and unread > 0


def test_text_alone_costs_no_vision() -> None:
    """The dummy image that keeps ranks in step is no useful work."""
    batch = batch_of(["ttt"])
    head = 2 * SETTINGS.text.width * VOCAB_SIZE * 4
    assert batch_flops(SETTINGS, VOCAB_SIZE, batch) == TRAINING * (decoder_flops(SETTINGS.text, [5]) + head)


def test_contrastive_loss_as_pytorch_counts_it() -> None:
    pooled, contexts = (torch.randn(7, 16, generator=torch.Generator().manual_seed(seed), requires_grad=True) for seed in (0, 1))
    linear, _ = counted(lambda: contrastive_loss(pooled, contexts, torch.tensor(1.0)).backward())
    assert linear == contrastive_flops(16, num_images=7, num_contexts=7)


B32, B16 = LCL_VIT_B32_MMC4.model, LCL_VIT_B16_LAION.model


@pytest.mark.parametrize(("name", "gflop"), [("ViT-B-32", 8.82), ("ViT-B-16", 35.13), ("ViT-L-14", 162.03), ("ViT-H-14", 334.59), ("ViT-bigG-14", 967.5)])
def test_vision_towers_cost_what_open_clip_publishes(name: str, gflop: float) -> None:
    """Its docs/model_profile.csv (image_gflops), which also has the projection of the class token: less than a part in a thousand."""
    vision = VisionConfig(open_clip=name)
    side = vision.tower().image_px // vision.tower().patch_px
    assert vision_flops(vision, [(side, side)]) == pytest.approx(gflop * 1e9, rel=1e-3)


def test_figures_of_the_project_notes() -> None:
    """96 GFLOP for a document of MMC4 with 425 text tokens and 3 images (B/32); 36.1 and 52 for the encoder and the decoder on a row of 280 of LAION
    (B/16), there with all pairs of positions, of which ours leaves out the masked half."""
    document = forward_flops(B32, CLIP_VOCAB_SIZE, document_lengths=[580], grids=[(7, 7)] * 3, num_slots=147, num_targets=429, num_contexts=3)
    assert document == pytest.approx(96e9, rel=0.01)
    assert vision_flops(B16.vision, [(14, 14)]) + pooling_flops(B16, [(14, 14)], num_slots=196) == pytest.approx(36.1e9, rel=0.01)
    head = 2 * 768 * CLIP_VOCAB_SIZE * 20  # a caption's targets
    masked_pairs = 12 * 4 * 768 * 280 * 279 // 2
    assert decoder_flops(B16.text, [280]) + head + masked_pairs == pytest.approx(52e9, rel=0.02)


def test_utilisation_is_a_part_of_a_known_peak() -> None:
    assert mfu(3e14, 2.0, 5e14) == pytest.approx(0.3)
    assert mfu(3e14, 2.0, None) is None
    assert peak_flops(torch.device("cpu"), precision="fp32") is None


@pytest.mark.parametrize(
    ("name", "bf16", "fp32"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4, 66.9), ("NVIDIA H200", 989.4, 66.9), ("NVIDIA H100 PCIe", 756.0, 51.2), ("NVIDIA A100-SXM4-80GB", 312.0, 19.5),
        ("NVIDIA A100 80GB PCIe", 312.0, 19.5), ("NVIDIA L40S", 362.05, 91.6), ("NVIDIA GeForce RTX 4090", 165.2, 82.6), ("NVIDIA B200", 2250.0, 80.0),
    ],
)  # fmt: skip
def test_peaks_by_name(name: str, bf16: float, fp32: float) -> None:
    assert named_peak(name, precision="bf16") == pytest.approx(bf16 * 1e12) and named_peak(name, precision="fp32") == pytest.approx(fp32 * 1e12)


@pytest.mark.parametrize("name", ["NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H100 NVL", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "Tesla T4"])
def test_no_peak_is_guessed_for_a_gpu_that_only_sounds_alike(name: str) -> None:
    assert named_peak(name, precision="bf16") is None
