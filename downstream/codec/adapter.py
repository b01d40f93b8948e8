"""What a pretrained encoder sees in a picture, added to y on the encoding side: the decoder and the files know nothing of it.

    picture --sight--> tokens --norm, 1x1--> resized to y's grid --NAF blocks, 1x1--> times a gate that starts at 0 --> + g_a(picture) = y

With its gate at 0 the codec is the plain one. Tokens are of the whole picture at a bounded size, computed once; what comes after them is local, with windows in the place
of means over the picture, so that tiles change nothing.
"""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from downstream.codec.layers import ChannelNorm, Image, NAFBlock, conv
from downstream.sight import Sight, SightConfig
from lcl.core.config import config


@config
class AdapterConfig:
    source: Literal["off", "tokens", "latents"] = "off"
    """tokens: y gets what an encoder sees (--encoder). latents: the same layers look at y itself, the control without an encoder."""
    width: Annotated[int, Field(ge=1)] = 64
    """Channels of its blocks."""
    num_blocks: Annotated[int, Field(ge=0)] = 2
    window: Annotated[int, Field(ge=1)] = 7
    """Side of the square of places of y that channel attention averages over; odd."""
    sight: SightConfig = SightConfig()

    def check(self) -> None:
        """Raises ValueError for a window without a middle."""
        if self.window % 2 == 0:
            raise ValueError(f"adapter.window is {self.window}: give an odd number")


class Adapter(nn.Module):
    sight: Sight | None
    """How it looks at pictures; what only decodes has none."""
    margin: int
    """Places to each side that a place of what is added depends on."""

    def __init__(self, settings: AdapterConfig, *, num_features: int, latent_width: int) -> None:
        """`num_features` are those of the sight; a codec that only decodes is built without one. Raises ValueError as `AdapterConfig.check`."""
        super().__init__()
        settings.check()
        num_in = num_features if settings.source == "tokens" else latent_width
        self.source, self.sight = settings.source, None
        self.margin = settings.num_blocks * (1 + settings.window // 2)
        self.norm, self.in_conv = ChannelNorm(num_in), conv(num_in, settings.width, kernel=1, stride=1)
        self.blocks = nn.Sequential(*(NAFBlock(settings.width, window=settings.window) for _ in range(settings.num_blocks)))
        self.out_conv = conv(settings.width, latent_width, kernel=1, stride=1)
        self.gate = nn.Parameter(torch.zeros(1, latent_width, 1, 1))

    def seen(self, x: Float[Tensor, "images 3 height width"], y: Float[Tensor, "images latents rows columns"]) -> Float[Tensor, "images _ rows columns"]:
        """What is known of each place of y, from the whole picture."""
        if self.source == "latents":
            return self.in_conv(self.norm(y))
        assert self.sight is not None, "a codec whose adapter has no sight does not encode"
        return functional.interpolate(self.in_conv(self.norm(self.sight.feature_map(x))), size=y.shape[-2:], mode="bilinear", align_corners=False)

    def added(self, seen: Image) -> Image:
        """What is added to y."""
        return self.gate * self.out_conv(self.blocks(seen))

    def forward(self, x: Float[Tensor, "images 3 height width"], y: Float[Tensor, "images latents rows columns"]) -> Float[Tensor, "images latents rows columns"]:
        """y with what was seen."""
        return y + self.added(self.seen(x, y))
