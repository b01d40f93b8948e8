"""Pairs of documents that share a band of their MinHash, one partition of band keys at a time.

    band records --sort by key--> buckets --> pairs, for the group of the lower document
                                          --> the higher documents, for their own groups (whose shingles are needed too)

A small bucket gives all its pairs. A large one (a template, a licence, a page of nothing but navigation) would give a square
of its size; there a document is compared with those just before it in order and with the first ones of the bucket.
"""

import numpy as np

from pipeline.dedup.equal import read_living
from pipeline.dedup.runs import BAND, DOC, PAIR, make_records
from pipeline.dedup.steps import Work, write_by_group


def find_candidates(work: Work, partition: int, *, alive: str) -> dict[str, int]:
    """Writes the pairs of one partition, each once; the same pair may come from another partition too."""
    settings = work.settings.near
    records = read_living(work, partition, kind="band", alive=alive, dtype=BAND)
    low, high, num_large = bucket_pairs(records["key"], records["doc"], max_bucket=settings.max_bucket, neighbours=settings.neighbours)
    is_new = high >= work.corpus.num_known  # two known ones are not compared: both stay
    low, high = low[is_new], high[is_new]
    write_by_group(work, "pair", partition, make_records(PAIR, low=low, high=high), field="low")
    mentioned = np.unique(high)
    write_by_group(work, "mentioned", partition, make_records(DOC, doc=mentioned))
    return {"large_buckets": num_large}


def bucket_pairs(keys: np.ndarray, documents: np.ndarray, *, max_bucket: int, neighbours: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Distinct (lower, higher) documents with an equal key, sorted, and how many buckets were too large for all pairs.

    `documents` are ascending. A bucket of m > max_bucket gives at most 2 * neighbours * m pairs. What that can lose: two documents of the
    bucket that are alike, more than `neighbours` apart, alike to none of its first ones, and not linked through others; in each other band
    that they share they are in another bucket, with another chance.
    """
    order = np.argsort(keys, kind="stable")
    keys, documents = keys[order], documents[order]
    _, starts, bucket, sizes = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    shared = sizes[bucket] > 1
    documents, bucket = documents[shared], bucket[shared]
    rank = np.flatnonzero(shared) - starts[bucket]  # place in the bucket
    is_large = sizes[bucket] > max_bucket
    places = np.arange(len(documents))
    low, high = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for distance in range(1, max(max_bucket, neighbours + 1)):
        right = places[rank >= distance]
        right = right[~is_large[right] | (distance <= neighbours)]
        low.append(documents[right - distance])
        high.append(documents[right])
    large = places[is_large]
    for first in range(neighbours):
        right = large[rank[large] > first]
        low.append(documents[right - rank[right] + first])
        high.append(documents[right])
    return *unique_pairs(np.concatenate(low), np.concatenate(high)), int(np.count_nonzero(sizes > max_bucket))


def unique_pairs(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs sorted, each once."""
    order = np.lexsort((high, low))
    low, high = low[order], high[order]
    is_first = np.ones(len(low), bool)
    is_first[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    return low[is_first], high[is_first]
