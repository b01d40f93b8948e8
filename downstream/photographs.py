"""Photographs of a folder, and crops of them for training: the same crops for the same seed and step, whatever the number of processes.

    folder --decoded, kept in memory up to a limit--> crop number i of step s: image, place and flip drawn by (seed, s, i)
"""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from lcl.core.files import files_below
from lcl.core.images import ENDINGS, decode_image, is_image_name, passed_over, probe_image, to_pixels, why_unreadable
from lcl.core.rejected import Rejected

log = logging.getLogger(__name__)

MEMORY_BYTES = 2 << 30  # of decoded photographs; the least recently used go first
MOST_SAID = 5  # photographs that cannot be used


def list_photographs(folder: Path) -> list[Path]:
    """Image files below the folder, in the order of their names; pictures of other formats are a line. Raises ValueError if there are none."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    there = list(files_below(folder))
    files = [path for path in there if is_image_name(path.name)]
    if left := passed_over(path.name for path in there):
        log.warning("%s: %s", folder, left)
    if not files:
        raise ValueError(f"{folder} holds no photographs ({', '.join(ENDINGS)})")
    return files


def read_photograph(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """Its pixels, upright. Raises ValueError naming the file if it cannot be read."""
    try:
        return to_pixels(decode_image(path.read_bytes()))
    except Rejected as error:
        raise ValueError(f"{path} {why_unreadable(error)}: remove it, or replace it") from error


def read_size(path: Path) -> tuple[int, int]:
    """Width and height as its header says them. Raises ValueError as `read_photograph`."""
    try:
        return probe_image(path.read_bytes()).size
    except Rejected as error:
        raise ValueError(f"{path} {why_unreadable(error)}: remove it, or replace it") from error


def check_usable(unusable: Sequence[str]) -> None:
    """Raises ValueError with what is wrong with photographs, the first few of them, if there are any."""
    if unusable:
        raise ValueError("; ".join(unusable[:MOST_SAID]) + (f"; and {len(unusable) - MOST_SAID} more like these" if len(unusable) > MOST_SAID else ""))


@dataclass(frozen=True)
class Place:
    """Where in a photograph pixels are."""

    corner: tuple[int, int]
    """Row and column of the first."""
    photograph: tuple[int, int]
    """Its height and width."""


@dataclass(frozen=True)
class Window:
    """A part of a photograph, and as much of what is around it as there is, up to a margin."""

    pixels: UInt8[np.ndarray, "height width 3"]
    """With what is around."""
    place: Place
    """Of these pixels."""
    rows: slice
    """Of the part alone, in `pixels`."""
    columns: slice

    @property
    def part(self) -> UInt8[np.ndarray, "part_height part_width 3"]:
        return self.pixels[self.rows, self.columns]


def window(pixels: UInt8[np.ndarray, "height width 3"], corner: tuple[int, int], size: tuple[int, int], *, margin_px: int = 0) -> Window:
    """The part of this size whose first pixel is at `corner`, with `margin_px` around it, less at the photograph's edges."""
    before = [max(0, first - margin_px) for first in corner]
    cut = pixels[before[0] : corner[0] + size[0] + margin_px, before[1] : corner[1] + size[1] + margin_px]
    rows, columns = (slice(first - start, first - start + length) for first, start, length in zip(corner, before, size, strict=True))
    return Window(cut, Place((before[0], before[1]), pixels.shape[:2]), rows, columns)


def middle_window(pixels: UInt8[np.ndarray, "height width 3"], side_px: int, *, margin_px: int = 0) -> Window:
    """Of the middle of a picture, at most `side_px` wide and high; 0: all of it."""
    height, width = (min(length, side_px or length) for length in pixels.shape[:2])
    return window(pixels, ((pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2), (height, width), margin_px=margin_px)


def middle(pixels: UInt8[np.ndarray, "height width 3"], side_px: int) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """The middle of a picture, at most `side_px` wide and high; 0: all of it."""
    return middle_window(pixels, side_px).part


def as_grey(pixels: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width 3"]:
    """Its luma (BT.601) in all three channels."""
    return np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))


def to_tensor(pixels: UInt8[np.ndarray, "height width channels"]) -> Float[Tensor, "channels height width"]:
    """Pixels in [0, 1]."""
    return rearrange(torch.from_numpy(np.array(pixels)), "height width channels -> channels height width").float() / 255


def to_bytes(x: Float[Tensor, "channels height width"]) -> UInt8[np.ndarray, "height width channels"]:
    """The nearest 8-bit pixels: the inverse of `to_tensor`."""
    return rearrange(to_levels(x), "channels height width -> height width channels").numpy()


def to_levels(x: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """The nearest of 256 levels."""
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)


class Crops:
    """Random squares of the photographs, flipped left to right half of the time, and grey for a share of them."""

    def __init__(self, files: Sequence[Path], *, side_px: int, seed: int, grey_fraction: float = 0.0) -> None:
        """Reads as many as are kept in memory, and the headers of the others: raises ValueError naming those that cannot be read, or are smaller than a crop."""
        self._files, self._side, self._seed, self._grey_fraction = list(files), side_px, seed, grey_fraction
        self._decoded: OrderedDict[int, np.ndarray] = OrderedDict()
        self._held = 0
        unusable = []
        for number, path in enumerate(self._files):
            try:
                if self._held < MEMORY_BYTES:
                    self._photograph(number)
                else:
                    self._check_side(path, read_size(path))
            except ValueError as error:
                unusable.append(str(error))
        check_usable(unusable)
        self.fingerprint = hashlib.sha256("\n".join(f"{path.name} {path.stat().st_size}" for path in self._files).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._files)

    def batch(self, step: int, items: range) -> Float[Tensor, "items 3 side side"]:
        """Crops of these numbers of a step's batch."""
        return torch.stack([to_tensor(self.crop(step, item)) for item in items])

    def crop(self, step: int, item: int) -> UInt8[np.ndarray, "side side 3"]:
        return self.window(step, item).part

    def window(self, step: int, item: int, *, margin_px: int = 0) -> Window:
        """The crop with `margin_px` around it; of a flipped one, in the flipped photograph."""
        rng = np.random.default_rng([self._seed, step, item])
        pixels = self._photograph(int(rng.integers(len(self._files))))
        top, left = (int(rng.integers(side - self._side + 1)) for side in pixels.shape[:2])
        if rng.random() < 0.5:
            pixels, left = pixels[:, ::-1], pixels.shape[1] - left - self._side
        cut = window(pixels, (top, left), (self._side, self._side), margin_px=margin_px)
        return replace(cut, pixels=as_grey(cut.pixels)) if rng.random() < self._grey_fraction else cut

    def _check_side(self, path: Path, size: tuple[int, int]) -> None:
        if min(size) < self._side:
            raise ValueError(f"{path} is smaller than a crop ({size[0]} x {size[1]}, crops have {self._side} px): remove it, or train on smaller crops")

    def _photograph(self, number: int) -> np.ndarray:
        if number in self._decoded:
            self._decoded.move_to_end(number)
            return self._decoded[number]
        pixels = read_photograph(self._files[number])
        self._check_side(self._files[number], (pixels.shape[1], pixels.shape[0]))
        self._decoded[number] = pixels
        self._held += pixels.nbytes
        while self._held > MEMORY_BYTES and len(self._decoded) > 1:
            self._held -= self._decoded.popitem(last=False)[1].nbytes
        return pixels
