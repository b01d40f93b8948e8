"""What a training would take: memory, time, money, room for checkpoints, and a batch that fits.

    config, typical document --> memory of a rank by ZeRO stage (lcl/estimate.py) --> micro-batch, accumulation, stage
                             --> seconds of a step (lcl/planning/step_time.py)    --> rates, days, costs
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from lcl.engine import EngineConfig
from lcl.estimate import Parameters, activation_bytes, bytes_per_parameter, state_bytes
from lcl.planning.calibration import Calibration
from lcl.planning.machines import MachineConfig
from lcl.planning.operators import count_step
from lcl.planning.reading import Typical
from lcl.planning.step_time import StepTime, step_flops, step_on_cpu, step_on_gpus
from lcl.train_config import TrainConfig

STAGES = (0, 1, 2, 3)
USABLE = 0.9  # of an accelerator's memory: the rest is for CUDA's own context, for communication and for holes between blocks
SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class Memory:
    """Bytes on each rank; `activations` of one micro-batch."""

    zero_stage: int
    weights: float
    gradients: float
    optimizer: float
    activations: float
    activations_recomputed: float
    """The same with every block recomputed."""

    def total(self, *, recomputed: bool) -> float:
        return self.weights + self.gradients + self.optimizer + (self.activations_recomputed if recomputed else self.activations)


@dataclass(frozen=True)
class Batching:
    """How a rank makes its share of the global batch."""

    micro_rows: int
    accumulation: int
    zero_stage: int
    recompute_every: int
    relative_time: float
    """Of arithmetic, against one micro-batch without recomputation."""


@dataclass(frozen=True)
class CheckpointBytes:
    """Of one checkpoint: rank 0's part of the engine, that of each other rank, whole weights beside it, and all together."""

    rank_0: float
    other_ranks: float
    weights: float
    in_all: float


def memory_of(config: TrainConfig, parameters: Parameters, typical: Typical, vocab_size: int, *, zero_stage: int, ranks: int) -> Memory:
    """By the formulas of lcl/estimate.py: states after Rajbhandari et al. 2020 (arXiv:1910.02054), activations after Korthikanti et al. 2022 (arXiv:2205.05198)."""
    states = state_bytes(parameters, config.engine, zero_stage=zero_stage, world_size=ranks)
    held = config.micro_rows * config.row_length
    images = typical.readings_in(config.micro_rows, config.row_length) * typical.reading.images
    vision_tokens = images * (typical.grid[0] * typical.grid[1] + (config.model.vision.kind == "vit"))
    kept, recomputed = (
        activation_bytes(replace(config, recompute_every=every), vocab_size, text_tokens=held, vision_tokens=vision_tokens) for every in (config.recompute_every, 1)
    )
    optimizer = 0.0 if config.engine.offload == "cpu" else states.optimizer
    return Memory(zero_stage, states.weights, states.gradients, optimizer, kept, recomputed)


def checkpoint_bytes(config: TrainConfig, parameters: Parameters, *, ranks: int) -> CheckpointBytes:
    """DeepSpeed writes weights once and the optimiser's state as ZeRO shares it out; model.safetensors, and ema.safetensors where there is one, are in fp32."""
    engine: EngineConfig = config.engine
    each = bytes_per_parameter(engine, zero_stage=engine.zero_stage)
    weights, optimizer = each.weights * parameters.total, each.optimizer * parameters.trained
    share = optimizer / (ranks if engine.zero_stage >= 1 else 1)
    parted = weights / ranks if engine.zero_stage == 3 else 0.0  # beside the optimiser's, on each rank
    rank_0 = share + (parted if engine.zero_stage == 3 else weights)
    other = share + parted if engine.zero_stage >= 1 else 0.0
    whole = 4.0 * parameters.total * (2 if config.optimizer.ema_decay else 1)
    return CheckpointBytes(rank_0, other, whole, rank_0 + (ranks - 1) * other + whole)


def batchings(config: TrainConfig, parameters: Parameters, typical: Typical, vocab_size: int, machine: MachineConfig) -> Iterator[Batching]:
    """Every way to share `batch_rows` out that fits the memory of a rank.

    Accumulating looks at each micro-batch twice, a third more arithmetic; recomputing all blocks is a third more, too.
    """
    rows = config.batch_rows // machine.gpus
    for stage in STAGES:
        for recompute_every in dict.fromkeys((config.recompute_every, 0, 1)):
            for micro_rows in (count for count in range(rows, 0, -1) if rows % count == 0):
                one = replace(config, micro_rows=micro_rows, recompute_every=recompute_every)
                memory = memory_of(one, parameters, typical, vocab_size, zero_stage=stage, ranks=machine.gpus)
                if memory.total(recomputed=False) <= USABLE * machine.memory_bytes:
                    time = (4 / 3 if micro_rows < rows else 1.0) * (1 + (1 / 3) / recompute_every if recompute_every else 1.0)
                    yield Batching(micro_rows, rows // micro_rows, stage, recompute_every, time)
                    break


def recommend(config: TrainConfig, parameters: Parameters, typical: Typical, vocab_size: int, machine: MachineConfig) -> Batching | None:
    """The fastest that fits, of equals the one with the lowest ZeRO stage, but not below the config's, and then the largest micro-batch. None if nothing fits."""
    found = [one for one in batchings(config, parameters, typical, vocab_size, machine) if one.zero_stage >= config.engine.zero_stage]
    return min(found, key=lambda one: (one.relative_time, one.zero_stage, -one.micro_rows), default=None)


def time_step(
    config: TrainConfig, parameters: Parameters, typical: Typical, vocab_size: int, machine: MachineConfig, *, mfu: float, rates: Calibration | None, row_seconds: float
) -> StepTime:
    """Seconds of a step of `config`. On a CPU from its `rates`, with `row_seconds` of loading for each row."""
    readings = typical.readings_in(config.batch_rows, config.row_length)
    images, accumulation = readings * typical.reading.images, config.batch_rows // (machine.gpus * config.micro_rows)
    if not machine.is_cpu:
        flops = step_flops(config, vocab_size, typical.reading, documents=readings, image_grid=typical.grid)
        return step_on_gpus(config, machine, flops=flops, num_trained=parameters.trained, num_images=images, mfu=mfu, accumulates=accumulation > 1)
    assert rates is not None
    held = typical.readings_in(config.micro_rows, config.row_length)
    work = count_step(config, vocab_size, typical.reading, documents=held, image_grid=typical.grid, ranks=machine.gpus, accumulation=accumulation)
    loading = row_seconds * config.batch_rows / machine.gpus
    return step_on_cpu(config, rates, work, ranks=machine.gpus, accumulation=accumulation, num_trained=parameters.trained, num_images=images, loading=loading)


def plan_training(
    config: TrainConfig, parameters: Parameters, typical: Typical, vocab_size: int, machine: MachineConfig, *, mfu: float, rates: Calibration | None, row_seconds: float
) -> dict[str, Any]:
    """The plan as JSON values. Raises ValueError if the batch does not divide among the GPUs."""
    if config.batch_rows % machine.gpus:
        near = max(1, round(config.batch_rows / machine.gpus)) * machine.gpus
        raise ValueError(f"batch_rows ({config.batch_rows}) is no multiple of --machine.gpus ({machine.gpus}): give --train.batch-rows {near}, or another number of GPUs")
    chosen = recommend(config, parameters, typical, vocab_size, machine) if machine.memory_bytes else None
    if chosen is not None:
        run = replace(config, micro_rows=chosen.micro_rows, recompute_every=chosen.recompute_every, engine=replace(config.engine, zero_stage=chosen.zero_stage))
    else:  # of a CPU whose memory is not given, and where nothing fits: as the config has it
        run = replace(config, micro_rows=min(config.micro_rows, config.batch_rows // machine.gpus))
    if config.batch_rows % (machine.gpus * run.micro_rows):
        raise ValueError(f"batch_rows ({config.batch_rows}) is no multiple of ranks x micro_rows ({machine.gpus} x {run.micro_rows}): give another --train.micro-rows")
    step = time_step(run, parameters, typical, vocab_size, machine, mfu=mfu, rates=rates, row_seconds=row_seconds)
    readings = typical.readings_in(config.batch_rows, config.row_length)
    counts = {"rows": float(config.batch_rows), "tokens": readings * typical.reading.tokens, "documents": readings * typical.documents, "images": readings * typical.reading.images}
    hours = config.steps * step.total / 3600
    memories = [memory_of(run, parameters, typical, vocab_size, zero_stage=stage, ranks=machine.gpus) for stage in STAGES]
    fits = {recomputed: [memory.total(recomputed=recomputed) <= USABLE * machine.memory_bytes for memory in memories] for recomputed in (False, True)}
    return {
        "parameters": parameters.total, "trained_parameters": parameters.trained,
        "memory": [
            {**vars(memory), "total": memory.total(recomputed=False), "total_recomputed": memory.total(recomputed=True)}
            | ({"fits": fits[False][at], "fits_recomputed": fits[True][at]} if machine.memory_bytes else {})
            for at, memory in enumerate(memories)
        ],
        "recommended": None if chosen is None else vars(chosen),
        "step": {"micro_rows": run.micro_rows, "accumulation": config.batch_rows // (machine.gpus * run.micro_rows), **counts},
        "seconds": {**vars(step), "total": step.total},
        "per_second": {name: amount / step.total for name, amount in counts.items()},
        "mfu": None if machine.is_cpu else mfu,
        "run": {
            "steps": config.steps, "days": hours / 24, "gpu_hours": hours * machine.gpus, "epochs": counts["documents"] * config.steps / typical.in_all if typical.in_all else None,
            "cost": hours * machine.gpus * machine.price_per_hour or None,
        },
        "checkpoint_bytes": vars(checkpoint_bytes(run, parameters, ranks=machine.gpus)) | {"kept": config.keep_checkpoints},
    }  # fmt: skip
