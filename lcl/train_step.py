"""One optimiser step whose gradient is that of the whole global batch in one process.

    features of all micro-batches and ranks --> InfoNCE and its gradients with respect to the features (lcl/contrastive.py)
    each micro-batch again, with graph --> its share of the text loss + <features, their gradients> --> backward

The loss of the global batch is a function of the features of all images, so its gradient with respect to them is all that
a rank needs of the others: no gradient travels through a gather, and accumulation has every negative of the large batch
(two passes as in GradCache, Gao et al. 2021, arXiv:2101.06983).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from lcl.alarms import embedding_health
from lcl.contrastive import Contrastive, Twins, contrastive_gradients
from lcl.distributed import sum_over_ranks
from lcl.engine import NotFinite
from lcl.model import MAX_LOGIT_SCALE, Outputs
from lcl.objectives import LossConfig
from lcl.rows import Batch

Metrics = dict[str, float]


def accumulate_gradients(
    engine: Any, batches: Sequence[Batch], loss: LossConfig, *, world_size: int, is_spike: Callable[[float], bool] = lambda _: False, health: bool = False
) -> Metrics:
    """Adds to the engine's gradients those of the global batch, of which `batches` are this rank's micro-batches.

    After it, the mean over ranks of the gradients is the gradient of `L` (lcl/objectives.py) over all rows of all ranks; the
    published code takes the mean of per-rank means, which differs where ranks hold different numbers of images.
    Returns the metrics of the global batch, the same on every rank; where `is_spike(loss)`, with `skipped` 1 and no gradient. With `health`, also
    effective rank and variance of this rank's own pooled latents, and their number as `features`.
    Raises NotFinite on all ranks if the loss is not.
    """
    first = engine(batches[0]) if len(batches) == 1 else None
    looked = [first] if first is not None else look(engine.module, batches)
    metrics, contrastive = global_losses(looked, batches, loss)
    if not all(map(torch.isfinite, torch.tensor(list(metrics.values())))):
        raise NotFinite(f"the loss is not finite ({metrics}); no weights were changed. Lower --optimizer.learning-rate or raise --optimizer.schedule.warmup-steps.")
    if health:
        metrics |= _health(looked)
    if is_spike(metrics["loss"]):
        return metrics | {"skipped": 1.0}
    generation, contrast, regression = loss.weights
    generation, regression = generation / max(1.0, metrics["targets"]), regression / max(1.0, metrics["slots"])
    scale_gradient = contrastive.scale_gradient
    at_ceiling = looked[0].logit_scale.detach() >= MAX_LOGIT_SCALE
    scale_gradient = torch.where(at_ceiling, scale_gradient.clamp(min=0), scale_gradient)  # at its ceiling it may only come down
    taken = 0
    for index, batch in enumerate(batches):
        outputs: Outputs = first if first is not None else engine(batch)
        mine = slice(taken, taken + len(batch.positives))
        taken = mine.stop
        features = (outputs.pooled * contrastive.pooled_gradient[mine]).sum() + (outputs.contexts * contrastive.contexts_gradient[mine]).sum()
        value = generation * outputs.nll_sum + regression * outputs.regression_sum + contrast * features
        # times world_size, for the engine takes the mean over ranks; every rank has the whole gradient of the temperature already
        value = world_size * value + contrast * outputs.logit_scale * scale_gradient / len(batches)
        engine.backward(value, scale_wrt_gas=False)
        if index < len(batches) - 1:
            engine.step()  # counts the micro-batch; the update comes with the last one
    return metrics | {"skipped": 0.0}


@torch.no_grad()
def look(module: Any, batches: Sequence[Batch]) -> list[Outputs]:
    """The outputs of each batch, without a graph."""
    return [module(batch) for batch in batches]


@torch.no_grad()
def global_losses(looked: Sequence[Outputs], batches: Sequence[Batch], loss: LossConfig) -> tuple[Metrics, Contrastive]:
    """The losses and counts of the global batch, the same on every rank, and the contrastive part with this rank's gradients.

    The device is asked once, for all metrics together.
    """
    pooled, contexts = (torch.cat([getattr(outputs, name).detach() for outputs in looked]) for name in ("pooled", "contexts"))
    twins = Twins(torch.cat([batch.image_ids for batch in batches]), torch.cat([batch.context_ids for batch in batches])) if loss.mask_twins else None
    contrastive = contrastive_gradients(pooled, contexts, looked[0].logit_scale.detach(), twins=twins)
    counts = [(batch.num_tokens, batch.ids.numel(), len(batch.grids), len(batch.slots), batch.num_documents, len(batch.predictors)) for batch in batches]
    sums = sum_over_ranks(
        torch.stack(
            [
                sum(outputs.nll_sum.double() for outputs in looked), sum(outputs.regression_sum.double() for outputs in looked),
                *torch.tensor(counts, dtype=torch.float64, device=pooled.device).sum(dim=0),
            ]
        )
    )  # fmt: skip
    own = torch.stack([value.double() for value in (contrastive.loss, contrastive.accuracy, looked[0].logit_scale.exp())])
    nll, regressed, tokens, places, images, slots, documents, targets, contrast, accuracy, scale = torch.cat([sums, own]).tolist()
    generation_weight, contrastive_weight, regression_weight = loss.weights
    metrics = {
        "text_nats": nll / max(1.0, targets), "contrastive_nats": contrast, "regression": regressed / max(1.0, slots),
        "image_to_context_accuracy": accuracy, "logit_scale": scale,
        "positives": float(contrastive.positives), "targets": targets, "tokens": tokens, "images": images, "slots": slots, "documents": documents,
        "fill": tokens / places,
    }  # fmt: skip
    metrics["loss"] = generation_weight * metrics["text_nats"] + contrastive_weight * contrast + regression_weight * metrics["regression"]
    return metrics, contrastive


@torch.no_grad()
def _health(looked: Sequence[Outputs]) -> Metrics:
    pooled = torch.cat([outputs.pooled.detach() for outputs in looked])
    rank, variance = torch.stack(embedding_health(pooled)).tolist()
    return {"effective_rank": rank, "embedding_variance": variance, "features": float(len(pooled))}
