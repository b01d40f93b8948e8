"""A learned density for each channel, the prior of the hyper latents (Balle et al., ICLR 2018, arXiv:1802.01436, appendix 6.1)."""

import math
from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from downstream.codec.gaussian import LEAST_LIKELIHOOD
from downstream.codec.layers import bounded_below

WIDTHS = (1, 3, 3, 3, 3, 1)
INIT_SCALE = 10.0
TAIL_MASS = 1e-9
REACH, BISECTIONS = 1024.0, 40  # quantiles lie this far out at most, and are found to 1e-9


class FactorisedPrior(nn.Module):
    """A monotonic network from a value to the logit of its cumulative probability, for each channel apart. Parameters are named as CompressAI's EntropyBottleneck has them."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.num_channels = num_channels
        scale = INIT_SCALE ** (1 / (len(WIDTHS) - 1))
        self.matrices, self.biases, self.factors = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for layer, (num_in, num_out) in enumerate(pairwise(WIDTHS)):
            self.matrices.append(nn.Parameter(torch.full((num_channels, num_out, num_in), math.log(math.expm1(1 / scale / num_out)))))
            self.biases.append(nn.Parameter(torch.rand(num_channels, num_out, 1) - 0.5))
            if layer < len(WIDTHS) - 2:
                self.factors.append(nn.Parameter(torch.zeros(num_channels, num_out, 1)))
        self.quantiles = nn.Parameter(torch.tensor([-INIT_SCALE, 0.0, INIT_SCALE]).repeat(num_channels, 1, 1), requires_grad=False)
        """[channels, 1, 3]: where half of TAIL_MASS, a half, and all but half of TAIL_MASS lie below. The middle is the centre of rounding."""
        self.register_load_state_dict_pre_hook(_accept_earlier_names)

    def cumulative_logits(self, values: Float[Tensor, "channels 1 values"]) -> Float[Tensor, "channels 1 values"]:
        """The logit of P(channel < value)."""
        with torch.autocast(values.device.type, enabled=False):  # small products, whose differences are the likelihoods
            for layer, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
                values = functional.softplus(matrix) @ values + bias
                if layer < len(self.factors):
                    values = values + torch.tanh(self.factors[layer]) * torch.tanh(values)
            return values

    def likelihood(self, z: Float[Tensor, "images channels height width"]) -> Float[Tensor, "images channels height width"]:
        """P(z - 1/2 < value < z + 1/2), at least LEAST_LIKELIHOOD."""
        flat = rearrange(z, "images channels height width -> channels 1 (images height width)")
        lower, upper = self.cumulative_logits(flat - 0.5), self.cumulative_logits(flat + 0.5)
        sign = -torch.sign(lower + upper).detach()  # both sigmoids in the tail where they are small, so that their difference keeps its digits
        found = (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()
        images, _, height, width = z.shape
        shape = {"images": images, "height": height, "width": width}
        return bounded_below(rearrange(found, "channels 1 (images height width) -> images channels height width", **shape), LEAST_LIKELIHOOD)

    @property
    def medians(self) -> Float[Tensor, "1 channels 1 1"]:
        """The centres of rounding, without a gradient."""
        return rearrange(self.quantiles[:, 0, 1].detach(), "channels -> 1 channels 1 1")

    @torch.no_grad()
    def find_quantiles(self, *, keep_medians: bool = False) -> None:
        """Puts `quantiles` where the cumulative probabilities are what they should be, by bisection: in the place of the auxiliary loss that others descend on.

        With `keep_medians` the centres of rounding stay where they are: weights of others were trained with theirs.
        """
        before = self.quantiles[:, 0, 1].clone()
        edge = math.log(2 / TAIL_MASS - 1)
        wanted = torch.tensor([-edge, 0.0, edge], device=self.quantiles.device)
        low, high = torch.full_like(self.quantiles, -REACH), torch.full_like(self.quantiles, REACH)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            below = self.cumulative_logits(middle) < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        self.quantiles.copy_((low + high) / 2)
        if keep_medians:
            self.quantiles[:, 0, 1] = before


def _accept_earlier_names(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Weights saved by CompressAI before 1.2.7 say `_matrix0` for `matrices.0`."""
    for old, new in (("_matrix", "matrices"), ("_bias", "biases"), ("_factor", "factors")):
        for layer in range(len(WIDTHS) - 1):
            if (name := f"{prefix}{old}{layer}") in state:
                state[f"{prefix}{new}.{layer}"] = state.pop(name)
