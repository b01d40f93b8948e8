"""What coding a picture costs, counted and not timed."""

from typing import NamedTuple

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from downstream.codec.image_codec import decode, encode
from downstream.codec.model_file import TrainedCodec

SIDE_PX = 256


class Complexity(NamedTuple):
    """Thousands of multiplications and additions of convolutions and matrix products, per pixel."""

    encoder: float
    decoder: float


def complexity_of(trained: TrainedCodec) -> Complexity:
    """Counted while a square of 256 pixels is encoded, without refinement, and decoded."""
    pixels = np.random.default_rng(0).integers(256, size=(SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    with FlopCounterMode(display=False) as encoding:
        data = encode(trained, pixels).data
    with FlopCounterMode(display=False) as decoding:
        decode(trained, data)
    return Complexity(*(counter.get_total_flops() / 2 / SIDE_PX**2 / 1000 for counter in (encoding, decoding)))
