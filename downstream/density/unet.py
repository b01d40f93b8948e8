"""A U-Net of convolutions: z, the noise of each pixel and the context to features of the size of z, and features in its middle.

    z, sines of z, gamma --> blocks --> [half size --> blocks --> ...] --> blocks --> features
                   mean gamma, context --> embedding, shifts and scales in each block

No layer asks for a size: sides that cannot be halved often enough are continued by their last pixels and cut again.
"""

import math
from typing import Annotated

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from lcl.core.config import config

Maps = Float[Tensor, "images maps rows columns"]
Embedding = Float[Tensor, "images embedding"]

GROUP_WIDTH = 8        # channels that are normalised together
NUM_FREQUENCIES = 16   # of the embedding of gamma


@config
class UNetConfig:
    widths: tuple[Annotated[int, Field(ge=GROUP_WIDTH, multiple_of=GROUP_WIDTH)], ...] = (32, 64, 64)
    """Of each size; every next one has half the side. One number: no down-sampling, as in VDM and MuLAN."""
    blocks: Annotated[int, Field(ge=1)] = 2
    """On the way down in each size; one more on the way up."""
    attention: bool = True
    """Among all places of the smallest size, once in the middle."""
    fourier: bool = True
    """Sines and cosines of z beside it, at the scale of single levels (arXiv:2107.00630), weaker where noise drowns them."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class UNet(nn.Module):
    def __init__(self, settings: UNetConfig, *, channels: int, levels: int, context_size: int) -> None:
        super().__init__()
        widths, embedding = settings.widths, 4 * settings.widths[0]
        # periods of four and of two levels
        self.frequencies = tuple(math.pi * 2.0 ** (round(math.log2(levels)) - back) for back in (2, 1)) if settings.fourier else ()
        self.stride = 2 ** (len(widths) - 1)
        self.first = nn.Conv2d(channels * (2 + 2 * len(self.frequencies)), widths[0], 3, padding=1)
        self.down, self.shrink, kept = nn.ModuleList(), nn.ModuleList(), [widths[0]]
        width = widths[0]
        for level, wanted in enumerate(widths):
            if level:
                self.shrink.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                kept.append(width)
            stage = nn.ModuleList()
            for _ in range(settings.blocks):
                stage.append(Block(width, wanted, embedding, settings.dropout))
                width = wanted
                kept.append(width)
            self.down.append(stage)
        self.middle = nn.ModuleList([Block(width, width, embedding, settings.dropout), Block(width, width, embedding, settings.dropout)])
        self.attention = Attention(width) if settings.attention else nn.Identity()
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths))):
            stage = nn.ModuleList()
            for _ in range(settings.blocks + 1):
                stage.append(Block(width + kept.pop(), widths[level], embedding, settings.dropout))
                width = widths[level]
            self.up.append(stage)
            if level:
                self.grow.append(nn.Conv2d(width, width, 3, padding=1))
        self.last = nn.Sequential(nn.GroupNorm(width // GROUP_WIDTH, width), nn.SiLU())
        # last: it has as many weights as the context asks for, and those before it begin alike for one seed
        self.embed = nn.Sequential(nn.Linear(2 * NUM_FREQUENCIES + context_size, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        self.middle_width = widths[-1]

    def forward(
        self, z: Float[Tensor, "images channels height width"], gamma: Float[Tensor, "images channels height width"],
        sigma: Float[Tensor, "#images #channels #height #width"], context: Float[Tensor, "images size"],
    ) -> tuple[Float[Tensor, "images features height width"], Maps]:  # fmt: skip
        """Features, and those in the middle. `gamma` is scaled to [-1, 1]; `sigma` is the noise in z."""
        height, width = z.shape[-2:]
        # times what noise leaves of a wave in the mean: else they say nothing but which grid of latents a codec takes
        waves = [torch.exp(-0.5 * (frequency * sigma).square()) * wave(frequency * z) for frequency in self.frequencies for wave in (torch.sin, torch.cos)]
        x = torch.cat([z, gamma, *waves], dim=1)
        x = functional.pad(x, (0, -width % self.stride, 0, -height % self.stride), mode="replicate")
        embedding = self.embed(torch.cat([_frequencies(reduce(gamma, "images channels height width -> images", "mean")), context], dim=1))
        x = self.first(x)
        kept = [x]
        for level, stage in enumerate(self.down):
            if level:
                x = self.shrink[level - 1](x)
                kept.append(x)
            for block in stage:
                x = block(x, embedding)
                kept.append(x)
        x = self.middle[1](self.attention(self.middle[0](x, embedding)), embedding)
        middle = x
        for level, stage in enumerate(self.up):
            for block in stage:
                x = block(torch.cat([x, kept.pop()], dim=1), embedding)
            if level < len(self.grow):
                x = self.grow[level](functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.last(x)[:, :, :height, :width], middle


class Block(nn.Module):
    """norm, convolution, shift and scale by the embedding, norm, convolution, beside a shortcut."""

    def __init__(self, width: int, out_width: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.GroupNorm(width // GROUP_WIDTH, width), nn.SiLU(), nn.Conv2d(width, out_width, 3, padding=1))
        self.modulate = nn.Linear(embedding, 2 * out_width)
        self.norm = nn.GroupNorm(out_width // GROUP_WIDTH, out_width)
        self.after = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(out_width, out_width, 3, padding=1))
        self.shortcut = nn.Conv2d(width, out_width, 1) if width != out_width else nn.Identity()
        nn.init.zeros_(self.after[2].weight)
        nn.init.zeros_(self.after[2].bias)

    def forward(self, x: Float[Tensor, "images width rows columns"], embedding: Embedding) -> Float[Tensor, "images out_width rows columns"]:
        scale, shift = rearrange(self.modulate(embedding), "images (two width) -> two images width 1 1", two=2)
        return self.shortcut(x) + self.after(self.norm(self.before(x)) * (1 + scale) + shift)


class Attention(nn.Module):
    """One head, added to its input; begins as nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(width // GROUP_WIDTH, width)
        self.project = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Maps) -> Maps:
        queries, keys, values = rearrange(self.project(self.norm(x)), "images (three width) rows columns -> three images (rows columns) width", three=3)
        scores = torch.einsum("iqw,ikw->iqk", queries, keys) / math.sqrt(x.shape[1])
        found = torch.einsum("iqk,ikw->iqw", scores.softmax(dim=-1), values)
        return x + self.out(rearrange(found, "images (rows columns) width -> images width rows columns", rows=x.shape[2]))


def _frequencies(value: Float[Tensor, " images"]) -> Float[Tensor, "images frequencies"]:
    """Sines and cosines of a value in [-1, 1], from one half period over that range to several hundred."""
    rates = math.pi / 2 * torch.exp(torch.linspace(0, math.log(512), NUM_FREQUENCIES, dtype=value.dtype, device=value.device))
    angles = value[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
