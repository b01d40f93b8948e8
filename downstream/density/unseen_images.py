"""Images to measure on: the digits that no training sees, or squares of photographs at even distances."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from downstream.density.model import DensityConfig
from downstream.density.training_images import DIGIT_LEVELS, in_channels, read_digits
from downstream.photographs import list_photographs, read_photograph

DIGITS = "digits"

Picture = UInt8[np.ndarray, "_ _ _"]  # height, width, channels


def unseen_images(source: str, settings: DensityConfig, *, num: int) -> list[Picture]:
    """The first `num` squares of the model's size, of its levels, from a folder or of the `digits`. Raises ValueError for images of another kind than the model's."""
    digits = source == DIGITS
    if (settings.levels, settings.channels) != (DIGIT_LEVELS, 1) if digits else settings.levels != 256:
        raise ValueError(f"--source {source}: the model is of {settings.channels} channels and {settings.levels} levels, which {'digits' if digits else 'photographs'} are not")
    if digits:
        return list(read_digits("test")[:num])
    files = list_photographs(Path(source))
    each = -(-num // len(files))
    return [square for path in files for square in squares(in_channels(read_photograph(path), settings.channels), each, side_px=settings.size_px)][:num]


def squares(pixels: Picture, num: int, *, side_px: int) -> list[Picture]:
    """So many squares at even distances over a grid of whole squares. Raises ValueError for a picture with fewer."""
    places = [(top, left) for top in range(0, pixels.shape[0] - side_px + 1, side_px) for left in range(0, pixels.shape[1] - side_px + 1, side_px)]
    if len(places) < num:
        raise ValueError(f"a photograph of {pixels.shape[1]} x {pixels.shape[0]} has no {num} squares of {side_px} px: give more photographs, or a smaller --num-images")
    return [pixels[top : top + side_px, left : left + side_px] for top, left in (places[number * len(places) // num] for number in range(num))]
