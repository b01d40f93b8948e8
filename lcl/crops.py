"""Which part of an image the encoder sees, planned from its size alone and cut when it is decoded."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

Grid = tuple[int, int]
Box = tuple[float, float, float, float]  # left, top, right, bottom, as fractions of width and height

NARROWEST, WIDEST = 3 / 4, 4 / 3  # width to height of a random box, torchvision's values
TRIES = 10  # as torchvision


@dataclass(frozen=True)
class Crop:
    """A box, maybe mirrored, and the patches (rows, columns) that it becomes."""

    box: Box
    grid: Grid
    mirrored: bool = False


def random_box(width: int, height: int, scale: tuple[float, float], random: np.random.Generator) -> Box:
    """A random box of the given fraction of the area and an aspect of 3:4 to 4:3, as torchvision's RandomResizedCrop, which open_clip trains with.

    Where none of ten tries fits inside (as in a photograph of 3:2 with nearly all of its area), the largest centred box of these aspects.
    """
    areas = random.uniform(*scale, TRIES) * (width * height)
    aspects = np.exp(random.uniform(math.log(NARROWEST), math.log(WIDEST), TRIES))
    for area, aspect in zip(areas.tolist(), aspects.tolist(), strict=True):
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(random.integers(width - w + 1)), int(random.integers(height - h + 1))
            return left / width, top / height, (left + w) / width, (top + h) / height
    return _centred(min(1.0, WIDEST * height / width), min(1.0, width / height / NARROWEST))


def random_box_of_same_aspect(scale: tuple[float, float], random: np.random.Generator) -> Box:
    """A random box of the given fraction of the area and the image's own aspect."""
    side = random.uniform(*scale) ** 0.5
    left, top = random.uniform(0, 1 - side), random.uniform(0, 1 - side)
    return left, top, left + side, top + side


def centre_box(width: int, height: int) -> Box:
    """The largest centred square: what evaluation sees."""
    side = min(width, height)
    return _centred(side / width, side / height)


def _centred(width: float, height: float) -> Box:
    return (1 - width) / 2, (1 - height) / 2, (1 + width) / 2, (1 + height) / 2


def grid_within(width: float, height: float, *, patch_px: int, max_patches: int) -> Grid:
    """Rows and columns of patches nearest to the image's own size, shrunk at its aspect until at most `max_patches` are left."""
    scale = min(1.0, (max_patches * patch_px**2 / (width * height)) ** 0.5)
    rows, columns = (min(max_patches, max(1, round(side * scale / patch_px))) for side in (height, width))
    while rows * columns > max_patches:  # of as many rows as columns, the shorter side was rounded up further
        rows, columns = (rows - 1, columns) if (rows, width) > (columns, height) else (rows, columns - 1)
    return rows, columns


def cut(image: Image.Image, crop: Crop, *, patch_px: int) -> Image.Image:
    """The crop's box, resized to its grid of patches (bicubic)."""
    left, top, right, bottom = crop.box
    box = (left * image.width, top * image.height, right * image.width, bottom * image.height)
    rows, columns = crop.grid
    resized = image.resize((columns * patch_px, rows * patch_px), Image.Resampling.BICUBIC, box=box)
    return resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if crop.mirrored else resized
