"""Pictures of any size: mirrored to whole places of a transform, and computed in tiles, each with a margin as wide as the transform sees."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def in_tiles(transform: Callable[..., Tensor], x: Tensor, *, side: int, margin: int | None, scale: tuple[int, int], beside: Tensor | None = None) -> Tensor:
    """transform(x), for x [1, channels, height, width] whose sides scale[0] divides.

    Sides and margins count places; a place is scale[0] pixels of the input along each side, and scale[1] of the output. What is known `beside` x has a row or column
    for each place; the transform gets its crop second. Memory is that of one tile and of the results. Raises ValueError for a transform without a margin (`None`), which sees the whole picture everywhere.
    """
    if margin is None:
        raise ValueError("this model averages over the whole picture, so it cannot be computed in tiles: give --tile-px 0 (and encoding --refine-tile-px 0), or train a model with a window (--model.cca.window 31)")
    if side < 1:
        raise ValueError("tiles must be at least one place of the latents wide: give --tile-px 256 or more")
    before, after = scale
    height, width = (length // before for length in x.shape[-2:])
    rows = []
    for top in range(0, height, side):
        row = []
        for left in range(0, width, side):
            first = (max(0, top - margin), max(0, left - margin))
            last = (min(height, top + side + margin), min(width, left + side + margin))
            known = () if beside is None else (beside[:, :, first[0] : last[0], first[1] : last[1]],)
            part = transform(x[:, :, first[0] * before : last[0] * before, first[1] * before : last[1] * before], *known)
            inner = [slice((start - edge) * after, (min(start + side, length) - edge) * after) for start, edge, length in zip((top, left), first, (height, width), strict=True)]
            row.append(part[:, :, inner[0], inner[1]].clone())
        rows.append(torch.cat(row, dim=-1))
    return torch.cat(rows, dim=-2)


def padded(x: Float[Tensor, "images channels height width"], stride_px: int) -> Float[Tensor, "images channels new_height new_width"]:
    """Mirrored at the right and lower edge, as often as it takes, to sides that `stride_px` divides."""
    rows, columns = (torch.from_numpy(np.pad(np.arange(side), (0, -side % stride_px), mode="reflect")) for side in x.shape[-2:])
    return x[:, :, rows][:, :, :, columns]
