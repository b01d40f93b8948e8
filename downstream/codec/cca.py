"""CCA's codec (Han et al., NeurIPS 2024, arXiv:2410.04847): y in groups of channels that grow, each predicted from all before it.

    x --g_a--> y --h_a--> z;  z_hat --h_mean_s, h_scale_s--> features
    group i: features and groups < i --NAF stack, convolutions--> mean and scale; rounded values + 0.5 tanh(net) --> what later groups and g_s see

Parameters are named as in the published code. The auxiliary model, of training only, predicts group i from groups < i - 1.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from downstream.codec.factorised import FactorisedPrior
from downstream.codec.gaussian import likelihood
from downstream.codec.layers import NAFBlock, NAFStack, ResidualBottleneck, conv, deconv
from downstream.codec.model import Codec, Latent, Prediction
from downstream.codec.rounding import Rounding
from lcl.core.config import config

Positive = Annotated[int, Field(ge=1)]


@config
class CCAConfig:
    widths: tuple[Positive, Positive, Positive] = (192, 224, 256)
    """Channels of the transforms at 1/2, 1/4 and 1/8 of the sides."""
    latent_width: Positive = 320
    """Channels of y (M)."""
    hyper_width: Positive = 192
    """Channels of z."""
    num_groups: Positive = 5
    group_exponent: Annotated[float, Field(ge=0)] = 1.7
    """Channels of group i = 1, 2, ... grow as i to this power; 0: even groups."""
    num_bottlenecks: Annotated[int, Field(ge=0)] = 3
    """Residual bottlenecks after each of the first three strided convolutions."""
    num_blocks: Annotated[int, Field(ge=0)] = 4
    """NAF blocks there."""
    entropy_width: Positive = 224
    """Width of the NAF stacks of the entropy model."""
    entropy_blocks: Annotated[int, Field(ge=0)] = 4
    head_widths: tuple[Positive, Positive] = (224, 128)
    """Channels between the convolutions that end in means, scales and residuals."""
    window: Annotated[int, Field(ge=0)] = 0
    """Side of the square that channel attention averages over, in places of its layer; 0: the whole image, as published. Tiles need a window."""

    def group_sizes(self) -> tuple[int, ...]:
        """Channels of each group; the last takes what rounding down leaves. Raises ValueError if one would be empty."""
        shares = [number**self.group_exponent for number in range(1, self.num_groups + 1)]
        sizes = [int(self.latent_width / sum(shares) * share) for share in shares]
        sizes[-1] += self.latent_width - sum(sizes)
        if min(sizes) < 1:
            raise ValueError(f"{self.num_groups} groups of {self.latent_width} channels leave one empty ({sizes}): lower num_groups or group_exponent")
        return tuple(sizes)

    def tile_margin(self) -> int | None:
        """Places of y that a transform sees to each side: what its convolutions and windows reach, at the stride of each."""
        if self.num_blocks and not self.window:
            return None
        reach_px = sum((2 + self.num_bottlenecks + self.num_blocks * (1 + self.window // 2)) * stride for stride in (2, 4, 8)) + 2 * 16
        return -(-reach_px // 16) + 1

    def check(self) -> None:
        """Raises ValueError for sizes that do not fit together."""
        self.group_sizes()
        if self.window and self.window % 2 == 0:
            raise ValueError(f"window is {self.window}: give an odd number, or 0 for the whole image")


class Analysis(nn.Module):
    def __init__(self, settings: CCAConfig) -> None:
        super().__init__()
        sides = (3, *settings.widths, settings.latent_width)
        self.down = nn.ModuleList(conv(*pair) for pair in pairwise(sides))
        self.blocks = nn.ModuleList(nn.Sequential(*_bottlenecks(width, settings), *_blocks(width, settings)) for width in settings.widths)

    def forward(self, x: Latent) -> Latent:
        for down, blocks in zip(self.down, self.blocks, strict=False):
            x = blocks(down(x))
        return self.down[-1](x)


class Synthesis(nn.Module):
    def __init__(self, settings: CCAConfig) -> None:
        super().__init__()
        sides = (settings.latent_width, *reversed(settings.widths), 3)
        self.up = nn.ModuleList(deconv(*pair) for pair in pairwise(sides))
        self.blocks = nn.ModuleList(nn.Sequential(*_blocks(width, settings), *_bottlenecks(width, settings)) for width in reversed(settings.widths))

    def forward(self, y_hat: Latent) -> Latent:
        for up, blocks in zip(self.up, self.blocks, strict=False):
            y_hat = blocks(up(y_hat))
        return self.up[-1](y_hat)


def _bottlenecks(width: int, settings: CCAConfig) -> list[nn.Module]:
    return [ResidualBottleneck(width) for _ in range(settings.num_bottlenecks)]


def _blocks(width: int, settings: CCAConfig) -> list[nn.Module]:
    return [NAFBlock(width, window=settings.window) for _ in range(settings.num_blocks)]


class GroupModel(nn.Module):
    """Means and scales of each group from features of z and from the groups that it may see: all but the last `skipped` before it."""

    def __init__(self, settings: CCAConfig, *, skipped: int) -> None:
        super().__init__()
        self.skipped = skipped
        sizes = settings.group_sizes()
        seen = [sum(sizes[: self.num_seen(group)]) for group in range(len(sizes))]
        widths = [settings.latent_width + more for more in seen]

        def stacks() -> nn.ModuleList:
            inner = {"inner": settings.entropy_width, "num_blocks": settings.entropy_blocks, "window": settings.window}
            return nn.ModuleList(NAFStack(width, **inner) for width in widths)

        def heads(num_in: Sequence[int]) -> nn.ModuleList:
            first, second = settings.head_widths
            return nn.ModuleList(
                nn.Sequential(
                    conv(width, first, kernel=3, stride=1), nn.GELU(), conv(first, second, kernel=3, stride=1), nn.GELU(), conv(second, size, kernel=3, stride=1)
                )
                for width, size in zip(num_in, sizes, strict=False)
            )  # fmt: skip

        self.mean_NAF_transforms, self.scale_NAF_transforms = stacks(), stacks()
        self.mean_cc_transforms, self.scale_cc_transforms = heads(widths), heads(widths)
        num_restored = len(sizes) - 1 - skipped if skipped else len(sizes)  # the decoder or another group sees them
        self.lrp_transforms = heads([width + size for width, size in zip(widths, sizes, strict=True)][: max(0, num_restored)])

    def num_seen(self, group: int) -> int:
        return max(0, group - self.skipped)

    def predict(self, group: int, said: tuple[Latent, Latent], earlier: list[Latent]) -> tuple[Prediction, Latent]:
        """The group's parameters, and the features of its means."""
        seen = earlier[: self.num_seen(group)]
        means, scales = (torch.cat([features, *seen], dim=1) for features in said)
        support = self.mean_NAF_transforms[group](means)
        return Prediction(self.mean_cc_transforms[group](support), self.scale_cc_transforms[group](self.scale_NAF_transforms[group](scales))), support

    def restore(self, group: int, values: Latent, support: Latent) -> Latent:
        """The values and a prediction of what rounding took from them, at most 1/2 (Minnen and Singh, arXiv:2007.08739)."""
        return values + 0.5 * torch.tanh(self.lrp_transforms[group](torch.cat([support, values], dim=1)))


class Auxiliary(GroupModel):
    """The auxiliary entropy model G: its rate above that of the codec's own model is what the group just before says of the next."""

    def __init__(self, settings: CCAConfig) -> None:
        super().__init__(settings, skipped=1)
        self.y_entropy_bottleneck = FactorisedPrior(settings.latent_width)
        self.group_sizes = settings.group_sizes()

    def forward(self, y: Latent, said: tuple[Latent, Latent], rounding: Rounding) -> list[Latent]:
        """Of each group of y, in order."""
        found, given = [], []
        for group, values in enumerate(y.split(self.group_sizes, dim=1)):
            (means, scales), support = self.predict(group, said, given)
            measured, values_hat = rounding(values, means)
            found.append(likelihood(measured, means, scales))
            if group < len(self.lrp_transforms):
                given.append(self.restore(group, values_hat, support))
        return found


class CCA(GroupModel, Codec):
    def __init__(self, settings: CCAConfig) -> None:
        """Raises ValueError if the sizes do not fit together."""
        settings.check()
        super().__init__(settings, skipped=0)
        m, inner, z = settings.latent_width, settings.widths[2], settings.hyper_width
        self.group_sizes, self.tile_margin = settings.group_sizes(), settings.tile_margin()
        self.g_a, self.g_s = Analysis(settings), Synthesis(settings)
        self.h_a = nn.Sequential(conv(m, inner, kernel=3, stride=1), nn.GELU(), conv(inner, inner), nn.GELU(), conv(inner, z))
        self.h_mean_s, self.h_scale_s = (
            nn.Sequential(deconv(z, inner), nn.GELU(), deconv(inner, inner), nn.GELU(), deconv(inner, m, kernel=3, stride=1)) for _ in range(2)
        )
        self.z_entropy_bottleneck = FactorisedPrior(z)

    def hyper_synthesis(self, z_hat: Latent) -> tuple[Latent, Latent]:
        """Features that the groups' means and scales are made of."""
        return self.h_mean_s(z_hat), self.h_scale_s(z_hat)
