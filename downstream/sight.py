"""How a frozen encoder looks at pictures, and how far a reconstruction is from its picture in what the encoder sees.

    picture of any size --resized to a bounded number of patches--> encoder --> tokens of several blocks
    picture, reconstruction --> tokens of both --> 1 - cos, the mean over tokens and blocks

The whole picture is resized, to as many patches as the encoder was trained on unless told otherwise: it learned from whole pictures and large parts of them, so a patch
that shows a sixteenth of a picture means something to it, and one that shows a few pixels of cloth or sky does not. That also bounds time and memory for pictures
of any size. The price is that what is finer than a pixel of that resized picture is not seen; more patches see more.
"""

import math
from typing import Annotated

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from downstream.encoder_record import EncoderRecord
from lcl.core.config import config
from lcl.crops import grid_within
from lcl.features import Encoder

Pictures = Float[Tensor, "images 3 height width"]
Tokens = Float[Tensor, "layers images patches features"]


@config
class SightConfig:
    num_layers: Annotated[int, Field(ge=1)] = 3
    """Blocks of the encoder whose tokens are taken, evenly spaced up to the last, of which the final norm is taken too; of one with fewer blocks all."""
    max_patches: Annotated[int, Field(ge=0)] = 0
    """Patches that a picture is resized to at most; 0: as many as the encoder was trained on."""


def spread_layers(num_blocks: int, num_layers: int) -> list[int]:
    """Numbers of blocks, from 0: the ends of `num_layers` equal parts (3, 7, 11 of 12 blocks in three), fewer where there are not so many blocks."""
    return sorted({math.ceil((part + 1) * num_blocks / num_layers) - 1 for part in range(num_layers)})


def resized(x: Pictures, *, patch_px: int, max_patches: int, enlarge: bool = True) -> Float[Tensor, "images 3 new_height new_width"]:
    """The pictures at whole patches, near their own aspect: bilinear with antialiasing, through which gradients pass.

    As large as `max_patches` allow; with `enlarge` False, at their own size where that is smaller.
    """
    height, width = x.shape[-2:]
    scale = (max_patches * patch_px**2 / (height * width)) ** 0.5
    if not enlarge:
        scale = min(1.0, scale)
    rows, columns = grid_within(width * scale, height * scale, patch_px=patch_px, max_patches=max_patches)
    return functional.interpolate(x, size=(rows * patch_px, columns * patch_px), mode="bilinear", align_corners=False, antialias=True)


class Sight:
    """An encoder and how it looks. It is no module, so that it is not trained, saved or counted with what it helps."""

    def __init__(self, encoder: Encoder, settings: SightConfig) -> None:
        self.encoder = encoder
        self.layers = spread_layers(encoder.num_layers, settings.num_layers)
        self.max_patches = settings.max_patches or encoder.settings.vision.most_patches

    @property
    def num_features(self) -> int:
        """Values of one place, of all layers."""
        return self.encoder.width * len(self.layers)

    def tokens(self, x: Pictures) -> Tokens:
        return self._look(x)[0]

    def feature_map(self, x: Pictures) -> Float[Tensor, "images _ rows columns"]:
        """The tokens where they stand in the picture, the layers side by side."""
        tokens, (rows, columns) = self._look(x)
        return rearrange(tokens, "layers images (rows columns) features -> images (layers features) rows columns", rows=rows, columns=columns)

    def distance(self, wanted: Tokens, x_hat: Pictures) -> Float[Tensor, " images"]:
        """1 - cos(F(x), F(x_hat)), the mean over tokens and layers of each picture, from 0 to 2; `wanted` is F(x). x_hat is cut to [0, 1], as a viewer gets it."""
        return 1 - functional.cosine_similarity(wanted, self.tokens(x_hat.clamp(0, 1)), dim=-1).mean(dim=(0, 2))

    @property
    def record(self) -> EncoderRecord:
        return EncoderRecord(self.encoder.fingerprint, self.num_features)

    def _look(self, x: Pictures) -> tuple[Tokens, tuple[int, int]]:
        features = self.encoder(resized(x, patch_px=self.encoder.patch_px, max_patches=self.max_patches), self.layers[:-1])
        return torch.stack([*features.layers, features.tokens]), features.grid
