"""Symmetric InfoNCE over the images of all ranks, and its gradients in closed form, without holding all similarities.

    contexts, identities of all ranks --gather--> S = s z c^T, some rows (own images) x all columns (contexts) at a time
        pass 1: largest similarity and sum of exponentials of each column --reduce over ranks--> column softmax
        pass 2: row softmax, dL/dS --> dL/dz of own images, dL/dc of all contexts --sum over ranks, take own-->
            through the normalisation to the features

Each rank does the rows of its own images, so ranks share the work; memory is O(N width) and that of one chunk of rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from lcl.distributed import gather_rows

CHUNK_ELEMENTS = 2**22  # similarities that exist at one time: 16 MiB in float32, of which pass 2 holds about five copies
MIN_LENGTH = 1e-12  # that of torch.nn.functional.normalize: shorter features are divided by it


@dataclass(frozen=True)
class Twins:
    """Identities of the source of each image's pixels and of each image's context. Images that share either are twins.

    A twin is no negative of the other: its context describes both, so pushing them apart would be wrong.
    """

    images: Int[Tensor, " n"]
    contexts: Int[Tensor, " n"]


@dataclass(frozen=True)
class Contrastive:
    """The contrastive loss of the images of all ranks, and its gradients with respect to what one rank holds."""

    loss: Float[Tensor, ""]
    """In nats, mean over images and both directions, the same on every rank; 0 where there is no image."""
    pooled_gradient: Float[Tensor, "n embed"]
    """Gradient of the loss with respect to this rank's pooled latents."""
    contexts_gradient: Float[Tensor, "n embed"]
    """Gradient of the loss with respect to this rank's context vectors."""
    scale_gradient: Float[Tensor, ""]
    """The whole gradient with respect to the log of the scale, the same on every rank: not a share to be summed."""
    accuracy: Float[Tensor, ""]
    """Fraction of all images whose own context is the most similar of those that are not a twin's; 0 where there is no image."""
    positives: int
    """Images of all ranks, N."""


def contrastive_loss(
    pooled: Float[Tensor, "images embed"], contexts: Float[Tensor, "images embed"], logit_scale: Float[Tensor, ""], *, twins: Twins | None = None
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE in nats between pooled latents and context vectors of the same images, mean of both directions.

    -1/2 mean_i [log softmax_j(s <z_i, c_j>)_i + log softmax_j(s <c_i, z_j>)_i] with unit vectors and s = exp(logit_scale)
    (Yang et al. 2024); j leaves out the twins of i, and nothing where `twins` is None, as published. Zero where there is no image.
    Differentiable and plain, for small batches: it holds images x images similarities.
    """
    if len(pooled) == 0:
        return 0.0 * (pooled.sum() + contexts.sum() + logit_scale)
    dtype = torch.promote_types(pooled.dtype, torch.float32)
    latents = functional.normalize(pooled.to(dtype), dim=-1)
    contexts = functional.normalize(contexts.to(dtype), dim=-1)
    logits = logit_scale.to(dtype).exp() * latents @ contexts.T
    if twins is not None:
        logits = logits.masked_fill(_are_twins(twins, twins, first=0), -torch.inf)
    labels = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2


@torch.no_grad()
def contrastive_gradients(
    pooled: Float[Tensor, "n embed"],
    contexts: Float[Tensor, "n embed"],
    logit_scale: Float[Tensor, ""],
    *,
    twins: Twins | None,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Contrastive:
    """`contrastive_loss` of the images of all ranks and its gradients with respect to the features of this one.

    Every rank calls it with its own images, however many (none too), `twins` or None alike, and the same `logit_scale`;
    a process without a process group is the only rank. With P and Q the softmax of S = s z c^T over rows and over columns,

        dL/dS = (P + Q - 2 I) / 2N,   dL/dz = s dL/dS c,   dL/dc = s (dL/dS)^T z,   dL/dlog s = sum_i <z_i, dL/dz_i>.

    At most `chunk_elements` similarities exist at a time, and never less than one row. Computes and returns float32, float64 for float64.
    """
    dtype = torch.promote_types(pooled.dtype, torch.float32)
    scale = logit_scale.to(dtype).exp()
    latents, pooled_lengths = _unit(pooled.to(dtype))
    own_contexts, contexts_lengths = _unit(contexts.to(dtype))
    all_contexts, all_twins, start = _of_all_ranks(own_contexts, twins)
    num_images = len(all_contexts)
    chunks = partial(
        _similarities, scale * latents, all_contexts, twins=twins, all_twins=all_twins, start=start, num_rows=max(1, chunk_elements // max(1, num_images))
    )

    column_max = -scale.expand(num_images)  # no similarity is below, and a column that this rank has only twins in stays finite
    column_sum = torch.zeros_like(column_max)
    for _, similarities in chunks():
        previous, column_max = column_max, torch.maximum(column_max, similarities.amax(dim=0))
        column_sum = column_sum * (previous - column_max).exp() + (similarities - column_max).exp_().sum(dim=0)
    own_max, column_max = column_max, _over_ranks(column_max, dist.ReduceOp.MAX)
    log_column_sum = _over_ranks(column_sum * (own_max - column_max).exp(), dist.ReduceOp.SUM).log()

    latents_gradient, all_contexts_gradient = torch.zeros_like(latents), torch.zeros_like(all_contexts)
    nll_sum, num_right = torch.zeros(2, dtype=torch.float64, device=pooled.device)
    for rows, similarities in chunks():
        first = start + rows.start  # image `first` is the first of these rows, so its own context is column `first`
        right = torch.arange(first, first + len(similarities), device=pooled.device)
        num_right += (similarities.argmax(dim=1) == right).sum()
        log_rows = similarities.log_softmax(dim=1)
        log_columns = (similarities - column_max).sub_(log_column_sum)
        nll_sum -= log_rows.diagonal(first).sum() + log_columns.diagonal(first).sum()
        gradient = log_rows.exp_().add_(log_columns.exp_())
        gradient.diagonal(first).sub_(2.0)
        latents_gradient[rows] = gradient @ all_contexts
        all_contexts_gradient.addmm_(gradient.T, latents[rows])
    share = 1 / (2 * max(1, num_images))
    latents_gradient *= share * scale
    contexts_gradient = share * scale * _over_ranks(all_contexts_gradient, dist.ReduceOp.SUM)[start : start + len(contexts)]
    scale_gradient = (latents * latents_gradient).sum()
    loss, accuracy, scale_gradient = _over_ranks(torch.stack([share * nll_sum, 2 * share * num_right, scale_gradient.double()]), dist.ReduceOp.SUM).to(dtype)
    return Contrastive(
        loss=loss,
        pooled_gradient=_before_unit(latents, latents_gradient, pooled_lengths),
        contexts_gradient=_before_unit(own_contexts, contexts_gradient, contexts_lengths),
        scale_gradient=scale_gradient,
        accuracy=accuracy,
        positives=num_images,
    )


def _similarities(
    latents: Float[Tensor, "n embed"],
    contexts: Float[Tensor, "all_n embed"],
    *,
    twins: Twins | None,
    all_twins: Twins | None,
    start: int,
    num_rows: int,
) -> Iterator[tuple[slice, Tensor]]:
    """Each `num_rows` latents in turn: which they are, and their products with all contexts; -inf between twins."""
    for begin in range(0, len(latents), num_rows):
        rows = slice(begin, min(begin + num_rows, len(latents)))
        similarities = latents[rows] @ contexts.T
        if twins is not None:
            some = Twins(twins.images[rows], twins.contexts[rows])
            similarities.masked_fill_(_are_twins(some, all_twins, first=start + begin), -torch.inf)
        yield rows, similarities


def _are_twins(some: Twins, others: Twins, *, first: int) -> Bool[Tensor, "some others"]:
    """Whether each of `some` and each of `others` are twins; `some` are those of `others` from `first` on, and nobody is its own twin."""
    twins = (rearrange(some.images, "some -> some 1") == others.images) | (rearrange(some.contexts, "some -> some 1") == others.contexts)
    twins.diagonal(first).fill_(False)
    return twins


def _unit(vectors: Float[Tensor, "n embed"]) -> tuple[Float[Tensor, "n embed"], Float[Tensor, "n 1"]]:
    """The vectors at unit length, and what they were divided by."""
    lengths = vectors.norm(dim=-1, keepdim=True).clamp_min(MIN_LENGTH)
    return vectors / lengths, lengths


def _before_unit(unit: Float[Tensor, "n embed"], gradient: Float[Tensor, "n embed"], lengths: Float[Tensor, "n 1"]) -> Float[Tensor, "n embed"]:
    """The gradient with respect to what `_unit` was given, from that with respect to what it returned: (g - u <u, g>) / length."""
    return (gradient - unit * (unit * gradient).sum(dim=-1, keepdim=True)) / lengths


def _is_only_rank() -> bool:
    return not dist.is_initialized() or dist.get_world_size() == 1


def _over_ranks(values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    """The largest or the sum of each value over ranks."""
    if _is_only_rank():
        return values
    values = values.contiguous().clone()
    dist.all_reduce(values, op=operation)
    return values


def _of_all_ranks(contexts: Float[Tensor, "n embed"], twins: Twins | None) -> tuple[Float[Tensor, "all_n embed"], Twins | None, int]:
    """The contexts and identities of all ranks, in rank order, and where this rank's begin. One gather takes all of them, as bits."""
    if _is_only_rank():
        return contexts, twins, 0
    bits = [contexts.contiguous().view(torch.int32)]
    if twins is not None:
        bits.append(torch.stack([twins.images, twins.contexts], dim=1).view(torch.int32))
    all_bits, start = gather_rows(torch.cat(bits, dim=1))
    context_bits, *identity_bits = all_bits.split([part.shape[1] for part in bits], dim=1)
    all_twins = Twins(*identity_bits[0].contiguous().view(torch.int64).T) if twins is not None else None
    return context_bits.contiguous().view(contexts.dtype), all_twins, start
