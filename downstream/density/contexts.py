"""Which subset of context items an image has: logits of q(c | x), from a small network of our own or from a frozen encoder's tokens.

    x --convolutions, mean over places--> logits            x --frozen encoder--> tokens --mean and spread over places--> logits

The context is a subset of `chosen` among `size` items, as zeros and ones (`subsets.py`); what it costs is in the bound and in the coded file.
"""

from typing import Annotated, Literal

import torch
from einops import reduce
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from downstream.sight import Sight, SightConfig
from lcl.core.config import config

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
    sight: SightConfig = SightConfig(num_layers=1)
    """How the encoder of tokens looks."""

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
            nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1), nn.SiLU(),
        )  # fmt: skip
        self.out = nn.Linear(width, settings.size)

    def forward(self, x: Images) -> Logits:
        return self.out(reduce(self.layers(x), "images width rows columns -> images width", "mean"))


class TokenContext(nn.Module):
    """Logits from mean and spread of an encoder's tokens over places."""

    sight: Sight | None
    """How it looks at images; what only decodes has none."""

    def __init__(self, settings: ContextConfig, *, num_features: int) -> None:
        """`num_features` are those of the sight."""
        super().__init__()
        self.sight = None
        self.layers = nn.Sequential(nn.LayerNorm(2 * num_features), nn.Linear(2 * num_features, settings.width), nn.SiLU(), nn.Linear(settings.width, settings.size))

    def forward(self, x: Images) -> Logits:
        assert self.sight is not None, "a model whose context has no sight does not find contexts"
        return self.layers(token_statistics(token_maps(self.sight, x)).to(x.dtype))


def branch(generator: torch.Generator) -> torch.Generator:
    """A generator that one number of another seeds. What draws from it, however much, moves the other by that number alone: so models with a context and without one see the same noise."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))


def token_statistics(tokens: Float[Tensor, "images tokens rows columns"]) -> Float[Tensor, "images features"]:
    """Mean and spread over places."""
    return torch.cat([reduce(tokens, "images tokens rows columns -> images tokens", "mean"), tokens.flatten(2).std(dim=2, correction=0)], dim=1)


@torch.no_grad()
def token_maps(sight: Sight, x: Images) -> Float[Tensor, "images tokens rows columns"]:
    """Tokens at their places, of images in [-1, 1]; grey ones are seen as colour."""
    pixels = (x.float() + 1) / 2
    return sight.feature_map(pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels).float()
