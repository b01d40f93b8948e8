"""The mean-scale hyperprior (Minnen et al., NeurIPS 2018, arXiv:1809.02736): one group of y, whose means and scales z gives.

Parameters are named as in CompressAI's MeanScaleHyperprior, whose weights can be copied in.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from downstream.codec.factorised import FactorisedPrior
from downstream.codec.layers import GDN, conv, deconv, keep_variance
from downstream.codec.model import Codec, Latent, Prediction
from lcl.core.config import config

START_SPREAD = 4.5  # times that of the transform's other outputs

Width = Annotated[int, Field(ge=2, multiple_of=2)]


@config
class MeanScaleConfig:
    width: Width = 128
    """Channels of the transforms and of z (N)."""
    latent_width: Width = 192
    """Channels of y (M)."""
    analysis_width: Annotated[int, Field(ge=0, multiple_of=2)] = 0
    """Channels of the analysis transform, for which the decoder does not pay; 0: as `width`."""


class MeanScale(Codec):
    def __init__(self, settings: MeanScaleConfig) -> None:
        super().__init__()
        n, m, a = settings.width, settings.latent_width, settings.analysis_width or settings.width
        self.group_sizes = (m,)
        self.g_a = nn.Sequential(conv(3, a), GDN(a), conv(a, a), GDN(a), conv(a, a), GDN(a), conv(a, m))
        self.g_s = nn.Sequential(deconv(m, n), GDN(n, inverse=True), deconv(n, n), GDN(n, inverse=True), deconv(n, n), GDN(n, inverse=True), deconv(n, 3))
        self.h_a = nn.Sequential(conv(m, n, kernel=3, stride=1), nn.LeakyReLU(), conv(n, n), nn.LeakyReLU(), conv(n, n))
        self.h_s = nn.Sequential(deconv(n, m), nn.LeakyReLU(), deconv(m, m * 3 // 2), nn.LeakyReLU(), conv(m * 3 // 2, m * 2, kernel=3, stride=1))
        self.z_entropy_bottleneck = FactorisedPrior(n)
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """Weights with which y is worth more than the noise of its rounding, and pixels are grey, from the first step on."""
        for module, gain in ((self.g_a, 1.0), (self.g_s, 1.0), (self.h_a, math.sqrt(2)), (self.h_s, math.sqrt(2))):
            keep_variance(module, gain=gain)
        self.g_a[-1].weight.mul_(START_SPREAD)
        self.g_s[0].weight.div_(START_SPREAD)
        self.g_s[-1].weight.mul_(0.3)
        self.g_s[-1].bias.fill_(0.5)
        self.h_s[-1].weight.mul_(0.1)
        self.h_s[-1].bias[: self.group_sizes[0]] = 1.0  # scales

    def hyper_synthesis(self, z_hat: Latent) -> tuple[Latent, Latent]:
        scales, means = self.h_s(z_hat).chunk(2, dim=1)
        return means, scales

    def predict(self, group: int, said: tuple[Latent, Latent], earlier: list[Latent]) -> tuple[Prediction, Latent]:
        means, scales = said
        return Prediction(means, scales), means
