"""What a model makes of images: pooled latents and patch tokens."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lcl.rows import ImageInput
from lcl.use.image_features import VisionModel, patch_tokens

BATCH = 64  # images at a time


class Encoded(NamedTuple):
    """In float32 on the CPU. `patches` are those of the tower behind its last norm, before the pooling projects them; zeros behind an image's last one."""

    pooled: Float[Tensor, "images embed"]
    patches: Float[Tensor, "images patches width"]


@torch.no_grad()
def encode(model: VisionModel, inputs: Sequence[ImageInput]) -> Encoded:
    """Both of one batch."""
    patches, valid = patch_tokens(model, inputs)
    return Encoded(model.pool_project(patches, valid).pooled.float().cpu(), patches.float().cpu())


@torch.no_grad()
def pooled_features(model: VisionModel, inputs: Sequence[ImageInput]) -> Float[Tensor, "images embed"]:
    """The pooled latent of each image, in float32 on the CPU."""
    return torch.cat([encode(model, inputs[at : at + BATCH]).pooled for at in range(0, len(inputs), BATCH)])
