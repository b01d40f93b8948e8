"""Seconds of a training step before there is one.

    GPU   useful FLOPs (lcl/flops.py) / (assumed MFU x peak)        + collectives at the speed of the slowest link
    CPU   operators (lcl/planning/operators.py) at calibrated rates + collectives at calibrated rates + loading
"""

from dataclasses import dataclass

from lcl.estimate import Reading
from lcl.flops import TRAINING, contrastive_flops, forward_flops
from lcl.planning.calibration import Calibration
from lcl.planning.machines import MachineConfig
from lcl.planning.operators import StepWork, Work
from lcl.train_config import TrainConfig

SMALL_COLLECTIVES = 8  # of a step: signals, counts and contexts of the contrastive loss, its columns and sums, metrics (lcl/train_step.py, lcl/contrastive.py)


@dataclass(frozen=True)
class StepTime:
    """Seconds of one rank in a step, by what it does. Nothing is hidden behind anything else: an upper bound where DeepSpeed overlaps them."""

    compute: float
    collectives: float
    loading: float

    @property
    def total(self) -> float:
        return self.compute + self.collectives + self.loading


def step_flops(config: TrainConfig, vocab_size: int, reading: Reading, *, documents: float, image_grid: tuple[int, int]) -> float:
    """Useful FLOPs of a step of all ranks on so many documents, but for the contrastive loss."""
    rows, columns = image_grid
    forward = forward_flops(
        config.model, vocab_size, document_lengths=reading.lengths, grids=[(rows, columns)] * reading.images, num_slots=reading.slots, num_targets=reading.targets,
        num_contexts=reading.images, regression=config.loss.regresses,
    )  # fmt: skip
    return TRAINING * documents * forward


def ring_seconds(num_bytes: float, ranks: int, link_bytes: float) -> float:
    """Seconds of an all-reduce in a ring: 2 (N - 1) / N of the bytes over each link (Patarasuk and Yuan 2009, doi:10.1016/j.jpdc.2008.09.002). All-gather and reduce-scatter take half."""
    return 2 * (ranks - 1) / ranks * num_bytes / link_bytes


def collective_bytes(config: TrainConfig, num_trained: int) -> float:
    """Bytes of an all-reduce that takes as long as all of a step's collectives on parameters: one of gradients, and for ZeRO 3 half as much again
    (Rajbhandari et al. 2020, arXiv:1910.02054, section 7: 2 and 3 times the parameters are sent)."""
    value_bytes = 4 if config.engine.precision == "fp32" else 2
    return (1.5 if config.engine.zero_stage == 3 else 1.0) * value_bytes * num_trained


def contrastive_bytes(embed_width: int, num_images: float) -> float:
    """Bytes of an all-reduce that takes as long as those of the contrastive loss: half of one for the gathered contexts, one for their gradients, in fp32."""
    return 1.5 * 4 * embed_width * num_images


def step_on_gpus(config: TrainConfig, machine: MachineConfig, *, flops: float, num_trained: int, num_images: float, mfu: float, accumulates: bool) -> StepTime:
    """At this MFU of the arithmetic itself, collectives not counted. With accumulation the forward pass runs twice, 4/3 of the arithmetic, and so it does in blocks that are recomputed; the contrastive
    loss, which grows with the square of the images, is in fp32. Loading is behind it: workers decode ahead."""
    images = round(num_images)
    contrastive = contrastive_flops(config.model.embed_width, num_images=images, num_contexts=images)
    passes = TRAINING + accumulates + (1 / config.recompute_every if config.recompute_every else 0)
    arithmetic = flops * passes / TRAINING / machine.peak_flops(config.engine.precision) + contrastive / machine.peak_flops("fp32")
    arithmetic /= mfu * machine.gpus
    num_bytes = collective_bytes(config, num_trained) + contrastive_bytes(config.model.embed_width, num_images)
    return StepTime(arithmetic, ring_seconds(num_bytes, machine.gpus, machine.slowest_link_bytes), 0.0)


def step_on_cpu(config: TrainConfig, rates: Calibration, work: StepWork, *, ranks: int, accumulation: int, num_trained: int, num_images: float, loading: float) -> StepTime:
    """Processor seconds of one rank; `loading` is what its rows take. Gradients are copied into one tensor and back (DeepSpeed's buckets), which is counted as computing."""
    value_bytes = 4 * num_trained
    copies = Work(fresh_bytes=value_bytes, streamed_bytes=6 * value_bytes) if ranks > 1 else Work()
    num_bytes = collective_bytes(config, num_trained) + contrastive_bytes(config.model.embed_width, num_images)
    # Each rank of a ring sends and takes 2 (N - 1) / N of the bytes; that was measured at two, where it is 1.
    collectives = SMALL_COLLECTIVES * rates.all_reduce_seconds + 2 * (ranks - 1) / ranks * num_bytes / rates.all_reduce_bytes if ranks > 1 else 0.0
    again = work.forward.times(accumulation / config.recompute_every) if config.recompute_every else Work()
    return StepTime(rates.seconds_of(work.of_step(accumulation) + again + copies), collectives, loading)
