"""The norm of the codecs and of the restorers: over the channels of each place, so that no place depends on others and pictures can be computed in tiles."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class ChannelNorm(nn.Module):
    """Each place's channels to mean 0 and variance 1, then a scale and a shift of each channel."""

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(num_channels)), nn.Parameter(torch.zeros(num_channels)), eps

    def forward(self, x: Float[Tensor, "images channels height width"]) -> Float[Tensor, "images channels height width"]:
        return functional.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, self.eps).movedim(-1, 1)
