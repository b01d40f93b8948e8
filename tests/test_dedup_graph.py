"""Candidate pairs and components, against plain versions."""

from collections import defaultdict
from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dedup.candidates import bucket_pairs
from pipeline.dedup.forest import DisjointSets, merge_links
from pipeline.dedup.runs import DROP, make_records

Links = list[tuple[int, int]]
LINKS = st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)), max_size=40)


def buckets_of(keys: list[int]) -> list[list[int]]:
    found = defaultdict(list)
    for document, key in enumerate(keys):
        found[key].append(document)
    return list(found.values())


@given(st.lists(st.integers(0, 5), max_size=40))
def test_small_buckets_give_all_their_pairs(keys: list[int]) -> None:
    low, high, num_large = bucket_pairs(np.array(keys, np.uint64), np.arange(len(keys)), max_bucket=64, neighbours=2)
    expected = sorted(pair for bucket in buckets_of(keys) for pair in combinations(bucket, 2))
    assert list(zip(low.tolist(), high.tolist(), strict=True)) == expected and num_large == 0


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(2, 8), st.integers(1, 4))
def test_large_buckets_give_neighbours_and_first_ones(keys: list[int], max_bucket: int, neighbours: int) -> None:
    low, high, num_large = bucket_pairs(np.array(keys, np.uint64), np.arange(len(keys)), max_bucket=max_bucket, neighbours=neighbours)
    expected = set()
    for bucket in buckets_of(keys):
        for (i, ours), (j, theirs) in combinations(enumerate(bucket), 2):
            if len(bucket) <= max_bucket or j - i <= neighbours or i < neighbours:
                expected.add((ours, theirs))
    assert set(zip(low.tolist(), high.tolist(), strict=True)) == expected and len(low) == len(expected)
    assert num_large == sum(len(bucket) > max_bucket for bucket in buckets_of(keys))


def test_a_giant_bucket_is_not_quadratic_and_stays_connected() -> None:
    size, neighbours = 20_000, 16
    low, high, num_large = bucket_pairs(np.zeros(size, np.uint64), np.arange(size), max_bucket=64, neighbours=neighbours)
    assert num_large == 1 and len(low) <= 2 * neighbours * size
    assert np.array_equal(merge_links(make_records(DROP, doc=high, kept=low))["doc"], np.arange(1, size))


def plain_components(links: Links) -> dict[int, int]:
    """Each number that is not the smallest of its component, and that smallest one, by repeated relabelling."""
    labels = {number: number for link in links for number in link}
    changed = True
    while changed:
        changed = False
        for ours, theirs in links:
            least = min(labels[ours], labels[theirs])
            changed |= labels[ours] != least or labels[theirs] != least
            labels[ours] = labels[theirs] = least
    return {number: label for number, label in labels.items() if number != label}


def records_of(links: Links) -> np.ndarray:
    return make_records(DROP, doc=np.array([link[0] for link in links], np.int64), kept=np.array([link[1] for link in links], np.int64))


@given(LINKS)
def test_components_are_those_of_the_plain_version(links: Links) -> None:
    sets = DisjointSets()
    for link in links:
        sets.unite(*link)
    assert dict(merge_links(records_of(links)).tolist()) == dict(sets.links().tolist()) == plain_components(links)


@given(LINKS, st.lists(st.integers(0, 40), max_size=4), st.randoms())
def test_forests_of_parts_make_the_forest_of_the_whole(links: Links, cuts: list[int], chance) -> None:
    whole = merge_links(records_of(links))
    chance.shuffle(links)
    bounds = [0, *sorted(cuts), len(links)]
    forests = [merge_links(records_of(links[low:high])) for low, high in zip(bounds, bounds[1:])]
    assert np.array_equal(merge_links(np.concatenate(forests)), whole)
    assert len(whole) <= len({number for link in links for number in link})
