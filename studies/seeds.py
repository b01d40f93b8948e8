"""Values of several seeds as a mean with its interval."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    mean: float
    low: float
    high: float


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % interval of Student's t, of two values or more."""
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return Interval(mean, mean - half, mean + half)


def over_seeds(values: Sequence[float], *, digits: int = 1, none: str = "") -> str:
    """Values that may be negative as text: their mean with its interval, the mean alone of one seed, `none` of no value."""
    if not values:
        return none
    if len(values) < 2:
        return f"{values[0]:+.{digits}f} (one seed)"
    found = interval(values)
    return f"{found.mean:+.{digits}f} ({found.low:+.{digits}f} to {found.high:+.{digits}f})"
