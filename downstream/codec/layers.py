"""Convolutions and blocks of the codecs, with the parameter names of the published weights (CCA, Han et al., NeurIPS 2024, arXiv:2410.04847)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from downstream.channel_norm import ChannelNorm

Image = Float[Tensor, "images _ height width"]  # channels change, sides stay


def conv(num_in: int, num_out: int, *, kernel: int = 5, stride: int = 2) -> nn.Conv2d:
    """Height and width divided by the stride, rounded up."""
    return nn.Conv2d(num_in, num_out, kernel, stride, padding=kernel // 2)


def deconv(num_in: int, num_out: int, *, kernel: int = 5, stride: int = 2) -> nn.ConvTranspose2d:
    """Height and width times the stride."""
    return nn.ConvTranspose2d(num_in, num_out, kernel, stride, padding=kernel // 2, output_padding=stride - 1)


class SimpleGate(nn.Module):
    """The product of the two halves of the channels (NAFNet, Chen et al., ECCV 2022, arXiv:2204.04676)."""

    def forward(self, x: Image) -> Image:
        first, second = x.chunk(2, dim=1)
        return first * second


class LocalMean(nn.Module):
    """The mean of the channels around each place, over a square of `side` places cut at the borders; of the whole image with side 0, as published.

    A window makes a place depend on what is near it alone, so that an image can be coded in tiles.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Image) -> Float[Tensor, "images _ _ _"]:
        if not self.side:
            return x.mean(dim=(2, 3), keepdim=True)
        return functional.avg_pool2d(x, self.side, stride=1, padding=self.side // 2, count_include_pad=False)


class NAFBlock(nn.Module):
    """Depthwise convolution, gate and channel attention, then a gated feed-forward part; the residuals start at zero."""

    def __init__(self, width: int, *, window: int = 0) -> None:
        super().__init__()
        self.dwconv = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width))
        self.gate = SimpleGate()
        self.sca = nn.Sequential(LocalMean(window), nn.Conv2d(width, width, 1))
        self.FFN = nn.Sequential(nn.Conv2d(width, 2 * width, 1), SimpleGate(), nn.Conv2d(width, width, 1))
        self.norm1, self.norm2 = ChannelNorm(width), ChannelNorm(width)
        self.conv1 = nn.Conv2d(width, width, 1)
        self.beta, self.gamma = nn.Parameter(torch.zeros(1, width, 1, 1)), nn.Parameter(torch.zeros(1, width, 1, 1))

    def forward(self, x: Image) -> Image:
        inner = self.gate(self.dwconv(self.norm1(x)))
        x = x + self.beta * self.conv1(inner * self.sca(inner))
        return x + self.gamma * self.FFN(self.norm2(x))


class NAFStack(nn.Module):
    """NAF blocks between two 1x1 convolutions, with a residual around the blocks."""

    def __init__(self, width: int, *, inner: int, num_blocks: int, window: int = 0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(NAFBlock(inner, window=window) for _ in range(num_blocks))
        self.in_conv, self.out_conv = conv(width, inner, kernel=1, stride=1), conv(inner, width, kernel=1, stride=1)

    def forward(self, x: Image) -> Image:
        x = before = self.in_conv(x)
        for block in self.blocks:
            x = block(x)
        return self.out_conv(x + before)


class ResidualBottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution through half the width, with a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = conv(width, width // 2, kernel=1, stride=1)
        self.conv2 = conv(width // 2, width // 2, kernel=3, stride=1)
        self.conv3 = conv(width // 2, width, kernel=1, stride=1)

    def forward(self, x: Image) -> Image:
        return x + self.conv3(self.conv2(self.conv1(x).relu()).relu())


class GDN(nn.Module):
    """x_i / sqrt(beta_i + sum_j gamma_ij x_j^2), or its inverse (Balle et al., ICLR 2016, arXiv:1511.06281).

    beta and gamma are kept as square roots, above a small bound, as in CompressAI's weights (`beta`, `gamma`, reparametrised with a pedestal of 2^-36).
    """

    PEDESTAL = 2.0**-36

    def __init__(self, width: int, *, inverse: bool = False, beta_min: float = 1e-6) -> None:
        super().__init__()
        self.inverse, self.bounds = inverse, ((beta_min + self.PEDESTAL) ** 0.5, self.PEDESTAL**0.5)
        self.beta = nn.Parameter((torch.ones(width) + self.PEDESTAL).sqrt())
        self.gamma = nn.Parameter((0.1 * torch.eye(width) + self.PEDESTAL).sqrt())

    def forward(self, x: Image) -> Image:
        beta, gamma = (bounded_below(value, bound).square() - self.PEDESTAL for value, bound in zip((self.beta, self.gamma), self.bounds, strict=True))
        norm = functional.conv2d(x.square(), gamma[:, :, None, None], beta)
        return x * (norm.sqrt() if self.inverse else norm.rsqrt())


class _BoundedBelow(torch.autograd.Function):
    @staticmethod
    def forward(context, x: Tensor, bound: float) -> Tensor:
        context.save_for_backward(x >= bound)
        return x.clamp(min=bound)

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, None]:
        (above,) = context.saved_tensors
        return gradient * (above | (gradient < 0)), None


@torch.no_grad()
def keep_variance(module: nn.Module, *, gain: float = 1.0) -> None:
    """Random weights with which each convolution's outputs vary `gain` times as much as its inputs (PyTorch's own let what passes four transposed ones shrink to a hundredth)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            size, stride = layer.kernel_size[0], layer.stride[0] if isinstance(layer, nn.ConvTranspose2d) else 1
            nn.init.normal_(layer.weight, std=gain * stride / (size * math.sqrt(layer.in_channels)))  # a place of the output sees (size / stride)^2 of the inputs
            nn.init.zeros_(layer.bias)


def in_full(x: Tensor) -> Tensor:
    """x in fp32 at least: what mixed precision made in bf16 has too few digits to be rounded or to be a scale."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def bounded_below(x: Tensor, bound: float) -> Tensor:
    """max(x, bound), whose gradient below the bound is kept where it pushes up, so that nothing is caught there (CompressAI's LowerBound)."""
    return _BoundedBelow.apply(x, bound)
