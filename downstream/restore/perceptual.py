"""How far two pictures are in what a pretrained encoder sees of them: the perceptual term of training, for which nothing has to be downloaded."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from downstream.restore.process import Images
from lcl.features import Encoder


class PerceptualDistance:
    """Mean squared difference of patch tokens of middle blocks, each token brought to mean 0 and variance 1 over its width. No module: its weights are not trained."""

    def __init__(self, encoder: Encoder, layers: tuple[int, ...] = ()) -> None:
        """`layers` are numbers of blocks, from 0; none: the middle one. Raises ValueError for one that the encoder does not have."""
        self.encoder = encoder
        self.layers = layers or ((encoder.num_layers - 1) // 2,)
        if not all(0 <= layer < encoder.num_layers for layer in self.layers):
            raise ValueError(f"objective.perceptual_layers are {' '.join(map(str, layers))}: the encoder has {encoder.num_layers} blocks, from 0 to {encoder.num_layers - 1}")

    def __call__(self, x: Images, clean: Images) -> Float[Tensor, ""]:
        """The mean over images and layers; gradients flow to `x`."""
        self.encoder.to(x.device)
        found = self.encoder(x, self.layers).layers
        with torch.no_grad():
            wanted = self.encoder(clean, self.layers).layers
        return torch.stack([functional.mse_loss(_normed(one), _normed(two)) for one, two in zip(found, wanted, strict=True)]).mean()


def _normed(tokens: Float[Tensor, "images patches width"]) -> Float[Tensor, "images patches width"]:
    return functional.layer_norm(tokens.float(), tokens.shape[-1:])
