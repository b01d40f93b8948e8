"""95 % intervals of what evaluations measure, each with the name that a result states."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
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


def balanced_accuracy(predicted: Int[np.ndarray, " images"], labels: Int[np.ndarray, " images"], *, seed: int = 0) -> Estimate:
    """The mean over classes of their recall; percentile bootstrap over images within each class (n right of m is a draw of a binomial)."""
    counts = np.bincount(labels)
    right = np.bincount(labels, weights=predicted == labels, minlength=len(counts))[counts > 0]
    counts = counts[counts > 0]
    drawn = np.random.default_rng(seed).binomial(counts, right / counts, size=(RESAMPLES, len(counts))) / counts
    low, high = np.quantile(drawn.mean(axis=1), [0.025, 0.975])
    return Estimate(float((right / counts).mean()), float(low), float(high), "bootstrap over images within classes", len(labels))


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


def _weighted_median(ascending: Float[np.ndarray, " n"], times: Int[np.ndarray, " n"]) -> float:
    """The median of values of which each stands there so many times."""
    ends = np.cumsum(times)
    lower, upper = (ascending[np.searchsorted(ends, place, side="right")] for place in ((ends[-1] - 1) // 2, ends[-1] // 2))
    return float(lower + upper) / 2
