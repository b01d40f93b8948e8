"""Images to train on, as whole levels: crops of photographs, or the digits of scikit-learn; a batch is a function of the step and the numbers of its items.
"""

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from downstream.photographs import Crops, list_photographs
from lcl.core.config import config

DIGIT_LEVELS, DIGIT_PX = 17, 8
TRAIN_DIGITS = 1500  # of 1797, in their order; the others are for tests


@config
class SourceConfig:
    kind: Literal["photographs", "digits"] = "photographs"
    """digits: 8 x 8 grey digits of scikit-learn, the first 1500 of 1797."""
    folder: str = ""
    """Of photographs to train on."""


def open_images(source: SourceConfig, *, channels: int, side_px: int, seed: int) -> "Patches | Digits":
    """Raises ValueError if there are none, or if they are too small."""
    if source.kind == "digits":
        return Digits(seed)
    if not source.folder:
        raise ValueError("--source.folder: give a folder of photographs to train on, or --source.kind digits")
    return Patches(Crops(list_photographs(Path(source.folder)), side_px=side_px, seed=seed), channels=channels)


class Patches:
    """Random squares of photographs, in colour or grey."""

    def __init__(self, crops: Crops, *, channels: int) -> None:
        self._crops, self._channels, self.fingerprint = crops, channels, crops.fingerprint

    def __len__(self) -> int:
        return len(self._crops)

    def batch(self, step: int, items: range) -> Int[Tensor, "images channels side side"]:
        return torch.stack([levels_of(in_channels(self._crops.crop(step, item), self._channels)) for item in items])


class Digits:
    def __init__(self, seed: int) -> None:
        self._images, self._seed = read_digits("train"), seed
        self.fingerprint = hashlib.sha256(self._images.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, step: int, items: range) -> Int[Tensor, "images channels side side"]:
        numbers = [int(np.random.default_rng([self._seed, step, item]).integers(len(self._images))) for item in items]
        return torch.stack([levels_of(self._images[number]) for number in numbers])


def read_digits(part: Literal["train", "test"]) -> UInt8[np.ndarray, "images 8 8 1"]:
    """Values from 0 to 16. Raises ValueError where scikit-learn is missing."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ValueError("the digits are scikit-learn's: install lcl[demo]") from error
    images = load_digits().images.astype(np.uint8)[..., None]
    return images[:TRAIN_DIGITS] if part == "train" else images[TRAIN_DIGITS:]


def in_channels(pixels: UInt8[np.ndarray, "height width 3"], channels: int) -> UInt8[np.ndarray, "height width _"]:
    """The colours, or their brightness (ITU-R 601-2, as Pillow has it)."""
    return pixels if channels == 3 else np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[..., None]


def levels_of(pixels: UInt8[np.ndarray, "height width channels"]) -> Int[Tensor, "channels height width"]:
    return rearrange(torch.from_numpy(np.array(pixels)), "height width channels -> channels height width").long()
