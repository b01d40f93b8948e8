"""Latents to payload bytes and back, by one walk that both directions take: what the decoder cannot know, the encoder does not use.

    z: distances from medians, a table for each channel
    fast      each group of y: means and scales from the float networks, distances from means, a table for each scale
    portable  y: means and scales from whole numbers (downstream/codec/integer.py)

A checksum of all symbols goes along: a machine whose float networks choose another table finds other symbols, and says so instead of showing a wrong picture.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from downstream.codec.gaussian import scale_thresholds
from downstream.codec.integer import ONE, IntegerSynthesis
from downstream.codec.model import Codec, Latent
from downstream.codec.range_coder import Decoder, Encoder, Models

Profile = Literal["fast", "portable"]


class EntropyTables(NamedTuple):
    """What a model's decoder needs besides its networks."""

    scales: Models
    """A table for each scale of `scale_table`."""
    channels: Models
    """A table for each channel of z."""
    integers: IntegerSynthesis | None
    """Of models that have the portable profile."""


class Symbols(Protocol):
    """Gives the symbols of one part of the latents: by rounding what the encoder has, or from the bytes."""

    def exchange(self, values: Tensor | None, centres: Tensor, which: Int[Tensor, "..."], models: Models) -> Tensor: ...


class Writer:
    def __init__(self) -> None:
        self.coder, self.checksum = Encoder(), 0

    def exchange(self, values: Tensor | None, centres: Tensor, which: Int[Tensor, "..."], models: Models) -> Tensor:
        assert values is not None
        symbols = (values - centres).round()
        flat = symbols.reshape(-1).to(torch.int64).numpy()
        self.coder.push(flat, which.reshape(-1).numpy(), models)
        self.checksum = _checksum(flat, self.checksum)
        return symbols


class Reader:
    def __init__(self, payload: bytes) -> None:
        """Raises ValueError if the bytes are no whole words."""
        self.coder, self.checksum = Decoder(payload), 0

    def exchange(self, values: Tensor | None, centres: Tensor, which: Int[Tensor, "..."], models: Models) -> Tensor:
        flat = self.coder.pop(which.reshape(-1).numpy(), models)
        self.checksum = _checksum(flat, self.checksum)
        return torch.from_numpy(flat).to(torch.float32).reshape(which.shape)


def _checksum(symbols: Int[np.ndarray, " n"], before: int) -> int:
    return zlib.crc32(symbols.astype("<i8").tobytes(), before)


class Latents(NamedTuple):
    y: Latent
    z: Latent


@torch.no_grad()
def walk(codec: Codec, tables: EntropyTables, symbols: Symbols, size: tuple[int, int], profile: Profile, given: Latents | None = None) -> Latent:
    """y_hat of one image, as the decoder finds it, while `symbols` are written from `given` or read. `size` is the (height, width) of z."""
    prior = codec.z_entropy_bottleneck
    shape = (1, prior.num_channels, *size)
    which = torch.arange(prior.num_channels).reshape(1, -1, 1, 1).expand(shape)
    z_steps = symbols.exchange(None if given is None else given.z, prior.medians.cpu(), which, tables.channels)
    with _one_thread():
        if profile == "portable":
            assert tables.integers is not None
            means, scales = tables.integers(z_steps.to(torch.int64))
            centres = means.to(torch.float32) / ONE
            return symbols.exchange(None if given is None else given.y, centres, scales, tables.scales) + centres
        said = codec.hyper_synthesis(z_steps + prior.medians)
        found: list[Tensor] = []
        for group, values in enumerate([None] * len(codec.group_sizes) if given is None else given.y.split(codec.group_sizes, dim=1)):
            (means, scales), support = codec.predict(group, said, found)
            steps = symbols.exchange(values, means, torch.bucketize(scales, scale_thresholds().to(scales.dtype)), tables.scales)
            found.append(codec.restore(group, steps + means, support))
        return torch.cat(found, dim=1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order, so that the machine that wrote a file reads it with any number of threads."""
    num = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num)
