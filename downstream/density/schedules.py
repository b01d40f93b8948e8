"""Noise schedules: gamma(c, t) from a fixed end at t = 0 to a fixed end at t = 1, never falling, for each pixel and channel.

    context --head--> coefficients --> path: t -> gamma           gamma' = dgamma/dt by forward differentiation of the path

Only the way between the ends is learned. With one gamma for all pixels the bound does not depend on it; with a vector it does (arXiv:2312.13236).
"""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from typing import Annotated, Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from lcl.core.config import config

Coefficient = Float[Tensor, "#images #channels #height #width"]
Path = Callable[[Float[Tensor, " images"]], Coefficient]

SLOPE_FLOOR = 1e-3  # added to d, as in the published code (model_mulan_epsilon.py)
NUM_RISES = 8       # sigmoids of the monotone network


class Ends(NamedTuple):
    gamma_min: float
    gamma_max: float


def ends_for(levels: int, gamma_max: float) -> Ends:
    """gamma_min = -2 log(3 levels): noise at t = 0 is a third of half a level. For 256 levels -13.29, where -13.3 is published."""
    return Ends(-2 * math.log(3 * levels), gamma_max)


def linear_path(ends: Ends) -> Path:
    """gamma_min + (gamma_max - gamma_min) t, for all pixels (VDM's fixed schedule)."""
    return lambda t: _between(ends, _beside(t))


def polynomial_path(a: Coefficient, b: Coefficient, d: Coefficient, ends: Ends) -> Path:
    """gamma_min + (gamma_max - gamma_min) f(t) / f(1), f(t) = integral of (a t^2 + b t + d)^2 from 0 (arXiv:2312.13236)."""

    falling = (a**2 / 5, a * b / 2, (b**2 + 2 * a * d) / 3, b * d, d**2)  # of t^5 to t
    whole = sum(falling[1:], start=falling[0])

    def integral(t: Coefficient) -> Coefficient:
        total = falling[0] * t  # Horner's rule: half of the products, and 1 at t = 1 to the last digit
        for coefficient in falling[1:]:
            total = (total + coefficient) * t
        return total

    return lambda t: _between(ends, integral(_beside(t)) / whole)


def monotone_path(rates: tuple[Coefficient, ...], steepness: Float[Tensor, " rises"], middles: Float[Tensor, " rises"], ends: Ends) -> Path:
    """(f(t) - f(0)) / (f(1) - f(0)) between the ends, f(t) = r_0 t + sum_k r_k sigmoid(s_k (t - m_k)): the monotone network of VDM (arXiv:2107.00630) with positive r and s."""

    def rise(t: Coefficient | Tensor) -> Coefficient:
        total = rates[0] * t
        for rate, sharp, middle in zip(rates[1:], steepness, middles, strict=True):
            total = total + rate * torch.sigmoid(sharp * (t - middle))
        return total

    first, last = rise(torch.zeros_like(rates[0])), rise(torch.ones_like(rates[0]))
    return lambda t: _between(ends, (rise(_beside(t)) - first) / (last - first))


def with_slope(path: Path, t: Float[Tensor, " images"]) -> tuple[Coefficient, Coefficient]:
    """gamma(t) and gamma'(t), not below 0 by the rounding of floats."""
    _start_forward_mode()
    gamma, slope = torch.func.jvp(path, (t,), (torch.ones_like(t),))
    return gamma, slope.clamp(min=0)


@cache
def _start_forward_mode() -> None:
    """PyTorch 2.15 compiles parts of its forward mode at its first use, and warns of its own way to do so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.ones(1),))


def _beside(t: Float[Tensor, " images"]) -> Float[Tensor, "images 1 1 1"]:
    return rearrange(t, "images -> images 1 1 1")


def _between(ends: Ends, share: Coefficient) -> Coefficient:
    return ends.gamma_min + (ends.gamma_max - ends.gamma_min) * share


@config
class NoiseConfig:
    kind: Literal["linear", "scalar", "polynomial", "monotone"] = "polynomial"
    """linear: fixed, as in VDM. scalar: one learned polynomial for all pixels. polynomial: one for each pixel and channel, of the context where there is one (MuLAN).
    monotone: likewise, of a monotone network."""
    gamma_max: Annotated[float, Field(gt=0, le=20)] = 5.0
    """At t = 1, as published. The other end follows from the number of levels."""
    grid: Annotated[int, Field(ge=1)] = 4
    """Side of the map that the context becomes before it is stretched to the image."""
    width: Annotated[int, Field(ge=1)] = 16

    def build(self, *, channels: int, context_size: int, levels: int) -> "Schedule":
        ends = ends_for(levels, self.gamma_max)
        if self.kind == "linear":
            return Linear(ends)
        if self.kind == "scalar":
            return Scalar(ends)
        num_each = 3 if self.kind == "polynomial" else 1 + NUM_RISES
        head = Head(context_size, num_each * channels, grid=self.grid, width=self.width)
        return Polynomial(ends, head) if self.kind == "polynomial" else Monotone(ends, head)


class Schedule(nn.Module, ABC):
    """`schedule(context, height, width)` is the path of images of that size; without a context, of all images."""

    def __init__(self, ends: Ends) -> None:
        super().__init__()
        self.ends = ends

    @abstractmethod
    def forward(self, context: Float[Tensor, "images size"], height: int, width: int) -> Path: ...


class Linear(Schedule):
    def forward(self, context: Float[Tensor, "images size"], height: int, width: int) -> Path:
        return linear_path(self.ends)


class Scalar(Schedule):
    def __init__(self, ends: Ends) -> None:
        super().__init__(ends)
        self.coefficients = nn.Parameter(torch.zeros(3))

    def forward(self, context: Float[Tensor, "images size"], height: int, width: int) -> Path:
        a, b, d = (rearrange(one, " -> 1 1 1 1") for one in self.coefficients.unbind())
        return polynomial_path(a, b, SLOPE_FLOOR + functional.softplus(d), self.ends)


class Polynomial(Schedule):
    def __init__(self, ends: Ends, head: "Head") -> None:
        super().__init__(ends)
        self.head = head

    def forward(self, context: Float[Tensor, "images size"], height: int, width: int) -> Path:
        a, b, d = self.head(context, height, width).chunk(3, dim=1)
        return polynomial_path(a, b, SLOPE_FLOOR + functional.softplus(d), self.ends)


class Monotone(Schedule):
    def __init__(self, ends: Ends, head: "Head") -> None:
        super().__init__(ends)
        self.head = head
        self.steepness = nn.Parameter(torch.full((NUM_RISES,), 8.0))
        self.middles = nn.Parameter((torch.arange(NUM_RISES) + 0.5) / NUM_RISES)

    def forward(self, context: Float[Tensor, "images size"], height: int, width: int) -> Path:
        rates = tuple(SLOPE_FLOOR + functional.softplus(one) for one in self.head(context, height, width).chunk(1 + NUM_RISES, dim=1))
        return monotone_path(rates, functional.softplus(self.steepness), self.middles, self.ends)


class Head(nn.Module):
    """Maps of coefficients of any size from a context vector: a small map, stretched to twice its side, mixed, stretched to the image. The published head is dense, 38 million weights at 32 x 32."""

    def __init__(self, context_size: int, outputs: int, *, grid: int, width: int) -> None:
        super().__init__()
        self.grid = grid
        self.spread = nn.Linear(context_size, width * grid * grid)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, outputs, 1)
        nn.init.zeros_(self.out.weight)  # all pixels begin on the same path
        nn.init.zeros_(self.out.bias)

    def forward(self, context: Float[Tensor, "images size"], height: int, width: int) -> Float[Tensor, "images outputs height width"]:
        maps = rearrange(self.spread(context), "images (width rows columns) -> images width rows columns", rows=self.grid, columns=self.grid)
        finer = functional.interpolate(functional.silu(maps), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.out(functional.silu(functional.interpolate(self.mix(finer), size=(height, width), mode="bilinear", align_corners=False)))
