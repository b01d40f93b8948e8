"""How wrong the network is: the mean of (eps - eps_hat)^2 over what it expects, on training images, for times from 0 to 1.

    training images --noise of each time--> (eps - eps_hat)^2 / expected --mean--> table of times and channels (and places, where images are aligned)

The variance of a reverse step holds that error (`diffusion.reverse_step`); without it few steps cost far more bits.
"""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from downstream.density.diffusion import diffuse, to_data
from downstream.density.model import Denoised, DensityModel

NUM_TIMES = 33
AT_ONCE = 64

Table = Float[Tensor, "times channels rows columns"]


@torch.no_grad()
def calibrate(model: DensityModel, u: Int[Tensor, "images channels height width"], *, aligned: bool, seed: int = 0) -> Table:
    """The table. `aligned`: a place means the same in all images, as it does in digits; else places are taken together."""
    rng = torch.Generator().manual_seed(seed)
    rows = []
    for number in range(NUM_TIMES):
        found = []
        for start in range(0, len(u), AT_ONCE):
            x = to_data(u[start : start + AT_ONCE], levels=model.settings.levels, dtype=model.out.weight.dtype)
            context = model.coded_context(x, rng).context
            gamma = model.path(context, *x.shape[-2:])(torch.full((len(x),), number / (NUM_TIMES - 1)).to(x))
            eps = torch.randn(x.shape, generator=rng).to(x)
            denoised = model.denoise(diffuse(x, eps, gamma), gamma, context)
            found.append((eps - denoised.eps_hat).square() / denoised.squared_error)
        ratio = torch.cat(found)
        rows.append(ratio.mean(dim=0) if aligned else ratio.mean(dim=(0, 2, 3))[:, None, None])
    return torch.stack(rows).float()


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
