"""The mean-reverting process between a clean picture and its degraded one, in closed form (IR-SDE, Luo et al., ICML 2023, arXiv:2301.11699).

    dx = theta_t (mu - x) dt + sigma_t dw,   sigma_t^2 / theta_t = 2 lambda^2,   t from 0 (clean) to T
    x_t ~ N(m_t, v_t),   m_t = mu + (x_0 - mu) exp(-thb_t),   v_t = lambda^2 (1 - exp(-2 thb_t)),   thb_t = int_0^t theta

`reverting`: mu is the degraded picture, and little of x_0 is left at T: exp(-thb_T) = `remainder`.
`denoising`: mu = x_0, so that x_t is the clean picture under Gaussian noise of variance v_t, and a noisy picture lies on the path at the t that has its variance.

thb has a closed form for each schedule, so t need not be whole; it is computed in float64, because thb of small t is a difference of nearly equal numbers.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from lcl.core.config import config

Images = Float[Tensor, "images channels height width"]
Times = Float[Tensor, " images"]
OFFSET = 0.008                # s of the cosine (Nichol and Dhariwal, arXiv:2102.09672), as IR-SDE's code has it
LINEAR_ENDS = (0.0001, 0.02)  # theta at 0 and at T, up to a factor, as in IR-SDE's code


@config
class ProcessConfig:
    kind: Literal["reverting", "denoising"] = "reverting"
    """reverting: any degradation. denoising: Gaussian noise alone, whose strength may be anything up to noise_255."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """theta over time (IR-CM: cosine)."""
    num_steps: Annotated[int, Field(ge=2)] = 100
    """T."""
    noise_255: Annotated[float, Field(gt=0)] = 10.0
    """lambda, in levels of 8 bits: the deviation that x_t ends with (IR-SDE: 10 for rain and blur, 50 in Refusion, 70 for denoising)."""
    remainder: Annotated[float, Field(gt=0, lt=1)] = 0.005
    """exp(-thb_T), which scales time (IR-SDE's code: 0.005)."""


class Normal(NamedTuple):
    mean: Images
    deviation: Images
    """Broadcasts to the mean."""


@dataclass(frozen=True)
class Process:
    settings: ProcessConfig

    @property
    def end(self) -> float:
        """T."""
        return float(self.settings.num_steps)

    @property
    def level(self) -> float:
        """lambda, of pixels in [0, 1]."""
        return self.settings.noise_255 / 255

    def theta_bar(self, t: Float[Tensor, " *any"]) -> Float[Tensor, " *any"]:
        """thb_t in float64, from 0 at t = 0 to -log(remainder) at T."""
        share = _SHARES[self.settings.schedule]
        found = share(t.double() / self.end) / share(torch.ones((), dtype=torch.float64))
        return -math.log(self.settings.remainder) * found.clamp(min=0)  # near t = 0 the terms of the cosine's integral cancel to less than nothing

    def decay(self, t: Times) -> Float[Tensor, "images 1 1 1"]:
        """exp(-thb_t): what is left of x_0 - mu."""
        return _spread(torch.exp(-self.theta_bar(t)))

    def deviation(self, t: Times) -> Float[Tensor, "images 1 1 1"]:
        """sqrt(v_t)."""
        return _spread(self._deviation(t))

    def target(self, x_0: Images, degraded: Images) -> Images:
        """mu."""
        return degraded if self.settings.kind == "reverting" else x_0

    def mean(self, x_0: Images, mu: Images, t: Times) -> Images:
        """m_t."""
        return mu + (x_0 - mu) * self.decay(t)

    def state(self, x_0: Images, mu: Images, t: Times, noise: Images) -> Images:
        """x_t of this standard normal noise."""
        return self.mean(x_0, mu, t) + self.deviation(t) * noise

    def noise_in(self, x_t: Images, x_0: Images, mu: Images, t: Times) -> Images:
        """The noise that `state` was given, for t > 0. The score of x_t is minus this over sqrt(v_t)."""
        return (x_t - self.mean(x_0, mu, t)) / self.deviation(t)

    def origin(self, x_t: Images, degraded: Images, t: Times, noise: Images) -> Images:
        """x_0 of a state and its noise: the inverse of `state`. Errors of the noise are multiplied by sqrt(v_t) exp(thb_t), by 7.8 at T as published."""
        if self.settings.kind == "denoising":
            return x_t - self.deviation(t) * noise
        return degraded + (x_t - degraded - self.deviation(t) * noise) / self.decay(t)

    def flow(self, x_t: Images, x_0: Images, mu: Images, t: Times, s: Times) -> Images:
        """x_s on the probability-flow path through x_t, of a clean picture that is known: the noise stays, mean and deviation move along."""
        return self.state(x_0, mu, s, self.noise_in(x_t, x_0, mu, t))

    def transition(self, x_s: Images, mu: Images, s: Times, t: Times) -> Normal:
        """x_t given x_s, s < t."""
        between = self.theta_bar(t) - self.theta_bar(s)
        return Normal(mu + (x_s - mu) * _spread(torch.exp(-between)), _spread(self.level * torch.sqrt(-torch.expm1(-2 * between))))

    def posterior(self, x_t: Images, x_0: Images, mu: Images, t: Times, s: Times) -> Normal:
        """x_s given x_t and x_0, 0 <= s < t: by Bayes' rule, from `transition` and `mean`, `deviation` of s."""
        until, between = self.theta_bar(s), self.theta_bar(t) - self.theta_bar(s)
        before, after, whole = -torch.expm1(-2 * until), -torch.expm1(-2 * between), -torch.expm1(-2 * (until + between))
        of_clean, of_state = after * torch.exp(-until) / whole, before * torch.exp(-between) / whole
        return Normal(mu + _spread(of_clean) * (x_0 - mu) + _spread(of_state) * (x_t - mu), _spread(self.level * torch.sqrt(before * after / whole)))

    def time_of(self, deviation: Times) -> Times:
        """The t with sqrt(v_t) = deviation, by bisection. Raises ValueError for one that is not between 0 and that of T."""
        wanted, most = deviation.double(), float(self._deviation(torch.tensor(self.end)))
        if (wanted < 0).any() or (wanted > most).any():
            given = 255 * float(wanted.max())
            raise ValueError(f"noise of {given:.1f} levels of 8 bits is not between 0 and {255 * most:.1f}, the most of this process: train with a larger noise_255")
        low, high = torch.zeros_like(wanted), torch.full_like(wanted, self.end)
        for _ in range(60):
            middle = (low + high) / 2
            below = self._deviation(middle) < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return high.to(deviation.dtype)

    def _deviation(self, t: Float[Tensor, " *any"]) -> Float[Tensor, " *any"]:
        return self.level * torch.sqrt(-torch.expm1(-2 * self.theta_bar(t)))


def _spread(values: Float[Tensor, " images"]) -> Float[Tensor, "images 1 1 1"]:
    return values.to(torch.float32)[:, None, None, None]


def _cosine(u: Tensor) -> Tensor:
    """The integral from 0 to u of 1 - cos^2(a(w)) / cos^2(a(0)), a(w) = (w + s) / (1 + s) pi / 2."""
    slope = math.pi / 2 / (1 + OFFSET)
    first = OFFSET * slope
    return u - (u / 2 + (torch.sin(2 * (u * slope + first)) - math.sin(2 * first)) / (4 * slope)) / math.cos(first) ** 2


def _linear(u: Tensor) -> Tensor:
    low, high = LINEAR_ENDS
    return low * u + (high - low) * u.square() / 2


_SHARES = {"cosine": _cosine, "linear": _linear, "constant": lambda u: u}
"""Integrals of theta over u = t / T, up to a factor."""
