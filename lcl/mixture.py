"""One endless sequence of documents from several shard sets.

Without weights the sets are one: each epoch is a permutation of all documents. With weights, every block of the sequence
holds each set's share in an order of its own, and each set goes through its own epochs.
"""

import math
from collections.abc import Sequence

import numpy as np
import xxhash
from jaxtyping import Int

BLOCK = 1024
FEISTEL_ROUNDS = 8


class Mixture:
    """Places in the sequence to (set, document). It has no state and keeps no order in memory: any place can be asked for."""

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], *, seed: int) -> None:
        """`sizes` are documents of each set. Raises ValueError for weights that do not fit the sets."""
        self.sizes, self.seed = tuple(sizes), seed
        self.ends = np.cumsum(sizes)
        self.shares: Int[np.ndarray, " sets"] | None = shares_of_block(weights, num_sets=len(sizes)) if weights else None

    def locate(self, position: int) -> tuple[int, int]:
        """The set and the document in it (0 <= document < its size) at place `position` of the sequence."""
        if self.shares is None:
            epoch, index = divmod(position, int(self.ends[-1]))
            return _find(self.ends, shuffled(index, int(self.ends[-1]), self.seed, epoch))
        block, index = divmod(position, BLOCK)
        which, place = _find(np.cumsum(self.shares), shuffled(index, BLOCK, self.seed, block))
        epoch, index = divmod(block * int(self.shares[which]) + place, self.sizes[which])
        return which, shuffled(index, self.sizes[which], self.seed, epoch, which)


def shares_of_block(weights: Sequence[float], *, num_sets: int) -> Int[np.ndarray, " sets"]:
    """Documents of each set in a block of BLOCK, in proportion to the weights as nearly as whole numbers are (largest remainders)."""
    if len(weights) != num_sets or not all(0 < weight < math.inf for weight in weights):
        given = ", ".join(map(str, weights))
        raise ValueError(f"data.weights has {len(weights)} numbers ({given}); give a positive one for each of the {num_sets} folders of data.shards")
    exact = np.array(weights) / sum(weights) * BLOCK
    shares = np.floor(exact).astype(int)
    for index in np.argsort(shares - exact, kind="stable")[: BLOCK - shares.sum()]:
        shares[index] += 1
    if shares.min() == 0:
        raise ValueError(f"data.weights: {min(weights)} is less than a {BLOCK}th of the whole; leave that folder out or raise its weight")
    return shares


def shuffled(index: int, size: int, *key: int) -> int:
    """Where a permutation of 0 ... size - 1, chosen at random by `key`, takes `index`.

    A Feistel network on pairs (left, right) of 0 ... side - 1, the smallest square that holds `size` numbers, walked on until
    it comes out below `size` (Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002). Unlike an array it takes no
    memory: epochs of 10^8 documents are as cheap as small ones, for each worker.
    """
    side = math.isqrt(size - 1) + 1
    start = xxhash.xxh64_intdigest(repr((size, *key)).encode())
    while True:
        left, right = divmod(index, side)
        for number in range(FEISTEL_ROUNDS):
            mixed = xxhash.xxh64_intdigest(right.to_bytes(8, "little"), seed=(start + number) % (1 << 64))
            left, right = right, (left + mixed) % side
        index = left * side + right
        if index < size:
            return index


def _find(ends: Int[np.ndarray, " sets"], number: int) -> tuple[int, int]:
    """The interval that `number` falls into, of those that end before `ends`, and its place there."""
    which = int(np.searchsorted(ends, number, side="right"))
    return which, number - (int(ends[which - 1]) if which else 0)
