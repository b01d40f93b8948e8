"""What can go wrong in training without an error: spikes of the loss, and features that collapse.

Both detectors are pure: numbers in, a verdict out, and a state of plain JSON values with which a resumed run decides as an
uninterrupted one.
"""

import math
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from lcl.core.config import config

MAD_TO_DEVIATION = 1.4826  # of a normal distribution: 1 / its third quartile (Hampel 1974)
MIN_EXCESS_NATS = 0.1  # late in training losses spread so little that every wobble would be many spreads
CONTRASTIVE_MARGIN = 0.01


@config
class SpikeConfig:
    """Updates are skipped for batches whose loss spikes. (PaLM went back and left such batches out: Chowdhery et al. 2022, arXiv:2204.02311, 5.1.)"""

    threshold: Annotated[float, Field(ge=0)] = 0.0
    """Robust standard deviations above the usual loss that make a spike; 0 skips nothing, as in the published recipe."""
    window: Annotated[int, Field(ge=2)] = 128
    """Newest losses without a spike that say what is usual; before there are as many, nothing is a spike."""
    max_skips: Annotated[int, Field(ge=0)] = 10
    """Spikes among `window` steps in a row beyond which the run stops."""


class SpikeGuard:
    """Says which losses are spikes: those above median + max(threshold * 1.4826 * MAD, 0.1 nats) of the window.

    MAD is the median absolute deviation. A spike does not enter the window, so it does not hide the next one.
    """

    def __init__(self, settings: SpikeConfig, *, state: Mapping[str, Any] | None = None) -> None:
        """Goes on from a `state()`. Raises ValueError for settings with which skipping could go on for ever."""
        if settings.max_skips >= settings.window:
            raise ValueError(f"--spikes.max-skips ({settings.max_skips}) must be below --spikes.window ({settings.window}), or skipping could go on for ever")
        self._settings = settings
        state = state or {"losses": [], "num_seen": 0, "num_skips": 0, "recent": []}
        self._losses = deque(state["losses"], maxlen=settings.window)
        self._num_seen, self.num_skips = state["num_seen"], state["num_skips"]
        self._recent = list(state["recent"])  # numbers of the spikes among the newest losses

    def state(self) -> dict[str, Any]:
        """Plain JSON values, for the constructor."""
        return {"losses": list(self._losses), "num_seen": self._num_seen, "num_skips": self.num_skips, "recent": list(self._recent)}

    def is_spike(self, loss: float) -> bool:
        """Whether this loss (nats, finite) is a spike; counts it. Raises ValueError when spikes come too often to skip them."""
        assert math.isfinite(loss), loss
        settings = self._settings
        if settings.threshold == 0:
            return False
        self._num_seen += 1
        if len(self._losses) == settings.window:
            usual = median(self._losses)
            spread = MAD_TO_DEVIATION * median(abs(other - usual) for other in self._losses)
            if loss > usual + max(settings.threshold * spread, MIN_EXCESS_NATS):
                self._count_spike(f"this one {loss:.3f} nats, usual {usual:.3f} +- {spread:.3f}")
                return True
        self._losses.append(loss)
        return False

    def _count_spike(self, found: str) -> None:
        settings = self._settings
        self.num_skips += 1
        self._recent = [number for number in self._recent if number > self._num_seen - settings.window] + [self._num_seen]
        if len(self._recent) > settings.max_skips:
            raise ValueError(
                f"{len(self._recent)} of the last {settings.window} losses were spikes ({found}): skipping does not mend it. "
                "Lower --optimizer.learning-rate, or allow more with --spikes.max-skips or --spikes.threshold."
            )


@config
class CollapseConfig:
    patience: Annotated[int, Field(ge=1)] = 20
    """Observations in a row, one each `log_every` steps, that must look wrong before an alarm."""
    rank_fraction: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Alarm when the effective rank of the features is below this part of its best; 0 never."""
    variance_floor: Annotated[float, Field(ge=0)] = 0.01
    """Alarm when 1 - the mean cosine between features of different images is below this; 0 never."""


class CollapseAlarms:
    """Turns metrics into messages about features that say nothing. Each is said once, and again only after its cause went away."""

    def __init__(self, settings: CollapseConfig, *, warmup_steps: int, state: Mapping[str, Any] | None = None) -> None:
        """Goes on from a `state()`. Observations of the first `warmup_steps` steps do not count."""
        self._settings, self._warmup_steps = settings, warmup_steps
        state = state or {"runs": {}, "best_rank": 0.0}
        self._runs, self._best_rank = dict(state["runs"]), state["best_rank"]

    def state(self) -> dict[str, Any]:
        """Plain JSON values, for the constructor."""
        return {"runs": dict(self._runs), "best_rank": self._best_rank}

    def observe(
        self, *, step: int, num_positives: int, contrastive_nats: float | None, num_features: int, effective_rank: float, embedding_variance: float
    ) -> list[str]:
        """Messages that this observation brings up, mostly none.

        `contrastive_nats` is None where that loss has no weight. It alarms at log N or less than 1 % below, the loss of features
        that tell no image from another; rank and variance are those of `embedding_health` of `num_features` vectors, whose rank is
        below their number, so few are measured by that. Under two positives or features neither count nor clear.
        """
        if step < self._warmup_steps or min(num_positives, num_features) < 2:
            return []
        settings, chance = self._settings, math.log(num_positives)
        nats = -math.inf if contrastive_nats is None else contrastive_nats
        self._best_rank = max(self._best_rank, effective_rank)
        rank_floor = settings.rank_fraction * min(self._best_rank, num_features - 1)
        looks_wrong = {
            "contrastive": nats >= (1 - CONTRASTIVE_MARGIN) * chance,
            "rank": effective_rank < rank_floor,
            "variance": embedding_variance < settings.variance_floor,
        }
        self._runs = {name: self._runs.get(name, 0) + 1 if wrong else 0 for name, wrong in looks_wrong.items()}
        messages = {
            "contrastive": f"contrastive loss has not left log N ({nats:.3f} nats, log {num_positives} = {chance:.3f}): features carry nothing of their "
            "context. Check that pages have text before their images; try another --optimizer.learning-rate or a higher --loss.contrastive-weight.",
            "rank": f"the effective rank of the features fell to {effective_rank:.1f} (best {self._best_rank:.1f}): they collapse onto few directions. "
            "Go back to an earlier checkpoint with a lower --optimizer.learning-rate.",
            "variance": f"features of different images point the same way (1 - mean cosine = {embedding_variance:.4f}): they collapse onto one direction. "
            "Go back to an earlier checkpoint with a lower --optimizer.learning-rate.",
        }
        return [messages[name] for name, run in self._runs.items() if run == settings.patience]


@torch.no_grad()
def embedding_health(features: Float[Tensor, "n embed"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Effective rank and variance of the directions of features; both 0 for fewer than two of them.

    Effective rank: exp(-sum_i p_i ln p_i) with p = the singular values of the centred unit vectors over their sum, from 1 to
    min(n - 1, embed), 0 where all are the same (Roy and Vetterli 2007, EUSIPCO). Variance: the mean over dimensions of the unbiased
    variance of the unit vectors, times their width: 1 for isotropic features, and always 1 - the mean cosine of different pairs.
    Results stay on the device. On a GPU the singular values themselves make the host wait: ask for them as often as metrics are read.
    """
    if len(features) < 2:
        return features.new_zeros((), dtype=torch.float64), features.new_zeros((), dtype=torch.float64)
    unit = functional.normalize(features.double(), dim=-1)
    singular = torch.linalg.svdvals(unit - unit.mean(dim=0))
    noise = torch.finfo(unit.dtype).eps * max(unit.shape) * len(unit) ** 0.5  # rounding of vectors whose norms, together, are sqrt(n)
    singular = singular * (singular > noise)
    share = singular / singular.sum().clamp_min(noise)
    rank = torch.special.entr(share).sum().exp() * (singular[0] > 0)
    return rank, unit.var(dim=0).sum()
