"""A moving average of the weights, kept in fp32 on the CPU of rank 0."""

from collections.abc import Mapping

import torch
from torch import Tensor


class MovingAverage:
    """a <- d a + (1 - d) w at each update, with d = decay ** every: as if taken at each step of weights that move steadily in between."""

    def __init__(self, decay: float, every: int, *, weights: Mapping[str, Tensor]) -> None:
        """Starts from `weights`: those of the first step, or the average that a checkpoint holds."""
        self._kept = decay**every
        self.weights = {name: value.clone() for name, value in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor]) -> None:
        for name, value in weights.items():
            own = self.weights[name]
            if own.is_floating_point():
                own.lerp_(value, 1 - self._kept)
            else:
                own.copy_(value)
