"""One endless sequence of documents from several shard sets.

Without weights the sets are one: each epoch is a permutation of all documents. With weights, every block of the sequence
holds each set's share in an order of its own, and each set goes through its own epochs.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Int

BLOCK = 1024


class Mixture:
    """Places in the sequence to (set, document). It has no state: any place can be asked for."""

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], *, seed: int) -> None:
        """`sizes` are documents of each set. Raises ValueError for weights that do not fit the sets."""
        self.sizes, self.seed = tuple(sizes), seed
        self.bounds = np.cumsum([0, *sizes])
        self.shares: Int[np.ndarray, " sets"] | None = None
        if not weights:
            return
        if len(weights) != len(sizes) or min(weights) <= 0:
            raise ValueError(f"data.weights has {len(weights)} numbers ({', '.join(map(str, weights))}); give a positive one for each of the {len(sizes)} folders of data.shards")
        exact = np.array(weights) / sum(weights) * BLOCK
        shares = np.floor(exact).astype(int)
        for index in np.argsort(shares - exact, kind="stable")[: BLOCK - shares.sum()]:  # the largest remainders
            shares[index] += 1
        if shares.min() == 0:
            raise ValueError(f"data.weights: {min(weights)} is less than a {BLOCK}th of the whole; leave that folder out or raise its weight")
        self.shares = shares

    def locate(self, position: int) -> tuple[int, int]:
        """The set and the document in it (0 <= document < its size) at place `position` of the sequence."""
        if self.shares is None:
            epoch, index = divmod(position, int(self.bounds[-1]))
            document = int(_permutation(int(self.bounds[-1]), self.seed, epoch)[index])
            which = int(np.searchsorted(self.bounds, document, side="right")) - 1
            return which, document - int(self.bounds[which])
        block, index = divmod(position, BLOCK)
        order = _permutation(BLOCK, self.seed, block, 1)
        ends = np.cumsum(self.shares)
        which = int(np.searchsorted(ends, order[index], side="right"))
        place = block * int(self.shares[which]) + int(order[index]) - int(ends[which] - self.shares[which])
        epoch, index = divmod(place, self.sizes[which])
        return which, int(_permutation(self.sizes[which], self.seed, epoch, 2, which)[index])


@lru_cache(maxsize=16)
def _permutation(length: int, *key: int) -> Int[np.ndarray, " length"]:
    return np.random.default_rng(list(key)).permutation(length)
