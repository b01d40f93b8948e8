"""The training loop.

    rows --> batches (lcl/prefetch.py) --> gradients of the global batch (lcl/train_step.py) --> update (lcl/engine.py)
         --> metrics (lcl/monitor.py), validation, checkpoint (lcl/checkpoint.py)
"""

import importlib.util
import logging
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lcl.alarms import CollapseAlarms, SpikeGuard
from lcl.checkpoint import Checkpointer, Resume, checkpoint_identity, find_resume, load_checkpoint
from lcl.core.config import to_dict
from lcl.core.files import write_json
from lcl.core.logs import Bar, progress_bar
from lcl.core.shard_mirror import fetch_sets
from lcl.core.tokenizer import Tokenizer
from lcl.distributed import Ranks, raise_together, say, slowly_together, sum_over_ranks, together
from lcl.ema import MovingAverage
from lcl.engine import NotFinite, deepspeed_settings, full_weights, start_engine, update
from lcl.flops import mfu, peak_flops
from lcl.heartbeat import Heartbeat, naming_late_ranks
from lcl.loader import RowLoader, RowSource, check_lanes
from lcl.model import LCL
from lcl.monitor import Monitor, clock
from lcl.parameter_groups import freeze, parameter_groups
from lcl.prefetch import Prefetcher, StepInput
from lcl.rows import SpecialIds
from lcl.run_folder import Input, claim_folder, write_status
from lcl.run_mirror import RunMirror
from lcl.schedule import learning_rate
from lcl.start import load_start
from lcl.stopping import SaveTimes, StopRequest, stop_request
from lcl.train_config import FREE_FIELDS, TrainConfig
from lcl.train_step import accumulate_gradients
from lcl.validation import Validation

log = logging.getLogger(__name__)


def train(config: TrainConfig, ranks: Ranks) -> None:
    """Trains to `config.steps`, from the newest valid checkpoint of the run where there is one, or until a signal asks for an end.

    Raises ValueError, before anything is written, for numbers that do not divide and for a folder of another run.
    """
    Training(config, ranks).run()


class Training:
    """One run: what it is made of, and its loop."""

    def __init__(self, config: TrainConfig, ranks: Ranks) -> None:
        self.config, self.ranks, self.folder = config, ranks, Path(config.output)
        accumulation = check_numbers(config, ranks.world_size)
        settings = deepspeed_settings(config.engine, micro_rows=config.micro_rows, accumulation=accumulation, clip_norm=config.optimizer.clip_norm)
        guard, alarms = partial(SpikeGuard, config.spikes), partial(CollapseAlarms, config.collapse, warmup_steps=config.optimizer.schedule.warmup_steps)
        guard()  # its settings are checked before anything is written
        slowly_together(partial(fetch_sets, config.data.shards, config.data.cache))
        with together():
            check_scratch(config.scratch)
            mirror = RunMirror(self.folder, config.mirror, keep=config.keep_checkpoints) if config.mirror else None
            self.tokenizer = Tokenizer(config.model.tokenizer)
            make_source = partial(RowSource, config.data, config.model, config.row_length, config.seed, tokenizer=self.tokenizer, layout=config.loss.layout)
            self.source = source = make_source()
            self.validation = self._validation(make_source)
        torch.manual_seed(config.seed)
        model = LCL.for_tokenizer(config.model, self.tokenizer, regression=config.loss.regresses)
        inputs = {
            "shards": Input(source.fingerprint, f"the shards in {', '.join(config.data.shards)}"),
            "tokenizer": Input(self.tokenizer.fingerprint, "the ids that the tokenizer gives (model.tokenizer.file)"),
        }
        claim_folder(self.folder, config, inputs=inputs, free=FREE_FIELDS, rank=ranks.rank, mirror=mirror)
        identity = checkpoint_identity(config.model, self.tokenizer, config.engine) | {"objective": config.loss.objective}
        resume = find_resume(self.folder, identity=identity)
        # A converted checkpoint holds what the optimiser trains, and nothing of frozen parts.
        with together():
            taken = load_start(model, config.start, self.tokenizer) if resume is None or resume.converted is not None else []
        num_frozen = freeze(model, config.frozen) if config.frozen else 0
        self.engine = self._start(model, settings, resume)
        state: Mapping[str, Any] = {"step": 0, "counters": {}, "spikes": None, "collapse": None} if resume is None else resume.state
        self.step, self.counters = state["step"], Counter(state["counters"])
        self.spikes, self.alarms = guard(state=state["spikes"]), alarms(state=state["collapse"])
        self.average = self._average(resume)
        self.saves = SaveTimes(every_steps=config.save_every, every_minutes=config.save_minutes, first=self.step, last=config.steps)
        self.checkpointer = Checkpointer(
            self.folder, identity=identity, keep=config.keep_checkpoints, scratch=config.scratch, merge_states=RowLoader.merge_states, mirror=mirror
        )  # fmt: skip
        with together():
            loader = RowLoader(
                source, rank=ranks.rank, world_size=ranks.world_size, batch_rows=config.batch_rows, state=None if resume is None else resume.loader
            )
            self.monitor = Monitor(self.folder, to_dict(config), after=self.step, wandb_project=config.wandb) if ranks.rank == 0 else None
        self.loader_state, self.damaged = loader.state(), 0.0
        self.heartbeat = Heartbeat(self.folder, rank=ranks.rank, ranks=ranks.world_size, step=self.step)
        self.batches = Prefetcher(
            loader, config.model, rows=config.batch_rows // ranks.world_size, micro_rows=config.micro_rows, row_length=config.row_length,
            special=SpecialIds.of(self.tokenizer), vocab_size=self.tokenizer.vocab_size, regression=config.loss.regresses, pin=ranks.device.type == "cuda",
        )  # fmt: skip
        num_parameters = sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in model.parameters())
        for line in taken if resume is None else ():
            log.info("started with %s", line)
        log.info(
            "%.1f M parameters (%.1f M frozen), %d documents, %d ranks, %s step %d of %d",
            num_parameters / 1e6, num_frozen / 1e6, len(source), ranks.world_size, "from" if resume is None else "resumed at", self.step, config.steps,
        )  # fmt: skip
        if resume is not None:
            load_checkpoint(self.engine, resume)

    def run(self) -> None:
        """The loop. Signals are taken until all is written: a second one must not end the process in the middle of its last checkpoint."""
        with (
            progress_bar("training", total=self.config.steps, done=self.step, show=self.monitor is not None) as bar, stop_request() as stop,
            self.heartbeat.beating(), naming_late_ranks(self.folder),
        ):  # fmt: skip
            try:
                self._loop(bar, stop)
            finally:
                self.batches.stop()
            self.heartbeat.at(self.step, "checkpoint")
            self.checkpointer.finish()
            finished = self.step == self.config.steps
            if self.monitor is not None:
                write_status(self.folder, step=self.step, finished=finished)
                self.monitor.close()
            self.checkpointer.close()
        log.info("finished at step %d: %s" if finished else "stopped by a signal at step %d of %s; the same command continues", self.step, self.folder)

    def _loop(self, bar: Bar, stop: StopRequest) -> None:
        config, first, started, problem = self.config, self.step, time.perf_counter(), None
        while self.step < config.steps:
            waited_from = time.perf_counter()
            self.heartbeat.at(self.step, "data")
            given = self.batches.next()
            self.heartbeat.at(self.step, "step")
            problem = problem or (None if isinstance(given, StepInput) else say(given))
            agreed = stop.agree(failed=problem is not None, late=self.saves.is_late(), device=self.ranks.device)
            if agreed.told:  # before what failed, for the same signal may have ended a worker
                break
            if agreed.failed:
                raise_together(problem)
            metrics = self.train_step(given, waited_from)
            if self.monitor is not None:
                left = (time.perf_counter() - started) / (self.step - first) * (config.steps - self.step)
                try:
                    self._report(metrics, given, left=left)
                except OSError as error:  # the others hear of it before the next step
                    problem = f"{self.folder} cannot be written ({error}): make room, then the same command continues"
                bar.advance(note=f"text {metrics['text_nats']:.3f} contrastive {metrics['contrastive_nats']:.3f}")
            if self.validation is not None and (self.step % config.validation.every == 0 or self.step == config.steps):
                self._validate(self.validation)
            if self.saves.is_due(self.step, late=agreed.late):
                self._save()
        if not self.saves.is_saved(self.step):
            self._save()  # told to stop in between

    def _is_shown(self, step: int) -> bool:
        return step % self.config.log_every == 0 or step == self.config.steps

    def train_step(self, given: StepInput, waited_from: float) -> dict[str, float]:
        """One step of all ranks together, from when its input was waited for (`time.perf_counter`); returns its metrics. Raises ValueError as `NotFinite`."""
        config, started = self.config, time.perf_counter()
        rate = learning_rate(self.step, config.optimizer.schedule, peak=config.optimizer.learning_rate, total_steps=config.steps)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate * group["rate_scale"]
        batches = [batch.to(self.ranks.device) for batch in given.batches]
        try:
            metrics = accumulate_gradients(
                self.engine, batches, config.loss, world_size=self.ranks.world_size, is_spike=self.spikes.is_spike,
                health=self.monitor is not None and self._is_shown(self.step + 1),
            )  # fmt: skip
            if not metrics["skipped"]:
                metrics["gradient_norm"] = update(self.engine)
        except NotFinite as error:
            raise ValueError(f"step {self.step + 1}: {error} {self._name_documents(given.documents)}") from error
        self.step, self.loader_state = self.step + 1, given.loader_state
        if self.average is not None and self.step % config.optimizer.ema_every == 0:
            self.average.update(full_weights(self.engine), step=self.step)
        seconds = time.perf_counter() - waited_from
        self.counters.update(images=metrics["images"], tokens=metrics["tokens"], documents=metrics["documents"], rows=config.batch_rows, skipped=metrics["skipped"])
        if self._is_shown(self.step):
            metrics["images_damaged"] = self._check_damage(given.images_read, given.images_damaged)
        peak = None if config.frozen else peak_flops(self.ranks.device, precision=config.engine.precision)  # frozen parts take less than three passes
        used = mfu(given.flops, seconds, peak)  # of this rank; the others hold as many rows
        return metrics | {
            "learning_rate": rate, "images_seen": self.counters["images"], "step_seconds": seconds, "data_wait": (started - waited_from) / seconds,
            **{f"{name}_per_second": metrics[name] / seconds for name in ("tokens", "images", "documents")}, **({} if used is None else {"mfu": used}),
        }  # fmt: skip

    def _name_documents(self, places: Sequence[int]) -> str:
        """Writes the keys and pages of this rank's documents of the step beside the run, and says where."""
        path = self.folder / f"not-finite-{self.step + 1:06d}-rank-{self.ranks.rank}.json"
        documents = [self.source.document(place) for place in sorted(set(places))]
        write_json(path, {document.key: document.page_url for document in documents})
        return f"This rank's documents of the step are listed in {path}."

    def _check_damage(self, images: int, damaged: int) -> float:
        """How many images could not be decoded so far. Raises ValueError, on all ranks, if those are too many."""
        images, damaged = sum_over_ranks(torch.tensor([float(images), float(damaged)], device=self.ranks.device)).tolist()
        allowed = self.config.data.max_damaged * images
        if damaged > allowed + 3 * allowed**0.5:  # three standard deviations of a Poisson count, so that chance alone stops no run
            raise ValueError(
                f"{damaged:.0f} of {images:.0f} images in the shards are damaged, more than data.max_damaged ({self.config.data.max_damaged}) allows; "
                "build the shards again, or raise it"
            )
        return damaged

    def _report(self, metrics: Mapping[str, float], given: StepInput, *, left: float) -> None:
        assert self.monitor is not None
        self.monitor.write(self.step, metrics, group="train")
        if self.step % self.config.save_every == 0:
            self.monitor.show_row(self.step, given.first_row, self.tokenizer, patch_px=self.config.model.vision.tower().patch_px)
        if metrics["skipped"]:
            log.warning("step %d: loss %.3f is a spike; its update is skipped", self.step, metrics["loss"])
        if self._is_shown(self.step):
            self.monitor.warn(self.step, self._alarms_of(metrics))
            if metrics["images_damaged"] > self.damaged:
                self.monitor.warn(self.step, [f"{metrics['images_damaged']:.0f} images so far could not be decoded and were left out"])
            self.damaged = metrics["images_damaged"]
            utilisation = f", MFU {metrics['mfu']:.0%}" if "mfu" in metrics else ""
            log.info(
                "step %d of %d: text %.3f contrastive %.3f nats, %.0f tokens/s, fill %.2f, waiting for data %.0f %%%s, %s left",
                self.step, self.config.steps, metrics["text_nats"], metrics["contrastive_nats"], metrics["tokens_per_second"], metrics["fill"],
                100 * metrics["data_wait"], utilisation, clock(left),
            )  # fmt: skip

    def _alarms_of(self, metrics: Mapping[str, float]) -> list[str]:
        contrasts = self.config.loss.weights[1] > 0
        return self.alarms.observe(
            step=self.step, num_positives=int(metrics["positives"]), contrastive_nats=metrics["contrastive_nats"] if contrasts else None,
            num_features=int(metrics["features"]), effective_rank=metrics["effective_rank"], embedding_variance=metrics["embedding_variance"],
        )  # fmt: skip

    def _validation(self, make_source: Callable[..., RowSource]) -> Validation | None:
        settings, config = self.config.validation, self.config
        if settings.every == 0:
            return None
        source = make_source(validation=True) if config.data.validation_fraction else None
        return Validation(
            settings, source, self.tokenizer, config.model.vision, loss=config.loss, micro_rows=config.micro_rows, rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )  # fmt: skip

    def _validate(self, validation: Validation) -> None:
        self.heartbeat.at(self.step, "validation")
        metrics = validation.measure(self.engine.module)
        if self.monitor is not None:
            self.monitor.write(self.step, metrics, group="validation")
            log.info("step %d, validation: %s", self.step, ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))

    def _start(self, model: LCL, settings: Mapping[str, Any], resume: Resume | None) -> Any:
        config = self.config
        if config.compile:
            compile_blocks(model)
        recompute_blocks([*model.visual.blocks_of_layers, *model.text.blocks_of_layers], every=config.recompute_every)
        optimizer = torch.optim.AdamW(
            parameter_groups(model, weight_decay=config.optimizer.weight_decay, layer_decay=config.optimizer.layer_decay),
            lr=config.optimizer.learning_rate, betas=(config.optimizer.beta1, config.optimizer.beta2), eps=config.optimizer.epsilon,
        )  # fmt: skip
        return start_engine(model, optimizer, settings, load_universal=resume is not None and resume.converted is not None)

    def _average(self, resume: Resume | None) -> MovingAverage | None:
        decay, every = self.config.optimizer.ema_decay, self.config.optimizer.ema_every
        if not decay:
            return None
        if resume is None:
            return MovingAverage(decay, every, weights=full_weights(self.engine))
        with together():
            weights = resume.weights("ema") if self.ranks.rank == 0 else {}
            if weights is None:
                raise ValueError(f"{resume.folder} holds no moving average, but optimizer.ema_decay is {decay}; restore ema.safetensors, or give another --output")
        return MovingAverage(decay, every, weights=weights)

    def _save(self) -> None:
        self.heartbeat.at(self.step, "checkpoint")
        state = {"counters": dict(self.counters), "spikes": self.spikes.state(), "collapse": self.alarms.state()}
        extra = {"ema": self.average.weights} if self.average is not None else {}
        self.checkpointer.save(self.engine, self.loader_state, step=self.step, state=state, extra=extra, write_more=self.tokenizer.save)
        self.saves.saved(self.step)


def check_numbers(config: TrainConfig, world_size: int) -> int:
    """Micro-batches per step and rank. Raises ValueError naming the numbers that do not fit."""
    config.model.check()
    config.loss.check()
    if config.wandb and importlib.util.find_spec("wandb") is None:
        raise ValueError("--wandb needs the package wandb: pip install wandb, or leave the option out")
    if config.validation.labelled and not config.validation.every:
        raise ValueError("validation.labelled is set, but not how often to look at it: give --validation.every")
    rows = config.batch_rows
    if rows % (world_size * config.micro_rows):
        raise ValueError(f"batch_rows ({rows}) must be a multiple of ranks x micro_rows ({world_size} x {config.micro_rows})")
    check_lanes(config.data, rank_count=world_size, batch_rows=rows)
    return rows // (world_size * config.micro_rows)


def check_scratch(scratch: str) -> None:
    """Raises ValueError if checkpoints cannot be written there first."""
    if not scratch:
        return
    try:
        os.makedirs(scratch, exist_ok=True)
        with tempfile.TemporaryFile(dir=scratch):
            pass
    except OSError as error:
        raise ValueError(f"--scratch {scratch} is no folder that can be written ({error}); give another, or leave the option out") from error


def compile_blocks(model: LCL) -> None:
    """Compiles each block, on a CPU those of the vision tower only: there text is attended document by document, whose lengths differ in every row, and code would be made again and again."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    for block in [*model.visual.blocks_of_layers, *([] if on_cpu else model.text.blocks_of_layers)]:
        block.compile()


def recompute_blocks(blocks: Sequence[nn.Module], *, every: int) -> None:
    """Lets every `every`-th block compute its activations again in the backward pass; none where `every` is 0."""
    for block in blocks[::every] if every else ():
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
