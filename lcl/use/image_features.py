"""What an encoder makes of images that were cut as in evaluation (`VisionConfig.evaluation_input`)."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lcl.model import ModelConfig, PoolProject
from lcl.rows import ImageInput, stack_inputs
from lcl.vision import normalise, valid_patches


@runtime_checkable
class VisionModel(Protocol):
    """The parts of a model that see."""

    settings: ModelConfig
    visual: nn.Module
    pool_project: PoolProject


@torch.no_grad()
def patch_tokens(model: VisionModel, inputs: Sequence[ImageInput]) -> tuple[Float[Tensor, "images patches width"], Bool[Tensor, "images patches"] | None]:
    """The tower's tokens of images, on its device, and which of them are there (None: all)."""
    grids = tuple(image.grid for image in inputs)
    query = model.pool_project.query_token
    tokens = model.visual(normalise(torch.from_numpy(stack_inputs(inputs)).to(query.device), dtype=query.dtype), grids)
    return tokens, valid_patches(grids, tokens.shape[1], query.device)


@torch.no_grad()
def pooled_latents(model: VisionModel, inputs: Sequence[ImageInput]) -> Float[np.ndarray, "images embed"]:
    """The pooled latent of each image, in float32."""
    return model.pool_project(*patch_tokens(model, inputs)).pooled.float().cpu().numpy()
