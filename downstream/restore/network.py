"""The network of every objective here: a U-Net that sees a state, the degraded picture and the time, and gives three channels.

    [x_t, degraded] --3x3--> blocks --2x2, stride 2--> blocks --> ... --> blocks --1x1, pixels unfolded--> + skip, blocks --> ... --3x3--> noise or residual
    t / T --Fourier features--> two layers --a scale and a shift of each block's channels
    where an encoder guides it (downstream/restore/guide.py): + a vector to the time's, + a map to the coarsest scale
    where it has the tones of the whole picture (downstream/restore/tones.py): + a vector to the time's

Nothing in it averages over the picture: a place depends on what is at most `margin_px` away, so pictures of any size are computed in tiles and come out
the same; tones and a guide's map are of the whole picture, and tiles take their crop of the map. The last convolution starts at zero, so the residual form starts as the degraded picture itself.
"""

import math
from typing import Annotated

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from downstream.channel_norm import ChannelNorm
from downstream.restore.guide import Added, Guide
from downstream.restore.process import Images, Times
from downstream.restore.tones import Toned, Tones
from lcl.core.config import config

Positive = Annotated[int, Field(ge=1)]


@config
class NetworkConfig:
    widths: Annotated[tuple[Positive, ...], Field(min_length=1)] = (16, 32, 64, 96)
    """Channels at each scale, from the full size down by halves."""
    num_blocks: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 1, 1, 2)
    """Blocks at each scale, on the way down and again on the way up; at the last, once."""
    time_width: Positive = 64

    def check(self) -> None:
        """Raises ValueError if a scale lacks its blocks."""
        if len(self.widths) != len(self.num_blocks):
            raise ValueError(f"model.widths has {len(self.widths)} scales, model.num_blocks {len(self.num_blocks)}: give one number for each scale")


class TimeEmbedding(nn.Module):
    """Sines and cosines of t / T at frequencies from 1 to 1000, then two layers."""

    def __init__(self, width: int, *, num_frequencies: int = 16) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(0, 3, num_frequencies), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * num_frequencies, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, share: Times) -> Float[Tensor, "images time_width"]:
        angles = share[:, None] * self.frequencies
        return self.layers(torch.cat([angles.sin(), angles.cos()], dim=1))


class Block(nn.Module):
    """Norm, scaled and shifted by the time, between two 3x3 convolutions a SiLU, and a residual; the scales and shifts start at none."""

    def __init__(self, width: int, time_width: int) -> None:
        super().__init__()
        self.norm, self.first, self.second = ChannelNorm(width), nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(time_width, 2 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Images, time: Float[Tensor, "images time_width"]) -> Images:
        scale, shift = rearrange(self.modulation(time), "images (two width) -> two images width 1 1", two=2)
        return x + self.second(functional.silu(self.first(self.norm(x) * (1 + scale) + shift)))


class UNet(nn.Module):
    guide: Guide | None
    """None in a network that no encoder was ever to guide."""
    toned: Toned | None
    """None in a network that has no tones."""

    def __init__(self, settings: NetworkConfig) -> None:
        """Raises ValueError for settings that do not fit together."""
        super().__init__()
        settings.check()
        self.settings, self.guide, self.toned = settings, None, None
        widths, time = settings.widths, settings.time_width
        self.time = TimeEmbedding(time)
        self.enter, self.leave = nn.Conv2d(6, widths[0], 3, padding=1), nn.Conv2d(widths[0], 3, 3, padding=1)
        self.down_blocks, self.up_blocks = (
            nn.ModuleList(nn.ModuleList(Block(width, time) for _ in range(number)) for width, number in zip(widths[:-1], settings.num_blocks[:-1], strict=True)) for _ in range(2)
        )
        self.middle = nn.ModuleList(Block(widths[-1], time) for _ in range(settings.num_blocks[-1]))
        steps = list(zip(widths, widths[1:], strict=False))
        self.down = nn.ModuleList(nn.Conv2d(upper, lower, 2, stride=2) for upper, lower in steps)
        self.up = nn.ModuleList(nn.Sequential(nn.Conv2d(lower, 4 * upper, 1), nn.PixelShuffle(2)) for upper, lower in steps)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    @property
    def stride_px(self) -> int:
        """What sides must be a multiple of."""
        return 2 ** len(self.down)

    @property
    def margin_px(self) -> int:
        """How far a place sees: each 3x3 convolution its scale's pixel, once more the coarsest place for where places begin. A multiple of `stride_px`."""
        blocks = self.settings.num_blocks
        reach = 2 + sum(4 * number * 2**scale for scale, number in enumerate(blocks[:-1])) + 2 * blocks[-1] * self.stride_px
        return math.ceil(reach / self.stride_px + 1) * self.stride_px

    def grid(self, x: Images) -> tuple[int, int]:
        """Rows and columns of the coarsest scale."""
        return x.shape[-2] // self.stride_px, x.shape[-1] // self.stride_px

    def added(self, degraded: Images, tones: Tones | None, *, kept: Bool[Tensor, " images"] | None = None, seen: Images | None = None) -> Added | None:
        """What is added of degraded pictures: by their tones, and by the guide for those that are `kept` (None: it is not asked); `seen` as of Guide."""
        guided = Added(None, None) if kept is None else self.guide(degraded, grid=self.grid(degraded), seen=seen).kept(kept)
        times = [time for time in (guided.time, None if self.toned is None else self.toned(tones)) if time is not None]
        return Added(sum(times) if times else None, guided.places) if times or guided.places is not None else None

    def forward(self, x_t: Images, degraded: Images, share: Times, added: Added | None = None) -> Images:
        """Of pixels in [0, 1], at the share t / T of the time; with what is added of the whole picture, or without."""
        time = self.time(share.to(x_t.dtype))
        if added is not None and added.time is not None:
            time = time + added.time
        x = self.enter(torch.cat([x_t, degraded], dim=1).mul(2).sub(1).contiguous(memory_format=torch.channels_last))
        kept = []
        for blocks, down in zip(self.down_blocks, self.down, strict=True):
            x = _through(blocks, x, time)
            kept.append(x)
            x = down(x)
        if added is not None and added.places is not None:
            x = x + added.places
        x = _through(self.middle, x, time)
        for blocks, up in zip(reversed(self.up_blocks), reversed(self.up), strict=True):
            x = _through(blocks, up(x) + kept.pop(), time)
        return self.leave(x)


def _through(blocks: nn.ModuleList, x: Images, time: Float[Tensor, "images time_width"]) -> Images:
    for block in blocks:
        x = block(x, time)
    return x
