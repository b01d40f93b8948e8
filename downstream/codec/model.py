"""What every codec here is made of, and the pass that training, refinement and coding share.

    x --analysis--> y --hyper_analysis--> z --rounding--> z_hat --hyper_synthesis--> parameters of y
    y --groups in turn, each with the parameters that the earlier ones and z_hat give--> rounding --> y_hat --synthesis--> x_hat

Rates are of what `rounding` (downstream/codec/rounding.py) makes of values around their centres: medians of z, predicted means of y.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from downstream.codec.factorised import FactorisedPrior
from downstream.codec.gaussian import bits_of, likelihood
from downstream.codec.rounding import Rounding, rounded

Latent = Float[Tensor, "images channels height width"]


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


class Codec(nn.Module, ABC):
    """Transforms and entropy model. Subclasses own `z_entropy_bottleneck`, and sides that `stride_px` divides are their input."""

    z_entropy_bottleneck: FactorisedPrior
    group_sizes: tuple[int, ...]
    """Channels of the groups of y, which are coded in turn."""
    stride_px = 64
    """Pixels of the input to one place of z, along each side."""

    @abstractmethod
    def analysis(self, x: Float[Tensor, "images 3 height width"]) -> Latent:
        """y of pixels in [0, 1]."""

    @abstractmethod
    def synthesis(self, y_hat: Latent) -> Float[Tensor, "images 3 height width"]:
        """Pixels, which may leave [0, 1]."""

    @abstractmethod
    def hyper_analysis(self, y: Latent) -> Latent:
        """z."""

    @abstractmethod
    def hyper_synthesis(self, z_hat: Latent) -> tuple[Latent, Latent]:
        """What z says of the means and of the scales of y: the parameters themselves, or features that `predict` makes them of."""

    @abstractmethod
    def predict(self, group: int, said: tuple[Latent, Latent], earlier: list[Latent]) -> tuple[Prediction, Latent]:
        """The parameters of a group given z and the groups before it as the decoder has them; and what `restore` needs to know."""

    def restore(self, group: int, values: Latent, support: Latent) -> Latent:
        """What the decoder makes of a group's rounded values."""
        return values

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

    def forward(self, x: Float[Tensor, "images 3 height width"], rounding: Rounding = rounded) -> Reconstruction:
        y = self.analysis(x)
        coded = self.code(y, self.hyper_analysis(y), rounding)
        return Reconstruction(self.synthesis(coded.y_hat), coded)
