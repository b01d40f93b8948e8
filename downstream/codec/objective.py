"""What codecs are trained to minimise, and CCA's causal context adjustment beside it (arXiv:2410.04847, Eq. 8 to 10).

    L = weighted mean over images of  lmbda 255^2 MSE + beta (R_y + R_z) + alpha (R_y - R_G) + gamma (1 - cos(F(x), F(x_hat)))      rates in bits per pixel

    weight of an image: that of its level, lmbda^-balance, with mean 1

F are tokens of a frozen encoder (downstream/sight.py): what else than pixels is to come through.

R_G is the rate of y under the auxiliary model G, which sees fewer groups: R_G - R_y is what a group says of the next. Three modes:

    off        alpha counts as plain rate: L = lmbda 255^2 MSE + (beta + alpha) R_y + beta R_z, so that modes are compared at equal weight of the rate
    published  as in the published code: every gradient that reaches G's weights raises R_G, also that of its second term
               - sum p_G log2 p_F', with F' a factorised prior of y. R_G runs to the floor of the likelihoods and the term becomes plain rate
    intent     what the paper says: G's weights descend on R_G (their gradient is turned), the encoder widens the gap
"""

import logging
import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from downstream.codec.cca import CCA, Auxiliary
from downstream.codec.gaussian import LEAST_LIKELIHOOD
from downstream.codec.model import Codec, Level
from downstream.codec.rounding import Rounding, training
from downstream.losses import Losses
from downstream.sight import Sight, SightConfig
from lcl.core.config import config

log = logging.getLogger(__name__)

Mode = Literal["off", "published", "intent"]
FLOOR_SHARE = 0.5  # of its floor, from which on R_G is said to run away


@config
class ObjectiveConfig:
    lmbdas: Annotated[tuple[float, ...], Field(min_length=1)] = (0.0067,)
    """Weights of the squared error; more than one make a codec of as many levels, ascending."""
    balance: Annotated[float, Field(ge=0)] = 0.0
    """Levels count as lmbda to the power of -balance: 0 as they are, so that those of many bits, whose losses are larger, decide; 0.5 about alike."""
    beta: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the rate."""
    mode: Mode = "off"
    """Causal context adjustment, of CCA's codec: off, published or intent."""
    alpha: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the adjustment."""
    alpha_warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps in which alpha rises from 0, of intent."""
    gamma: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the semantic distortion, in bits per pixel for 1 - cos = 1; needs an encoder (--encoder)."""
    sight: SightConfig = SightConfig()
    """How the encoder looks, for the semantic distortion."""

    def check(self) -> None:
        """Raises ValueError for rates that are no ascending positive numbers."""
        if list(self.lmbdas) != sorted(set(self.lmbdas)) or min(self.lmbdas) <= 0:
            raise ValueError(f"objective.lmbdas are {' '.join(map(str, self.lmbdas))}: give positive numbers, ascending")


class _TurnedGradient(torch.autograd.Function):
    @staticmethod
    def forward(context, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        return -gradient


class CodecObjective(nn.Module):
    """A codec with what its training needs: the loss of a batch is its forward pass."""

    def __init__(self, codec: Codec, settings: ObjectiveConfig, auxiliary: Auxiliary | None = None, *, sight: Sight | None = None) -> None:
        """`sight` is for the semantic distortion. Raises ValueError if the settings do not fit together, or not with the codec."""
        super().__init__()
        settings.check()
        if settings.mode != "off" and not (isinstance(codec, CCA) and auxiliary is not None):
            raise ValueError(f"objective.mode {settings.mode} needs CCA's codec and its auxiliary model; give --objective.mode off")
        if settings.gamma and sight is None:
            raise ValueError(f"objective.gamma {settings.gamma:g} is the weight of what an encoder sees: give --encoder")
        self.codec, self.settings, self.sight = codec, settings, sight
        self.auxiliary = auxiliary if settings.mode != "off" else None
        weights = torch.tensor(settings.lmbdas) ** -settings.balance
        self._weights = weights / weights.mean()
        self._warned = False

    def forward(self, x: Float[Tensor, "images 3 height width"], level: Level, noise: torch.Generator | None, alpha: float) -> Losses:
        """The loss of these images, and its parts in their units, each the mean over images."""
        settings, num_pixels = self.settings, x.shape[-1] * x.shape[-2]
        rounding = training(noise)
        y, z = self.codec.analyse(x, level)
        coded = self.codec.code(y, z, rounding)
        x_hat = self.codec.synthesise(coded.y_hat, level)
        error = 255**2 * (x - x_hat).square().flatten(1).mean(dim=1)
        lmbdas = torch.tensor(settings.lmbdas, device=x.device)
        places = torch.zeros(len(x), dtype=torch.long, device=x.device) if level is None else level.round().long()
        lmbda, weight = lmbdas[places], self._weights.to(x.device)[places]
        y_bpp, z_bpp = coded.y_bits.sum(dim=0) / num_pixels, coded.z_bits / num_pixels
        each = lmbda * error + settings.beta * (y_bpp + z_bpp) + alpha * y_bpp
        metrics = {"squared_error": error.mean(), "y_bpp": y_bpp.mean(), "z_bpp": z_bpp.mean()}
        if settings.gamma and self.sight is not None:
            unlike = self.sight.distance(self.sight.tokens(x), x_hat)
            each = each + settings.gamma * unlike
            metrics["semantic"] = unlike.mean()
        loss = (weight * each).mean()
        if self.auxiliary is not None:
            adjustment, rate = self._adjustment(self.auxiliary, y, z, rounding, num_pixels, alpha)
            loss = loss + adjustment
            metrics["auxiliary_bpp"] = rate
            self._look_at(float(rate.detach()))
        return Losses(loss, {name: value.detach() for name, value in metrics.items()})

    def _adjustment(self, auxiliary: Auxiliary, y: Tensor, z: Tensor, rounding: Rounding, num_pixels: int, alpha: float) -> tuple[Tensor, Tensor]:
        """What G adds to the loss, and R_G."""
        z_hat = rounding(z, self.codec.z_entropy_bottleneck.medians.expand_as(z))[1]
        said = self.codec.hyper_synthesis(z_hat)
        if self.settings.mode == "intent":
            turned = {name: _TurnedGradient.apply(value) for name, value in auxiliary.named_parameters() if value.requires_grad}
            found = torch.cat(functional_call(auxiliary, turned, (y, said, rounding)), dim=1)
        else:
            found = torch.cat(auxiliary(y, said, rounding), dim=1)
        per_image = num_pixels * len(y)
        rate = -found.log2().sum() / per_image
        if self.settings.mode == "intent":
            return -alpha * rate, rate
        factorised = auxiliary.y_entropy_bottleneck.likelihood(rounding(y, torch.zeros_like(y))[0])
        return -alpha * rate - (found * factorised.log2()).sum() / per_image, rate

    def _look_at(self, rate: float) -> None:
        """Warns once when the auxiliary model runs away."""
        if not self._warned and rate > FLOOR_SHARE * self.floor_bpp():
            self._warned = True
            log.warning(
                "R_G is %.2f bits per pixel, more than half of the %.2f at which every likelihood is at its floor: there the adjustment is plain weight of the rate. Lower --objective.alpha",
                rate, self.floor_bpp(),
            )  # fmt: skip

    def floor_bpp(self, stride_px: int = 16) -> float:
        """R_G when every likelihood is at its floor, of y at this many pixels a place."""
        return -math.log2(LEAST_LIKELIHOOD) * sum(self.codec.group_sizes) / stride_px**2
