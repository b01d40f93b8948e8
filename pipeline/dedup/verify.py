"""Candidate pairs to near-duplicates: the exact Jaccard similarity of their shingles decides.

    per group: texts of documents that are in a pair --> shingles on disk, read through the page cache
    per group: pairs whose lower document is in it   --> exact Jaccard >= threshold --> forest
    forests, FAN_IN at a time, level by level         --> one forest: the near-duplicates and what is kept of each component
"""

from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from lcl.core.files import open_aside
from pipeline.dedup.candidates import unique_pairs
from pipeline.dedup.forest import DisjointSets, merge_links
from pipeline.dedup.runs import DOC, DROP, PAIR, make_records
from pipeline.dedup.steps import Runner, Work, read_by_group, run_step, write_by_group
from pipeline.dedup.words import jaccard, shingles_of

FAN_IN = 8
OPEN_FILES = 64
INDEX = np.dtype([("doc", "<i8"), ("end", "<i8")])


def store_shingles(work: Work, group: int) -> dict[str, int]:
    """Writes the sorted shingles of the group's documents that are in a pair, and where each document's end."""
    low = read_by_group(work.by_partition("pair"), work, group, PAIR)["low"]
    high = read_by_group(work.by_partition("mentioned"), work, group, DOC)["doc"]
    wanted = np.unique(np.concatenate((low, high)))
    ends, end = [], 0
    with open_aside(work.path("shingles", group)) as file:
        for first, batch in work.corpus.read(*work.corpus.bounds(group), ["text"]) if len(wanted) else ():
            low, high = np.searchsorted(wanted, [first, first + len(batch)])
            for document in wanted[low:high].tolist():
                shingles = shingles_of(batch["text"][document - first].as_py(), work.corpus.signature.shingle_words)
                end += len(shingles)
                ends.append(end)
                file.write(shingles.tobytes())
    with open_aside(work.path("shingle_index", group)) as file:
        file.write(make_records(INDEX, doc=wanted, end=np.array(ends, np.int64)).tobytes())
    return {"candidates": len(wanted)}


class ShingleStore:
    """The shingles of documents by number, out of the files of all groups."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._open = lru_cache(OPEN_FILES)(self._open_group)

    def _open_group(self, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        index = np.fromfile(self._work.path("shingle_index", group), INDEX)
        return index["doc"], np.append(0, index["end"]), np.memmap(self._work.path("shingles", group), np.uint64, mode="r")

    def _place(self, document: int) -> tuple[int, int, np.ndarray]:
        documents, bounds, data = self._open(document // self._work.corpus.group_documents)
        row = int(np.searchsorted(documents, document))
        return int(bounds[row]), int(bounds[row + 1]), data

    def num(self, document: int) -> int:
        start, end, _ = self._place(document)
        return end - start

    def read(self, document: int) -> np.ndarray:
        start, end, data = self._place(document)
        return np.asarray(data[start:end])


def verify_group(work: Work, group: int) -> dict[str, int]:
    """Writes the forest of the group's pairs that are alike enough."""
    records = read_by_group(work.by_partition("pair"), work, group, PAIR)
    low, high = unique_pairs(records["low"], records["high"])
    order = np.argsort(work.corpus.group_of(high), kind="stable")  # files of other groups are opened one after another
    store, threshold = ShingleStore(work), work.settings.near.jaccard
    sets = DisjointSets()
    for ours, theirs in zip(low[order].tolist(), high[order].tolist(), strict=True):
        if sets.find(ours) != sets.find(theirs) and _are_alike(store, ours, theirs, threshold):
            sets.unite(ours, theirs)
    _write_forest(work, 0, group, sets.links())
    return {"candidate_pairs": len(low)}


def _are_alike(store: ShingleStore, ours: int, theirs: int, threshold: float) -> bool:
    sizes = store.num(ours), store.num(theirs)
    return min(sizes) / max(sizes) >= threshold and jaccard(store.read(ours), store.read(theirs)) >= threshold  # J is at most the ratio of the sizes


def merge_forests(runner: Runner, work: Work) -> None:
    """Merges the forests of all groups into one, the file `drop_near` for the groups."""
    level, num_forests = 0, work.corpus.num_groups
    while level == 0 or num_forests > 1:
        num_merged = -(-num_forests // FAN_IN)
        run_step(runner, work, f"merge_forests_{level}", partial(_merge, level=level, num_forests=num_forests), num_merged)
        level, num_forests = level + 1, num_merged


def _merge(work: Work, index: int, *, level: int, num_forests: int) -> dict[str, int]:
    forests = [np.fromfile(_forest_path(work, level, number), DROP) for number in range(index * FAN_IN, min((index + 1) * FAN_IN, num_forests))]
    forest = merge_links(np.concatenate(forests))
    if num_forests <= FAN_IN:
        write_by_group(work, "drop_near", 0, forest)
    else:
        _write_forest(work, level + 1, index, forest)
    return {}


def _forest_path(work: Work, level: int, index: int) -> Path:
    return work.path(f"forest_{level}", index)


def _write_forest(work: Work, level: int, index: int, forest: np.ndarray) -> None:
    with open_aside(_forest_path(work, level, index)) as file:
        file.write(forest.tobytes())
