"""What restorers are trained to minimise; the three kinds share the network, and two of them the same loss terms.

    L_OG = |f - x_0| + perceptual_weight P(f, x_0)                    P: distance of the features of an encoder, 0 without one, or of VGG16

    regression   L_OG of f = degraded + network(degraded, degraded, T)
    ir_sde       |e - network(x_t, degraded, t)|^2, e the noise in x_t                       (IR-SDE, arXiv:2301.11699)
    ir_cm        d(f(x_t), f'(x_s)) + origin_weight L_OG of f(x_t)                           (IR-CM, NeurIPS 2024, Eq. 14 and 15)

x_t and x_s are neighbours on one probability-flow path, t the later: they have the same noise. f' is f without gradient,
of the network or of an average of it over the steps.

Stages of ir_cm: `two` begins with a linear one, whose states are the degraded picture and noise (mu = x_0 = degraded) while the target is clean, and goes on with
states between degraded and clean; `one` has these alone.
"""

from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from downstream.fit import Losses
from downstream.restore.consistency import Boundary, Form, consistent, origin
from downstream.restore.guide import Added
from downstream.restore.model_file import Kind
from downstream.restore.network import UNet
from downstream.restore.perceptual import Perceptual
from downstream.restore.process import Images, Process, Times
from downstream.restore.teacher import Teacher
from lcl.core.config import config

HUBER = 0.03  # c of sqrt(d^2 + c^2) - c, in pixels: a few levels of 8 bits count as squares


@config
class ObjectiveConfig:
    kind: Kind = "ir_cm"
    """regression: one step, plainly. ir_sde: noise prediction, restored in many steps. ir_cm: a consistency model, one to four steps."""
    distance: Literal["squared", "huber", "absolute"] = "squared"
    """d of ir_cm. In a prototype the absolute one let the linear stage collapse to the degraded picture."""
    origin_weight: Annotated[float, Field(ge=0)] = 0.8
    """Weight of L_OG in ir_cm (IR-CM, Table 9: 0.8)."""
    perceptual: Literal["encoder", "vgg16"] = "encoder"
    """Whose features are compared: those of --encoder, and nothing without one; or of VGG16, whose weights PyTorch's cache must have. LPIPS is no unseen judge then."""
    perceptual_weight: Annotated[float, Field(ge=0)] = 0.125
    """Weight of the features' distance in L_OG (IR-CM: 0.125, of VGG16)."""
    perceptual_layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Blocks of the encoder, from 0; none: the middle one."""
    end_fraction: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Part of ir_cm's states that are drawn at t = T, which is all that one step uses; the others are spread evenly."""
    teacher_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per step of the average of the network that makes f'; 0: the network itself does."""
    stages: Literal["one", "two"] = "one"
    linear_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Part of all steps that the linear stage takes, of two."""

    def check(self, *, form: Form) -> None:
        """Raises ValueError if it does not fit the form of the network's output."""
        wanted = {"regression": "residual", "ir_sde": "noise"}.get(self.kind, form)
        if form != wanted:
            raise ValueError(f"objective.kind {self.kind} trains a network whose output is {wanted}: give --model.form {wanted}")

    def linear(self, step: int, *, num_steps: int) -> bool:
        """Whether this step is of the linear stage."""
        return self.kind == "ir_cm" and self.stages == "two" and step < self.linear_fraction * num_steps


class RestorerObjective(nn.Module):
    """The network with what its training needs: the loss of a batch is its forward pass."""

    def __init__(
        self, network: UNet, process: Process, settings: ObjectiveConfig, *, form: Form, boundary: Boundary = "time", perceptual: Perceptual | None = None
    ) -> None:
        super().__init__()
        settings.check(form=form)
        self.network, self.process, self.settings, self.form, self.boundary, self._perceptual = network, process, settings, form, boundary, perceptual
        self.teacher = Teacher(network, settings.teacher_decay) if settings.teacher_decay and settings.kind == "ir_cm" else None

    def forward(self, clean: Images, degraded: Images, deviation: Times, linear: bool, noise: torch.Generator) -> Losses:
        """The loss of these pairs. `deviation` of Gaussian noise in the degraded ones, in [0, 1], is for a denoising process; `noise` draws times and states."""
        kind = self.settings.kind
        if kind == "regression":
            end = torch.full((len(clean),), self.process.end, device=clean.device)
            return self._origin_loss(self.estimate(degraded, degraded, end, self._added(degraded, self._kept(degraded, noise))), clean)
        starts = self.starts(degraded, deviation)
        if kind == "ir_sde":
            return self._noise_prediction(clean, degraded, starts, noise)
        return self._consistency(clean, degraded, starts, deviation, linear, noise)

    def estimate(self, x_t: Images, degraded: Images, t: Times, added: Added | None = None) -> Images:
        """x_0 by the network."""
        return origin(self.process, self.network(x_t, degraded, t / self.process.end, added), x_t, degraded, t, form=self.form)

    def _earlier(self, x_s: Images, degraded: Images, s: Times, added: Added | None) -> Images:
        """x_0 by the network, or by its average."""
        if self.teacher is None:
            return self.estimate(x_s, degraded, s, added)
        return origin(self.process, self.teacher(self.network, x_s, degraded, s / self.process.end, added), x_s, degraded, s, form=self.form)

    def starts(self, degraded: Images, deviation: Times) -> Times:
        """The time that each degraded picture stands at: T, or that of its noise."""
        if self.process.settings.kind == "denoising":
            return self.process.time_of(deviation)
        return torch.full((len(degraded),), self.process.end, device=degraded.device)

    def _noise_prediction(self, clean: Images, degraded: Images, starts: Times, noise: torch.Generator) -> Losses:
        num_steps = self.process.settings.num_steps
        t = starts * (_whole(1, num_steps, starts, noise) / num_steps)
        given = _normal(clean, noise)
        x_t = self.process.state(clean, self.process.target(clean, degraded), t, given)
        added = self._added(degraded, self._kept(degraded, noise))
        loss = (self.network(x_t, degraded, t / self.process.end, added) - given).square().mean()
        return Losses(loss, {"noise_error": loss.detach()})

    def _consistency(self, clean: Images, degraded: Images, starts: Times, deviation: Times, linear: bool, noise: torch.Generator) -> Losses:
        process, settings, num_steps = self.process, self.settings, self.process.settings.num_steps
        at_end = torch.rand(len(clean), generator=noise).to(starts.device) < settings.end_fraction
        later = torch.where(at_end, torch.full_like(starts, num_steps), _whole(1, num_steps, starts, noise))
        t, s = starts * (later / num_steps), starts * ((later - 1) / num_steps)
        given = _normal(clean, noise)
        if process.settings.kind == "denoising":  # at its own time a noisy picture is the state
            own = (degraded - clean) / deviation[:, None, None, None]
            given = torch.where((later == num_steps)[:, None, None, None], own, given)
        x_0 = degraded if linear else clean
        mu = process.target(x_0, degraded)
        x_t, x_s = process.state(x_0, mu, t, given), process.state(x_0, mu, s, given)
        kept = self._kept(degraded, noise)
        read = degraded if linear else self._read_again(degraded, starts, later < num_steps, kept, noise)
        added = self._added(degraded, kept, read)
        f = consistent(process, self.estimate(x_t, degraded, t, added), x_t, t, boundary=self.boundary)
        with torch.no_grad():
            earlier = consistent(process, self._earlier(x_s, degraded, s, added), x_s, s, boundary=self.boundary)
        apart = _distance(f - earlier, settings.distance)
        anchor = self._origin_loss(f, clean)
        return Losses(apart + settings.origin_weight * anchor.loss, {"consistency": apart.detach(), **anchor.metrics})

    def _kept(self, degraded: Images, noise: torch.Generator) -> Bool[Tensor, " images"] | None:
        """Which pictures the encoder is looked through for; None without one."""
        guide = self.network.guide
        return None if guide is None else (torch.rand(len(degraded), generator=noise) >= guide.settings.dropout).to(degraded.device)

    def _added(self, degraded: Images, kept: Bool[Tensor, " images"] | None, seen: Images | None = None) -> Added | None:
        return None if kept is None else self.network.guide(degraded, grid=self.network.grid(degraded), seen=seen).kept(kept)

    @torch.no_grad()
    def _read_again(self, degraded: Images, starts: Times, before_end: Bool[Tensor, " images"], kept: Bool[Tensor, " images"] | None, noise: torch.Generator) -> Images:
        """What tokens are read of: degraded pictures, and for a share of the states before the end the estimates of a first step, as from the second step on."""
        if kept is None or not self.network.guide.settings.rereads:
            return degraded
        chosen = (torch.rand(len(degraded), generator=noise) < self.network.guide.settings.reread).to(degraded.device) & before_end & kept
        if not chosen.any():
            return degraded
        spoilt, t = degraded[chosen], starts[chosen]
        x_t = spoilt if self.process.settings.kind == "denoising" else spoilt + self.process.deviation(t) * _normal(spoilt, noise)
        first = consistent(self.process, self.estimate(x_t, spoilt, t, self._added(spoilt, kept[chosen])), x_t, t, boundary=self.boundary)
        read = degraded.clone()
        read[chosen] = first.clamp(0, 1)
        return read

    def _origin_loss(self, f: Images, clean: Images) -> Losses:
        error = (f - clean).abs().mean()
        metrics = {"origin_error": error.detach()}
        if self._perceptual is None or not self.settings.perceptual_weight:
            return Losses(error, metrics)
        seen = self._perceptual(f, clean)
        return Losses(error + self.settings.perceptual_weight * seen, metrics | {"perceptual": seen.detach()})


def _distance(difference: Images, kind: str) -> Float[Tensor, ""]:
    if kind == "absolute":
        return difference.abs().mean()
    if kind == "squared":
        return difference.square().mean()
    return ((difference.square() + HUBER**2).sqrt() - HUBER).mean()


def _whole(least: int, most: int, like: Times, noise: torch.Generator) -> Times:
    """Whole numbers from least to most, both in."""
    return torch.randint(least, most + 1, like.shape, generator=noise).to(like)


def _normal(like: Images, noise: torch.Generator) -> Images:
    return torch.randn(like.shape, generator=noise).to(like.device)
