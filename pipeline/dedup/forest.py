"""Connected components as forests: a link from each document that is not the first of its component to that first one.

    pairs of a task --> forest --+
    pairs of a task --> forest --+--> forest of both, level by level --> one forest

A forest has fewer links than documents, however many pairs made it, so the last merge holds 16 bytes per document with a duplicate.
"""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.dedup.runs import DROP, make_records


def merge_links(links: np.ndarray) -> np.ndarray:
    """The forest of the components that `links` (DROP records, undirected) make: each document but the first of its component, with that first as `kept`.

    Sorted by document; the same for the same components, however they are linked.
    """
    if not len(links):
        return links
    documents = np.unique(np.concatenate((links["doc"], links["kept"])))
    rows, columns = (np.searchsorted(documents, links[name]).astype(np.int32) for name in ("doc", "kept"))
    graph = coo_array((np.ones(len(links), np.int8), (rows, columns)), shape=(len(documents), len(documents)))
    _, labels = connected_components(graph, directed=False)
    _, first = np.unique(labels, return_index=True)  # documents are sorted: the first of a label is its smallest
    kept = documents[first[labels]]
    linked = documents != kept
    return make_records(DROP, doc=documents[linked], kept=kept[linked])


class DisjointSets:
    """Union-find over numbers, with path halving; the smaller root stays the root."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}

    def find(self, item: int) -> int:
        parents = self._parents
        while (parent := parents.get(item, item)) != item:
            parents[item] = item = parents.get(parent, parent)
        return item

    def unite(self, ours: int, theirs: int) -> None:
        low, high = sorted((self.find(ours), self.find(theirs)))
        if low != high:
            self._parents[high] = low

    def links(self) -> np.ndarray:
        """DROP records: each item that was united with a smaller one, and its root."""
        items = sorted(self._parents)
        return make_records(DROP, doc=np.array(items, np.int64), kept=np.array([self.find(item) for item in items], np.int64))
