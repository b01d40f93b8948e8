"""The sequence of documents: permutations, exact shares, and no memory of what came before."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcl.mixture import BLOCK, Mixture, shares_of_block, shuffled

sizes = st.lists(st.integers(1, 60), min_size=1, max_size=5)


@given(st.integers(1, 3000), st.integers(0, 2**40), st.integers(0, 5))
def test_shuffling_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    assert sorted(shuffled(index, size, seed, epoch) for index in range(size)) == list(range(size))


def test_every_permutation_of_a_few_comes_about_equally_often() -> None:
    counts = Counter(tuple(shuffled(index, 4, 0, epoch) for index in range(4)) for epoch in range(4800))
    assert len(counts) == math.factorial(4) and 140 < min(counts.values()) and max(counts.values()) < 260


def test_neighbours_are_strangers_and_keys_independent() -> None:
    """Against an array shuffled at random: places are uncorrelated with what stands there, with the next one and with the next epoch."""
    size = 5000
    first, second = (np.array([shuffled(index, size, 7, epoch) for index in range(size)]) for epoch in (0, 1))
    for one, other in ((first, np.arange(size)), (first[1:], first[:-1]), (first, second)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / math.sqrt(size)
    assert (first == second).sum() < 8


def test_a_large_set_costs_no_memory() -> None:
    size = 10**12
    places = [shuffled(index, size, 0) for index in range(1000)]
    assert len(set(places)) == 1000 and max(places) < size and np.mean(places) / size == pytest.approx(0.5, abs=0.05)


@given(sizes, st.integers(0, 99))
def test_without_weights_each_epoch_has_every_document_once(counts: list[int], seed: int) -> None:
    mixture = Mixture(counts, (), seed=seed)
    everything = [(which, document) for which, count in enumerate(counts) for document in range(count)]
    epochs = [[mixture.locate(epoch * len(everything) + index) for index in range(len(everything))] for epoch in range(3)]
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert len(everything) < 20 or epochs[0] != epochs[1] != epochs[2]


@settings(max_examples=25)
@given(sizes, st.data())
def test_with_weights_blocks_have_exact_shares_and_each_set_its_own_epochs(counts: list[int], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(counts), max_size=len(counts)))
    mixture = Mixture(counts, weights, seed=data.draw(st.integers(0, 99)))
    sequence = [mixture.locate(position) for position in range(3 * BLOCK)]
    shares = [weight / sum(weights) * BLOCK for weight in weights]
    for block in range(3):
        found = Counter(which for which, _ in sequence[block * BLOCK : (block + 1) * BLOCK])
        assert all(abs(found[which] - share) < 1 for which, share in enumerate(shares)) and found == Counter(dict(enumerate(mixture.shares.tolist())))
    for which, count in enumerate(counts):
        times = Counter({document: 0 for document in range(count)})
        times.update(document for other, document in sequence if other == which)
        assert len(times) == count and max(times.values()) - min(times.values()) <= 1, "whole epochs, and a part of one without repetition"


def test_a_set_shows_each_document_once_an_epoch() -> None:
    """The documents of whole blocks that end with an epoch: sizes that divide what the blocks hold."""
    mixture = Mixture([64, 256], [1, 3], seed=0)  # 256 and 768 of each block
    for block in range(4):
        located = [mixture.locate(block * BLOCK + index) for index in range(BLOCK)]
        assert Counter(located) == Counter({(0, document): 4 for document in range(64)}) + Counter({(1, document): 3 for document in range(256)})


def test_each_epoch_of_a_set_has_an_order_of_its_own() -> None:
    """Half an epoch in each block: the first halves of two epochs differ, and an epoch's two halves are all of it."""
    mixture = Mixture([BLOCK, 9], [1, 1], seed=0)
    halves = [{document for index in range(BLOCK) for which, document in [mixture.locate(block * BLOCK + index)] if which == 0} for block in range(4)]
    assert halves[0] | halves[1] == halves[2] | halves[3] == set(range(BLOCK)) and 200 < len(halves[0] & halves[2]) < 312


@given(sizes, st.booleans(), st.integers(0, 5000))
def test_any_place_can_be_asked_for(counts: list[int], weighted: bool, start: int) -> None:
    weights = tuple(1.0 + which for which in range(len(counts))) if weighted else ()
    forward = [Mixture(counts, weights, seed=1).locate(position) for position in range(start, start + 20)]
    fresh = Mixture(counts, weights, seed=1)
    assert [fresh.locate(position) for position in reversed(range(start, start + 20))] == forward[::-1]


def test_the_sets_are_spread_over_a_block() -> None:
    mixture = Mixture([1000, 1000], [1, 1], seed=0)
    firsts = [np.mean([mixture.locate(block * BLOCK + index)[0] for index in range(64)]) for block in range(8)]
    assert all(0.2 < share < 0.8 for share in firsts) and len(set(firsts)) > 2


def test_an_empty_set_is_passed_over_without_weights() -> None:
    assert sorted(Mixture([0, 2, 0, 1, 0], (), seed=0).locate(position) for position in range(3)) == [(1, 0), (1, 1), (3, 0)]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0,), r"data.weights has 1 numbers \(1.0\); give a positive one for each of the 2 folders of data.shards"),
        ((1.0, 2.0, 3.0), "has 3 numbers"),
        ((1.0, 0.0), "give a positive one"),
        ((1.0, -1.0), "give a positive one"),
        ((1.0, math.nan), "give a positive one"),
        ((1.0, math.inf), "give a positive one"),
        ((1.0, 1e-5), "data.weights: 1e-05 is less than a 1024th of the whole; leave that folder out or raise its weight"),
    ],
)
def test_wrong_weights_are_named(weights: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture([5, 5], weights, seed=0)


@given(st.lists(st.floats(0.5, 100), min_size=1, max_size=9))
def test_shares_fill_a_block_whatever_the_scale_of_weights(weights: list[float]) -> None:
    shares = shares_of_block(weights, num_sets=len(weights))
    assert shares.sum() == BLOCK and (shares > 0).all()
    assert shares_of_block([4 * weight for weight in weights], num_sets=len(weights)).tolist() == shares.tolist()
