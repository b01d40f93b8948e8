"""Which subset of context items an image has: logits of q(c | x), from a small network of our own or from a frozen encoder's tokens.

    x --convolutions, mean over places--> logits            image --frozen encoder--> tokens --mean and spread--> logits

The context is a subset of `chosen` among `size` items, as zeros and ones (`subsets.py`); what it costs is in the bound and in the coded file.
"""

from typing import Annotated, Literal

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from lcl.core.config import config
from lcl.features import Encoder

Images = Float[Tensor, "images channels height width"]
Logits = Float[Tensor, "images size"]


@config
class ContextConfig:
    kind: Literal["none", "convolutional", "tokens"] = "convolutional"
    """convolutional: a small network is trained along. tokens: of a frozen encoder (--encoder), which a decoder does not need."""
    size: Annotated[int, Field(ge=2, le=256)] = 16
    chosen: Annotated[int, Field(ge=1)] = 4
    """Of `size` items. Published: 15 of 50 for 32 x 32 pixels, 41 bits."""
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 32

    def check(self) -> None:
        """Raises ValueError for more chosen than there are."""
        if self.kind != "none" and self.chosen >= self.size:
            raise ValueError(f"model.context.chosen is {self.chosen} of model.context.size {self.size}: choose fewer than there are")


class ConvolutionalContext(nn.Module):
    """Logits from images of any size."""

    def __init__(self, settings: ContextConfig, *, channels: int) -> None:
        super().__init__()
        width = settings.width
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1), nn.SiLU(),
        )  # fmt: skip
        self.out = nn.Linear(width, settings.size)

    def forward(self, x: Images) -> Logits:
        return self.out(reduce(self.layers(x), "images width rows columns -> images width", "mean"))


class TokenContext(nn.Module):
    """Logits from what `token_statistics` gives."""

    def __init__(self, settings: ContextConfig, *, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(features), nn.Linear(features, settings.width), nn.SiLU(), nn.Linear(settings.width, settings.size))

    def forward(self, statistics: Float[Tensor, "images features"]) -> Logits:
        return self.layers(statistics)


def token_statistics(encoder: Encoder, x: Images) -> Float[Tensor, "images features"]:
    """Mean and spread of an image's tokens over its places."""
    tokens = token_maps(encoder, x)
    return torch.cat([reduce(tokens, "images width rows columns -> images width", "mean"), tokens.flatten(2).std(dim=2, correction=0)], dim=1)


@torch.no_grad()
def token_maps(encoder: Encoder, x: Images) -> Float[Tensor, "images tokens rows columns"]:
    """Tokens at their places, of images in [-1, 1] stretched to the square that the encoder was trained on; grey ones as colour."""
    pixels = (x.float() + 1) / 2
    if pixels.shape[1] == 1:
        pixels = pixels.expand(-1, 3, -1, -1)
    square = functional.interpolate(pixels, size=(encoder.image_px, encoder.image_px), mode="bilinear", align_corners=False)
    found = encoder(square)
    return rearrange(found.tokens.float(), "images (rows columns) width -> images width rows columns", rows=found.grid[0])
