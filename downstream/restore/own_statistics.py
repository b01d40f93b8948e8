"""How a picture is spoilt, as convolutions of the detector's own show it, which are trained along with its head.

    picture --two 3x3 convolutions at each scale, from the full size down by halves--> mean and deviation of each channel over places --> one vector

A pretrained encoder drops what is finer than its patches, and that is where noise, blur and blocks are (docs/restoration.md).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from downstream.restore.process import Images

LEAST_VARIANCE = 1e-6  # of a channel that is the same everywhere, whose deviation has no gradient at 0


class OwnStatistics(nn.Module):
    def __init__(self, widths: tuple[int, ...]) -> None:
        """Channels at each scale."""
        super().__init__()
        self.num_features = 2 * sum(widths)
        self.scales = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, width, 3, stride=2 if number else 1, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU())
            for number, (before, width) in enumerate(zip((3, *widths), widths, strict=False))
        )

    def forward(self, x: Images) -> Float[Tensor, "images statistics"]:
        """Of pixels in [0, 1]."""
        x, found = (2 * x - 1).contiguous(memory_format=torch.channels_last), []
        for scale in self.scales:
            x = scale(x)
            flat = x.flatten(2)
            found += [flat.mean(dim=2), (flat.var(dim=2, correction=0) + LEAST_VARIANCE).sqrt()]
        return torch.cat(found, dim=1)
