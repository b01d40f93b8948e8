"""Ways to round latents: to integers, to noise, and the relaxations of SGA and SGA+ that refinement descends on.

    SGA   stochastic Gumbel annealing, Yang et al., NeurIPS 2020, arXiv:2006.04240: two-way with atanh
    SGA+  Perugachi-Diaz et al., NeurIPS 2024, arXiv:2401.17789: linear, cosine and sigmoid (SSL) logits, two-way or three-way

A candidate at distance d of the value has the probability softmax(log p(d) / T); Gumbel noise g and the same temperature again make the sample:
softmax((log p(d) / T + g) / T), times the candidates. At T -> 0 that is rounding to the nearest.
"""

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from lcl.core.config import config

Values = Float[Tensor, "..."]
Method = Literal["ste", "noise", "anneal", "sga", "linear", "cosine", "ssl", "linear3", "cosine3", "ssl3"]

EDGE = 1e-5  # distances of two candidates are kept this far below 1 (as published), so that no logarithm meets 0
LEAST_TEMPERATURE = 1e-8  # of which the square still divides (SGA's code has the same)
FLOOR = 1e-6  # of the probabilities of three candidates before the logarithm (as published)
TWO_WAY = ("sga", "anneal", "linear", "cosine", "ssl")
THREE_WAY = ("linear3", "cosine3", "ssl3")
SHARPNESS = {"linear3": 1.5, "cosine3": 2.0, "ssl3": 1.4}  # n, as published


@config
class RoundingConfig:
    method: Method = "ssl"
    """ste: integers, with the gradient of the identity. noise: uniform noise in the place of rounding. anneal: sga without the Gumbel noise.
    sga, linear, cosine, ssl: sampled between floor and ceiling. linear3, cosine3, ssl3: between the nearest integer and its neighbours."""
    ssl_slope: Annotated[float, Field(gt=0)] = 2.3
    """a of ssl; 1 is exactly linear, about 1.6 near cosine."""
    three_way_slope: Annotated[float, Field(gt=0)] = 1.4
    """a of ssl3."""
    scale: Annotated[float, Field(gt=0, le=1)] = 0.98
    """r of the three-way methods: how wide their probabilities are."""
    max_temperature: Annotated[float, Field(gt=0)] = 1.0
    """T_max of T(t) = min(exp(-decay t), T_max) at iteration t."""
    decay: Annotated[float, Field(ge=0)] = 1e-3

    def temperature(self, iteration: int) -> float:
        return max(min(math.exp(-self.decay * iteration), self.max_temperature), LEAST_TEMPERATURE)


def two_way_logits(distance: Values, method: Method, *, slope: float = 1.0) -> Values:
    """log p(d) of a candidate at distance d in [0, 1 - EDGE] (section 3, arXiv:2401.17789), up to a constant for `sga`."""
    match method:
        case "sga" | "anneal":
            return -torch.atanh(distance)
        case "linear":
            return torch.log1p(-distance)
        case "cosine":
            return 2 * torch.cos(0.5 * math.pi * distance).log()
        case "ssl":
            return functional.logsigmoid(-slope * (distance.clamp(min=1e-30).log() - torch.log1p(-distance)))
    raise ValueError(f"{method} is no two-way method; choose {', '.join(TWO_WAY)}")


def three_way_logits(distance: Values, method: Method, *, slope: float = 1.4, scale: float = 0.98) -> Values:
    """log p(d) of a candidate at distance d in [0, 1.5] (appendix, arXiv:2401.17789)."""
    num = SHARPNESS.get(method)
    match method:
        case "linear3":
            return num * (1 - scale * distance).clamp(min=FLOOR).log()
        case "cosine3":
            return num * torch.cos((scale * distance).clamp(max=1) * (0.5 * math.pi)).clamp(min=FLOOR).log()
        case "ssl3":
            share = (scale * distance / 1.5).clamp(min=1e-30, max=1 - EDGE)
            return num * functional.logsigmoid(-slope * (share.log() - torch.log1p(-share)))
    raise ValueError(f"{method} is no three-way method; choose {', '.join(THREE_WAY)}")


def candidates_of(values: Values, method: Method, settings: RoundingConfig) -> tuple[Tensor, Tensor]:
    """The integers that a value may become and their log p, each [..., 2 or 3]."""
    if method in THREE_WAY:
        candidates = values.detach().round()[..., None] + torch.tensor([-1.0, 0.0, 1.0], device=values.device, dtype=values.dtype)
        distance = (values[..., None] - candidates).abs()
        return candidates, three_way_logits(distance, method, slope=settings.three_way_slope, scale=settings.scale)
    lower, upper = values.detach().floor(), values.detach().ceil()
    distance = torch.stack([values - lower, upper - values], dim=-1).clamp(max=1 - EDGE)
    return torch.stack([lower, upper], dim=-1), two_way_logits(distance, method, slope=settings.ssl_slope)


def probabilities(values: Values, settings: RoundingConfig, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The integers that a value may become and the probabilities of each, softmax(log p / T)."""
    candidates, logits = candidates_of(values, settings.method, settings)
    return candidates, torch.softmax(logits / temperature, dim=-1)


def relaxed(values: Values, settings: RoundingConfig, *, temperature: float, rng: torch.Generator) -> Values:
    """What stands for the rounded values at this temperature. Its gradient is finite for every finite value."""
    if settings.method == "ste":
        return straight_through(values)
    if settings.method == "noise":
        return values + torch.rand(values.shape, generator=rng, device=values.device, dtype=values.dtype) - 0.5
    candidates, logits = candidates_of(values, settings.method, settings)
    logits = logits / temperature
    if settings.method != "anneal":
        uniform = torch.rand(logits.shape, generator=rng, device=values.device, dtype=values.dtype).clamp(min=torch.finfo(values.dtype).tiny)
        logits = (logits - (-uniform.log()).log()) / temperature
    return (torch.softmax(logits, dim=-1) * candidates).sum(dim=-1)


def straight_through(values: Values) -> Values:
    """The nearest integers, with the gradient of the identity."""
    return values + (values.round() - values).detach()


Rounding = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(values, centres) -> (what the rate is measured of, what the decoder gets): the same but in training."""


def rounded(values: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest values at whole distances of the centres: what is coded."""
    found = (values - centres).round() + centres
    return found, found


def training(rng: torch.Generator | None = None) -> Rounding:
    """Uniform noise for the rate, rounding with the gradient of the identity for the decoder (Minnen and Singh, ICIP 2020, arXiv:2007.08739)."""

    def apply(values: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.rand(values.shape, generator=rng, device=values.device, dtype=values.dtype) - 0.5
        return values + noise, straight_through(values - centres) + centres

    return apply


def relaxing(settings: RoundingConfig, *, iteration: int, rng: torch.Generator) -> Rounding:
    """The relaxation of this iteration of a refinement."""
    temperature = settings.temperature(iteration)

    def apply(values: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
        found = relaxed(values - centres, settings, temperature=temperature, rng=rng) + centres
        return found, found

    return apply
