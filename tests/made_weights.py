"""Weights that any program can make again from their names and shapes, to compare two models without keeping megabytes."""

import zlib

import numpy as np
import torch
from torch import Tensor

from downstream.codec.published import learned


def made_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Normal values of each weight's own generator, seeded by its name: of deviation 1 / sqrt(inputs) for kernels, small for the rest."""
    found = dict(state)
    for name, value in learned(state).items():
        drawn = torch.from_numpy(np.random.default_rng(zlib.crc32(name.encode())).standard_normal(value.shape, dtype=np.float32))
        last = name.rpartition(".")[2]
        if value.ndim == 4 and last == "weight":
            drawn *= 1.0 / value[0].numel() ** 0.5
        elif last in ("beta", "gamma") and value.ndim == 4:
            drawn *= 0.3
        elif last in ("beta", "gamma"):  # of a divisive normalisation
            drawn = value + 0.05 * drawn.abs()
        elif last == "quantiles":
            drawn = torch.stack([drawn[:, :, 1] - 10, drawn[:, :, 1], drawn[:, :, 1] + 10], dim=-1)
        elif last == "weight":
            drawn = 1 + 0.1 * drawn
        elif ".matrices." in name or ".factors." in name:
            drawn = value + 0.1 * drawn
        else:
            drawn *= 0.1
        found[name] = drawn
    return found
