"""Bjontegaard's difference of rates at equal quality (VCEG-M33, 2001), by three interpolations."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.interpolate import Akima1DInterpolator, PchipInterpolator

Interpolation = Literal["pchip", "cubic", "akima"]
Curve = Sequence[tuple[float, float]]
"""Points (bits per pixel, decibels)."""

LEAST_OVERLAP = 0.3  # of the narrower curve's decibels, below which the number would say little
LEAST_POINTS = {"pchip": 3, "cubic": 4, "akima": 4}


def bd_rate(anchor: Curve, tested: Curve, interpolation: Interpolation = "pchip") -> float:
    """How many percent more bits `tested` needs than `anchor` for the same quality, as the mean of the logarithm over the decibels that both have; negative is better.

    Raises ValueError for curves that are too short, do not rise, or overlap too little.
    """
    (one_db, one_rate), (other_db, other_rate) = (_sorted(curve, interpolation) for curve in (anchor, tested))
    low, high = max(one_db[0], other_db[0]), min(one_db[-1], other_db[-1])
    narrower = min(one_db[-1] - one_db[0], other_db[-1] - other_db[0])
    if high - low < LEAST_OVERLAP * narrower:
        raise ValueError(f"the curves have {max(0.0, high - low):.2f} dB in common, less than {LEAST_OVERLAP:.0%} of the narrower one's {narrower:.2f}: measure more rates")
    means = [_integral(db, rate, low, high, interpolation) / (high - low) for db, rate in ((one_db, one_rate), (other_db, other_rate))]
    return 100 * (float(np.exp(means[1] - means[0])) - 1)


def _sorted(curve: Curve, interpolation: Interpolation) -> tuple[np.ndarray, np.ndarray]:
    """Decibels, ascending, and the logarithms of the rates."""
    rates, qualities = (np.array(values, dtype=np.float64) for values in zip(*sorted(curve), strict=True))
    if len(rates) < LEAST_POINTS[interpolation]:
        raise ValueError(f"a curve of {len(rates)} points is too short: {interpolation} takes {LEAST_POINTS[interpolation]} or more")
    if (np.diff(qualities) <= 0).any() or (np.diff(rates) <= 0).any():
        raise ValueError("a curve's quality does not rise with its rate: leave out points that are no gain")
    return qualities, np.log(rates)


def _integral(x: np.ndarray, y: np.ndarray, low: float, high: float, interpolation: Interpolation) -> float:
    if interpolation == "cubic":
        antiderivative = np.polyint(np.polyfit(x, y, 3))
        return float(np.polyval(antiderivative, high) - np.polyval(antiderivative, low))
    curve = (PchipInterpolator if interpolation == "pchip" else Akima1DInterpolator)(x, y)
    return float(curve.integrate(low, high))
