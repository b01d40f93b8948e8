"""Images from the model: noise at t = 1 to levels at t = 0, by random steps (ancestral) or along the probability-flow ODE."""

import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from downstream.density.calibration import squared_error
from downstream.density.diffusion import reconstruction_log_probabilities, reverse_step, velocity
from downstream.density.likelihood import solve
from downstream.density.model_file import TrainedDensity
from downstream.density.schedules import with_slope

Levels = Int[Tensor, "images channels height width"]


@torch.no_grad()
def ancestral(trained: TrainedDensity, num: int, generator: torch.Generator, *, num_steps: int, height: int, width: int) -> Levels:
    """Samples by `num_steps` reverse steps at evenly spread times, with the calibrated variances."""
    model, settings = trained.model, trained.settings
    context = model.random_context(num, generator)
    path, ones = model.path(context, height, width), torch.ones(num)
    z = torch.randn((num, settings.channels, height, width), generator=generator)
    for step in range(num_steps, 0, -1):
        t = ones * step / num_steps
        gamma, gamma_before = path(t), path(ones * (step - 1) / num_steps)
        found = model.denoise(z, gamma, context)
        before = reverse_step(z, found.eps_hat, gamma_before, gamma, squared_error=squared_error(trained.calibration.errors, found, t))
        z = before.mean + before.variance.sqrt() * torch.randn(z.shape, generator=generator)
    return _most_likely(trained, z)


@torch.no_grad()
def along_ode(trained: TrainedDensity, num: int, generator: torch.Generator, *, tolerance: float, height: int, width: int) -> tuple[Levels, int]:
    """Samples by the ODE from t = 1 to 0, and how often the network was asked. Raises ValueError where torchdiffeq is missing."""
    model = trained.model
    context = model.random_context(num, generator)
    path, calls = model.path(context, height, width), 0

    def motion(t: Float[Tensor, ""], state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal calls
        calls += 1
        gamma, slope = with_slope(path, torch.full((num,), float(t)))
        return (velocity(state[0], model.denoise(state[0], gamma, context).eps_hat, gamma, slope),)

    z_1 = torch.randn((num, trained.settings.channels, height, width), generator=generator)
    return _most_likely(trained, solve(motion, (z_1,), 1.0, 0.0, tolerance=tolerance)[0]), calls


def _most_likely(trained: TrainedDensity, z_0: Float[Tensor, "images channels height width"]) -> Levels:
    gamma_0 = torch.full((1, 1, 1, 1), trained.model.schedule.ends.gamma_min)
    return reconstruction_log_probabilities(z_0, gamma_0, levels=trained.settings.levels).argmax(dim=-1)


def as_grid(u: Levels, *, levels: int, columns: int) -> UInt8[Tensor, "grid_height grid_width channels"]:
    """The images beside and below each other, a pixel of black between them, the levels over the whole range of 8 bits."""
    pixels = (u * 255 / (levels - 1)).round().to(torch.uint8)
    rows = -(-len(u) // columns)
    filled = torch.cat([pixels, pixels.new_zeros(rows * columns - len(u), *pixels.shape[1:])])
    spaced = torch.nn.functional.pad(filled, (0, 1, 0, 1))
    return rearrange(spaced, "(rows columns) channels height width -> (rows height) (columns width) channels", rows=rows)[:-1, :-1]
