"""Toy models and rows for tests: documents spelled as strings of t (a text token) and i (an image)."""

from collections.abc import Sequence

import numpy as np
import torch

from lcl.crops import Crop
from lcl.layout import _context_id
from lcl.model import LCL, ModelConfig
from lcl.rows import NO_CONTEXT, Batch, ImageInput, ImagePlace, Part, Piece, Row, SpecialIds, collate
from lcl.text import TextConfig
from lcl.vision import VisionConfig

SOT, EOT, IMAGE, SOI, EOI, VOCAB_SIZE = 40, 41, 42, 43, 44, 45
ROW_LENGTH = 64
SETTINGS = ModelConfig(
    embed_width=16, pool_heads=2,
    vision=VisionConfig(image_px=8, patch_px=4, width=16, layers=1, head_width=8),
    text=TextConfig(context_length=ROW_LENGTH, width=16, layers=2, heads=2),
)


SPECIAL = SpecialIds(image=IMAGE, eoi=EOI)


def make_model(settings: ModelConfig = SETTINGS, *, seed: int = 0, regression: bool = False) -> LCL:
    torch.manual_seed(seed)
    model = LCL(settings, vocab_size=VOCAB_SIZE, regression=regression)
    with torch.no_grad():  # weights as large as a trained model's, so that differences show
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(3.0)
    return model


def make_row(documents: Sequence[str], *, seed: int, settings: ModelConfig = SETTINGS) -> Row:
    """A row of documents; `tti` is two text tokens and an image. Each document's content depends on the seed and its place in the row."""
    pieces, inputs = [], []
    for number, spelled in enumerate(documents):
        rng = np.random.default_rng([seed, number])
        ids: list[int] = [SOT]
        places: list[ImagePlace] = []
        for letter in spelled:
            if letter == "t":
                ids.append(int(rng.integers(SOT)))
                continue
            image = make_image(settings, rng)
            slots = settings.slots_of(image.grid)
            context = len(ids) if len(ids) > 1 else NO_CONTEXT
            identity = int(rng.integers(1 << 62))
            crop = Crop((0.0, 0.0, 1.0, 1.0), image.grid)
            places.append(ImagePlace(len(places), len(ids) + 1, slots, context, identity, _context_id(ids, [place.image_id for place in places]), crop))
            inputs.append(image)
            ids += [SOI, *[IMAGE] * slots, EOI]
        pieces.append(Piece((Part((*ids, EOT)),), tuple(places)))
    return Row(tuple(pieces), tuple(inputs))


def make_image(settings: ModelConfig, rng: np.random.Generator) -> ImageInput:
    """A square, or for naflex the patches of an image of a size by chance."""
    vision = settings.vision
    if vision.kind == "vit":
        side = vision.image_px // vision.patch_px
        return ImageInput(rng.integers(0, 256, (vision.image_px, vision.image_px, 3), dtype=np.uint8), (side, side))
    grid = (int(rng.integers(1, 4)), int(rng.integers(1, 3)))
    return ImageInput(rng.integers(0, 256, (grid[0] * grid[1], 3 * vision.patch_px**2), dtype=np.uint8), grid)


def make_batch(rows: Sequence[Row]) -> Batch:
    return collate(rows, row_length=ROW_LENGTH, special=SPECIAL)


def batch_of(*rows: Sequence[str], seed: int = 0, settings: ModelConfig = SETTINGS) -> Batch:
    return make_batch([make_row(row, seed=seed + index, settings=settings) for index, row in enumerate(rows)])
