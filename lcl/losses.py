"""The two losses, as sums over what one call sees: the caller divides by global counts.

    L = w_gen * (sum of next-token cross-entropies) / (text targets of the global batch)
      + w_con * (InfoNCE over all positives of the global batch)
"""

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


def contrastive_loss(
    pooled: Float[Tensor, "images embed"], contexts: Float[Tensor, "images embed"], logit_scale: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE in nats between pooled latents and context vectors of the same images, mean of both directions.

    -1/2 mean_i [log softmax_j(s <z_i, c_j>)_i + log softmax_j(s <c_i, z_j>)_i] with unit vectors and s = exp(logit_scale)
    (Yang et al. 2024). Zero where there is no image.
    """
    if len(pooled) == 0:
        return 0.0 * (pooled.sum() + contexts.sum() + logit_scale)
    latents = functional.normalize(pooled.float(), dim=-1)
    contexts = functional.normalize(contexts.float(), dim=-1)
    logits = logit_scale.float().exp() * latents @ contexts.T
    labels = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2
