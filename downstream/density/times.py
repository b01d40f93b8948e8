"""At which times a training looks at its images, and what each look counts.

    spread evenly over [0, 1) --inverse of the distribution function--> t, and 1 / p(t), so that the mean of f(t) / p(t) is that of f over uniform times

The variance of such a mean is least where p is proportional to the root of the mean square of f (Kahn and Marshall 1953; for diffusion models arXiv:2102.09672, section 3.3).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

NUM_BINS = 32
LEAST_SEEN = 10      # in each bin before its mean square is believed; until then times are uniform
MEMORY = 1000        # of a bin: as many values as the running mean remembers
UNIFORM_SHARE = 0.1  # of the density, so that no weight is above 1 / UNIFORM_SHARE


class ImportanceTimes(nn.Module):
    """p(t), constant in NUM_BINS parts of [0, 1), by what diffusion terms were. In buffers: checkpoints have them, no optimiser does.

    What a step's terms were counts from `update` on, which all ranks call before the next one: so it does not matter how a batch was divided.
    """

    def __init__(self) -> None:
        super().__init__()
        for name in ("mean_square", "seen", "new_sum", "new_seen"):
            self.register_buffer(name, torch.zeros(NUM_BINS))

    def density(self) -> Float[Tensor, " bins"]:
        """p in each part; its mean is 1."""
        root = self.mean_square.sqrt()
        if self.seen.min() < LEAST_SEEN or not root.any():
            return torch.ones_like(root)
        return UNIFORM_SHARE + (1 - UNIFORM_SHARE) * root / root.mean()

    def forward(self, spread: Float[Tensor, " images"]) -> tuple[Float[Tensor, " images"], Float[Tensor, " images"]]:
        """t and 1 / p(t) of numbers that are uniform over [0, 1)."""
        density = self.density()
        ends = density.cumsum(0) / NUM_BINS
        place = torch.searchsorted(ends, spread.clamp(max=ends[-1] * (1 - 1e-6)), right=True).clamp(max=NUM_BINS - 1)
        inside = (spread - (ends[place] - density[place] / NUM_BINS)) / density[place]
        return (place / NUM_BINS + inside.clamp(0, (1 - 1e-6) / NUM_BINS)).clamp(0, 1 - 1e-6), 1 / density[place]

    @torch.no_grad()
    def note(self, t: Float[Tensor, " images"], terms: Float[Tensor, " images"]) -> None:
        """What the terms, without their weights, were at these times."""
        place = (t * NUM_BINS).long()
        self.new_sum.index_add_(0, place, terms.detach().square().to(self.new_sum))
        self.new_seen.index_add_(0, place, torch.ones_like(self.new_seen[place]))

    @torch.no_grad()
    def update(self, of_all_ranks: Callable[[Float[Tensor, " n"]], Float[Tensor, " n"]]) -> None:
        """Takes in what was noted on all ranks, whose sum `of_all_ranks` gives."""
        new_sum, new_seen = of_all_ranks(torch.cat([self.new_sum, self.new_seen])).chunk(2)
        known = self.seen.clamp(max=MEMORY)
        self.mean_square.copy_((known * self.mean_square + new_sum) / (known + new_seen).clamp(min=1))
        self.seen.add_(new_seen)
        self.new_sum.zero_()
        self.new_seen.zero_()
