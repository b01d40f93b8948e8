"""Where the pooling looks: the attention of its learned query over the patches of an image."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from lcl.model import PoolProject


def pooling_weights(pool: PoolProject, patches: Float[Tensor, "images patches width"], valid: Bool[Tensor, "images patches"] | None) -> Float[Tensor, "images heads patches"]:
    """softmax(q k^T / sqrt(head width)) of the query that makes the pooled latent; each row sums to 1, and patches that are not there have 0.

    The fused attention of `CrossAttention` does not give its weights away; these, times the values and through `proj`, are its output
    (held by tests/test_attention_maps.py).
    """
    cross = pool.pooler.cross_attn
    query = rearrange(cross.q(pool.pooler.norm1_q(pool.query_token)) + cross.q_bias, "1 1 (heads w) -> heads w", heads=cross.heads)
    keys = rearrange(cross.k(pool.pooler.norm1_k(patches)) + cross.k_bias, "images patches (heads w) -> images heads patches w", heads=cross.heads)
    scores = torch.einsum("h w, i h p w -> i h p", query, keys) / query.shape[-1] ** 0.5
    if valid is not None:
        scores = scores.masked_fill(~rearrange(valid, "images patches -> images 1 patches"), float("-inf"))
    return scores.softmax(dim=-1)
