"""The consistency function of IR-CM (Gong and Ma, NeurIPS 2024, Eq. 8 and 9): from any state of a path to the clean picture at its start.

    network(x_t, degraded, t) --as noise, or as a residual--> x_0 --f = mu + c_skip (x_t - mu) + c_out (x_0 - mu)--> f(x_t, t)

At t = 0 c_skip is 1 and c_out is 0, so f(x, 0) = x whatever the network says. The boundary between state and estimate is laid by

    time    c_out = t / T, c_skip = 1 - c_out, as published: at T / 2 half of the state's noise passes, unless the network learns to take it off again
    noise   c_out = v_t / (v_t + s^2), scaled to 1 at T, c_skip = 1 - c_out, s = 2 levels of 8 bits: a state counts for itself only where its noise can hardly be seen
    mu      c_skip = r^2 e / (r^2 e^2 + v_t), c_out = sqrt(v_t / (r^2 e^2 + v_t)), e = exp(-thb_t), r the deviation of x_0 - mu: what the state says of x_0 - mu is taken off
            before the network is asked, and what it is to say has the deviation r at all times (as in Karras et al. 2022, arXiv:2206.00364, around mu in the place of 0)

c_skip of `mu` is least squares: of d = x_0 - mu with E d^2 = r^2 the state shows y = x_t - mu = e d + sqrt(v_t) n, so the best multiple of y is
E[d y] / E[y^2] = r^2 e / (r^2 e^2 + v_t), and what it leaves open has the variance r^2 - c_skip e r^2 = r^2 v_t / (r^2 e^2 + v_t) = (r c_out)^2.

As noise, x_0 is what the process makes of it (`Process.origin`), and its errors grow with exp(thb_t);
as a residual, x_0 = degraded + network. Both train the same network; the residual form does so from random weights.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from downstream.restore.process import Images, Process, Times

Form = Literal["residual", "noise"]
Boundary = Literal["time", "noise", "mu"]
SEEN = 2 / 255  # s


class Coefficients(NamedTuple):
    """Of x_t, x_0 and mu in f; they sum to 1."""

    skip: Float[Tensor, "images 1 1 1"]
    out: Float[Tensor, "images 1 1 1"]
    mu: Float[Tensor, "images 1 1 1"]


def origin(process: Process, output: Images, x_t: Images, degraded: Images, t: Times, *, form: Form) -> Images:
    """The estimate of x_0 in a network's output."""
    return degraded + output if form == "residual" else process.origin(x_t, degraded, t, output)


def consistent(process: Process, x_0: Images, x_t: Images, degraded: Images, t: Times, *, boundary: Boundary, spread_255: float) -> Images:
    """f(x_t, t) of an estimate of x_0."""
    part = coefficients(process, t, boundary=boundary, spread_255=spread_255)
    return part.skip * x_t + part.out * x_0 + part.mu * degraded


def coefficients(process: Process, t: Times, *, boundary: Boundary, spread_255: float) -> Coefficients:
    """`spread_255` is r, in levels of 8 bits."""
    if boundary == "time":
        out = (t / process.end)[:, None, None, None]
    elif boundary == "noise":
        variance, most = process.deviation(t).square(), process.deviation(torch.full_like(t, process.end)).square()
        out = variance / (variance + SEEN**2) * (most + SEEN**2) / most
    else:
        left, variance, square = process.decay(t), process.deviation(t).square(), (spread_255 / 255) ** 2
        skip, out = square * left / (square * left.square() + variance), (variance / (square * left.square() + variance)).sqrt()
        return Coefficients(skip, out, 1 - skip - out)
    return Coefficients(1 - out, out, torch.zeros_like(out))
