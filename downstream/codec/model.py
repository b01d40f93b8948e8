"""What every codec here is made of, and the pass that training, refinement and coding share.

    x --analysis (with an adapter: and what an encoder sees)--> y --hyper_analysis--> z --rounding--> z_hat --hyper_synthesis--> parameters of y
    y --groups in turn, each with the parameters that the earlier ones and z_hat give--> rounding --> y_hat --synthesis--> x_hat

A codec of several rates has a gain for each channel of y at each level, by which y is multiplied before it is rounded, and another by which y_hat is
after it (Cui et al., CVPR 2021, arXiv:2003.02012): larger steps, fewer bits. Levels between two are between their gains, geometrically.

Rates are of what `rounding` (downstream/codec/rounding.py) makes of values around their centres: medians of z, predicted means of y.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from downstream.codec.adapter import Adapter
from downstream.codec.factorised import FactorisedPrior
from downstream.codec.gaussian import bits_of, likelihood
from downstream.codec.layers import in_full
from downstream.codec.rounding import Rounding, rounded

Latent = Float[Tensor, "images _ _ _"]  # channels, height, width: of y or of z


class Prediction(NamedTuple):
    """What a group of y is expected to be."""

    means: Latent
    scales: Latent


class Coded(NamedTuple):
    """What one pass over latents gives. Bits are of each image."""

    y_hat: Latent
    """What the synthesis transform gets."""
    y_bits: Float[Tensor, "groups images"]
    z_bits: Float[Tensor, " images"]

    @property
    def bits(self) -> Float[Tensor, " images"]:
        return self.y_bits.sum(dim=0) + self.z_bits


class Reconstruction(NamedTuple):
    x_hat: Float[Tensor, "images 3 height width"]
    coded: Coded


Level = Float[Tensor, " images"] | None
"""Of each image, from 0 (fewest bits) to the number of levels less one; None for a codec of one rate."""


class Gains(nn.Module):
    """Factors of the channels of y at each level, as logarithms."""

    def __init__(self, num_levels: int, num_channels: int) -> None:
        super().__init__()
        self.before, self.after = (nn.Parameter(torch.zeros(num_levels, num_channels)) for _ in range(2))

    @torch.no_grad()
    def start(self, lmbdas: Sequence[float]) -> None:
        """Steps for which the error of rounding alone would be optimal, as 1 / sqrt(lmbda): levels that start alike take thousands of training steps to part."""
        steps = 0.5 * torch.tensor(lmbdas).log()
        self.before.copy_((steps - steps.mean())[:, None].expand_as(self.before))
        self.after.copy_(-self.before)

    def at(self, table: Float[Tensor, "levels channels"], level: Float[Tensor, " images"]) -> Latent:
        lower = level.floor().long().clamp(0, len(table) - 1)
        upper = (lower + 1).clamp(max=len(table) - 1)
        return torch.lerp(table[lower], table[upper], (level - lower)[:, None]).exp()[:, :, None, None]


class Codec(nn.Module, ABC):
    """Transforms and entropy model. Subclasses make the modules below, named as published; sides that `stride_px` divides are their input."""


    g_a: nn.Module
    g_s: nn.Module
    h_a: nn.Module
    z_entropy_bottleneck: FactorisedPrior
    group_sizes: tuple[int, ...]
    """Channels of the groups of y, which are coded in turn."""
    stride_px = 64
    """Pixels of the input to one place of z, along each side."""
    tile_margin: int | None = 5
    """Places of y around a tile that its transforms see; None where they see the whole picture."""

    def __init__(self) -> None:
        super().__init__()
        self.gains: Gains | None = None
        self.adapter: Adapter | None = None

    def analysis(self, x: Float[Tensor, "images 3 height width"]) -> Latent:
        """y of pixels in [0, 1]."""
        y = self.g_a(x)
        return y if self.adapter is None else self.adapter(x, y)

    def synthesis(self, y_hat: Latent) -> Float[Tensor, "images 3 height width"]:
        """Pixels, which may leave [0, 1]."""
        return self.g_s(y_hat)

    def hyper_analysis(self, y: Latent) -> Latent:
        """z."""
        return self.h_a(y)

    @abstractmethod
    def hyper_synthesis(self, z_hat: Latent) -> tuple[Latent, Latent]:
        """What z says of the means and of the scales of y: the parameters themselves, or features that `predict` makes them of."""

    @abstractmethod
    def predict(self, group: int, said: tuple[Latent, Latent], earlier: list[Latent]) -> tuple[Prediction, Latent]:
        """The parameters of a group given z and the groups before it as the decoder has them; and what `restore` needs to know."""

    def restore(self, group: int, values: Latent, support: Latent) -> Latent:
        """What the decoder makes of a group's rounded values."""
        return values

    def analyse(self, x: Float[Tensor, "images 3 height width"], level: Level = None) -> tuple[Latent, Latent]:
        """y and z at this level."""
        return self.at_level(self.analysis(x), level)

    def at_level(self, y: Latent, level: Level) -> tuple[Latent, Latent]:
        """y with the gains of this level, and z of that."""
        y = in_full(y if self.gains is None else y * self.gains.at(self.gains.before, self._given(level)))
        return y, in_full(self.hyper_analysis(y))

    def synthesise(self, y_hat: Latent, level: Level = None) -> Float[Tensor, "images 3 height width"]:
        """Pixels of y_hat that was made at this level."""
        return self.synthesis(y_hat if self.gains is None else y_hat * self.gains.at(self.gains.after, self._given(level)))

    def _given(self, level: Level) -> Float[Tensor, " images"]:
        if level is None:
            raise ValueError("this codec has several rates: say the level")
        return level

    def code(self, y: Latent, z: Latent, rounding: Rounding = rounded) -> Coded:
        """Rounds z, then each group of y, and counts the bits of both."""
        z_measured, z_hat = rounding(z, self.z_entropy_bottleneck.medians.expand_as(z))
        said = self.hyper_synthesis(z_hat)
        given: list[Latent] = []
        bits = []
        for group, values in enumerate(y.split(self.group_sizes, dim=1)):
            (means, scales), support = self.predict(group, said, given)
            measured, values_hat = rounding(values, means)
            bits.append(bits_of(likelihood(measured, means, scales)))
            given.append(self.restore(group, values_hat, support))
        return Coded(torch.cat(given, dim=1), torch.stack(bits), bits_of(self.z_entropy_bottleneck.likelihood(z_measured)))

    def forward(self, x: Float[Tensor, "images 3 height width"], level: Level = None, rounding: Rounding = rounded) -> Reconstruction:
        coded = self.code(*self.analyse(x, level), rounding)
        return Reconstruction(self.synthesise(coded.y_hat, level), coded)
