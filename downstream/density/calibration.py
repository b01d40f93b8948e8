"""How wrong the network is: the mean of (eps - eps_hat)^2 over what it expects, on training images, for times from 0 to 1; and which times are best for a codec.

    training images --noise of each time--> (eps - eps_hat)^2 / expected --mean--> table of times and channels (and places, where images are aligned) --> times of a codec

The variance of a reverse step holds that error (`diffusion.reverse_step`); without it few steps cost far more bits.
"""

from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from downstream.density.coding_times import Times, cheapest_times, evenly, of_steps
from downstream.density.diffusion import diffuse, to_data
from downstream.density.model import Denoised, DensityModel

NUM_TIMES = 65
AT_ONCE = 64
PIXELS = 1 << 13  # of all images together, by which times are chosen

Table = Float[Tensor, "times channels rows columns"]


class Calibration(NamedTuple):
    errors: Table
    times: Times
    """Of a codec's steps."""

    def of_steps(self, num_steps: int) -> Float[np.ndarray, " one_more"]:
        """The times of a codec of so many, from 0 to 1."""
        return of_steps(self.times, num_steps)

    def evenly(self) -> "Calibration":
        """With evenly spread times."""
        return self._replace(times=evenly())


@torch.no_grad()
def calibrate(model: DensityModel, u: Int[Tensor, "images channels height width"], *, aligned: bool, seed: int = 0) -> Calibration:
    """Of a trained model. `aligned`: a place means the same in all images, as it does in digits; else places are taken together."""
    rng = torch.Generator().manual_seed(seed)
    some = torch.randperm(u.numel(), generator=torch.Generator().manual_seed(seed))[:PIXELS]
    rows, gammas, errors = [], [], []
    for number in range(NUM_TIMES):
        found, gamma_of, expected = [], [], []
        for start in range(0, len(u), AT_ONCE):
            x = to_data(u[start : start + AT_ONCE], levels=model.settings.levels, dtype=model.out.weight.dtype)
            context = model.coded_context(x, rng).context
            gamma = model.path(context, *x.shape[-2:])(torch.full((len(x),), number / (NUM_TIMES - 1)).to(x))
            eps = torch.randn(x.shape, generator=rng).to(x)
            denoised = model.denoise(diffuse(x, eps, gamma), gamma, context)
            found.append((eps - denoised.eps_hat).square() / denoised.squared_error)
            gamma_of.append(gamma.expand_as(x))
            expected.append(denoised.squared_error)
        ratio = torch.cat(found)
        rows.append(ratio.mean(dim=0) if aligned else ratio.mean(dim=(0, 2, 3))[:, None, None])
        gammas.append(torch.cat(gamma_of).flatten()[some])
        errors.append((torch.cat(expected) * rows[-1]).flatten()[some])
    return Calibration(torch.stack(rows).float(), cheapest_times(torch.stack(gammas), torch.stack(errors)))


def squared_error(table: Table, denoised: Denoised, t: Float[Tensor, " images"]) -> Float[Tensor, "images channels height width"]:
    """What the network expects at time t, times the table's value there; between two times on a straight line. Places of another size of image are taken together."""
    place = t * (len(table) - 1)
    first = place.floor().long().clamp(max=len(table) - 2)
    share = rearrange(place - first, "images -> images 1 1 1")
    values = table.to(denoised.squared_error)
    ratio = torch.lerp(values[first], values[first + 1], share)
    if ratio.shape[-2:] != denoised.squared_error.shape[-2:]:
        ratio = ratio.mean(dim=(2, 3), keepdim=True)
    return denoised.squared_error * ratio
