"""The model: a noise schedule, a denoiser, and the context that chooses the schedule's path.

    c --schedule--> gamma(t) of each pixel          z, gamma, c --U-Net--> eps_hat, and how wrong it is expected to be
"""

from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from downstream.density.contexts import ContextConfig, ConvolutionalContext, TokenContext, branch
from downstream.density.diffusion import Gamma, Images, eps_of_v, sigma
from downstream.density.schedules import NoiseConfig, Path
from downstream.density.subsets import most_likely, relaxed_sample, sample, uniform_nats
from downstream.density.unet import UNet, UNetConfig
from lcl.core.config import config

LOG_ERROR = (-12.0, 4.0)  # range of the logarithm of an expected squared error; that of guessing nothing is 0


@config
class DensityConfig:
    channels: Literal[1, 3] = 3
    """1: grey, which codes any pictures band by band."""
    levels: Annotated[int, Field(ge=2, le=256)] = 256
    """Values that a pixel can have: 256, or 17 in the digits of scikit-learn."""
    size_px: Annotated[int, Field(ge=1)] = 32
    """Side of the images it is trained on."""
    noise: NoiseConfig = NoiseConfig()
    context: ContextConfig = ContextConfig()
    unet: UNetConfig = UNetConfig()
    parametrisation: Literal["eps", "v"] = "eps"
    """What the network puts out: eps beyond z, or v = alpha eps - sigma x."""

    def check(self) -> None:
        """Raises ValueError for settings that do not fit together."""
        self.context.check()
        if self.context.kind != "none" and self.noise.kind in ("linear", "scalar"):
            raise ValueError(f"model.noise.kind is {self.noise.kind}, which knows no context: take --model.context.kind none, or polynomial")

    @property
    def context_size(self) -> int:
        """Of the vector that schedule and denoiser take: a single one where there is no context."""
        return 1 if self.context.kind == "none" else self.context.size

    @property
    def sends_context(self) -> bool:
        """Whether a codec pays the context's full cost, so that a decoder needs no encoder; else its bits come back by q(c | x)."""
        return self.context.kind == "tokens"

    @property
    def context_nats(self) -> float:
        """What a context costs that is sent as one of all subsets."""
        return 0.0 if self.context.kind == "none" else uniform_nats(self.context.size, self.context.chosen)


class Denoised(NamedTuple):
    eps_hat: Images
    squared_error: Images
    """What (eps - eps_hat)^2 is expected to be."""
    middle: Float[Tensor, "images maps rows columns"]
    """Features of the smallest size."""


class Drawn(NamedTuple):
    context: Float[Tensor, "images size"]
    nats: Float[Tensor, " images"]
    """What they cost: KL(q(c | x) || all subsets alike), or the whole of it where they are sent."""


class DensityModel(nn.Module):
    def __init__(self, settings: DensityConfig, *, num_features: int = 0) -> None:
        """`num_features` are those of the sight, for a context of tokens."""
        super().__init__()
        self.settings = settings
        kind, width = settings.context.kind, settings.unet.widths[0]
        # in this order one seed gives the network the same weights whatever the schedule and the context are: what takes the context is the last of the U-Net
        self.out = nn.Conv2d(width, settings.channels, 3, padding=1)
        self.error = nn.Sequential(nn.Conv2d(width + settings.channels, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, settings.channels, 1))
        self.unet = UNet(settings.unet, channels=settings.channels, levels=settings.levels, context_size=settings.context_size)
        self.schedule = settings.noise.build(channels=settings.channels, context_size=settings.context_size, levels=settings.levels)
        self.context_logits: ConvolutionalContext | TokenContext | None = None
        if kind == "convolutional":
            self.context_logits = ConvolutionalContext(settings.context, channels=settings.channels)
        elif kind == "tokens":
            self.context_logits = TokenContext(settings.context, num_features=num_features)
        for layer in (self.out, self.error[2]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def no_context(self, num: int) -> Float[Tensor, "images size"]:
        """What stands for the context of a model that has none."""
        return torch.ones(num, 1, dtype=self.out.weight.dtype, device=self.out.weight.device)

    def logits(self, x: Images) -> Float[Tensor, "images size"]:
        """Of q(c | x)."""
        assert self.context_logits is not None
        return self.context_logits(x)

    def draw_context(self, x: Images, generator: torch.Generator) -> Drawn:
        """A context from q(c | x), with the gradient of its exact marginals, and its exact KL."""
        apart = branch(generator)
        if self.context_logits is None:
            return Drawn(self.no_context(len(x)), x.new_zeros(len(x)))
        return Drawn(*relaxed_sample(self.logits(x), self.settings.context.chosen, apart))

    def coded_context(self, x: Images, generator: torch.Generator) -> Drawn:
        """The context that a codec takes: drawn, or the likeliest at its full cost where it is sent."""
        if not self.settings.sends_context:
            return self.draw_context(x, generator)
        branch(generator)  # as if it were drawn
        return Drawn(most_likely(self.logits(x), self.settings.context.chosen).to(x), x.new_full((len(x),), self.settings.context_nats))

    def random_context(self, num: int, generator: torch.Generator) -> Float[Tensor, "images size"]:
        """Contexts from the prior: all subsets alike."""
        nothing, apart = self.no_context(num), branch(generator)
        if self.context_logits is None:
            return nothing
        return sample(torch.zeros(num, self.settings.context.size), self.settings.context.chosen, apart).to(nothing)

    def path(self, context: Float[Tensor, "images size"], height: int, width: int) -> Path:
        """One for each image; of a model without a context one for all."""
        return self.schedule(context if self.context_logits is not None else context[:1], height, width)

    def denoise(self, z: Images, gamma: Gamma, context: Float[Tensor, "images size"]) -> Denoised:
        """eps_hat at z, and its expected squared error. The error's part takes features without their gradient: it learns, and changes nothing else."""
        ends = self.schedule.ends
        scaled = (2 * (gamma - ends.gamma_min) / (ends.gamma_max - ends.gamma_min) - 1).expand_as(z)
        features, middle = self.unet(z, scaled, sigma(gamma), context)
        found = self.out(features)
        eps_hat = eps_of_v(found, z, gamma) if self.settings.parametrisation == "v" else z + found
        log_error = self.error(torch.cat([features, scaled], dim=1).detach())
        return Denoised(eps_hat, log_error.clamp(*LOG_ERROR).exp(), middle)


def error_nats(squared: Images, expected: Images) -> Float[Tensor, " images"]:
    """1/2 sum(log e + d^2 / e): least in the mean where e is the expectation of d^2."""
    return 0.5 * (expected.log() + squared.detach() / expected).flatten(1).sum(dim=1)

