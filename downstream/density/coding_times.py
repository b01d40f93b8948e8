"""At which times a codec of T steps stands: where its bound is least, not evenly spread.

    error of the network at many times --cost of a step between any two of them--> the shortest path of KNOTS steps from 0 to 1 --straight lines between--> times of any T

A step whose variance holds the error e of the network costs 1/2 log(1 + (e^{gamma_t - gamma_s} - 1) e) for each pixel in the mean (`diffusion.calibrated_step_nats`), whatever lies between s and t: so the
path of least cost is found by dynamic programming (Watson et al., arXiv:2106.03802). Where e is 1 one long step costs as much as many short ones; elsewhere more.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

KNOTS = 16
PARTS = 1 << 20  # to one: times are rounded to these, so that encoder and decoder have the same

Times = Float[Tensor, " knots"]
"""From 0 to 1, rising; those of T steps lie on straight lines between them."""


def evenly() -> Times:
    return torch.tensor([0.0, 1.0])


def of_steps(times: Times, num_steps: int) -> Float[np.ndarray, " one_more"]:
    """From 0 to 1."""
    found = np.interp(np.arange(num_steps + 1) / num_steps, np.linspace(0, 1, len(times)), times.double().numpy())
    return np.round(found * PARTS) / PARTS


def cheapest_times(gamma: Float[Tensor, "times pixels"], squared_error: Float[Tensor, "times pixels"]) -> Times:
    """For a network of that error, at evenly spread times from 0 to 1."""
    path = shortest_path(step_costs(gamma.double(), squared_error.double()), KNOTS)
    return torch.tensor(path) / (len(gamma) - 1)


def step_costs(gamma: Float[Tensor, "times pixels"], squared_error: Float[Tensor, "times pixels"]) -> Float[Tensor, "times times"]:
    """Nats of a pixel of the step from the second time to the first; infinite where that is not the earlier one."""
    costs = torch.full((len(gamma), len(gamma)), torch.inf, dtype=gamma.dtype)
    for t in range(1, len(gamma)):
        costs[:t, t] = 0.5 * (torch.expm1(gamma[t] - gamma[:t]).clamp(min=0) * squared_error[t]).log1p().mean(dim=1)
    return costs


def shortest_path(costs: Float[Tensor, "times times"], num_steps: int) -> list[int]:
    """Places of the times, from the first to the last, that so many steps between them cost least."""
    cost, steps = torch.full((len(costs),), torch.inf, dtype=costs.dtype), []
    cost[0] = 0
    for _ in range(num_steps):
        cost, before = (cost[:, None] + costs).min(dim=0)
        steps.append(before)
    path = [len(costs) - 1]
    for before in reversed(steps):
        path.append(int(before[path[-1]]))
    return path[::-1]
