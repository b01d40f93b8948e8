"""Muon: steps of the same length in all directions of a layer's weights, where Adam's favour the few that its inputs favour (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

    gradient --momentum--> matrix [channels out, all that one of them sums over] --the nearest one with orthonormal rows or columns--> step

PyTorch's own takes matrices alone, and no parameter that is no matrix; here convolutions count as the matrices that they are, and the rest is AdamW's.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that takes singular values to about 1 in five rounds, from the same source
ROUNDS = 5
ADAM_RMS = 0.2  # of an element of Adam's steps, in units of the learning rate (Liu et al. 2025, arXiv:2502.16982), so that rates of the two are alike


class MuonAdamW(torch.optim.AdamW):
    """Muon for the weights of dense layers of a module, AdamW for its other parameters. Weights have to come whole: not in ZeRO's parts."""

    def __init__(self, module: nn.Module, *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float, muon_ratio: float) -> None:
        """`muon_ratio` times the learning rate is Muon's."""
        outputs = outputs_of_dense(module)
        groups: dict[int | None, list[nn.Parameter]] = {None: [], 0: [], 1: []}  # by the dimension of outputs; None: AdamW's
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                groups[outputs.get(name)].append(parameter)
        super().__init__(
            [{"params": parameters, "outputs": dimension, "muon_ratio": muon_ratio} for dimension, parameters in groups.items() if parameters],
            lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
        )  # fmt: skip

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        held = [(group, weight, weight.grad) for group in self.param_groups if group["outputs"] is not None for weight in group["params"] if weight.grad is not None]
        for _, weight, _ in held:
            weight.grad = None  # AdamW passes over these
        super().step(closure)
        for group, weight, gradient in held:
            weight.grad = gradient
            self._muon_step(weight, gradient, group)

    def _muon_step(self, weight: Tensor, gradient: Tensor, group: Mapping[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state |= {"momentum": torch.zeros_like(weight), "step": torch.tensor(0.0)}  # AdamW looks for a step wherever there is a state
        state["step"] += 1
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(momentum, MOMENTUM).transpose(0, group["outputs"])  # Nesterov's
        matrix = ahead.flatten(1)
        direction = orthogonal(matrix).view_as(ahead).transpose(0, group["outputs"])
        rate = group["lr"] * group["muon_ratio"]
        weight.mul_(1 - rate * group["weight_decay"]).sub_(direction, alpha=rate * ADAM_RMS * math.sqrt(max(matrix.shape)))


def outputs_of_dense(module: nn.Module) -> dict[str, int]:
    """The weights of linear layers and of convolutions that are not in groups, by name, and which of their dimensions is that of outputs."""
    return {
        f"{name}.weight".removeprefix("."): int(isinstance(layer, nn.ConvTranspose2d))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) and getattr(layer, "groups", 1) == 1
    }


def orthogonal(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """About U V^T of its singular value decomposition U S V^T: singular values come out between 0.6 and 1.3, those below a thousandth of the norm smaller; zeros stay.

    All rounds are polynomials of one product of the matrix with its transpose, so that they compute with its shorter side alone.
    """
    x = matrix / (matrix.norm() + 1e-7)
    wide = x if x.shape[0] <= x.shape[1] else x.T
    a, b, c = COEFFICIENTS
    gram, one = wide @ wide.T, torch.eye(len(wide), dtype=x.dtype, device=x.device)
    product = one
    for _ in range(ROUNDS):
        factor = torch.addmm(a * one + b * gram, gram, gram, alpha=c)
        product, gram = factor @ product, factor @ gram @ factor
    wide = product @ wide
    return wide if x.shape[0] <= x.shape[1] else wide.T
