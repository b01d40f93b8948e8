"""Useful arithmetic of the model in floating-point operations (FLOPs), from its sizes and the lengths of what it reads.

    grids ----> vision tower --> pooling --> slots --+
    documents ---------------------------------------+--> decoder --+--> lm_head, at the targets
                                                                    +--> text projection, at the contexts
A multiply-add is two FLOPs. Counted are matrix products on what is there: tokens and patches that are no padding, pairs that
attention does not mask, and latents that somebody reads. Not counted are norms, activations, softmax, rotations and sums, and what
is computed a second time (recomputed blocks, the first look of `accumulate_gradients`): this is the numerator of the model FLOPs
utilisation of Chowdhery et al. 2022 (PaLM, arXiv:2204.02311, appendix B), with attention as masked.
"""

import re
from collections.abc import Sequence
from itertools import chain
from typing import Literal

import torch

from lcl.crops import Grid
from lcl.model import ModelConfig
from lcl.rows import Batch
from lcl.text import TextConfig
from lcl.vision import VisionConfig

Precision = Literal["bf16", "mixed", "fp32"]

TRAINING = 3  # passes: forward, and the gradients of inputs and of weights with one product each (Kaplan et al. 2020, arXiv:2001.08361, section 2.1)

# Name in torch.cuda, and dense peaks in TFLOP/s: bf16 on tensor cores with sums in fp32, and fp32 outside of them (PyTorch leaves TF32 off).
PEAKS = (
    (r"NVIDIA B200", 2250.0, 80.0),  # Blackwell Architecture Technical Brief, HGX B200
    (r"NVIDIA (H100 80GB HBM3|H200|GH200.*)", 989.4, 66.9),  # Hopper white paper, H100 SXM5; H200 and GH200 have its chip
    (r"NVIDIA H100 PCIe", 756.0, 51.2),  # the same
    (r"NVIDIA A100(-SXM4-(40|80)GB|-PCIE-40GB| 80GB PCIe)", 312.0, 19.5),  # A100 data sheet
    (r"NVIDIA L40S", 362.05, 91.6),  # L40S data sheet
    (r"NVIDIA GeForce RTX 4090", 165.2, 82.6),  # Ada white paper, appendix A
)  # fmt: skip


def vision_flops(vision: VisionConfig, grids: Sequence[Grid]) -> int:
    """FLOPs of the vision tower's forward pass on images of these grids, each attending to itself; a vit has a class token too."""
    tower = vision.tower()
    inner = int(tower.width * tower.mlp_ratio)
    patches = [rows * columns for rows, columns in grids]
    tokens = [count + (vision.kind == "vit") for count in patches]
    embedding = _linear(sum(patches), 3 * tower.patch_px**2, tower.width)
    blocks = _linear(sum(tokens), tower.width, 4 * tower.width + 2 * inner) + _attention(sum(count**2 for count in tokens), tower.width)
    return embedding + tower.layers * blocks


def pooling_flops(model: ModelConfig, grids: Sequence[Grid], *, num_slots: int) -> int:
    """FLOPs of the pooling's forward pass on the patch tokens of images of these grids.

    Queries are projected once a batch, keys and values at each patch; the output projection takes what each query of each image
    attended to and, unless learned queries make them, the latents of the `num_slots` places that the decoder reads.
    """
    width, embed_width, num_queries = model.vision.tower().width, model.embed_width, 1 + model.image_latents
    patches = sum(rows * columns for rows, columns in grids)
    projected = (num_queries if grids else 0) + 2 * patches
    outputs = num_queries * len(grids) + (0 if model.image_latents else num_slots)
    return _linear(projected, width, embed_width) + _attention(num_queries * patches, embed_width) + _linear(outputs, embed_width, embed_width)


def decoder_flops(text: TextConfig, document_lengths: Sequence[int]) -> int:
    """FLOPs of the decoder's blocks, forward, on documents of these lengths: n (n + 1) / 2 pairs in each."""
    queries, keys = attention_widths(text)
    mlp = (2 if text.kind == "clip" else 3) * text.inner_width  # SwiGLU has a gate
    pairs = sum(length * (length + 1) // 2 for length in document_lengths)
    return text.layers * (_linear(sum(document_lengths), text.width, 2 * queries + 2 * keys + mlp) + _attention(pairs, queries))


def attention_widths(text: TextConfig) -> tuple[int, int]:
    """Width of the queries of all heads of the decoder together, and that of its keys."""
    head_width = text.head_width or text.width // text.heads
    return text.heads * head_width, text.num_key_heads * head_width


def forward_flops(
    model: ModelConfig, vocab_size: int, *, document_lengths: Sequence[int], grids: Sequence[Grid], num_slots: int, num_targets: int, num_contexts: int,
    regression: bool = False,
) -> int:  # fmt: skip
    """FLOPs of one forward pass: documents of these lengths whose images have these grids and fill `num_slots` of their places.

    `num_targets` places predict a token, context vectors are read at `num_contexts`, and with `regression` each slot's latent is predicted.
    """
    width = model.text.width
    heads = vocab_size * num_targets + model.embed_width * (num_contexts + (num_slots if regression else 0))
    return (
        vision_flops(model.vision, grids)
        + pooling_flops(model, grids, num_slots=num_slots)
        + decoder_flops(model.text, document_lengths)
        + _linear(1, width, heads)
    )


def batch_flops(model: ModelConfig, vocab_size: int, batch: Batch, *, regression: bool = False) -> int:
    """FLOPs of training on the batch: `TRAINING` forward passes. All parts train; frozen ones take less."""
    return TRAINING * forward_flops(
        model, vocab_size, document_lengths=list(chain(*batch.document_lengths)), grids=batch.grids, num_slots=len(batch.slots),
        num_targets=len(batch.predictors), num_contexts=len(batch.contexts), regression=regression,
    )  # fmt: skip


def contrastive_flops(embed_width: int, *, num_images: int, num_contexts: int) -> int:
    """FLOPs of the contrastive loss of `num_images` (of one rank) against `num_contexts` (of all): similarities and the gradients of both sides."""
    return TRAINING * _linear(num_images, embed_width, num_contexts)


def peak_flops(device: torch.device, *, precision: Precision) -> float | None:
    """Dense peak of the device in FLOP/s; None for a CPU and for a GPU that is not in `PEAKS`."""
    return named_peak(torch.cuda.get_device_name(device), precision=precision) if device.type == "cuda" else None


def named_peak(name: str, *, precision: Precision) -> float | None:
    """Dense peak in FLOP/s of the GPU that torch.cuda calls `name`; None where it is not in `PEAKS`."""
    for pattern, bf16, fp32 in PEAKS:
        if re.fullmatch(pattern, name):
            return 1e12 * (fp32 if precision == "fp32" else bf16)
    return None


def mfu(flops: float, seconds: float, peak: float | None) -> float | None:
    """Model FLOPs utilisation: the part of the peak (FLOP/s) that useful arithmetic takes; None where the peak is not known."""
    return None if peak is None else flops / seconds / peak


def _linear(num_tokens: int, width_in: int, width_out: int) -> int:
    return 2 * num_tokens * width_in * width_out


def _attention(pairs: int, width: int) -> int:
    """Products of queries and keys, and of their weights and values, over all heads together."""
    return 4 * pairs * width
