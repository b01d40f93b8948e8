"""Integer tables of symbol probabilities, which travel with a model: no decoder evaluates an exponential.

    normal distribution of each scale, prior of each channel of z --fp64--> probabilities --> counts that sum to 2^20

A symbol is a whole distance from its centre. Beyond a table's reach stands an escape, its last symbol, behind which the distance follows as bits.
"""

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from downstream.codec.factorised import FactorisedPrior
from downstream.codec.gaussian import scale_table

TOTAL = 1 << 20  # of the counts of a table: exact in float32, which the range coder takes
TAIL = 1e-6      # probability that a table leaves to the escape, at most


@dataclass(frozen=True)
class Table:
    """Counts of the distances from `least` on, and of the escape as the last one."""

    least: int
    counts: Int[np.ndarray, " symbols"]

    def __post_init__(self) -> None:
        if len(self.counts) < 2 or self.counts.min() < 1 or int(self.counts.sum()) != TOTAL:
            raise ValueError(f"a table of {len(self.counts)} symbols is damaged: its counts must be 1 or more and sum to {TOTAL}")

    @property
    def escape(self) -> int:
        """The symbol that stands for all other distances."""
        return len(self.counts) - 1

    @property
    def probabilities(self) -> Float[np.ndarray, " symbols"]:
        return (self.counts / TOTAL).astype(np.float32)


def whole_counts(probabilities: Float[np.ndarray, " symbols"]) -> Int[np.ndarray, " symbols"]:
    """Counts of at least 1 that sum to TOTAL, near the probabilities; what rounding leaves over goes to the largest."""
    counts = np.maximum(1, np.floor(probabilities / probabilities.sum() * (TOTAL - len(probabilities)))).astype(np.int64)
    counts[np.argmax(counts)] += TOTAL - counts.sum()
    return counts


def normal_tables() -> list[Table]:
    """A table for each scale of `scale_table`."""
    return [_normal_table(scale) for scale in scale_table().tolist()]


def _normal_table(scale: float) -> Table:
    reach = max(1, math.ceil(scale * 4.9))  # beyond 4.9 deviations lies 1e-6 of the mass
    steps = torch.arange(-reach, reach + 2, dtype=torch.float64) - 0.5
    cumulative = 0.5 * torch.erfc(-steps / (scale * math.sqrt(2)))
    inside = (cumulative[1:] - cumulative[:-1]).numpy()
    return Table(-reach, whole_counts(np.append(inside, max(0.0, 1 - inside.sum()))))


@torch.no_grad()
def prior_tables(prior: FactorisedPrior, *, most: int = 1 << 10) -> list[Table]:
    """A table for each channel of z, of distances from its median; at most `most` distances each way."""
    distances = torch.arange(-most - 1, most + 1, dtype=torch.float64) + 0.5
    values = distances + prior.medians.double().reshape(-1, 1, 1)
    cumulative = torch.sigmoid(copy.deepcopy(prior).double().cumulative_logits(values))[:, 0].numpy()
    tables = []
    for channel in np.diff(cumulative, axis=1):
        inside = np.flatnonzero(channel > TAIL / 4)
        first, last = (int(inside[0]), int(inside[-1])) if len(inside) else (most, most)
        chosen = channel[first : last + 1]
        tables.append(Table(first - most, whole_counts(np.append(chosen, max(0.0, 1 - chosen.sum())))))
    return tables
