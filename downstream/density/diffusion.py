"""Variance-preserving diffusion with a noise level of its own for each pixel and channel, and the terms of its bound on likelihood.

    z_t = alpha_t x + sigma_t eps,    sigma_t^2 = sigmoid(gamma_t),    alpha_t^2 = sigmoid(-gamma_t),    gamma = -log(alpha^2 / sigma^2)

    -log p(u)  <=  reconstruction + prior + diffusion (+ KL of the context)           in nats for each image

Kingma et al., NeurIPS 2021 (VDM, arXiv:2107.00630); with a vector gamma: Sahoo et al., NeurIPS 2024 (MuLAN, arXiv:2312.13236). `u` are whole levels from 0, `x` the same in [-1, 1].
A gamma of one value for an image has the shape (images, 1, 1, 1).
"""

import math
from typing import NamedTuple

import torch
from einops import reduce
from jaxtyping import Float, Int
from torch import Tensor

LEAST_CHANGE = 1e-12  # of a step's noise
Images = Float[Tensor, "images channels height width"]
Gamma = Float[Tensor, "#images #channels #height #width"]
Nats = Float[Tensor, " images"]


def to_data(u: Int[Tensor, "images channels height width"], *, levels: int, dtype: torch.dtype = torch.float32) -> Images:
    """x = 2 (u + 1/2) / levels - 1: the middles of `levels` equal parts of [-1, 1]."""
    return 2 * (u.to(dtype) + 0.5) / levels - 1


def to_levels(x: Images, *, levels: int) -> Int[Tensor, "images channels height width"]:
    """The level whose part x lies in: the inverse of `to_data`."""
    return ((x + 1) / 2 * levels).floor().long().clamp(0, levels - 1)


def alpha(gamma: Gamma) -> Gamma:
    return torch.sigmoid(-gamma).sqrt()


def sigma(gamma: Gamma) -> Gamma:
    return torch.sigmoid(gamma).sqrt()


def diffuse(x: Images, eps: Images, gamma: Gamma) -> Images:
    """z = alpha x + sigma eps."""
    return alpha(gamma) * x + sigma(gamma) * eps


def eps_of_v(v: Images, z: Images, gamma: Gamma) -> Images:
    """eps = alpha v + sigma z, for v = alpha eps - sigma x (Salimans and Ho, arXiv:2202.00512)."""
    return alpha(gamma) * v + sigma(gamma) * z


def antithetic_times(num: int, generator: torch.Generator) -> Float[Tensor, " num"]:
    """t_j = (t_0 + j / num) mod 1: each is uniform, together they cover [0, 1) evenly (arXiv:2107.00630)."""
    return (torch.rand((), generator=generator) + torch.arange(num) / num) % 1


def reconstruction_log_probabilities(z_0: Images, gamma_0: Gamma, *, levels: int) -> Float[Tensor, "images channels height width levels"]:
    """log p(u | z_0) of every level: softmax over v of -1/2 ((z_0 / alpha_0 - x_v) e^{-gamma_0 / 2})^2, for each pixel and channel alone."""
    middles = 2 * (torch.arange(levels, dtype=z_0.dtype, device=z_0.device) + 0.5) / levels - 1
    distances = ((z_0 / alpha(gamma_0))[..., None] - middles) * torch.exp(-gamma_0 / 2)[..., None]
    return torch.log_softmax(-0.5 * distances.square(), dim=-1)


def reconstruction_nats(u: Int[Tensor, "images channels height width"], z_0: Images, gamma_0: Gamma, *, levels: int) -> Nats:
    """-log p(u | z_0)."""
    found = reconstruction_log_probabilities(z_0, gamma_0, levels=levels)
    return -_total(found.gather(-1, u[..., None])[..., 0])


def prior_nats(x: Images, gamma_1: Gamma) -> Nats:
    """KL(q(z_1 | x) || N(0, 1)) = 1/2 sum(alpha_1^2 x^2 + sigma_1^2 - log sigma_1^2 - 1)."""
    variance = torch.sigmoid(gamma_1)
    return _total(0.5 * (torch.sigmoid(-gamma_1) * x.square() + variance - variance.log() - 1))


def diffusion_nats(eps: Images, eps_hat: Images, slope: Gamma) -> Nats:
    """1/2 sum_i gamma_i'(t) (eps - eps_hat)_i^2: its mean over t uniform in [0, 1] is the diffusion term in continuous time."""
    return 0.5 * _total(slope * (eps - eps_hat).square())


def step_nats(eps: Images, eps_hat: Images, gamma_s: Gamma, gamma_t: Gamma) -> Nats:
    """KL(q(z_s | z_t, x) || p(z_s | z_t)) of one step from t to s < t, both of variance sigma_s^2 c: 1/2 sum_i (e^{gamma_t - gamma_s} - 1)_i (eps - eps_hat)_i^2."""
    return 0.5 * _total(torch.expm1(gamma_t - gamma_s) * (eps - eps_hat).square())


class Normal(NamedTuple):
    mean: Images
    variance: Gamma


def reverse_step(z_t: Images, eps_hat: Images, gamma_s: Gamma, gamma_t: Gamma, *, squared_error: Gamma | float = 0.0) -> Normal:
    """p(z_s | z_t): mean = alpha_s / alpha_t (z_t - sigma_t c eps_hat), variance = sigma_s^2 c + (alpha_s / alpha_t sigma_t c)^2 E[(eps - eps_hat)^2], c = 1 - e^{gamma_s - gamma_t}.

    With `squared_error` zero this is ancestral sampling as published; with the error that the network makes it is the variance of best likelihood (Bao et al., arXiv:2206.07309).
    """
    ratio, c = alpha(gamma_s) / alpha(gamma_t), _change(gamma_s, gamma_t)
    weight = ratio * sigma(gamma_t) * c
    return Normal(ratio * z_t - weight * eps_hat, torch.sigmoid(gamma_s) * c + weight.square() * squared_error)


def calibrated_step_nats(eps: Images, eps_hat: Images, gamma_s: Gamma, gamma_t: Gamma, *, squared_error: Gamma) -> Nats:
    """KL(q(z_s | z_t, x) || p(z_s | z_t)) where p has the variance of `reverse_step` with this `squared_error`."""
    ratio, c = alpha(gamma_s) / alpha(gamma_t), _change(gamma_s, gamma_t)
    weight = (ratio * sigma(gamma_t) * c).square()
    of_q = torch.sigmoid(gamma_s) * c
    of_p = of_q + weight * squared_error
    return 0.5 * _total((of_p / of_q).log() + (of_q + weight * (eps - eps_hat).square()) / of_p - 1)


def velocity(z: Images, eps_hat: Images, gamma: Gamma, slope: Gamma) -> Images:
    """dz/dt of the probability-flow ODE: 1/2 sigma gamma' (eps_hat - sigma z) (arXiv:2011.13456 for this diffusion)."""
    of_noise = sigma(gamma)
    return 0.5 * of_noise * slope * (eps_hat - of_noise * z)


def bits_per_dim(nats: Float[Tensor, "..."], *, dims: int) -> Float[Tensor, "..."]:
    """Nats of an image as bits for each of its `dims` pixels and channels."""
    return nats / (dims * math.log(2))


def _change(gamma_s: Gamma, gamma_t: Gamma) -> Gamma:
    """1 - e^{gamma_s - gamma_t}, above 0 also where a schedule stands still and gamma falls by the rounding of its floats."""
    return (-torch.expm1(gamma_s - gamma_t)).clamp(min=LEAST_CHANGE)


def _total(values: Images) -> Nats:
    return reduce(values, "images channels height width -> images", "sum")
