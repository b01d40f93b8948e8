"""Learning rate over steps."""

import math
from typing import Annotated, Literal

from pydantic import Field

from lcl.core.config import config


@config
class ScheduleConfig:
    kind: Literal["cosine", "wsd"] = "cosine"
    """cosine: falls from the warm-up on. wsd: stays at its peak and falls at the end."""
    warmup_steps: Annotated[int, Field(ge=0)] = 2000
    """Steps of linear rise (the published code's scripts: 2000)."""
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = 0.2
    """wsd: the part of all steps in which the rate falls (0.2 matches cosine in arXiv:2405.18392)."""
    final_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The rate that the fall ends at, as a part of the peak."""


def learning_rate(step: int, schedule: ScheduleConfig, *, peak: float, total_steps: int) -> float:
    """The rate of step 0, 1, ... total_steps - 1, in [0, peak]; from step `total_steps` on it is final_ratio * peak.

    Linear, peak * (step + 1) / warmup_steps, over the warm-up; then peak * (r + (1 - r) * f(t)) with r = final_ratio and t from
    0 to 1 over the steps of the fall: f = (1 + cos(pi t)) / 2 from the end of the warm-up (cosine), or f = 1 - sqrt(t) over the
    last decay_fraction of all steps (wsd: warm-up, stable, decay; Hu et al. 2024, arXiv:2404.06395; the shape of its decay is the
    best of Haegele et al. 2024, arXiv:2405.18392). Before its fall a wsd rate does not depend on `total_steps`.
    """
    if step < schedule.warmup_steps:
        return min(peak, peak * (step + 1) / schedule.warmup_steps)  # rounding can pass the peak
    fall_starts = schedule.warmup_steps
    if schedule.kind == "wsd":
        fall_starts = max(fall_starts, total_steps - round(schedule.decay_fraction * total_steps))
    done = min(1.0, max(0, step - fall_starts) / max(1, total_steps - fall_starts))
    left = (1 + math.cos(math.pi * done)) / 2 if schedule.kind == "cosine" else 1 - math.sqrt(done)
    return peak * (schedule.final_ratio + (1 - schedule.final_ratio) * left)
