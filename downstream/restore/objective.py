"""What restorers are trained to minimise; the three kinds share the network, and two of them the same loss terms.

    L_OG = |f - x_0| + perceptual_weight P(f, x_0)                    P: distance of the features of an encoder, 0 without one, or of VGG16

    regression   L_OG of f = degraded + network(degraded, degraded, T)
    ir_sde       |e - network(x_t, degraded, t)|^2, e the noise in x_t                       (IR-SDE, arXiv:2301.11699); of the residual form |x_0 - estimate|^2
    ir_cm        consistency_weight d(f(x_t), f'(x_s)) + origin_weight L_OG of f(x_t)        (IR-CM, NeurIPS 2024, Eq. 14 and 15)

x_t and x_s are neighbours on one probability-flow path, t the later: they have the same noise. f' is f without gradient,
of the network or of an average of it over the steps.

States that later steps of sampling meet are not those of the path: they are made of an estimate, at few times. `own_fraction` of the states before T are made so too, of the
network's own first step, without gradient, with the part of the noise that sampling adds anew (--model.renoise), and have L_OG alone, for their path's start is no clean picture; `sampled_fraction` lie at the later times of sampling.

Stages of ir_cm: `two` begins with a linear one, whose states are the degraded picture and noise (mu = x_0 = degraded) while the target is clean, and goes on with
states between degraded and clean; `one` has these alone.
"""

from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from downstream.losses import Losses
from downstream.restore.consistency import Form, consistent, origin
from downstream.restore.guide import Added
from downstream.restore.model_file import Kind, RestorerConfig
from downstream.restore.network import UNet
from downstream.restore.perceptual import Perceptual
from downstream.restore.process import Images, Process, Times
from downstream.restore.sampling import shares_of_start
from downstream.restore.teacher import Teacher
from downstream.restore.tones import Tones
from lcl.core.config import config

HUBER = 0.03  # c of sqrt(d^2 + c^2) - c, in pixels: a few levels of 8 bits count as squares


@config
class ObjectiveConfig:
    kind: Kind = "ir_cm"
    """regression: one step, plainly. ir_sde: noise prediction, restored in many steps. ir_cm: a consistency model, one to four steps."""
    distance: Literal["squared", "huber", "absolute"] = "squared"
    """d of ir_cm. In a prototype the absolute one let the linear stage collapse to the degraded picture."""
    consistency_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of d in ir_cm; 0: the earlier state is not looked at."""
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
    sampled_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Part of ir_cm's states before T that are drawn at the times of later steps: --model.times, or 1/2, 1/4 and 1/8 of T."""
    own_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Part of ir_cm's states before T that are made of the network's own estimate of a first step in the place of the clean picture; they have L_OG alone."""
    teacher_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per step of the average of the network that makes f'; 0: the network itself does."""
    stages: Literal["one", "two"] = "one"
    linear_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Part of all steps that the linear stage takes, of two."""

    def check(self, *, form: Form) -> None:
        """Raises ValueError if it does not fit the form of the network's output."""
        if self.kind == "regression" and form != "residual":
            raise ValueError("objective.kind regression trains a network whose output is the residual: give --model.form residual")

    def linear(self, step: int, *, num_steps: int) -> bool:
        """Whether this step is of the linear stage."""
        return self.kind == "ir_cm" and self.stages == "two" and step < self.linear_fraction * num_steps


class FirstStep(NamedTuple):
    estimate: Images
    """Of the degraded pictures in `read` or `own`; the others are as they were."""
    read: Bool[Tensor, " images"]
    """Whose tokens are those of the estimate."""
    own: Bool[Tensor, " images"]
    """Whose states are made of it."""


class RestorerObjective(nn.Module):
    """The network with what its training needs: the loss of a batch is its forward pass."""

    def __init__(self, network: UNet, model: RestorerConfig, settings: ObjectiveConfig, *, perceptual: Perceptual | None = None) -> None:
        super().__init__()
        settings.check(form=model.form)
        self.network, self.process, self.model, self.settings, self._perceptual = network, Process(model.process), model, settings, perceptual
        self.teacher = Teacher(network, settings.teacher_decay) if settings.teacher_decay and settings.kind == "ir_cm" else None

    def forward(self, clean: Images, degraded: Images, deviation: Times, linear: bool, noise: torch.Generator, tones: Tones | None = None) -> Losses:
        """The loss of these pairs. `deviation` of Gaussian noise in the degraded ones, in [0, 1], is for a denoising process, `tones` of the photographs for a network that has them; `noise` draws times and states."""
        kind = self.settings.kind
        if kind == "regression":
            end = torch.full((len(clean),), self.process.end, device=clean.device)
            return self._origin_loss(self.estimate(degraded, degraded, end, self.network.added(degraded, tones, kept=self._kept(degraded, noise))), clean)
        starts = self.starts(degraded, deviation)
        if kind == "ir_sde":
            return self._step_by_step(clean, degraded, starts, tones, noise)
        return self._consistency(clean, degraded, starts, deviation, tones, linear, noise)

    def estimate(self, x_t: Images, degraded: Images, t: Times, added: Added | None = None) -> Images:
        """x_0 by the network."""
        return origin(self.process, self.network(x_t, degraded, t / self.process.end, added), x_t, degraded, t, form=self.model.form)

    def _f(self, x_0: Images, x_t: Images, degraded: Images, t: Times) -> Images:
        return consistent(self.process, x_0, x_t, degraded, t, boundary=self.model.boundary, spread_255=self.model.spread_255)

    def _earlier(self, x_s: Images, degraded: Images, s: Times, added: Added | None) -> Images:
        """x_0 by the network, or by its average."""
        if self.teacher is None:
            return self.estimate(x_s, degraded, s, added)
        return origin(self.process, self.teacher(self.network, x_s, degraded, s / self.process.end, added), x_s, degraded, s, form=self.model.form)

    def starts(self, degraded: Images, deviation: Times) -> Times:
        """The time that each degraded picture stands at: T, or that of its noise."""
        if self.process.settings.kind == "denoising":
            return self.process.time_of(deviation)
        return torch.full((len(degraded),), self.process.end, device=degraded.device)

    def _step_by_step(self, clean: Images, degraded: Images, starts: Times, tones: Tones | None, noise: torch.Generator) -> Losses:
        process, num_steps = self.process, self.process.settings.num_steps
        t = starts * (_whole(1, num_steps, starts, noise) / num_steps)
        given = _normal(clean, noise)
        if process.settings.kind == "denoising":  # steps lead from the noisy picture to states that have a part of its noise, not another
            passed = process.posterior(degraded, clean, clean, starts, t)
            x_t = passed.mean + passed.deviation * given
            given = process.noise_in(x_t, clean, clean, t)
        else:
            x_t = process.state(clean, degraded, t, given)
        said = self.network(x_t, degraded, t / process.end, self.network.added(degraded, tones, kept=self._kept(degraded, noise)))
        if self.model.form == "noise":
            loss = (said - given).square().mean()
            return Losses(loss, {"noise_error": loss.detach()})
        error = origin(process, said, x_t, degraded, t, form=self.model.form) - clean
        return Losses(error.square().mean(), {"origin_error": error.detach().abs().mean()})

    def _consistency(self, clean: Images, degraded: Images, starts: Times, deviation: Times, tones: Tones | None, linear: bool, noise: torch.Generator) -> Losses:
        process, settings, num_steps = self.process, self.settings, self.process.settings.num_steps
        at_end = self._share(settings.end_fraction, starts, noise)
        later = torch.where(at_end, torch.full_like(starts, num_steps), _whole(1, num_steps, starts, noise))
        if settings.sampled_fraction:
            sampled = num_steps * torch.tensor(self.model.times or shares_of_start((), 4)[1:], device=starts.device)
            chosen = ~at_end & self._share(settings.sampled_fraction, starts, noise)
            later = torch.where(chosen, sampled[_whole(0, len(sampled) - 1, starts, noise).long()], later)
        t, s = starts * (later / num_steps), starts * ((later - 1).clamp(min=0) / num_steps)
        given = _normal(clean, noise)
        if process.settings.kind == "denoising":  # at its own time a noisy picture is the state
            own = (degraded - clean) / deviation[:, None, None, None]
            given = torch.where((later == num_steps)[:, None, None, None], own, given)
        kept = self._kept(degraded, noise)
        first = self._first_step(degraded, starts, (later < num_steps) & (not linear), kept, tones, noise)  # the linear stage is for one step
        own, read = (which[:, None, None, None] for which in (first.own, first.read))
        x_0 = torch.where(own, first.estimate, degraded if linear else clean)
        mu = process.target(x_0, degraded)
        x_t = process.state(x_0, mu, t, torch.where(own, self.model.renoise * given, given))
        added = self.network.added(degraded, tones, kept=kept, seen=torch.where(read, first.estimate.clamp(0, 1), degraded))
        f = self._f(self.estimate(x_t, degraded, t, added), x_t, degraded, t)
        anchor = self._origin_loss(f, clean)
        loss = settings.origin_weight * anchor.loss
        if not settings.consistency_weight:
            return Losses(loss, anchor.metrics)
        with torch.no_grad():
            x_s = process.state(x_0, mu, s, given)
            earlier = self._f(self._earlier(x_s, degraded, s, added), x_s, degraded, s)
        apart = _distance((f - earlier) * ~own, settings.distance)
        return Losses(settings.consistency_weight * apart + loss, {"consistency": apart.detach(), **anchor.metrics})

    def _kept(self, degraded: Images, noise: torch.Generator) -> Bool[Tensor, " images"] | None:
        """Which pictures the encoder is looked through for; None without one."""
        guide = self.network.guide
        return None if guide is None else (torch.rand(len(degraded), generator=noise) >= guide.settings.dropout).to(degraded.device)

    @torch.no_grad()
    def _first_step(
        self, degraded: Images, starts: Times, before_end: Bool[Tensor, " images"], kept: Bool[Tensor, " images"] | None, tones: Tones | None, noise: torch.Generator,
    ) -> FirstStep:
        """Estimates of a first step for states before the end: to read tokens of, as from the second step on, and to make states of."""
        rereads = kept is not None and self.network.guide.settings.rereads
        none = torch.zeros_like(before_end)
        read = self._share(self.network.guide.settings.reread, starts, noise) & before_end & kept if rereads else none
        own = self._share(self.settings.own_fraction, starts, noise) & before_end if self.settings.own_fraction else none
        if rereads:
            read = read | (own & kept)
        chosen, estimate = read | own, degraded
        if chosen.any():
            spoilt, t = degraded[chosen], starts[chosen]
            x_t = spoilt if self.process.settings.kind == "denoising" else spoilt + self.process.deviation(t) * _normal(spoilt, noise)
            estimate = degraded.clone()
            added = self.network.added(spoilt, None if tones is None else tones[chosen], kept=None if kept is None else kept[chosen])
            estimate[chosen] = self._f(self.estimate(x_t, spoilt, t, added), x_t, spoilt, t).to(degraded.dtype)
        return FirstStep(estimate, read=read, own=own)

    def _share(self, fraction: float, starts: Times, noise: torch.Generator) -> Bool[Tensor, " images"]:
        """Which pictures are of a share that is drawn."""
        return (torch.rand(len(starts), generator=noise) < fraction).to(starts.device)

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
