"""What a model makes of images: pooled latents and patch tokens."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lcl.model import LCL
from lcl.rows import ImageInput, stack_inputs
from lcl.vision import normalise, valid_patches

BATCH = 64  # images at a time


class Encoded(NamedTuple):
    """In float32 on the CPU. `patches` are those of the tower behind its last norm, before the pooling projects them; zeros behind an image's last one."""

    pooled: Float[Tensor, "images embed"]
    patches: Float[Tensor, "images patches width"]


@torch.no_grad()
def encode(model: LCL, inputs: Sequence[ImageInput]) -> Encoded:
    """Both of one batch."""
    grids = tuple(image.grid for image in inputs)
    patches = model.visual(_images(model, inputs), grids)
    pooled = model.pool_project(patches, valid_patches(grids, patches.shape[1], patches.device)).pooled
    return Encoded(pooled.float().cpu(), patches.float().cpu())


@torch.no_grad()
def pooled_features(model: LCL, inputs: Sequence[ImageInput]) -> Float[Tensor, "images embed"]:
    """The pooled latent of each image, in float32 on the CPU."""
    parts = [inputs[at : at + BATCH] for at in range(0, len(inputs), BATCH)]
    return torch.cat([model.encode_images(_images(model, part), tuple(image.grid for image in part)).pooled.float().cpu() for part in parts])


def _images(model: LCL, inputs: Sequence[ImageInput]) -> Float[Tensor, "images ..."]:
    return normalise(torch.from_numpy(stack_inputs(inputs)).to(model.logit_scale.device), dtype=model.logit_scale.dtype)
