"""The consistency function of IR-CM (Gong and Ma, NeurIPS 2024, Eq. 8 and 9): from any state of a path to the clean picture at its start.

    network(x_t, degraded, t) --as noise, or as a residual--> x_0 --f = c_skip x_t + c_out x_0--> f(x_t, t),   c_out = t / T,  c_skip = 1 - t / T

So f(x, 0) = x whatever the network says. As noise, x_0 is what the process makes of it (`Process.origin`), and its errors grow with exp(thb_t);
as a residual, x_0 = degraded + network. Both train the same network; the residual form does so from random weights.
"""

from typing import Literal

from downstream.restore.process import Images, Process, Times

Form = Literal["residual", "noise"]


def origin(process: Process, output: Images, x_t: Images, degraded: Images, t: Times, *, form: Form) -> Images:
    """The estimate of x_0 in a network's output."""
    return degraded + output if form == "residual" else process.origin(x_t, degraded, t, output)


def consistent(process: Process, x_0: Images, x_t: Images, t: Times) -> Images:
    """f(x_t, t) of an estimate of x_0."""
    c_out = (t / process.end)[:, None, None, None]
    return (1 - c_out) * x_t + c_out * x_0
