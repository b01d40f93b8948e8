"""An attentive probe on frozen patch tokens: one learned query pools them, a linear layer names the class.

    tokens --BatchNorm without parameters--> keys and values --one query, several heads--> pooled vector --linear--> class scores

The probe of AIM (El-Nouby et al. 2024, arXiv:2401.08541, section 4), by which the paper of LCL judges encoders (arXiv:2406.07543): LCL trains no class token.
"""

import itertools
import math
from typing import Annotated

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from lcl.core.config import config
from lcl.evals.examples import Examples, Outcome, Refit, accuracy, best_of, joined

EPSILON = 1e-6  # added to the variance, as in AIM's BatchNorm
INFERENCE_BATCH = 512
Rate = Annotated[float, Field(gt=0)]


@config
class AttentiveProbeConfig:
    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=1)] = (1e-3, 3e-3, 1e-2, 3e-2)
    """Of AdamW, to choose from; each falls to 0 along a cosine, after a rise over a tenth of the steps."""
    weight_decays: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)] = (1e-4, 0.1)
    """To choose from."""
    steps: Annotated[int, Field(ge=1)] = 600
    batch: Annotated[int, Field(ge=1)] = 128
    """Images a step, drawn without repetition until all were seen."""
    max_heads: Annotated[int, Field(ge=1)] = 12
    """Heads: the most, up to this, that divide the width (AIM: 12)."""
    refit: Refit = "train+validation"
    """What the chosen rate and decay train on in the end."""


class AttentiveProbe(nn.Module):
    def __init__(self, width: int, heads: int, num_classes: int, mean: Float[Tensor, " width"], deviation: Float[Tensor, " width"], *, rng: torch.Generator) -> None:
        """`mean` and `deviation` are those of all training tokens: what the running statistics of a BatchNorm tend to, for the tokens are frozen."""
        super().__init__()
        self.heads = heads
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.query = nn.Parameter(0.02 * torch.randn(heads, width // heads, generator=rng))
        self.keys, self.values = (nn.Parameter(torch.randn(width, width, generator=rng) / width**0.5) for _ in range(2))
        self.classifier = nn.Parameter(torch.zeros(num_classes, width))
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, tokens: Float[Tensor, "images patches width"], valid: Bool[Tensor, "images patches"]) -> Float[Tensor, "images classes"]:
        """Class scores. With one query a head needs no key of any token: q . (K x) = (K' q) . x, and of values only the weighted mean's, V (sum a x)."""
        normal = (tokens - self.mean) / self.deviation
        by_head = rearrange(self.keys, "(heads w) width -> heads w width", heads=self.heads)
        wanted = torch.einsum("hw,hwd->hd", self.query, by_head) / math.sqrt(self.query.shape[1])
        weights = (normal @ wanted.T).masked_fill(~valid[..., None], -math.inf).softmax(dim=1)
        means = torch.einsum("nph,npd->nhd", weights, normal)
        values = rearrange(self.values, "(heads w) width -> heads w width", heads=self.heads)
        pooled = rearrange(torch.einsum("nhd,hwd->nhw", means, values), "images heads w -> images (heads w)")
        return pooled @ self.classifier.T + self.bias


def attentive_probe(
    train: Examples, validation: Examples, test: Examples, *, num_classes: int, settings: AttentiveProbeConfig, seed: int = 0
) -> Outcome:
    """Class scores for the tokens of `test`, whose labels are not read.

    Learning rate and weight decay are the best on the validation images (of equal ones the first), then the probe is trained again on `refit`.
    The same arguments give the same scores; no random number depends on anything else.
    """
    sweep = []
    for rate, decay in itertools.product(settings.learning_rates, settings.weight_decays):
        scores = _fit_predict(train, validation, num_classes, settings, rate, decay, seed)
        sweep.append({"learning_rate": rate, "weight_decay": decay, "validation_accuracy": accuracy(scores, validation.labels)})
    best = best_of(sweep)
    chosen = {name: best[name] for name in ("learning_rate", "weight_decay")}
    final = joined(train, validation) if settings.refit == "train+validation" else train
    return Outcome(_fit_predict(final, test, num_classes, settings, chosen["learning_rate"], chosen["weight_decay"], seed), chosen, sweep)


def num_heads(width: int, *, most: int) -> int:
    """The largest divisor of `width` up to `most`."""
    return max(heads for heads in range(1, most + 1) if width % heads == 0)


def token_statistics(examples: Examples) -> tuple[Float[np.ndarray, " width"], Float[np.ndarray, " width"]]:
    """Mean and deviation of each feature over all patch tokens of all images, in float64."""
    valid = _valid(examples, slice(None)).numpy()
    count = valid.sum()
    mean = sum(part[mask].astype(np.float64).sum(axis=0) for part, mask in _parts(examples, valid)) / count
    square = sum(((part[mask].astype(np.float64) - mean) ** 2).sum(axis=0) for part, mask in _parts(examples, valid)) / count
    return mean, np.sqrt(square + EPSILON)


def _parts(examples: Examples, valid: Bool[np.ndarray, "images patches"]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(examples.features[at : at + INFERENCE_BATCH], valid[at : at + INFERENCE_BATCH]) for at in range(0, len(examples), INFERENCE_BATCH)]


def _valid(examples: Examples, chosen: slice | Int[np.ndarray, " n"]) -> Bool[Tensor, "images patches"]:
    length = examples.features.shape[1]
    counts = np.full(len(examples), length) if examples.counts is None else examples.counts
    return torch.from_numpy(np.arange(length) < counts[chosen][:, None])


def _tokens(examples: Examples, chosen: slice | Int[np.ndarray, " n"]) -> Float[Tensor, "images patches width"]:
    return torch.from_numpy(examples.features[chosen]).float()


def _fit_predict(
    train: Examples, test: Examples, num_classes: int, settings: AttentiveProbeConfig, rate: float, decay: float, seed: int
) -> Float[np.ndarray, "images classes"]:
    rng = torch.Generator().manual_seed(seed)
    width = train.features.shape[2]
    mean, deviation = (torch.from_numpy(values).float() for values in token_statistics(train))
    probe = AttentiveProbe(width, num_heads(width, most=settings.max_heads), num_classes, mean, deviation, rng=rng)
    decayed, kept = [probe.keys, probe.values, probe.classifier], [probe.query, probe.bias]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": decay}, {"params": kept, "weight_decay": 0.0}], lr=rate)
    warm = max(1, settings.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, settings.steps - warm)))
    )
    labels = torch.from_numpy(train.labels)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(settings.steps):
        if not len(order):
            order = torch.randperm(len(train), generator=rng)
        batch, order = order[: settings.batch].numpy(), order[settings.batch :]
        loss = functional.cross_entropy(probe(_tokens(train, batch), _valid(train, batch)), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        parts = [slice(at, at + INFERENCE_BATCH) for at in range(0, len(test), INFERENCE_BATCH)]
        return torch.cat([probe(_tokens(test, part), _valid(test, part)).log_softmax(dim=1) for part in parts]).numpy()
