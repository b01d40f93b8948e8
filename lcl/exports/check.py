"""The check that ends every export: the other library's numbers against ours, on random images."""

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

TOLERANCE = 1e-5
IMAGES = 3


def random_images(side_px: int, *, seed: int = 0) -> Float[Tensor, "images 3 side side"]:
    """Images of noise in [0, 1]."""
    return torch.rand(IMAGES, 3, side_px, side_px, generator=torch.Generator().manual_seed(seed))


def picture(image: Float[Tensor, "3 height width"]) -> Image.Image:
    """The image with 8 bits a channel."""
    return Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def require_equal(found: Tensor, ours: Tensor, *, what: str) -> float:
    """The largest difference, as a share of the largest of our values where that is above 1.

    Raises ValueError if the shapes differ, or if it is more than 1e-5.
    """
    if found.shape != ours.shape:
        raise ValueError(f"{what} has shape {tuple(found.shape)} in the export and {tuple(ours.shape)} here: nothing was written")
    difference = float((found.double() - ours.double()).abs().max() / ours.double().abs().max().clamp(min=1))
    if not difference <= TOLERANCE:
        raise ValueError(f"{what} differs by {difference:.1e} between the export and our own, more than {TOLERANCE}: nothing was written; please report it")
    return difference
