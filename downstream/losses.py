"""What an objective gives a training: apart from it, for a model that is only used needs nothing of trainings."""

from collections.abc import Mapping
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Losses(NamedTuple):
    loss: Float[Tensor, ""]
    """The mean over the items."""
    metrics: Mapping[str, Float[Tensor, ""]]
    """Likewise, without a graph."""
