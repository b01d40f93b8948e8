"""Exact nearest neighbours by cosine, over features of any number that pass by in parts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from lcl.scorers import cosines


@dataclass(frozen=True)
class Neighbour:
    similarity: float
    row: Mapping[str, Any]  # of the features: id, source, width, height, sha256


@dataclass(frozen=True)
class Neighbours:
    """The nearest images, and the mean similarity to all images that were compared: what an arbitrary one has."""

    nearest: tuple[Neighbour, ...]
    mean: float


def find_neighbours(
    queries: Float[np.ndarray, "queries width"], parts: Iterable[tuple[pa.Table, Float[np.ndarray, "_ width"]]], *, num_neighbours: int, without: Sequence[str]
) -> list[Neighbours]:
    """The images of largest cosine to each query, largest first, of equal ones the first, and each image (by its sha256) once.

    `without` names for each query the sha256 of images that do not count: its own. A part (rows and features) is in memory at a time.
    """
    best: list[list[Neighbour]] = [[] for _ in queries]
    sums, counts = np.zeros(len(queries)), np.zeros(len(queries), np.int64)
    for rows, features in parts:
        hashes = rows["sha256"].to_numpy()
        for number, similarities in enumerate(cosines(queries, features)):
            counted = hashes != without[number]
            sums[number] += similarities[counted].sum()
            counts[number] += counted.sum()
            order = np.argsort(-similarities, kind="stable")
            first = _first_of_each(hashes, order[counted[order]], num_neighbours)
            found = [Neighbour(float(similarities[place]), rows.slice(place, 1).to_pylist()[0]) for place in first]
            best[number] = _merge(best[number], found)[:num_neighbours]
    return [Neighbours(tuple(nearest), float(total / max(1, count))) for nearest, total, count in zip(best, sums, counts, strict=True)]


def _first_of_each(hashes: np.ndarray, places: np.ndarray, number: int) -> list[int]:
    """The first `number` places whose images are all different."""
    seen: dict[str, int] = {}
    for place in places:
        seen.setdefault(hashes[place], int(place))
        if len(seen) == number:
            break
    return list(seen.values())


def _merge(earlier: list[Neighbour], later: list[Neighbour]) -> list[Neighbour]:
    merged: dict[str, Neighbour] = {}
    for item in sorted([*earlier, *later], key=lambda item: -item.similarity):
        merged.setdefault(item.row["sha256"], item)
    return list(merged.values())
