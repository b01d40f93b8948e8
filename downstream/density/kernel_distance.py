"""How far two sets of images are from each other in what features of them say: the kernel distance (KID; Binkowski et al., ICLR 2018, arXiv:1801.01401).

    features of both, in disjoint parts --unbiased MMD^2 of each part--> mean, standard error

Published distances take features of an Inception network; numbers with other features are not comparable with those, nor with each other.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

NUM_PARTS = 10

Features = Float[Tensor, "images width"]


class Distance(NamedTuple):
    value: float
    """May be negative: its expectation is zero for equal distributions."""
    standard_error: float


def squared_distance(ours: Features, theirs: Float[Tensor, "others width"]) -> float:
    """MMD^2 without bias, of the kernel (x y / width + 1)^3: its mean over pairs within each set, less twice that across. Raises ValueError for a set of fewer than two."""
    if min(len(ours), len(theirs)) < 2:
        raise ValueError(f"a kernel distance needs two images or more of each kind, not {len(ours)} and {len(theirs)}")

    def kernel(first: Tensor, second: Tensor) -> Tensor:
        return (first @ second.T / ours.shape[1] + 1) ** 3

    def within(features: Tensor) -> Tensor:
        values = kernel(features, features)
        return (values.sum() - values.diagonal().sum()) / (len(features) * (len(features) - 1))

    ours, theirs = ours.double(), theirs.double()
    return float(within(ours) + within(theirs) - 2 * kernel(ours, theirs).mean())


def kernel_distance(ours: Features, theirs: Float[Tensor, "others width"], *, num_parts: int = NUM_PARTS) -> Distance:
    """The mean over disjoint parts of both sets, shuffled once, since neighbours in a file are alike, and its standard error from the spread of the parts, which are independent (the B-test of arXiv:1307.1954)."""
    parts = min(num_parts, len(ours) // 2, len(theirs) // 2)
    if parts < 2:
        raise ValueError(f"a kernel distance with its standard error needs four images or more of each kind, not {len(ours)} and {len(theirs)}")
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (features[torch.randperm(len(features), generator=generator)] for features in (ours, theirs))
    found = torch.tensor([squared_distance(*pair) for pair in zip(ours.tensor_split(parts), theirs.tensor_split(parts), strict=True)], dtype=torch.float64)
    return Distance(float(found.mean()), float(found.std() / math.sqrt(parts)))
