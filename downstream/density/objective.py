"""What is minimised: the bound on -log p of whole images, in bits for each pixel and channel, by one time for each image.

    u --> x --q(c|x)--> c --> path --> z_t --denoise--> diffusion + reconstruction + prior + KL of c
"""

from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from downstream.density.contexts import token_maps
from downstream.density.diffusion import (
    antithetic_times,
    bits_per_dim,
    calibrated_step_nats,
    diffuse,
    diffusion_nats,
    prior_nats,
    reconstruction_nats,
    step_nats,
    to_data,
)  # fmt: skip
from downstream.density.model import DensityModel, error_nats
from downstream.density.schedules import with_slope
from downstream.density.times import ImportanceTimes
from downstream.losses import Losses
from downstream.sight import Sight, SightConfig
from lcl.core.config import config


@config
class ObjectiveConfig:
    steps: Annotated[int, Field(ge=0)] = 0
    """T of the discrete bound, best the one that is coded with; 0: continuous time."""
    variances: Literal["calibrated", "of_q"] = "calibrated"
    """Of the steps of that bound. calibrated: they hold the error that the network expects of itself, as those of the codec do. of_q: they do not, as published."""
    times: Literal["uniform", "importance"] = "uniform"
    """importance: more often where the bound's terms are large, each counted the less (downstream/density/times.py)."""
    alignment: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the likeness of the U-Net's middle features to a frozen encoder's tokens (--encoder); in training alone (Yu et al., arXiv:2410.06940)."""
    sight: SightConfig = SightConfig(num_layers=1)
    """How the encoder of the alignment looks."""


class DensityObjective(nn.Module):
    def __init__(self, model: DensityModel, settings: ObjectiveConfig, *, sight: Sight | None = None) -> None:
        """`sight` is of the alignment."""
        super().__init__()
        self.model, self.settings, self.sight = model, settings, sight
        self.times = ImportanceTimes() if settings.times == "importance" else None
        self.project = nn.Conv2d(model.unet.middle_width, sight.num_features, 3, padding=1) if sight is not None else None

    def forward(self, u: Int[Tensor, "images channels height width"], generator: torch.Generator) -> Losses:
        model, levels, num_steps = self.model, self.model.settings.levels, self.settings.steps
        x = to_data(u, levels=levels)
        dims, ends = x[0].numel(), model.schedule.ends
        drawn = model.draw_context(x, generator)
        path = model.path(drawn.context, *x.shape[-2:])
        t = antithetic_times(len(x), generator).to(x)
        t, weight = (t, torch.ones_like(t)) if self.times is None else self.times(t)
        eps, eps_0 = (torch.randn(x.shape, generator=generator).to(x) for _ in range(2))
        if num_steps:
            step = (t * num_steps).floor() + 1
            gamma, gamma_before = path(step / num_steps), path((step - 1) / num_steps)
        else:
            gamma, slope = with_slope(path, t)
        found = model.denoise(diffuse(x, eps, gamma), gamma, drawn.context)
        if not num_steps:
            diffusion = diffusion_nats(eps, found.eps_hat, slope)
        elif self.settings.variances == "of_q":
            diffusion = num_steps * step_nats(eps, found.eps_hat, gamma_before, gamma)
        else:
            diffusion = num_steps * calibrated_step_nats(eps, found.eps_hat, gamma_before, gamma, squared_error=found.squared_error.detach())
        if self.times is not None:
            self.times.note(t, diffusion)
        with torch.no_grad():  # both ends are fixed, so nothing can be learned from these
            gamma_0, gamma_1 = x.new_full((1, 1, 1, 1), ends.gamma_min), x.new_full((1, 1, 1, 1), ends.gamma_max)
            fixed = {"reconstruction": reconstruction_nats(u, diffuse(x, eps_0, gamma_0), gamma_0, levels=levels), "prior": prior_nats(x, gamma_1)}
        terms = {"diffusion": weight * diffusion, "context": drawn.nats, **fixed}
        bits = {name: bits_per_dim(value.mean(), dims=dims) for name, value in terms.items()}
        total = torch.stack(list(bits.values())).sum()
        error = error_nats((eps - found.eps_hat).square(), found.squared_error).mean() / dims
        loss, extra = total + error, {"error_nats": error.detach()}
        if self.sight is not None and self.project is not None:
            unlike = alignment_loss(self.project(found.middle), token_maps(self.sight, x))
            loss, extra = loss + self.settings.alignment * unlike, extra | {"unlike_tokens": unlike.detach()}
        return Losses(loss, {"bits_per_dim": total.detach()} | {f"{name}_bits": value.detach() for name, value in bits.items()} | extra)


def alignment_loss(features: Float[Tensor, "images token_width rows columns"], tokens: Float[Tensor, "images token_width token_rows token_columns"]) -> Float[Tensor, ""]:
    """1 - mean cosine between features and tokens at the same places, each without its mean over places (Singh et al., arXiv:2512.10794)."""
    there = functional.interpolate(tokens, size=features.shape[-2:], mode="bilinear", align_corners=False)
    features, there = (maps - maps.mean(dim=(2, 3), keepdim=True) if maps[0, 0].numel() > 1 else maps for maps in (features, there))
    return 1 - functional.cosine_similarity(features, there, dim=1).mean()
