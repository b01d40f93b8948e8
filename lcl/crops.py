"""Squares cut from images: a random one to train on, the centre to evaluate on."""

import numpy as np
from PIL import Image


def random_crop(image: Image.Image, side_px: int, scale: tuple[float, float], random: np.random.Generator) -> Image.Image:
    """A random crop of the given fraction of the area and an aspect within 3:4 to 4:3 (as open_clip's), resized to a square."""
    width, height = image.size
    for _ in range(10):
        area = random.uniform(*scale) * width * height
        aspect = float(np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3))))
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = random.integers(width - w + 1), random.integers(height - h + 1)
            return image.resize((side_px, side_px), Image.Resampling.BICUBIC, box=(left, top, left + w, top + h))
    return centre_crop(image, side_px)


def centre_crop(image: Image.Image, side_px: int) -> Image.Image:
    """The largest centred square, resized: what evaluation sees."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((side_px, side_px), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
