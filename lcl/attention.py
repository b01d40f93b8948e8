"""Causal attention inside each document of a packed row: a plan made once a batch, used by every layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:  # importing it takes a second, and a CPU has no use for it
    from torch.nn.attention.flex_attention import BlockMask

Lengths = Sequence[Sequence[int]]


@dataclass(frozen=True)
class AttentionPlan:
    """Where each position may look: at its own document, up to itself. `block_mask` is there on a GPU only."""

    document_ids: Int[Tensor, "rows length"]
    document_lengths: Lengths
    block_mask: "BlockMask | None" = None


def plan_attention(document_ids: Int[Tensor, "rows length"], document_lengths: Lengths) -> AttentionPlan:
    """The plan for rows whose documents have these lengths, side by side from the left; id 0 is padding."""
    if document_ids.device.type == "cpu":
        return AttentionPlan(document_ids, document_lengths)
    return AttentionPlan(document_ids, document_lengths, _block_mask(document_ids))


def document_attention(
    query: Float[Tensor, "rows heads length head_width"],
    key: Float[Tensor, "rows key_heads length head_width"],
    value: Float[Tensor, "rows key_heads length head_width"],
    *,
    plan: AttentionPlan,
    scale: float | None = None,
) -> Float[Tensor, "rows heads length head_width"]:
    """Attention of each position over its own document up to itself; zeros at padding.

    On a CPU each document is attended by itself, which costs its own length squared; on a GPU FlexAttention skips the
    blocks outside (Dong et al. 2024, arXiv:2412.05496). Key heads may be fewer than query heads and divide them.
    `scale` multiplies the products, 1/sqrt(head_width) by default.
    """
    if plan.block_mask is None:
        return _by_document(query, key, value, plan.document_lengths, scale)
    return _by_blocks(query, key, value, plan, scale)


def _by_document(query: Tensor, key: Tensor, value: Tensor, document_lengths: Lengths, scale: float | None) -> Tensor:
    shared_heads = query.shape[1] != key.shape[1]
    rows = []
    for row, lengths in enumerate(document_lengths):
        sizes = [*lengths, query.shape[2] - sum(lengths)]
        parts = zip(*(tensor[row : row + 1].split(sizes, dim=2) for tensor in (query, key, value)), strict=True)
        *documents, padding = parts
        attended = [scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=shared_heads) for q, k, v in documents]
        rows.append(torch.cat([*attended, torch.zeros_like(padding[0])], dim=2))
    return torch.cat(rows)


def _by_blocks(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, scale: float | None) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    attend = _compiled(flex_attention) if query.is_cuda else flex_attention
    attended = attend(query, key, value, block_mask=plan.block_mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1])
    return attended.masked_fill(rearrange(plan.document_ids == 0, "rows length -> rows 1 length 1"), 0.0)


def _block_mask(document_ids: Int[Tensor, "rows length"]) -> "BlockMask":
    from torch.nn.attention.flex_attention import create_block_mask

    rows, length = document_ids.shape
    make = _compiled(create_block_mask) if document_ids.is_cuda else create_block_mask
    # A lambda, for PyTorch counts the parameters of what it is given, and the tests' type checks would wrap a function.
    same_document_up_to_itself = lambda row, head, at, seen: (at >= seen) & (document_ids[row, at] == document_ids[row, seen])  # noqa: E731
    return make(same_document_up_to_itself, rows, None, length, length, device=document_ids.device)


@lru_cache
def _compiled(function: Any) -> Any:
    return torch.compile(function, dynamic=False)
