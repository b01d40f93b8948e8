"""Which part of an image the encoder sees, planned from its size alone and cut when it is decoded."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

Grid = tuple[int, int]


@dataclass(frozen=True)
class Crop:
    """A box in fractions of width and height (left, top, right, bottom), maybe mirrored, and the patches (rows, columns) that it becomes."""

    box: tuple[float, float, float, float]
    grid: Grid
    mirrored: bool = False


def random_box(width: int, height: int, scale: tuple[float, float], random: np.random.Generator) -> tuple[float, float, float, float]:
    """A random box of the given fraction of the area and an aspect within 3:4 to 4:3 of a square, as open_clip's.

    Where ten tries do not fit inside (a long, narrow image), the centred square.
    """
    for _ in range(10):
        area = random.uniform(*scale) * width * height
        aspect = float(np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3))))
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = random.integers(width - w + 1), random.integers(height - h + 1)
            return left / width, top / height, (left + w) / width, (top + h) / height
    return centre_box(width, height)


def random_box_of_same_aspect(scale: tuple[float, float], random: np.random.Generator) -> tuple[float, float, float, float]:
    """A random box of the given fraction of the area and the image's own aspect."""
    side = random.uniform(*scale) ** 0.5
    left, top = random.uniform(0, 1 - side), random.uniform(0, 1 - side)
    return left, top, left + side, top + side


def centre_box(width: int, height: int) -> tuple[float, float, float, float]:
    """The largest centred square: what evaluation sees."""
    side = min(width, height)
    left, top = (width - side) / 2 / width, (height - side) / 2 / height
    return left, top, 1 - left, 1 - top


def grid_within(width: float, height: float, *, patch_px: int, max_patches: int) -> Grid:
    """Rows and columns of patches nearest to the image's own size, shrunk at its aspect until at most `max_patches` are left."""
    scale = min(1.0, (max_patches * patch_px**2 / (width * height)) ** 0.5)
    rows, columns = (min(max_patches, max(1, round(side * scale / patch_px))) for side in (height, width))
    while rows * columns > max_patches:
        rows, columns = (rows - 1, columns) if rows > columns else (rows, columns - 1)
    return rows, columns


def cut(image: Image.Image, crop: Crop, *, patch_px: int) -> Image.Image:
    """The crop's box, resized to its grid of patches (bicubic)."""
    left, top, right, bottom = crop.box
    box = (left * image.width, top * image.height, right * image.width, bottom * image.height)
    rows, columns = crop.grid
    resized = image.resize((columns * patch_px, rows * patch_px), Image.Resampling.BICUBIC, box=box)
    return resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if crop.mirrored else resized
