"""The training loop of what is downstream: DeepSpeed's engine, exact resumption at any number of ranks, a moving average of the weights.

    items of a step, by number --batch--> module --Losses--> gradients of all micro-batches and ranks --> update --> metrics, checkpoint

A batch is a function of the step and the numbers of its items, and so is its noise: nothing else has to be remembered, and two ranks compute what one does.
"""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn

from downstream.losses import Losses
from downstream.muon import MuonAdamW
from lcl.checkpoint import Checkpointer, Resume, find_resume, load_checkpoint
from lcl.core.config import config, to_dict
from lcl.core.logs import Bar, progress_bar
from lcl.distributed import Ranks, sum_over_ranks, together
from lcl.ema import MovingAverage
from lcl.engine import EngineConfig, NotFinite, deepspeed_settings, full_weights, start_engine, update
from lcl.monitor import Monitor, clock
from lcl.run_folder import Input, claim_folder, write_status
from lcl.run_mirror import RunMirror
from lcl.schedule import ScheduleConfig, learning_rate
from lcl.stopping import SaveTimes, StopRequest, stop_request

log = logging.getLogger(__name__)

Positive = Annotated[int, Field(ge=1)]
Ratio = Annotated[float, Field(ge=0, lt=1)]

FREE_FIELDS = ("output", "fit.save_every", "fit.save_minutes", "fit.keep_checkpoints", "fit.mirror", "fit.log_every", "fit.threads", "fit.scratch", "fit.wandb", "fit.engine.")


@config
class FitOptimizerConfig:
    kind: Literal["adamw", "muon"] = "adamw"
    """muon: for convolutions and linear layers, AdamW for the rest (downstream/muon.py); faster where an hour is all there is. Without ZeRO, in fp32 or mixed."""
    muon_ratio: Annotated[float, Field(gt=0)] = 0.33
    """Muon's learning rate, as a part of the other's."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    schedule: ScheduleConfig = ScheduleConfig(warmup_steps=100)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    beta1: Ratio = 0.9
    beta2: Ratio = 0.999
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    ema_decay: Ratio = 0.999
    """Decay per step of the moving average of weights, which is what is used afterwards; 0: the last weights are."""
    ema_every: Positive = 10


@config
class FitConfig:
    steps: Positive = 10_000
    batch_items: Positive = 8
    """Items of a step, of all ranks."""
    micro_items: Positive = 4
    """Items that a rank holds at one time. Noise is drawn for each of these parts, so another number gives other noise."""
    engine: EngineConfig = EngineConfig()
    save_every: Positive = 1000
    save_minutes: Annotated[float, Field(ge=0)] = 30.0
    """Minutes after which there is a checkpoint in between; 0: only by steps."""
    keep_checkpoints: Positive = 2
    mirror: str = ""
    """Address of an object store (s3://bucket/run) where checkpoints are put too, meanwhile; another machine continues from there."""
    log_every: Positive = 50
    threads: Positive = 1
    """Threads of a rank on a CPU."""
    scratch: str = ""
    """Folder on each machine where checkpoints are first written; empty: the system's for temporary files."""
    wandb: str = ""
    seed: Annotated[int, Field(ge=0)] = 0


class Task(Protocol):
    """What is trained, and on what. `module(*batch)` gives `Losses`."""

    module: nn.Module

    def batch(self, step: int, items: range, noise: torch.Generator) -> tuple[Any, ...]: ...

    def before_step(self, step: int) -> None: ...


def fit(
    task: Task, settings: FitConfig, optimizer: FitOptimizerConfig, ranks: Ranks, *, output: Path, run_config: Any, identity: Mapping[str, Any], inputs: Mapping[str, Input],
    show: tuple[str, ...],
) -> dict[str, Tensor] | None:
    """Trains to `settings.steps`, from the newest valid checkpoint where there is one, or until a signal asks for an end.

    Returns, on rank 0, the weights to use: their moving average, or the last ones; None on other ranks and when told to stop before the end.
    `identity` is what a checkpoint and the run must have in common; `show` names the metrics of log lines.
    Raises ValueError, before anything is written, for numbers that do not divide and for a folder of another run, and for a loss that is not finite.
    """
    return Fitting(task, settings, optimizer, ranks, output=output, run_config=run_config, identity=identity, inputs=inputs, show=show).run()


class Fitting:
    def __init__(
        self, task: Task, settings: FitConfig, optimizer: FitOptimizerConfig, ranks: Ranks, *, output: Path, run_config: Any, identity: Mapping[str, Any],
        inputs: Mapping[str, Input], show: tuple[str, ...],
    ) -> None:
        self.task, self.settings, self.rates, self.ranks, self.folder, self.show = task, settings, optimizer, ranks, output, show
        self.accumulation = check_numbers(settings, ranks.world_size)
        if optimizer.kind == "muon" and (settings.engine.zero_stage > 0 or settings.engine.precision == "bf16"):
            raise ValueError("optimizer.kind muon takes weights whole and in fp32: give --fit.engine.zero-stage 0 and --fit.engine.precision fp32 or mixed, or --optimizer.kind adamw")
        engine_settings = deepspeed_settings(settings.engine, micro_rows=settings.micro_items, accumulation=self.accumulation, clip_norm=optimizer.clip_norm)
        with together():
            mirror = RunMirror(output, settings.mirror, keep=settings.keep_checkpoints) if settings.mirror else None
        claim_folder(output, run_config, inputs=inputs, free=FREE_FIELDS, rank=ranks.rank, mirror=mirror)
        identity = dict(identity) | {"zero_stage": settings.engine.zero_stage, "precision": settings.engine.precision, "ranks": dist.get_world_size()}
        resume = find_resume(output, identity=identity)
        trained = [parameter for parameter in task.module.parameters() if parameter.requires_grad]
        self.engine = start_engine(
            task.module.to(ranks.device), make_optimizer(task.module, optimizer), engine_settings, load_universal=resume is not None and resume.converted is not None
        )
        self.step = 0 if resume is None else int(resume.state["step"])
        self.average = self._average(resume)
        self.saves = SaveTimes(every_steps=settings.save_every, every_minutes=settings.save_minutes, first=self.step, last=settings.steps)
        self.checkpointer = Checkpointer(output, identity=identity, keep=settings.keep_checkpoints, scratch=settings.scratch, mirror=mirror)
        with together():
            self.monitor = Monitor(output, to_dict(run_config), after=self.step, wandb_project=settings.wandb) if ranks.rank == 0 else None
        log.info(
            "%.2f M parameters, %d ranks, %s step %d of %d",
            sum(getattr(one, "ds_numel", one.numel()) for one in trained) / 1e6, ranks.world_size, "from" if resume is None else "resumed at", self.step, settings.steps,
        )  # fmt: skip
        if resume is not None:
            load_checkpoint(self.engine, resume)

    def run(self) -> dict[str, Tensor] | None:
        with progress_bar("training", total=self.settings.steps, done=self.step, show=self.monitor is not None) as bar, stop_request() as stop:
            told = self._loop(bar, stop)
            self.checkpointer.finish()
            finished = self.step == self.settings.steps
            if self.monitor is not None:
                write_status(self.folder, step=self.step, finished=finished)
                self.monitor.close()
            self.checkpointer.close()
        if told and not finished:
            log.info("stopped by a signal at step %d of %s; the same command continues", self.step, self.folder)
            return None
        weights = full_weights(self.engine)
        if self.ranks.rank:
            return None
        return self.average.weights if self.average is not None else weights

    def _loop(self, bar: Bar, stop: StopRequest) -> bool:
        """Whether it was told to stop."""
        settings, first, started = self.settings, self.step, time.perf_counter()
        while self.step < settings.steps:
            agreed = stop.agree(failed=False, late=self.saves.is_late(), device=self.ranks.device)
            if agreed.told:
                break
            began = time.perf_counter()
            metrics = self._train_step() | {"step_seconds": time.perf_counter() - began}
            if self.monitor is not None:
                self.monitor.write(self.step, metrics, group="train")
                bar.advance(note=self._line(metrics))
                if self.step % settings.log_every == 0 or self.step == settings.steps:
                    left = (time.perf_counter() - started) / (self.step - first) * (settings.steps - self.step)
                    log.info("step %d of %d: %s, %s left", self.step, settings.steps, self._line(metrics), clock(left))
            if self.saves.is_due(self.step, late=agreed.late):
                self._save()
        if not self.saves.is_saved(self.step):
            self._save()
        return self.step < settings.steps

    def _line(self, metrics: Mapping[str, float]) -> str:
        return " ".join(f"{name} {metrics[name]:.4g}" for name in self.show)

    def _train_step(self) -> dict[str, float]:
        settings, device = self.settings, self.ranks.device
        rate = learning_rate(self.step, self.rates.schedule, peak=self.rates.learning_rate, total_steps=settings.steps)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        self.task.before_step(self.step)
        share, totals = settings.batch_items // self.ranks.world_size, {}
        for part in range(self.accumulation):
            first = self.ranks.rank * share + part * settings.micro_items
            noise = torch.Generator().manual_seed(int(np.random.default_rng([settings.seed, self.step, first]).integers(2**63)))
            batch = self.task.batch(self.step, range(first, first + settings.micro_items), noise)
            found: Losses = self.engine(*(value.to(device) if isinstance(value, Tensor) else value for value in batch))
            self.engine.backward(found.loss)
            for name, value in {"loss": found.loss.detach(), **found.metrics}.items():
                totals[name] = totals.get(name, 0.0) + value / self.accumulation
            if part < self.accumulation - 1:
                self.engine.step()  # counts the micro-batch; the update comes with the last one
        means = sum_over_ranks(torch.stack([torch.as_tensor(value, dtype=torch.float32, device=device) for value in totals.values()])) / self.ranks.world_size
        metrics = dict(zip(totals, means.tolist(), strict=True))
        try:
            if not torch.isfinite(means).all():
                raise NotFinite(f"the loss is not finite ({metrics}); no weights were changed. Lower --optimizer.learning-rate.")
            metrics["gradient_norm"] = update(self.engine)
        except NotFinite as error:
            raise ValueError(f"step {self.step + 1}: {error}") from error
        self.step += 1
        if self.average is not None and self.step % self.rates.ema_every == 0:
            self.average.update(full_weights(self.engine), step=self.step)
        return metrics | {"learning_rate": rate}

    def _average(self, resume: Resume | None) -> MovingAverage | None:
        if not self.rates.ema_decay:
            return None
        if resume is None:
            return MovingAverage(self.rates.ema_decay, self.rates.ema_every, weights=full_weights(self.engine))
        with together():
            weights = resume.weights("ema") if self.ranks.rank == 0 else {}
            if weights is None:
                raise ValueError(f"{resume.folder} holds no moving average, but optimizer.ema_decay is {self.rates.ema_decay}; restore ema.safetensors, or give another --output")
        return MovingAverage(self.rates.ema_decay, self.rates.ema_every, weights=weights)

    def _save(self) -> None:
        extra = {"ema": self.average.weights} if self.average is not None else {}
        self.checkpointer.save(self.engine, {}, step=self.step, state={}, extra=extra)
        self.saves.saved(self.step)


def make_optimizer(module: nn.Module, settings: FitOptimizerConfig) -> torch.optim.Optimizer:
    """Of the parameters of `module` that are trained."""
    adam: dict[str, Any] = {"lr": settings.learning_rate, "betas": (settings.beta1, settings.beta2), "eps": settings.epsilon, "weight_decay": settings.weight_decay}
    if settings.kind == "muon":
        return MuonAdamW(module, muon_ratio=settings.muon_ratio, **adam)
    return torch.optim.AdamW([parameter for parameter in module.parameters() if parameter.requires_grad], **adam)


def check_numbers(settings: FitConfig, world_size: int) -> int:
    """Micro-batches per step and rank. Raises ValueError naming the numbers that do not fit."""
    if settings.batch_items % (world_size * settings.micro_items):
        raise ValueError(f"fit.batch_items ({settings.batch_items}) must be a multiple of ranks x fit.micro_items ({world_size} x {settings.micro_items})")
    return settings.batch_items // (world_size * settings.micro_items)
