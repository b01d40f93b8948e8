"""Images to measure on: the digits that no training sees, squares of photographs at even distances, or the middles of photographs."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from downstream.density.model import DensityConfig
from downstream.density.training_images import DIGIT_LEVELS, in_channels, read_digits
from downstream.photographs import list_photographs, read_photograph

DIGITS = "digits"

Picture = UInt8[np.ndarray, "_ _ _"]  # height, width, channels


class Unseen(NamedTuple):
    images: list[Picture]
    sources: list[int]
    """Of each image the number of its photograph; of digits each its own."""


def unseen_images(source: str, settings: DensityConfig, *, num: int) -> Unseen:
    """`num` squares of the model's size, of its levels, from a folder, or the first of the `digits`. One square of each photograph, then the next of each.

    Raises ValueError for images of another kind than the model's.
    """
    digits = source == DIGITS
    if (settings.levels, settings.channels) != (DIGIT_LEVELS, 1) if digits else settings.levels != 256:
        raise ValueError(f"--source {source}: the model is of {settings.channels} channels and {settings.levels} levels, which {'digits' if digits else 'photographs'} are not")
    if digits:
        images = list(read_digits("test")[:num])
        return Unseen(images, list(range(len(images))))
    files = list_photographs(Path(source))
    each = -(-num // len(files))
    of_files = [squares(in_channels(read_photograph(path), settings.channels), each, side_px=settings.size_px) for path in files]
    places = [(number, place) for place in range(each) for number in range(len(files))][:num]
    return Unseen([of_files[number][place] for number, place in places], [number for number, _ in places])


def middles(folder: str, settings: DensityConfig, *, num: int, side_px: int) -> list[Picture]:
    """The middle of each of the first `num` photographs. Raises ValueError where there are fewer, and for a photograph that is smaller."""
    files = list_photographs(Path(folder))
    if len(files) < num:
        raise ValueError(f"{folder} holds {len(files)} photographs, {num} are asked for")
    found = []
    for path in files[:num]:
        pixels = in_channels(read_photograph(path), settings.channels)
        if min(pixels.shape[:2]) < side_px:
            raise ValueError(f"{path} has {pixels.shape[1]} x {pixels.shape[0]} px: no middle of {side_px} px")
        top, left = ((side - side_px) // 2 for side in pixels.shape[:2])
        found.append(np.ascontiguousarray(pixels[top : top + side_px, left : left + side_px]))
    return found


def squares(pixels: Picture, num: int, *, side_px: int) -> list[Picture]:
    """So many squares at even distances over a grid of whole squares. Raises ValueError for a picture with fewer."""
    places = [(top, left) for top in range(0, pixels.shape[0] - side_px + 1, side_px) for left in range(0, pixels.shape[1] - side_px + 1, side_px)]
    if len(places) < num:
        raise ValueError(f"a photograph of {pixels.shape[1]} x {pixels.shape[0]} has no {num} squares of {side_px} px: give more photographs, or a smaller --num-images")
    return [pixels[top : top + side_px, left : left + side_px] for top, left in (places[number * len(places) // num] for number in range(num))]
