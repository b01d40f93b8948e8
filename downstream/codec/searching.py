"""The level of a codec that meets a wish: at most so many bytes, or at least so good.

Bytes and quality rise with the level, so a bisection over its 256ths finds it.
"""

from collections.abc import Callable

LEVEL_STEPS = 256  # to one level, as the file's header counts


def highest_level(fits: Callable[[float], bool], top: int) -> float | None:
    """The highest level in 0, 1/256, ... top at which `fits` holds, if it holds up to some level and not beyond; None if not even at 0."""
    if not fits(0.0):
        return None
    low, high = 0, top * LEVEL_STEPS + 1  # fits(low), and not fits(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle / LEVEL_STEPS) else (low, middle)
    return low / LEVEL_STEPS


def lowest_level(fits: Callable[[float], bool], top: int) -> float | None:
    """The lowest level at which `fits` holds, if it holds from some level on; None if not even at `top`."""
    if not fits(float(top)):
        return None
    low, high = -1, top * LEVEL_STEPS  # not fits(low), and fits(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle / LEVEL_STEPS) else (middle, high)
    return high / LEVEL_STEPS
