"""The next-token loss as a sum over what one call sees: the caller divides by the targets of the global batch."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lcl.rows import IGNORED

CHUNK = 1024  # positions whose logits exist at one time


def text_nll_sum(
    hidden: Float[Tensor, "rows length width"], targets: Int[Tensor, "rows length"], head: nn.Module, *, chunk: int = CHUNK
) -> Float[Tensor, ""]:
    """Sum of next-token cross-entropies in nats over the targets that count.

    Logits are made for `chunk` positions at a time and made again in the backward pass, so memory holds
    [chunk, vocabulary] and never [tokens, vocabulary].
    """
    counted = targets != IGNORED
    kept, wanted = hidden[counted], targets[counted]
    total = 0.0 * hidden.sum() + 0.0 * head(kept[:1]).sum()  # keeps hidden and head in the graph where nothing counts
    for part, target in zip(kept.split(chunk), wanted.split(chunk), strict=True):
        if len(kept) > chunk:
            total = total + checkpoint(_nll_sum, part, target, head, use_reentrant=False)
        else:
            total = total + _nll_sum(part, target, head)
    return total


def _nll_sum(hidden: Tensor, targets: Tensor, head: nn.Module) -> Tensor:
    return functional.cross_entropy(head(hidden).float(), targets, reduction="sum")
