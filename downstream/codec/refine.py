"""Latents fitted to one image: SGA+ on y and z together, the networks as they are (arXiv:2401.17789, section 3).

    y, z of the analysis --Adam on lmbda 255^2 MSE + bits per pixel, of relaxed rounding--> y, z whose rounded form has the least true loss seen

The true loss is that of what is coded: z rounded, then y around the means that this z gives.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from downstream.codec.model import Codec, Latent, Level, Reconstruction
from downstream.codec.rounding import RoundingConfig, relaxing, rounded
from downstream.codec.sight import Sight
from lcl.core.config import config

Pixels = Float[Tensor, "1 3 height width"]
Distortion = Callable[[Tensor, Tensor], Tensor]
"""(pixels, reconstruction) -> a scalar on the scale of the mean squared error of 8-bit values."""


@config
class RefineConfig:
    iterations: Annotated[int, Field(ge=0)] = 500
    rounding: RoundingConfig = RoundingConfig()
    learning_rate: Annotated[float, Field(gt=0)] = 0.005
    check_every: Annotated[int, Field(ge=1)] = 25
    """Iterations between looks at the true loss; the best look is kept, the start among them."""
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class Refined:
    y: Latent
    z: Latent
    losses: dict[int, float]
    """True loss by iteration; 0 is the start."""


def squared_error(x: Tensor, x_hat: Tensor) -> Tensor:
    """255^2 times the mean squared error of pixels in [0, 1]."""
    return 255**2 * (x - x_hat).square().mean()


def weighted_error(weights: Float[Tensor, "1 1 height width"]) -> Distortion:
    """Squared error with a weight for each pixel, whose mean is made 1."""
    weights = weights / weights.mean()

    def apply(x: Tensor, x_hat: Tensor) -> Tensor:
        return 255**2 * (weights * (x - x_hat).square()).mean()

    return apply


def semantic_error(sight: Sight, x: Pixels, *, weight: float, beside: Distortion = squared_error) -> Distortion:
    """`beside` plus `weight` times 1 - cos between what an encoder sees in `x` and in its reconstruction, as in training with gamma = lmbda weight."""
    wanted = sight.tokens(x)

    def apply(x: Tensor, x_hat: Tensor) -> Tensor:
        return beside(x, x_hat) + weight * sight.distance(wanted, x_hat).mean()

    return apply


def loss_of(x: Pixels, found: Reconstruction, *, lmbda: float, distortion: Distortion, num_pixels: int) -> Float[Tensor, ""]:
    """lmbda distortion + bits per pixel."""
    return lmbda * distortion(x, found.x_hat) + found.coded.bits.sum() / num_pixels


def refine(
    codec: Codec, x: Pixels, settings: RefineConfig, *, lmbda: float, level: Level = None, distortion: Distortion = squared_error,
    progress: Callable[[int, float], None] | None = None,
) -> Refined:
    """The best latents seen for the padded image `x` at this trade-off, which need not be the one the codec was trained for."""
    rng = torch.Generator(device=x.device).manual_seed(settings.seed)
    with torch.no_grad():
        y, z = codec.analyse(x, level)
    y, z = y.requires_grad_(), z.requires_grad_()
    optimizer = torch.optim.Adam([y, z], lr=settings.learning_rate)
    best, losses = (y.detach().clone(), z.detach().clone()), {0: _true_loss(codec, x, y, z, lmbda=lmbda, level=level, distortion=distortion)}
    trained = [parameter for parameter in codec.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        for iteration in range(settings.iterations):
            optimizer.zero_grad()
            coded = codec.code(y, z, relaxing(settings.rounding, iteration=iteration, rng=rng))
            loss_of(x, Reconstruction(codec.synthesise(coded.y_hat, level), coded), lmbda=lmbda, distortion=distortion, num_pixels=_num_pixels(x)).backward()
            optimizer.step()
            done = iteration + 1
            if done % settings.check_every == 0 or done == settings.iterations:
                losses[done] = _true_loss(codec, x, y, z, lmbda=lmbda, level=level, distortion=distortion)
                if losses[done] <= min(losses.values()):
                    best = (y.detach().clone(), z.detach().clone())
                if progress is not None:
                    progress(done, losses[done])
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    return Refined(*best, losses)


@torch.no_grad()
def _true_loss(codec: Codec, x: Pixels, y: Latent, z: Latent, *, lmbda: float, level: Level, distortion: Distortion) -> float:
    coded = codec.code(y, z, rounded)
    return float(loss_of(x, Reconstruction(codec.synthesise(coded.y_hat, level), coded), lmbda=lmbda, distortion=distortion, num_pixels=_num_pixels(x)))


def _num_pixels(x: Pixels) -> int:
    return x.shape[-1] * x.shape[-2]
