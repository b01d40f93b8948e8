"""How a picture is spoilt, as a frozen encoder shows it: mean and deviation of its tokens, of squares at full size.

    picture --squares on a grid--> encoder --> tokens of several blocks --mean, deviation over patches--> one vector for each square

A picture is never scaled here, for that would hide noise and blur. Spatial sense is not kept: what spoils a picture mostly spoils all of it.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from downstream.restore.process import Images
from lcl.features import Encoder


def statistics_layers(encoder: Encoder, layers: tuple[int, ...]) -> tuple[int, ...]:
    """These blocks; of none given, those at a quarter and at half, and the last. Raises ValueError for one that the encoder does not have."""
    number = encoder.num_layers
    layers = layers or tuple(sorted({max(0, number // 4 - 1), max(0, number // 2 - 1), number - 1}))
    if max(layers) >= number:
        raise ValueError(f"layers {' '.join(map(str, layers))}: the encoder has {number} blocks, from 0 to {number - 1}")
    return layers


@torch.no_grad()
def token_statistics(encoder: Encoder, x: Images, layers: tuple[int, ...]) -> Float[Tensor, "images statistics"]:
    """Mean and deviation over patches of each layer's tokens."""
    found = encoder.to(x.device)(x, layers).layers
    return torch.cat([statistic for tokens in found for statistic in (tokens.mean(dim=1), tokens.std(dim=1, correction=0))], dim=1).float()


def squares(x: Images, *, side_px: int, most: int) -> Float[Tensor, "images squares 3 side side"]:
    """At most `most` squares of each picture, on a grid, as many as cover it; a picture smaller than one is continued by its last pixels, as the encoder does with patches."""
    height, width = x.shape[-2:]
    whole = functional.pad(x, (0, max(0, side_px - width), 0, max(0, side_px - height)), mode="replicate")
    along = max(1, round(most**0.5))
    rows, columns = (torch.linspace(0, length - side_px, min(along, -(-length // side_px))).round().long().tolist() for length in whole.shape[-2:])
    return torch.stack([whole[:, :, top : top + side_px, left : left + side_px] for top in rows for left in columns], dim=1)
