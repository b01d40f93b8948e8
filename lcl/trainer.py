"""The training loop.

    rows --> batches --> gradients of the global batch --> update --> metrics, checkpoint
"""

import fcntl
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from lcl.checkpoint import checkpoint_identity, load_checkpoint, save_checkpoint
from lcl.core.config import to_dict, write_run_record
from lcl.core.files import read_json
from lcl.core.logs import MetricsFile, progress_bar
from lcl.distributed import Ranks, from_rank_0
from lcl.loader import RowLoader, RowSource, check_lanes
from lcl.model import LCL
from lcl.rows import check_row_length, collate
from lcl.schedule import learning_rate
from lcl.train_config import FREE_FIELDS, TrainConfig
from lcl.train_step import accumulate_gradients, update

log = logging.getLogger(__name__)


def train(config: TrainConfig, ranks: Ranks) -> None:
    """Trains to `config.steps`, from the newest valid checkpoint of the run where there is one.

    Raises ValueError, before anything is written, for numbers that do not divide and for a folder of another run.
    """
    run = Path(config.output)
    accumulation = check_numbers(config, ranks.world_size)
    source = RowSource(config.data, config.model, config.row_length, config.seed)
    torch.manual_seed(config.seed)
    model = LCL.for_tokenizer(config.model, source.tokenizer)
    _claim_folder(run, config, source, ranks)
    engine = _start_engine(model, config, accumulation)
    identity = checkpoint_identity(config.model, source.tokenizer, config.zero_stage)
    resumed = load_checkpoint(run, engine, identity=identity)
    state, loader_state = resumed or ({"step": 0, "counters": {}}, None)
    loader = RowLoader(source, rank=ranks.rank, world_size=ranks.world_size, batch_rows=config.batch_rows, state=loader_state)
    step, counters = state["step"], Counter(state["counters"])
    if ranks.rank == 0:
        num_parameters = sum(parameter.numel() for parameter in model.parameters())
        start = f"{'resumed at' if resumed else 'from'} step {step} of {config.steps}"
        log.info("%.1f M parameters, %d documents, %d ranks, %s", num_parameters / 1e6, len(source.shards), ranks.world_size, start)
    writer = _Metrics(run, ranks.rank == 0, after=step)
    with progress_bar("training", total=config.steps, done=step, show=ranks.rank == 0) as bar:
        while step < config.steps:
            started = time.perf_counter()
            rate = learning_rate(step, peak=config.optimizer.learning_rate, warmup_steps=config.optimizer.warmup_steps, total_steps=config.steps)
            for group in engine.optimizer.param_groups:
                group["lr"] = rate
            rows = loader.take(config.batch_rows // ranks.world_size)
            waited = time.perf_counter() - started
            batches = [collate(rows[at : at + config.micro_rows], row_length=config.row_length).to(ranks.device) for at in range(0, len(rows), config.micro_rows)]
            metrics = accumulate_gradients(engine, batches, config.loss, world_size=ranks.world_size)
            gradient_norm = update(engine)
            step += 1
            num_tokens = metrics.pop("tokens")
            counters.update(images=metrics.pop("images"), tokens=num_tokens, rows=config.batch_rows)
            seconds = time.perf_counter() - started
            metrics |= {
                "learning_rate": rate, "gradient_norm": gradient_norm, "images_seen": counters["images"],
                "tokens_per_second": num_tokens / seconds, "data_wait": waited / seconds,
            }
            writer.write(step, metrics, show=step % config.log_every == 0 or step == config.steps)
            bar.advance(note=f"text {metrics['text_nats']:.3f} contrastive {metrics['contrastive_nats']:.3f}")
            if step % config.save_every == 0 or step == config.steps:
                save_checkpoint(run, engine, loader, step=step, counters=counters, identity=identity, keep=config.keep_checkpoints)
    writer.close()
    log.info("finished at step %d: %s", step, run)


def check_numbers(config: TrainConfig, world_size: int) -> int:
    """Micro-batches per step and rank. Raises ValueError naming the numbers that do not divide."""
    rows = config.batch_rows
    if rows % (world_size * config.micro_rows):
        raise ValueError(f"batch_rows ({rows}) must be a multiple of ranks x micro_rows ({world_size} x {config.micro_rows})")
    check_lanes(config.data, rank_count=world_size, batch_rows=rows)
    check_row_length(config.row_length, config.model.vision.num_patches)
    if config.row_length > config.model.text.context_length:
        raise ValueError(f"row_length ({config.row_length}) is longer than model.text.context_length ({config.model.text.context_length})")
    return rows // (world_size * config.micro_rows)


def _claim_folder(run: Path, config: TrainConfig, source: RowSource, ranks: Ranks) -> None:
    """Writes run.json into an empty folder; checks that a folder with one belongs to the same run. Same outcome on all ranks."""
    problem = None
    if ranks.rank == 0:
        try:
            if (run / "run.json").exists():
                _check_same_run(run, config, source)
            elif run.exists() and any(run.iterdir()):
                raise ValueError(f"{run} is not empty and holds no training run. Give another --output.")
            else:
                run.mkdir(parents=True, exist_ok=True)
                write_run_record(run, config, shards=source.shards.fingerprint)
            _lock(run)
        except (ValueError, OSError) as error:
            problem = str(error)
    problem = from_rank_0(problem)
    if problem:
        raise ValueError(problem)


def _lock(run: Path) -> None:
    """Holds the run's lock until this process ends. Raises ValueError if another process holds it."""
    descriptor = os.open(run / ".lock", os.O_CREAT | os.O_RDWR, 0o644)  # left open on purpose: closing it would give the lock back
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ValueError(f"another process is training in {run}; wait for it, or end it") from error


def _check_same_run(run: Path, config: TrainConfig, source: RowSource) -> None:
    record = read_json(run / "run.json")
    then, now = dict(_flat(record["config"])), dict(_flat(to_dict(config)))
    changed = [key for key in sorted(then | now) if then.get(key) != now.get(key) and key not in FREE_FIELDS]
    if changed:
        listed = ", ".join(f"{key} was {then.get(key)}, is {now.get(key)}" for key in changed[:3])
        raise ValueError(f"{run} holds another run ({listed}). Give another --output, or the same options to resume it.")
    if record["shards"] != source.shards.fingerprint:
        raise ValueError(f"the shards in {', '.join(config.data.shards)} are not those that the run in {run} was started with. Give another --output, or restore them.")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _start_engine(model: LCL, config: TrainConfig, accumulation: int) -> Any:
    import deepspeed

    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.optimizer.weight_decay), lr=config.optimizer.learning_rate,
        betas=(config.optimizer.beta1, config.optimizer.beta2), eps=config.optimizer.epsilon,
    )
    settings = {
        "train_micro_batch_size_per_gpu": config.micro_rows,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.optimizer.clip_norm,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,  # a plain AdamW: DeepSpeed's own would be compiled at start
        "bf16": {"enabled": config.precision == "bf16"},
        "steps_per_print": 1 << 60,
    }
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return deepspeed.initialize(model=model, optimizer=optimizer, config=settings)[0]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; vectors (biases, norms), embeddings by position and the temperature do not (open_clip's rule)."""
    named = list(model.named_parameters())
    decayed = [value for name, value in named if value.ndim >= 2 and "positional" not in name and "query_token" not in name]
    kept = {id(value) for value in decayed}
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": [value for _, value in named if id(value) not in kept], "weight_decay": 0.0},
    ]


class _Metrics:
    """Metrics of rank 0 to metrics.jsonl, to TensorBoard and, now and then, to people."""

    def __init__(self, run: Path, enabled: bool, *, after: int) -> None:
        self.enabled = enabled
        if enabled:
            self._file = MetricsFile(run / "metrics.jsonl")
            self._file.truncate_after(after)
            self._board = SummaryWriter(str(run / "tensorboard"), purge_step=after + 1)

    def write(self, step: int, metrics: Mapping[str, float], *, show: bool) -> None:
        if not self.enabled:
            return
        named = {f"train/{name}": value for name, value in metrics.items()}
        self._file.write(step, named)
        for name, value in named.items():
            self._board.add_scalar(name, value, step)
        if show:
            log.info(
                "step %d: text %.3f contrastive %.3f nats, %.0f tokens/s, fill %.2f",
                step, metrics["text_nats"], metrics["contrastive_nats"], metrics["tokens_per_second"], metrics["fill"],
            )

    def close(self) -> None:
        if self.enabled:
            self._board.close()
