"""Causal attention inside each document of a packed row."""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def document_attention(
    query: Float[Tensor, "rows heads length head_width"],
    key: Float[Tensor, "rows heads length head_width"],
    value: Float[Tensor, "rows heads length head_width"],
    *,
    document_ids: Int[Tensor, "rows length"],
    document_lengths: Sequence[Sequence[int]],
) -> Float[Tensor, "rows heads length head_width"]:
    """Attention of each position over its own document up to itself; zeros at padding (document id 0).

    On a CPU each document is attended by itself, which costs its own length squared; elsewhere one call with a mask.
    """
    if query.device.type == "cpu":
        return _by_document(query, key, value, document_lengths)
    return _masked(query, key, value, document_ids)


def _by_document(query: Tensor, key: Tensor, value: Tensor, document_lengths: Sequence[Sequence[int]]) -> Tensor:
    rows = []
    for row, lengths in enumerate(document_lengths):
        used = sum(lengths)
        sizes = [*lengths, query.shape[2] - used]
        parts = zip(*(tensor[row : row + 1].split(sizes, dim=2) for tensor in (query, key, value)), strict=True)
        *documents, padding = parts
        attended = [scaled_dot_product_attention(q, k, v, is_causal=True) for q, k, v in documents]
        rows.append(torch.cat([*attended, torch.zeros_like(padding[2])], dim=2))
    return torch.cat(rows)


def _masked(query: Tensor, key: Tensor, value: Tensor, document_ids: Tensor) -> Tensor:
    same = rearrange(document_ids, "rows length -> rows 1 length 1") == rearrange(document_ids, "rows length -> rows 1 1 length")
    mask = same.tril()
    padding = rearrange(document_ids == 0, "rows length -> rows 1 length 1")
    return scaled_dot_product_attention(query, key, value, attn_mask=mask).masked_fill(padding, 0.0)
