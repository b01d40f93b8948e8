"""Ways back from a degraded picture to a clean one, given an estimate of x_0 at every state: one to four steps of a consistency model, or many of IR-SDE.

    start: x_T ~ N(mu, v_T), or the noisy picture itself --estimate--> x_0 --re-noised to an earlier t, or a step of SDE, ODE or posterior--> ... --> x_0
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from downstream.restore.process import Images, Process, Times

Estimate = Callable[[Images, Times], Images]
"""x_0 of a state and its time."""
Method = Literal["posterior", "sde", "ode"]


def start(process: Process, degraded: Images, generator: torch.Generator, *, deviation: Times | None = None) -> tuple[Images, Times]:
    """The state that the way back begins with, and its time. `deviation` of the noise in [0, 1] is what a denoising process needs to know."""
    if process.settings.kind == "denoising":
        if deviation is None:
            raise ValueError("a denoising model starts at the strength of the noise: say it")
        return degraded, process.time_of(deviation)
    t = torch.full((len(degraded),), process.end, device=degraded.device)
    return degraded + process.deviation(t) * _normal(degraded, generator), t


def check_times(times: Sequence[float], *, option: str) -> None:
    """Raises ValueError for times that do not fall."""
    if any(later >= earlier for earlier, later in pairwise([1.0, *times])):
        raise ValueError(f"{option} is {' '.join(f'{time:g}' for time in times)}: give parts of the first time, between 0 and 1, each smaller than the one before")


def shares_of_start(times: Sequence[float], num_steps: int) -> list[float]:
    """The time of each step as a part of the first: 1, `times`, and then halves of the one before; 1, 1/2, 1/4 ... of none (IR-CM, Algorithm 3)."""
    shares = [1.0, *times][:num_steps]
    while len(shares) < num_steps:
        shares.append(shares[-1] / 2)
    return shares


def consistency_steps(
    process: Process, consistent: Estimate, degraded: Images, generator: torch.Generator, *, num_steps: int, times: Sequence[float] = (), renoise: float = 1.0, deviation: Times | None = None,
    between: Callable[[Images], None] | None = None,
) -> Images:
    """x_0 by a consistency function at `shares_of_start`, with fresh noise in between (IR-CM, Algorithm 3), or `renoise` of it; `between` is shown each x_0 but the last."""
    x, first = start(process, degraded, generator, deviation=deviation)
    x_0 = consistent(x, first)
    for share in shares_of_start(times, num_steps)[1:]:
        if between is not None:
            between(x_0)
        t = first * share
        x_0 = consistent(process.state(x_0, process.target(x_0, degraded), t, renoise * _normal(x, generator)), t)
    return x_0


def many_steps(
    process: Process, estimate: Estimate, degraded: Images, generator: torch.Generator, *, num_steps: int, method: Method = "posterior", deviation: Times | None = None,
) -> Images:
    """x_0 by `num_steps` equal steps of time. With D = thb_t - thb_s and e the noise in x_t, a step from t to s is one of

    sde        x - D (mu - x) - 2 lambda^2 D e / sqrt(v_t) + lambda sqrt(2 D) w     (Euler-Maruyama of the reverse-time SDE)
    ode        x - D (mu - x) - lambda^2 D e / sqrt(v_t)                            (Euler of the probability flow)
    posterior  x_s given x_t and the estimated x_0                                  (IR-SDE's code since 2024)

    and what comes back is the estimate at the last t before 0.
    """
    x, first = start(process, degraded, generator, deviation=deviation)
    times = [first * (1 - step / num_steps) for step in range(num_steps + 1)]
    for t, s in pairwise(times[:-1]):
        x_0 = estimate(x, t)
        mu = process.target(x_0, degraded)
        if method == "posterior":
            found = process.posterior(x, x_0, mu, t, s)
            x = found.mean + found.deviation * _normal(x, generator)
            continue
        between = (process.theta_bar(t) - process.theta_bar(s)).float()[:, None, None, None]
        pull = process.level**2 * process.noise_in(x, x_0, mu, t) / process.deviation(t)
        if method == "ode":
            x = x - between * (mu - x + pull)
        else:
            x = x - between * (mu - x + 2 * pull) + process.level * (2 * between).sqrt() * _normal(x, generator)
    return estimate(x, times[-2])


def _normal(like: Images, generator: torch.Generator) -> Float[Tensor, "images channels height width"]:
    return torch.randn(like.shape, generator=generator).to(like.device)
