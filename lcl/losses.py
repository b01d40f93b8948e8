"""The next-token loss as a sum over what one call sees: the caller divides by the targets of the global batch."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

CHUNK = 1024  # positions whose logits exist at one time


def text_nll_sum(
    hidden: Float[Tensor, "rows length width"], targets: Int[Tensor, "rows length"], predictors: Int[Tensor, " targets"], head: nn.Module, *, chunk: int = CHUNK
) -> Float[Tensor, ""]:
    """Sum of next-token cross-entropies in nats over the targets at the flat places `predictors`.

    Logits are made for at most `chunk` positions at a time and made again in the backward pass, so memory holds
    [chunk, vocabulary] and never [tokens, vocabulary].
    """
    kept, wanted = hidden.flatten(0, 1)[predictors], targets.flatten()[predictors]
    total = torch.zeros((), device=hidden.device)
    num_parts = -(-targets.numel() // chunk)  # of places, not targets: ZeRO 3 gathers the head at each call, so all ranks must call it as often
    for part, target in zip(kept.tensor_split(num_parts), wanted.tensor_split(num_parts), strict=True):
        if num_parts > 1:
            total = total + checkpoint(_nll_sum, part, target, head, use_reentrant=False)
        else:
            total = total + _nll_sum(part, target, head)
    return total


def _nll_sum(hidden: Tensor, targets: Tensor, head: nn.Module) -> Tensor:
    return functional.cross_entropy(head(hidden).float(), targets, reduction="sum")
