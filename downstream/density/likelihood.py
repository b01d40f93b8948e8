"""Likelihoods of images under a model: the variational bound, in continuous time and in T steps, and the probability-flow ODE.

    u --q(c|x)--> path --times--> bound: reconstruction + prior + diffusion + KL of c
    u --dequantised--> z_0 --ODE to t = 1--> log N(z_1; 0, 1) + integral of the divergence - log q(dequantisation), K draws --> bound

Everything is in nats for each image; `summary` makes means with standard errors of it.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from downstream.density.calibration import squared_error
from downstream.density.diffusion import (
    Gamma,
    Images,
    Nats,
    alpha,
    bits_per_dim,
    calibrated_step_nats,
    diffuse,
    diffusion_nats,
    prior_nats,
    reconstruction_nats,
    sigma,
    step_nats,
    to_data,
    velocity,
)  # fmt: skip
from downstream.density.model_file import TrainedDensity
from downstream.density.schedules import Path, with_slope
from lcl.core.config import config

Levels = Int[Tensor, "images channels height width"]
Denoise = Callable[[Images, Gamma], Images]
"""eps_hat of z and gamma."""
Dequantisation = Literal["uniform", "truncated_normal"]


class Bound(NamedTuple):
    """Nats of each image, term by term."""

    reconstruction: Nats
    prior: Nats
    diffusion: Nats
    context: Nats

    @property
    def total(self) -> Nats:
        return self.reconstruction + self.prior + self.diffusion + self.context


class Summary(NamedTuple):
    bits_per_dim: float
    standard_error: float
    """Of the mean over images; the noise of each image's own estimate is in it."""


def summary(nats: Sequence[float] | Nats, *, dims: int, sources: Sequence[int] | None = None) -> Summary:
    """Mean and standard error of nats of images, in bits for each dimension. Images of one source, as squares of one photograph, are not independent: their errors add up first.

    The error is sqrt(n / (n - 1) sum_s (sum_{i of s} (x_i - mean))^2) / N for N images of n sources. Raises ValueError for fewer than two sources.
    """
    values = bits_per_dim(torch.as_tensor(nats, dtype=torch.float64), dims=dims)
    _, place = torch.unique(torch.arange(len(values)) if sources is None else torch.tensor(sources), return_inverse=True)
    num = int(place.max()) + 1 if len(place) else 0
    if num < 2:
        raise ValueError("a standard error needs images of two sources or more")
    errors = torch.zeros(num, dtype=torch.float64).index_add(0, place, values - values.mean())
    return Summary(float(values.mean()), math.sqrt(num / (num - 1) * float(errors.square().sum())) / len(values))


@torch.no_grad()
def vlb(trained: TrainedDensity, u: Levels, generator: torch.Generator, *, num_times: int = 32) -> Bound:
    """The bound in continuous time, each image at `num_times` evenly spread times ("dense"), with one context."""
    model, levels = trained.model, trained.settings.levels
    x, ends = to_data(u, levels=levels), model.schedule.ends
    drawn = model.draw_context(x, generator)
    path = model.path(drawn.context, *x.shape[-2:])
    diffusion = torch.zeros(len(x))
    start = torch.rand(len(x), generator=generator)
    for number in range(num_times):
        gamma, slope = with_slope(path, (start + number / num_times) % 1)
        eps = torch.randn(x.shape, generator=generator)
        diffusion += diffusion_nats(eps, model.denoise(diffuse(x, eps, gamma), gamma, drawn.context).eps_hat, slope) / num_times
    return Bound(*_ends(x, u, ends.gamma_min, ends.gamma_max, generator, levels=levels), diffusion, drawn.nats)


@torch.no_grad()
def discrete_vlb(trained: TrainedDensity, u: Levels, generator: torch.Generator, *, num_steps: int, calibrated: bool = True) -> Bound:
    """ELBO_T, what a codec of T steps comes to: every step once. `calibrated`: with the variances that it codes with, else with those of q as in VDM."""
    model, levels = trained.model, trained.settings.levels
    x, ends = to_data(u, levels=levels), model.schedule.ends
    drawn = model.coded_context(x, generator)
    path = model.path(drawn.context, *x.shape[-2:])
    diffusion, ones = torch.zeros(len(x)), torch.ones(len(x))
    for before, after in pairwise(trained.calibration.of_steps(num_steps)):
        t = ones * after
        gamma, gamma_before = path(t), path(ones * before)
        eps = torch.randn(x.shape, generator=generator)
        found = model.denoise(diffuse(x, eps, gamma), gamma, drawn.context)
        if calibrated:
            diffusion += calibrated_step_nats(eps, found.eps_hat, gamma_before, gamma, squared_error=squared_error(trained.calibration.errors, found, t))
        else:
            diffusion += step_nats(eps, found.eps_hat, gamma_before, gamma)
    return Bound(*_ends(x, u, ends.gamma_min, ends.gamma_max, generator, levels=levels), diffusion, drawn.nats)


def _ends(x: Images, u: Levels, gamma_min: float, gamma_max: float, generator: torch.Generator, *, levels: int) -> tuple[Nats, Nats]:
    gamma_0, gamma_1 = (torch.full((1, 1, 1, 1), end) for end in (gamma_min, gamma_max))
    return reconstruction_nats(u, diffuse(x, torch.randn(x.shape, generator=generator), gamma_0), gamma_0, levels=levels), prior_nats(x, gamma_1)


@config
class OdeConfig:
    tolerance: Annotated[float, Field(gt=0)] = 1e-4
    """Relative and absolute, of the solver (published: 1e-5)."""
    dequantisations: tuple[Dequantisation, ...] = ("uniform", "truncated_normal")
    """What is added to a level before the density is taken: uniform noise over its part, or the noise of t = 0 cut at three deviations, where the part ends. Each is measured."""
    samples: Annotated[int, Field(ge=1)] = 1
    """K of the importance-weighted bound (published: 20)."""


def ode_nats(
    trained: TrainedDensity, u: Levels, generator: torch.Generator, *, tolerance: float, samples: int = 1, dequantisation: Dequantisation = "truncated_normal"
) -> Float[Tensor, "samples images"]:
    """-log p(u), bounded by the first 1, 2, ... K dequantisations, with one context and its KL: -log mean_k p(z_k) / q(z_k | u)."""
    model, levels = trained.model, trained.settings.levels
    x = to_data(u, levels=levels)
    with torch.no_grad():
        drawn = model.draw_context(x, generator)
        path = model.path(drawn.context, *x.shape[-2:])
    probe = rademacher(x, generator)  # one for all samples: of estimates with errors of their own, the mean of exponentials takes the luckiest
    weights = []
    for _ in range(samples):
        z_0, log_q = dequantise(x, model.schedule.ends.gamma_min, generator, levels=levels, kind=dequantisation)
        found = ode_log_density(z_0, path, lambda z, gamma: model.denoise(z, gamma, drawn.context).eps_hat, probe, tolerance=tolerance)
        weights.append(found - log_q)
    return torch.stack([drawn.nats - importance_bound(torch.stack(weights[: number + 1])) for number in range(samples)])


def importance_bound(log_weights: Float[Tensor, "samples images"]) -> Nats:
    """log mean_k w_k: a bound on the log of their expectation, which more samples do not worsen in the mean (Burda et al., arXiv:1509.00519)."""
    return torch.logsumexp(log_weights, dim=0) - math.log(len(log_weights))


def dequantise(x: Images, gamma_min: float, generator: torch.Generator, *, levels: int, kind: Dequantisation) -> tuple[Images, Nats]:
    """z_0 within the part of x's level, and log q(z_0 | x). Truncated normal: alpha_0 x + sigma_0 eps with |eps| <= alpha_0 / (levels sigma_0), the part's edge (Zheng et al., arXiv:2305.03935)."""
    gamma_0, dims = torch.full((1, 1, 1, 1), gamma_min, dtype=x.dtype), x[0].numel()
    of_data, of_noise = alpha(gamma_0), sigma(gamma_0)
    uniform = torch.rand(x.shape, generator=generator, dtype=x.dtype)
    if kind == "uniform":
        return of_data * (x + (2 * uniform - 1) / levels), x.new_full((len(x),), -dims * math.log(2 * float(of_data) / levels))
    edge = of_data / (levels * of_noise)
    inside = torch.erf(edge / math.sqrt(2))
    eps = (torch.erfinv((2 * uniform - 1) * inside) * math.sqrt(2)).clamp(-edge, edge)
    log_q = (-0.5 * eps.square() - 0.5 * math.log(2 * math.pi) - inside.log() - of_noise.log()).flatten(1).sum(dim=1)
    return of_data * x + of_noise * eps, log_q


def rademacher(x: Images, generator: torch.Generator) -> Images:
    """-1 or 1 in the shape of x."""
    return (torch.randint(0, 2, x.shape, generator=generator) * 2 - 1).to(x)


def ode_log_density(z_0: Images, path: Path, denoise: Denoise, probe: Images | None, *, tolerance: float) -> Nats:
    """log p(z_0) = log N(z_1; 0, 1) + integral over t of div dz/dt, along the ODE from z_0.

    The divergence is estimated with one Rademacher vector v for each image, the `probe`, as v^T (d velocity / dz) v (Hutchinson), or without one summed over all dimensions.
    Images are solved together: the step is chosen for all of them. Raises ValueError where torchdiffeq is missing.
    """

    def motion(t: Float[Tensor, ""], state: tuple[Images, Nats]) -> tuple[Images, Nats]:
        with torch.no_grad():
            gamma, slope = with_slope(path, z_0.new_full((len(z_0),), float(t)))
        with torch.enable_grad():
            z = state[0].detach().requires_grad_()
            moved = velocity(z, denoise(z, gamma), gamma, slope)
            divergence = _trace(moved, z) if probe is None else (torch.autograd.grad(moved, z, probe)[0] * probe).flatten(1).sum(dim=1)
        return moved.detach(), divergence.detach()

    z_1, gained = solve(motion, (z_0, z_0.new_zeros(len(z_0))), 0.0, 1.0, tolerance=tolerance)
    return (-0.5 * z_1.square() - 0.5 * math.log(2 * math.pi)).flatten(1).sum(dim=1) + gained


def solve(motion: Callable, state: tuple[Tensor, ...], first: float, last: float, *, tolerance: float) -> tuple[Tensor, ...]:
    """The state at time `last` by Dormand and Prince's method of orders 5 and 4. Raises ValueError where torchdiffeq is missing."""
    try:
        from torchdiffeq import odeint
    except ModuleNotFoundError as error:
        raise ValueError("the ODE needs torchdiffeq: install lcl[density]") from error
    times = torch.tensor([first, last], dtype=torch.float64)
    return tuple(values[-1] for values in odeint(motion, state, times, rtol=tolerance, atol=tolerance, method="dopri5"))


def _trace(moved: Images, z: Images) -> Nats:
    flat = moved.flatten(1)
    return torch.stack([torch.autograd.grad(flat[:, one].sum(), z, retain_graph=True)[0].flatten(1)[:, one] for one in range(flat.shape[1])]).sum(dim=0)
