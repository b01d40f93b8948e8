"""A moving average of the weights, kept in fp32 on the CPU of rank 0."""

from collections.abc import Mapping

import torch
from torch import Tensor


class MovingAverage:
    """a <- d a + (1 - d) w at each update, with d = min(decay, (1 + step) / (10 + step)) ** every: as if taken at each step of weights that move steadily in between.

    The second term forgets the random start in the first steps, which a decay alone keeps for some multiples of 1 / (1 - decay) (as `num_updates` does in
    TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, decay: float, every: int, *, weights: Mapping[str, Tensor]) -> None:
        """Starts from `weights`: those of the first step, or the average that a checkpoint holds."""
        self._decay, self._every = decay, every
        self.weights = {name: value.clone() for name, value in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], *, step: int) -> None:
        """Takes the weights behind this step in."""
        kept = min(self._decay, (1 + step) / (10 + step)) ** self._every
        for name, value in weights.items():
            own = self.weights[name]
            if own.is_floating_point():
                own.lerp_(value, 1 - kept)
            else:
                own.copy_(value)
