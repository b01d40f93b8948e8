"""The training loop.

    rows --> batches (lcl/prefetch.py) --> gradients of the global batch (lcl/train_step.py) --> update (lcl/engine.py)
         --> metrics (lcl/monitor.py), validation, checkpoint (lcl/checkpoint.py)
"""

import importlib.util
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
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
from lcl.core.logs import progress_bar
from lcl.core.tokenizer import Tokenizer
from lcl.distributed import Ranks, sum_over_ranks
from lcl.ema import MovingAverage
from lcl.engine import NotFinite, deepspeed_settings, full_weights, start_engine, update
from lcl.flops import mfu, peak_flops
from lcl.loader import RowLoader, RowSource, check_lanes
from lcl.model import LCL
from lcl.monitor import Monitor, clock
from lcl.parameter_groups import freeze, parameter_groups
from lcl.prefetch import Prefetcher
from lcl.rows import SpecialIds
from lcl.run_folder import claim_folder, write_status
from lcl.schedule import learning_rate
from lcl.start import load_start
from lcl.stopping import stop_request
from lcl.train_config import TrainConfig
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
        self.tokenizer = Tokenizer(config.model.tokenizer)
        make_source = partial(RowSource, config.data, config.model, config.row_length, config.seed, tokenizer=self.tokenizer, layout=config.loss.layout)
        self.source = source = make_source()
        self.validation = self._validation(make_source)
        torch.manual_seed(config.seed)
        model = LCL.for_tokenizer(config.model, self.tokenizer, regression=config.loss.regresses)
        claim_folder(self.folder, config, shards=source.fingerprint, tokenizer=self.tokenizer.fingerprint, rank=ranks.rank)
        identity = checkpoint_identity(config.model, self.tokenizer, config.engine) | {"objective": config.loss.objective}
        resume = find_resume(self.folder, identity=identity)
        # A converted checkpoint holds what the optimiser trains, and nothing of frozen parts.
        taken = load_start(model, config.start) if resume is None or resume.converted is not None else []
        num_frozen = freeze(model, config.frozen) if config.frozen else 0
        self.engine = self._start(model, settings, resume)
        state: Mapping[str, Any] = {"step": 0, "counters": {}, "spikes": None, "collapse": None} if resume is None else resume.state
        self.step, self.counters = state["step"], Counter(state["counters"])
        self.spikes, self.alarms = guard(state=state["spikes"]), alarms(state=state["collapse"])
        self.average = self._average(resume)
        self.checkpointer = Checkpointer(self.folder, identity=identity, keep=config.keep_checkpoints, scratch=config.scratch)
        loader = RowLoader(
            source, rank=ranks.rank, world_size=ranks.world_size, batch_rows=config.batch_rows, state=None if resume is None else resume.loader
        )
        self.batches = Prefetcher(
            loader, config.model, rows=config.batch_rows // ranks.world_size, micro_rows=config.micro_rows, row_length=config.row_length,
            special=SpecialIds.of(self.tokenizer), vocab_size=self.tokenizer.vocab_size, regression=config.loss.regresses, pin=ranks.device.type == "cuda",
        )  # fmt: skip
        self.monitor = Monitor(self.folder, to_dict(config), after=self.step, wandb_project=config.wandb) if ranks.rank == 0 else None
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
        config = self.config
        with progress_bar("training", total=config.steps, done=self.step, show=self.monitor is not None) as bar, stop_request() as stop:
            first, started = self.step, time.perf_counter()
            while self.step < config.steps and not stop.on_any_rank(self.ranks.device):
                metrics = self._train_step()
                show = self.step % config.log_every == 0 or self.step == config.steps
                if self.monitor is not None:
                    left = (time.perf_counter() - started) / (self.step - first) * (config.steps - self.step)
                    self._report(metrics, show=show, left=left)
                    bar.advance(note=f"text {metrics['text_nats']:.3f} contrastive {metrics['contrastive_nats']:.3f}")
                if self.validation is not None and (self.step % config.validation.every == 0 or self.step == config.steps):
                    self._validate(self.validation)
                if self.step % config.save_every == 0 or self.step == config.steps:
                    self._save()
            if self.step % config.save_every and self.step < config.steps:
                self._save()  # told to stop in between
        self.batches.stop()
        self.checkpointer.finish()
        finished = self.step == config.steps
        if self.monitor is not None:
            self.monitor.close()
            write_status(self.folder, step=self.step, finished=finished)
        log.info("finished at step %d: %s" if finished else "stopped by a signal at step %d of %s; the same command continues", self.step, self.folder)

    def _train_step(self) -> dict[str, float]:
        config, started = self.config, time.perf_counter()
        rate = learning_rate(self.step, config.optimizer.schedule, peak=config.optimizer.learning_rate, total_steps=config.steps)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate * group["rate_scale"]
        given = self.batches.next()
        waited = time.perf_counter() - started
        shown = (self.step + 1) % config.log_every == 0
        batches = [batch.to(self.ranks.device) for batch in given.batches]
        try:
            metrics = accumulate_gradients(
                self.engine, batches, config.loss, world_size=self.ranks.world_size, is_spike=self.spikes.is_spike, health=shown
            )
            if not metrics["skipped"]:
                metrics["gradient_norm"] = update(self.engine)
        except NotFinite as error:
            raise ValueError(f"step {self.step + 1}: {error} {self._name_documents(given.documents)}") from error
        self.step += 1
        if self.average is not None and self.step % config.optimizer.ema_every == 0:
            weights = full_weights(self.engine)
            self.average.update(weights)
        seconds = time.perf_counter() - started
        self.counters.update(images=metrics["images"], tokens=metrics["tokens"], documents=metrics["documents"], rows=config.batch_rows, skipped=metrics["skipped"])
        if shown:
            self._check_damage(given.images_read, given.images_damaged)
        if shown and self.monitor is not None and self.step % config.save_every == 0:
            self.monitor.show_row(self.step, given.first_row, self.tokenizer, patch_px=config.model.vision.tower().patch_px)
        peak = None if config.frozen else peak_flops(self.ranks.device, precision=config.engine.precision)  # frozen parts take less than three passes
        used = mfu(given.flops, seconds, peak)  # of this rank; the others hold as many rows
        return metrics | {
            "learning_rate": rate, "images_seen": self.counters["images"], "step_seconds": seconds, "data_wait": waited / seconds,
            **{f"{name}_per_second": metrics[name] / seconds for name in ("tokens", "images", "documents")}, **({} if used is None else {"mfu": used}),
        }  # fmt: skip

    def _name_documents(self, places: Sequence[int]) -> str:
        """Writes the keys and pages of this rank's documents of the step beside the run, and says where."""
        path = self.folder / f"not-finite-{self.step + 1:06d}-rank-{self.ranks.rank}.json"
        documents = [self.source.document(place) for place in sorted(set(places))]
        write_json(path, {document.key: document.page_url for document in documents})
        return f"This rank's documents of the step are listed in {path}."

    def _check_damage(self, images: int, damaged: int) -> None:
        """Raises ValueError, on all ranks, if too many images could not be decoded."""
        images, damaged = sum_over_ranks(torch.tensor([float(images), float(damaged)], device=self.ranks.device)).tolist()
        if damaged > self.config.data.max_damaged * images:
            raise ValueError(
                f"{damaged:.0f} of {images:.0f} images in the shards are damaged, more than data.max_damaged ({self.config.data.max_damaged}) allows; "
                "build the shards again, or raise it"
            )

    def _report(self, metrics: Mapping[str, float], *, show: bool, left: float) -> None:
        assert self.monitor is not None
        self.monitor.write(self.step, metrics, group="train")
        if "effective_rank" in metrics:
            contrasts = self.config.loss.weights[1] > 0
            messages = self.alarms.observe(
                step=self.step, num_positives=int(metrics["positives"]), contrastive_nats=metrics["contrastive_nats"] if contrasts else None,
                effective_rank=metrics["effective_rank"], embedding_variance=metrics["embedding_variance"],
            )  # fmt: skip
            self.monitor.warn(self.step, messages)
        if metrics["skipped"]:
            log.warning("step %d: loss %.3f is a spike; its update is skipped", self.step, metrics["loss"])
        if show:
            utilisation = f", MFU {metrics['mfu']:.0%}" if "mfu" in metrics else ""
            log.info(
                "step %d of %d: text %.3f contrastive %.3f nats, %.0f tokens/s, fill %.2f, waiting for data %.0f %%%s, %s left",
                self.step, self.config.steps, metrics["text_nats"], metrics["contrastive_nats"], metrics["tokens_per_second"], metrics["fill"],
                100 * metrics["data_wait"], utilisation, clock(left),
            )  # fmt: skip

    def _validation(self, make_source: Any) -> Validation | None:
        settings, config = self.config.validation, self.config
        if settings.every == 0:
            return None
        source = make_source(validation=True) if config.data.validation_fraction else None
        return Validation(
            settings, source, self.tokenizer, config.model.vision, loss=config.loss, micro_rows=config.micro_rows, rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )  # fmt: skip

    def _validate(self, validation: Validation) -> None:
        metrics = validation.measure(self.engine.module)
        if self.monitor is not None:
            self.monitor.write(self.step, metrics, group="validation")
            log.info("step %d, validation: %s", self.step, ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))

    def _start(self, model: LCL, settings: Mapping[str, Any], resume: Resume | None) -> Any:
        config = self.config
        prepare_blocks([*model.visual.blocks_of_layers, *model.text.blocks_of_layers], recompute_every=config.recompute_every, compiled=config.compile)
        optimizer = torch.optim.AdamW(
            parameter_groups(model, weight_decay=config.optimizer.weight_decay, layer_decay=config.optimizer.layer_decay),
            lr=config.optimizer.learning_rate, betas=(config.optimizer.beta1, config.optimizer.beta2), eps=config.optimizer.epsilon,
        )  # fmt: skip
        return start_engine(model, optimizer, settings, load_universal=resume is not None and resume.converted is not None)

    def _average(self, resume: Resume | None) -> MovingAverage | None:
        decay, every = self.config.optimizer.ema_decay, self.config.optimizer.ema_every
        if not decay:
            return None
        start = full_weights(self.engine) if resume is None else resume.weights("ema") or {}
        return MovingAverage(decay, every, weights=start)

    def _save(self) -> None:
        state = {"counters": dict(self.counters), "spikes": self.spikes.state(), "collapse": self.alarms.state()}
        extra = {"ema": self.average.weights} if self.average is not None else {}
        self.checkpointer.save(self.engine, self.batches, step=self.step, state=state, extra=extra, write_more=self.tokenizer.save)


def check_numbers(config: TrainConfig, world_size: int) -> int:
    """Micro-batches per step and rank. Raises ValueError naming the numbers that do not fit."""
    config.model.check()
    config.loss.check()
    if config.wandb and importlib.util.find_spec("wandb") is None:
        raise ValueError("--wandb needs the package wandb: pip install wandb, or leave the option out")
    rows = config.batch_rows
    if rows % (world_size * config.micro_rows):
        raise ValueError(f"batch_rows ({rows}) must be a multiple of ranks x micro_rows ({world_size} x {config.micro_rows})")
    check_lanes(config.data, rank_count=world_size, batch_rows=rows)
    return rows // (world_size * config.micro_rows)


def prepare_blocks(blocks: Sequence[nn.Module], *, recompute_every: int, compiled: bool) -> None:
    """Lets every `recompute_every`-th block compute its activations again in the backward pass, and compiles each block."""
    for number, block in enumerate(blocks):
        if compiled:
            block.compile()
        if recompute_every and number % recompute_every == 0:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
