"""95 % intervals of what evaluations measure, each with the name that a result states."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

RESAMPLES = 2000
EXACT = "exact"  # the method of a value that is computed, not measured


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval and how that was computed; `n` is what was counted."""

    value: float
    low: float
    high: float
    method: str
    n: int


def wilson_interval(num_right: int, num: int, *, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927)."""
    share = num_right / num
    centre = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z * np.sqrt(share * (1 - share) / num + z * z / (4 * num * num)) / (1 + z * z / num)
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def share(num_right: int, num: int) -> Estimate:
    return Estimate(num_right / num, *wilson_interval(num_right, num), "Wilson", num)


def exact(value: float, n: int) -> Estimate:
    """A value that is computed, not measured, such as chance."""
    return Estimate(value, value, value, EXACT, n)


def mean_of_seeds(values: Sequence[float]) -> Estimate:
    """Mean of shares over seeds with Student's interval, mean +- t(0.975, n - 1) sd / sqrt(n), cut to [0, 1]. Raises ValueError for fewer than two."""
    if len(values) < 2:
        raise ValueError(f"an interval over seeds needs two or more, not {len(values)}: give more --seeds")
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5)
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return Estimate(mean, max(0.0, mean - half), min(1.0, mean + half), "t over seeds", len(values))


def balanced_accuracy(predicted: Int[np.ndarray, " images"], labels: Int[np.ndarray, " images"]) -> Estimate:
    """The mean over classes of their recall, with an interval from the classes' own by the method of variance estimates recovery (Zou & Donner, Statistics in Medicine 2008).

    The mean's distance to each end is the root of the squares of theirs, summed, over the number of classes. A bootstrap has no width where every recall is 0 or 1.
    """
    counts = np.bincount(labels)
    right = np.bincount(labels, weights=predicted == labels, minlength=len(counts))[counts > 0].astype(int)
    counts = counts[counts > 0]
    recalls = right / counts
    ends = np.array([wilson_interval(int(one), int(num)) for one, num in zip(right, counts, strict=True)])
    below, above = np.sqrt(((ends - recalls[:, None]) ** 2).sum(axis=0)) / len(counts)
    value = float(recalls.mean())
    return Estimate(value, max(0.0, value - float(below)), min(1.0, value + float(above)), "Wilson within classes, joined", len(labels))


def clustered_bootstrap(values: Float[np.ndarray, " n"], clusters: Sequence[str], *, of: str, statistic: Literal["mean", "median"] = "mean", seed: int = 0) -> Estimate:
    """The statistic of the values; percentile bootstrap over clusters, whose values are drawn together. `of` names them ("images")."""
    _, cluster_of = np.unique(np.asarray(clusters), return_inverse=True)
    sizes, rng = np.bincount(cluster_of), np.random.default_rng(seed)
    drawn = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=RESAMPLES)  # how often each cluster is drawn
    if statistic == "mean":
        value, statistics = float(values.mean()), (drawn @ np.bincount(cluster_of, weights=values)) / (drawn @ sizes)
    else:
        order = np.argsort(values, kind="stable")
        value, statistics = float(np.median(values)), np.array([_weighted_median(values[order], times[cluster_of[order]]) for times in drawn])
    low, high = np.quantile(statistics, [0.025, 0.975])
    return Estimate(value, float(low), float(high), f"bootstrap over {of}", len(values))


def clustered_share(right: Bool[np.ndarray, " n"], clusters: Sequence[str], *, of: str, seed: int = 0) -> Estimate:
    """The share of right items by `clustered_bootstrap`; where all are right or all wrong, which it takes for certain, Wilson's interval of as many items as clusters."""
    found = clustered_bootstrap(right.astype(np.float64), clusters, of=of, seed=seed)
    if found.low < found.high:
        return found
    num_clusters = len(set(clusters))
    return replace(share(round(found.value * num_clusters), num_clusters), n=len(right))


def _weighted_median(ascending: Float[np.ndarray, " n"], times: Int[np.ndarray, " n"]) -> float:
    """The median of values of which each stands there so many times."""
    ends = np.cumsum(times)
    lower, upper = (ascending[np.searchsorted(ends, place, side="right")] for place in ((ends[-1] - 1) // 2, ends[-1] // 2))
    return float(lower + upper) / 2
