"""Totals of a population from a sample of its units, with 95 % intervals.

    unit i: its size x_i (1 for pages, bytes for files) and a value y_i;   Y^ = X sum(y) / sum(x)

The ratio estimator (Cochran 1977, Sampling Techniques, 3rd edition, 6.3) with the finite population correction: a sample of all has no error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from scipy.stats import norm, t

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A predicted total, and the ends of its interval; without them where none is known."""

    value: float
    low: float | None = None
    high: float | None = None

    def __add__(self, other: "Estimate") -> "Estimate":
        """Of sums whose errors go together: the intervals add up, one that is not known counts as none."""
        ends = [(one.value if one.low is None else one.low, one.value if one.high is None else one.high) for one in (self, other)]
        return Estimate(self.value + other.value, *(sum(end) for end in zip(*ends, strict=True)))


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Sizes x of the sampled units, and the known sum of all units' sizes."""

    sizes: Sequence[float] | int  # or how many units of size 1
    total: float

    @property
    def num_units(self) -> int:
        return self.sizes if isinstance(self.sizes, int) else len(self.sizes)

    @property
    def size(self) -> float:
        return float(self.sizes) if isinstance(self.sizes, int) else float(sum(self.sizes))

    @property
    def fraction(self) -> float:
        return self.size / self.total

    def expand(self, values: Sequence[float]) -> Estimate:
        """The total of a value that is given for each unit."""
        assert not isinstance(self.sizes, int) and len(values) == len(self.sizes)
        products = sum(size * value for size, value in zip(self.sizes, values, strict=True))
        return self._expand(sum(values), sum(value * value for value in values), products, sum(size * size for size in self.sizes))

    def expand_moments(self, total: float, squares: float) -> Estimate:
        """The same for units of size 1, from the sum of their values and of their squares."""
        assert isinstance(self.sizes, int)
        return self._expand(total, squares, total, self.num_units)

    def _expand(self, total: float, squares: float, products: float, size_squares: float) -> Estimate:
        number, ratio = self.num_units, total / self.size
        value = self.total * ratio
        if self.fraction >= 1:
            return Estimate(value, value, value)
        if number < 2:
            return Estimate(value)
        residual = max(0.0, squares - 2 * ratio * products + ratio * ratio * size_squares) / (number - 1)
        margin = t.ppf((1 + CONFIDENCE) / 2, number - 1) * self.total / (self.size / number) * sqrt((1 - self.fraction) * residual / number)
        return Estimate(value, max(total, value - margin), value + margin)

    def expand_count(self, count: int) -> Estimate:
        """How many units of size 1 have a property that `count` in the sample have; Wilson's interval, which has a width at none and at all, too."""
        assert isinstance(self.sizes, int)
        number, share = self.num_units, count / self.num_units
        if self.fraction >= 1:
            return Estimate(count, count, count)
        told = number / (1 - self.fraction)  # units, as an infinite population would take to tell as much
        z = norm.ppf((1 + CONFIDENCE) / 2)
        middle = (share + z * z / (2 * told)) / (1 + z * z / told)
        margin = z / (1 + z * z / told) * sqrt(share * (1 - share) / told + z * z / (4 * told * told))
        return Estimate(self.total * share, max(float(count), self.total * (middle - margin)), self.total * (middle + margin))
