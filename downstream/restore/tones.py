"""How light and dark a whole picture is, for a network that sees a neighbourhood of each place: a dark patch may be of a dark scene, or of a darkened one.

    degraded picture --quantiles of each channel, log--> two layers --linear, zero at first--> + the time embedding
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

SHARES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
"""Of a channel's pixels that are darker."""
NUM_TONES = 3 * len(SHARES)
LEVELS = 1 << 12  # that quantiles are found among: those of 8 bits as they are, and of 64 million pixels without sorting them

Pixels = Float[Tensor, "3 height width"]
Tones = Float[Tensor, "images tones"]


def tones_of(x: Pixels) -> Float[Tensor, " tones"]:
    """Logarithms of the quantiles of each channel's pixels in [0, 1], black taken for one level of 255; whatever the order of the pixels."""
    found = []
    for channel in x.clamp(0, 1):
        darker = torch.histc(channel.double(), LEVELS, min=0, max=1).cumsum(0) / channel.numel()
        found.append(torch.searchsorted(darker, torch.tensor(SHARES, dtype=torch.float64)) / (LEVELS - 1))
    return torch.cat(found).add(1 / 255).log().float()


class Toned(nn.Module):
    """What tones add to the time embedding; nothing at first."""

    def __init__(self, *, time_width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(NUM_TONES, time_width), nn.SiLU(), nn.Linear(time_width, time_width))
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, tones: Tones) -> Float[Tensor, "images time_width"]:
        return self.layers(tones)
