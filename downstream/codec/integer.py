"""The hyper synthesis of a mean-scale codec in whole numbers, so that every machine finds the same means and scales to the bit.

    z_hat in 1/64 --[int8 weights x int16 activations, summed exactly in fp64; multiplied and shifted in int64; leaky ReLU by shifts] per layer--> means in 1/64, scales by thresholds

A sum of products of whole numbers is exact in fp64 while it stays below 2^53, in whatever order it is summed; here it stays below 2^36. A transposed
convolution is one of a stretched input with the turned kernel, and a convolution a matrix product of unfolded patches: no library's fast path may differ.
After Balle et al., Integer networks for data compression, ICLR 2019.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from downstream.codec.gaussian import scale_thresholds

ONE = 64                       # units of means, medians and z_hat in 1
SCALE_ONE = 1024               # units of scales in 1
LARGEST = (1 << 15) - 1        # of an activation
LEAKY = (82, 13)               # 82 / 2^13 = 0.01001, the slope of PyTorch's leaky ReLU
MULTIPLIER_BITS = 15
MOST_AT_ONCE = 1 << 22         # unfolded numbers of a strip of rows, 32 MiB


@dataclass(frozen=True)
class IntegerLayer:
    """A convolution of whole numbers: (sum of products + bias) * multiplier / 2^shift, rounded."""

    weight: Int[Tensor, "out inner kernel kernel"]
    """int8; of a transposed convolution the kernel as it is used on the stretched input."""
    bias: Int[Tensor, " out"]
    """int64, in units of the sum."""
    multiplier: Int[Tensor, " out"]
    shift: Int[Tensor, " out"]
    stretch: int
    """Stride of a transposed convolution; 1 for a plain one."""
    leaky: bool
    """Whether a leaky ReLU follows, and the result is an activation of int16."""

    def __call__(self, x: Int[Tensor, "images inner height width"]) -> Int[Tensor, "images out new_height new_width"]:
        out, _, kernel, _ = self.weight.shape
        if self.stretch > 1:
            stretched = x.new_zeros(*x.shape[:2], x.shape[2] * self.stretch, x.shape[3] * self.stretch)
            stretched[:, :, :: self.stretch, :: self.stretch] = x
            x = stretched
        filled, flat = functional.pad(x, (kernel // 2,) * 4), rearrange(self.weight.double(), "out inner a b -> out (inner a b)")
        strips = []
        rows = max(1, MOST_AT_ONCE // (flat.shape[1] * x.shape[3]))
        for first in range(0, x.shape[2], rows):
            strip = filled[:, :, first : min(first + rows, x.shape[2]) + 2 * (kernel // 2)]
            found = (flat @ functional.unfold(strip.double(), kernel)).to(torch.int64)
            strips.append(rearrange(found, "images out (height width) -> images out height width", width=x.shape[3]))
        summed = torch.cat(strips, dim=2)
        column = (1, out, 1, 1)
        summed = summed + self.bias.reshape(column)
        shift = self.shift.reshape(column)
        found = (summed * self.multiplier.reshape(column) + (torch.ones_like(shift) << (shift - 1))) >> shift
        if not self.leaky:
            return found  # means and scales, of any size
        found = found.clamp(-LARGEST, LARGEST)
        return torch.where(found < 0, (found * LEAKY[0] + (1 << (LEAKY[1] - 1))) >> LEAKY[1], found)


class IntegerSynthesis:
    """z in whole steps to means in units of 1/ONE and numbers of scales in `scale_table`."""

    def __init__(self, medians: Int[Tensor, " channels"], layers: Sequence[IntegerLayer]) -> None:
        self.medians, self.layers = medians, tuple(layers)
        self.thresholds = (scale_thresholds() * SCALE_ONE).round().to(torch.int64)

    def __call__(self, z: Int[Tensor, "images channels height width"]) -> tuple[Int[Tensor, "images out rows columns"], Int[Tensor, "images out rows columns"]]:
        """Means, and for each the number of its scale."""
        x = (z * ONE + self.medians.reshape(1, -1, 1, 1)).clamp(-LARGEST, LARGEST)
        for layer in self.layers:
            x = layer(x)
        scales, means = x.chunk(2, dim=1)
        return means, torch.bucketize(scales, self.thresholds)

    def tensors(self) -> dict[str, Tensor]:
        """All that it is made of, by name."""
        found = {"medians": self.medians.to(torch.int32)}
        for number, layer in enumerate(self.layers):
            found |= {f"{number}.weight": layer.weight.to(torch.int8), f"{number}.bias": layer.bias, f"{number}.multiplier": layer.multiplier.to(torch.int32)}
            found |= {f"{number}.shift": layer.shift.to(torch.int32), f"{number}.form": torch.tensor([layer.stretch, layer.leaky], dtype=torch.int32)}
        return found

    @classmethod
    def from_tensors(cls, found: Mapping[str, Tensor]) -> "IntegerSynthesis":
        """The inverse of `tensors`."""
        layers = []
        while (number := len(layers)) < sum(name.endswith(".weight") for name in found):
            stretch, leaky = found[f"{number}.form"].tolist()
            weight, bias, multiplier, shift = (found[f"{number}.{name}"] for name in ("weight", "bias", "multiplier", "shift"))
            layers.append(IntegerLayer(weight, bias.long(), multiplier.long(), shift.long(), stretch, bool(leaky)))
        return cls(found["medians"].long(), layers)


@torch.no_grad()
def to_integers(h_s: nn.Sequential, medians: Float[Tensor, " channels"], examples: Iterable[Float[Tensor, "images channels height width"]]) -> IntegerSynthesis:
    """The network in whole numbers. Activations get the finest unit in which none of those on `examples` (z_hat) leaves int16, with room for 4 times as much."""
    convolutions = [layer for layer in h_s if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    peaks = [0.0] * len(convolutions)
    for z_hat in examples:
        x = z_hat
        for layer in h_s:
            x = layer(x)
            if layer in convolutions:
                place = convolutions.index(layer)
                peaks[place] = max(peaks[place], float(x.abs().max()))
    unit_in = 1 / ONE
    layers = []
    for place, convolution in enumerate(convolutions):
        is_last = place == len(convolutions) - 1
        num_out = convolution.out_channels
        if is_last:  # scales, then means
            unit_out = torch.cat([torch.full((num_out // 2,), 1 / SCALE_ONE), torch.full((num_out // 2,), 1 / ONE)]).double()
        else:
            unit_out = torch.full((num_out,), 4 * peaks[place] / LARGEST, dtype=torch.float64)
        layers.append(_layer(convolution, unit_in, unit_out, leaky=not is_last))
        unit_in = float(unit_out[0])
    return IntegerSynthesis((medians.double() * ONE).round().long(), layers)


def _layer(convolution: nn.Conv2d | nn.ConvTranspose2d, unit_in: float, unit_out: Float[Tensor, " out"], *, leaky: bool) -> IntegerLayer:
    weight = convolution.weight.detach().double()
    if isinstance(convolution, nn.ConvTranspose2d):
        weight = weight.transpose(0, 1).flip(2, 3)
    unit_weight = weight.abs().amax(dim=(1, 2, 3)).clamp(min=1e-12) / 127
    factor = unit_weight * unit_in / unit_out  # of the sum, to the unit of what comes out
    shift = (MULTIPLIER_BITS - 1 - factor.log2().floor()).long().clamp(1, 47)
    return IntegerLayer(
        (weight / unit_weight.reshape(-1, 1, 1, 1)).round().to(torch.int8),
        (convolution.bias.detach().double() / (unit_weight * unit_in)).round().long(),
        (factor * 2.0**shift).round().long(), shift, convolution.stride[0] if isinstance(convolution, nn.ConvTranspose2d) else 1, leaky,
    )  # fmt: skip
