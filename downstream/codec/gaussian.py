"""Likelihoods of whole steps under a normal distribution, the entropy model of latents with predicted means and scales."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from downstream.codec.layers import bounded_below, in_full

LEAST_LIKELIHOOD = 1e-9
LEAST_SCALE, LARGEST_SCALE, NUM_SCALES = 0.11, 256.0, 64  # of the table of CompressAI and CCA, spaced evenly in the logarithm


def scale_table() -> Float[Tensor, "scales"]:
    """The scales that symbols are coded with."""
    return torch.linspace(math.log(LEAST_SCALE), math.log(LARGEST_SCALE), NUM_SCALES, dtype=torch.float64).exp()


def scale_thresholds() -> Float[Tensor, "scales_but_one"]:
    """Where the nearest scale of the table, by ratio, changes."""
    scales = scale_table()
    return (scales[1:] * scales[:-1]).sqrt()


def likelihood(values: Float[Tensor, "*shape"], means: Float[Tensor, "*shape"], scales: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """P(value - 1/2 < N(mean, scale^2) < value + 1/2), at least LEAST_LIKELIHOOD; scales below LEAST_SCALE count as that."""
    scales = bounded_below(in_full(scales), LEAST_SCALE)
    distance = (values - means).abs()  # on the side where the two tails are small, so that their difference keeps its digits
    return bounded_below(_cumulative((0.5 - distance) / scales) - _cumulative((-0.5 - distance) / scales), LEAST_LIKELIHOOD)


def _cumulative(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-math.sqrt(0.5) * x)


def bits_of(likelihoods: Tensor) -> Tensor:
    """-log2 of the likelihoods, summed over everything but the images: bits of each."""
    return -likelihoods.log2().flatten(1).sum(dim=1)
