"""One optimiser step whose gradient is that of the whole global batch in one process.

    features of all micro-batches and ranks --> InfoNCE and its gradients with respect to the features (the same on every rank)
    each micro-batch again, with graph --> w_gen * its share of the text loss + <features, their gradients> --> backward

The loss of the global batch is a function of the features of all images, so its gradient with respect to them is all that
a rank needs of the others: no gradient travels through a gather, and accumulation has every negative of the large batch.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from lcl.core.config import config
from lcl.distributed import gather_rows, sum_over_ranks
from lcl.losses import contrastive_loss
from lcl.model import MAX_LOGIT_SCALE, Outputs
from lcl.rows import Batch


@config
class LossConfig:
    generation_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the next-token loss (the published code's --lcl-generation-loss-weight)."""
    contrastive_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the contrastive loss (its --lcl-contrastive-loss-weight)."""


def accumulate_gradients(engine: Any, batches: Sequence[Batch], loss: LossConfig, *, world_size: int) -> dict[str, float]:
    """Adds to the engine's gradients those of the global batch, of which `batches` are this rank's micro-batches.

    After it, the mean over ranks of the gradients is the gradient of `L` over all rows of all ranks (arXiv:2406.07543;
    the published code takes the mean of per-rank means, which differs where ranks hold different numbers of images).
    Returns the metrics of the global batch, the same on every rank. Raises ValueError on a non-finite loss, on all ranks.
    """
    first = engine(batches[0]) if len(batches) == 1 else None
    with torch.no_grad():
        looked = [first] if first is not None else [engine.module(batch) for batch in batches]
    positives = [batch.has_context for batch in batches]
    pooled, contexts = (
        torch.cat([getattr(outputs, name)[kept].detach() for outputs, kept in zip(looked, positives, strict=True)]) for name in ("pooled", "contexts")
    )
    totals = sum_over_ranks(
        torch.stack(
            [
                sum(outputs.num_targets.double() for outputs in looked),
                sum(outputs.nll_sum.detach().double() for outputs in looked),
                torch.tensor(sum(float(batch.num_tokens) for batch in batches), dtype=torch.float64, device=pooled.device),
                torch.tensor(sum(float(batch.ids.numel()) for batch in batches), dtype=torch.float64, device=pooled.device),
                torch.tensor(sum(float(len(batch.image_starts)) for batch in batches), dtype=torch.float64, device=pooled.device),
            ]
        )
    )
    num_targets, nll_sum, num_tokens, num_places, num_images = totals.tolist()
    contrastive, pooled_gradient, contexts_gradient, scale_gradient, metrics = _contrastive_gradients(pooled, contexts, looked[0].logit_scale.detach())
    metrics |= {"text_nats": nll_sum / max(1.0, num_targets), "contrastive_nats": contrastive}
    metrics["loss"] = loss.generation_weight * metrics["text_nats"] + loss.contrastive_weight * contrastive
    if not all(map(torch.isfinite, torch.tensor(list(metrics.values())))):
        raise ValueError(f"the loss is not finite ({metrics}); no weights were changed. Lower --optimizer.learning_rate or raise --optimizer.warmup_steps.")
    taken = 0
    for index, (batch, kept) in enumerate(zip(batches, positives, strict=True)):
        outputs: Outputs = first if first is not None else engine(batch)
        size = int(kept.sum())
        mine = slice(taken, taken + size)
        taken += size
        value = loss.generation_weight * outputs.nll_sum / max(1.0, num_targets)
        value = value + loss.contrastive_weight * (
            (outputs.pooled[kept] * pooled_gradient[mine]).sum() + (outputs.contexts[kept] * contexts_gradient[mine]).sum()
        )
        # times world_size, for the engine takes the mean over ranks; every rank has the whole gradient of the temperature already
        value = world_size * value + loss.contrastive_weight * outputs.logit_scale * scale_gradient / len(batches)
        engine.backward(value, scale_wrt_gas=False)
        if index < len(batches) - 1:
            engine.step()  # counts the micro-batch; the update comes with the last one
    return metrics | {"images": num_images, "tokens": num_tokens, "fill": num_tokens / num_places}


def _contrastive_gradients(
    pooled: Float[Tensor, "n embed"], contexts: Float[Tensor, "n embed"], logit_scale: Float[Tensor, ""]
) -> tuple[float, Tensor, Tensor, float, dict[str, float]]:
    """The global contrastive loss, its gradients with respect to this rank's features and the temperature, and metrics."""
    all_pooled, start = gather_rows(pooled)
    all_contexts, _ = gather_rows(contexts)
    leaves = [all_pooled.requires_grad_(), all_contexts.requires_grad_(), logit_scale.clone().requires_grad_()]
    with torch.enable_grad():
        value = contrastive_loss(*leaves)
        gradients = torch.autograd.grad(value, leaves)
    mine = slice(start, start + len(pooled))
    scale_gradient = float(gradients[2])
    if float(logit_scale) >= MAX_LOGIT_SCALE:
        scale_gradient = max(0.0, scale_gradient)  # at its ceiling it may only come down
    metrics = {"positives": float(len(all_pooled)), "image_to_context_accuracy": _accuracy(all_pooled, all_contexts), "logit_scale": float(logit_scale.exp())}
    return float(value.detach()), gradients[0][mine], gradients[1][mine], scale_gradient, metrics


@torch.no_grad()
def _accuracy(pooled: Float[Tensor, "n embed"], contexts: Float[Tensor, "n embed"]) -> float:
    """The fraction of images whose own context is the most similar of the batch; 0 where there is none."""
    if len(pooled) == 0:
        return 0.0
    similar = functional.normalize(pooled, dim=-1) @ functional.normalize(contexts, dim=-1).T
    return float((similar.argmax(dim=1) == torch.arange(len(similar), device=similar.device)).float().mean())


def update(engine: Any) -> float:
    """The optimiser step; returns the gradient norm. Raises ValueError before it, on all ranks, if the norm is not finite."""
    gradients = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients)) if gradients else None  # with ZeRO the engine holds them, and the norm
    if norm is not None and not math.isfinite(norm):
        raise ValueError("the gradient is not finite; no weights were changed. Lower --optimizer.learning_rate or raise --optimizer.warmup_steps.")
    engine.step()
    return float(engine.get_global_grad_norm()) if norm is None else norm
