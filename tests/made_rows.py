"""Toy models and rows for tests: documents spelled as strings of t (a text token) and i (an image)."""

from collections.abc import Sequence

import numpy as np
import torch

from lcl.model import LCL, ModelConfig, TextConfig, VisionConfig
from lcl.rows import Batch, Piece, Row, SpecialIds, collate

SOT, EOT, IMAGE, SOI, EOI, VOCAB_SIZE = 40, 41, 42, 43, 44, 45
ROW_LENGTH = 64
SETTINGS = ModelConfig(
    embed_width=16, pool_heads=2,
    vision=VisionConfig(image_px=8, patch_px=4, width=16, layers=1, head_width=8),
    text=TextConfig(context_length=ROW_LENGTH, width=16, layers=2, heads=2),
)


def make_model(seed: int = 0) -> LCL:
    torch.manual_seed(seed)
    model = LCL(SETTINGS, vocab_size=VOCAB_SIZE, special=SpecialIds(image=IMAGE, eoi=EOI))
    with torch.no_grad():  # weights as large as a trained model's, so that differences show
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(3.0)
    return model


def make_row(documents: Sequence[str], *, seed: int) -> Row:
    """A row of documents; `tti` is two text tokens and an image. Each document's content depends on the seed and its place in the row."""
    pieces, pixels = [], []
    for number, spelled in enumerate(documents):
        rng = np.random.default_rng([seed, number])
        ids, starts = [SOT], []
        for letter in spelled:
            if letter == "t":
                ids.append(int(rng.integers(SOT)))
            else:
                starts.append(len(ids))
                ids += [SOI, *[IMAGE] * SETTINGS.vision.num_patches, EOI]
                pixels.append(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        pieces.append(Piece((*ids, EOT), tuple(starts), tuple(range(len(starts)))))
    return Row(tuple(pieces), np.stack(pixels) if pixels else np.zeros((0, 8, 8, 3), np.uint8))


def make_batch(rows: Sequence[Row]) -> Batch:
    return collate(rows, row_length=ROW_LENGTH)


def batch_of(*rows: Sequence[str], seed: int = 0) -> Batch:
    return make_batch([make_row(row, seed=seed + index) for index, row in enumerate(rows)])
