"""The consistency function of IR-CM (Gong and Ma, NeurIPS 2024, Eq. 8 and 9): from any state of a path to the clean picture at its start.

    network(x_t, degraded, t) --as noise, or as a residual--> x_0 --f = c_skip x_t + c_out x_0--> f(x_t, t),   c_skip = 1 - c_out

c_out is 0 at t = 0 and 1 at T, so f(x, 0) = x and f(x, T) = x_0 whatever the network says. In between, by

    time    t / T, as published: at T / 2 half of the state's noise passes, unless the network learns to take it off again
    noise   v_t / (v_t + s^2), scaled to 1 at T, s = 2 levels of 8 bits: a state counts for itself only where its noise can hardly be seen

As noise, x_0 is what the process makes of it (`Process.origin`), and its errors grow with exp(thb_t);
as a residual, x_0 = degraded + network. Both train the same network; the residual form does so from random weights.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from downstream.restore.process import Images, Process, Times

Form = Literal["residual", "noise"]
Boundary = Literal["time", "noise"]
SEEN = 2 / 255  # s


def origin(process: Process, output: Images, x_t: Images, degraded: Images, t: Times, *, form: Form) -> Images:
    """The estimate of x_0 in a network's output."""
    return degraded + output if form == "residual" else process.origin(x_t, degraded, t, output)


def consistent(process: Process, x_0: Images, x_t: Images, t: Times, *, boundary: Boundary) -> Images:
    """f(x_t, t) of an estimate of x_0."""
    c_out = share_of_estimate(process, t, boundary=boundary)
    return (1 - c_out) * x_t + c_out * x_0


def share_of_estimate(process: Process, t: Times, *, boundary: Boundary) -> Float[Tensor, "images 1 1 1"]:
    """c_out."""
    if boundary == "time":
        return (t / process.end)[:, None, None, None]
    variance, most = process.deviation(t).square(), process.deviation(torch.full_like(t, process.end)).square()
    return variance / (variance + SEEN**2) * (most + SEEN**2) / most
