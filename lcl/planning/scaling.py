"""What more machines give: throughput, what failures leave of it, and what it costs.

    step of one rank, links --> seconds of a step at N ranks --+
    checkpoint, restart, failures of a GPU --> goodput --------+--> useful steps per second, cost of a run
    core seconds of a crawl file, the driver's share of each --> wall time and cost of a build

A run writes a checkpoint every tau seconds, for which it stands still for delta; it fails, memoryless, once in M seconds on average, loses what it did since the last
one, and takes R seconds to go on.
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Failures:
    """Seconds: between failures of one GPU (its share of host, network and software among them), until the job runs again, and that training stands still for a checkpoint."""

    gpu_seconds: float
    restart_seconds: float
    checkpoint_seconds: float

    def between(self, gpus: int) -> float:
        """Mean seconds between failures of any of so many: the job needs all of them."""
        return self.gpu_seconds / gpus


def young_interval(between: float, checkpoint: float) -> float:
    """Seconds between checkpoints that lose the least, to first order: sqrt(2 delta M) (Young 1974, doi:10.1145/361147.361115)."""
    return math.sqrt(2 * checkpoint * between)


def daly_interval(between: float, checkpoint: float) -> float:
    """The same to higher order (Daly 2006, doi:10.1016/j.future.2004.11.016, Eq. 37); M where checkpoints take longer than twice that."""
    if checkpoint >= 2 * between:
        return between
    part = checkpoint / (2 * between)
    return young_interval(between, checkpoint) * (1 + math.sqrt(part) / 3 + part / 9) - checkpoint


def goodput(interval: float, *, between: float, checkpoint: float, restart: float) -> float:
    """Part of the time that goes into steps that are kept: tau / (M exp(R / M) (exp((tau + delta) / M) - 1)) (Daly 2006, Eq. 20).

    It tends to tau / (tau + delta) where nothing fails. Failures may fall into checkpoints and restarts as well.
    """
    exponent = (interval + checkpoint) / between
    if restart / between + exponent > 700:  # exp would overflow: nothing gets done
        return 0.0
    return interval / (between * math.exp(restart / between) * math.expm1(exponent))


def simulated_goodput(
    interval: float, *, between: float, checkpoint: float, restart: float, segments: int, random: np.random.Generator
) -> float:
    """The same by drawing failures, one segment (an interval and its checkpoint) after another until `segments` are kept."""
    spent = 0.0
    for _ in range(segments):
        while (failure := random.exponential(between)) < interval + checkpoint:
            spent += failure
            while (again := random.exponential(between)) < restart:  # fails while it starts
                spent += again
            spent += restart
        spent += interval + checkpoint
    return segments * interval / spent


@dataclass(frozen=True)
class TrainingPoint:
    """A training at one number of GPUs; rates of all together."""

    gpus: int
    step_seconds: float
    images_per_second: float
    scaling: float
    """Images per second of a GPU, against one alone."""
    interval_seconds: float
    goodput: float
    cost_per_billion_images: float
    loader_cores_per_gpu: float


def training_point(
    gpus: int, *, step_seconds: float, images: float, single_images_per_second: float, failures: Failures, price_per_hour: float, loader_images_per_second: float
) -> TrainingPoint:
    """At its best interval. `images` are those of a step of all GPUs; a loader's core gives `loader_images_per_second`."""
    between, rate = failures.between(gpus), images / step_seconds
    interval = daly_interval(between, failures.checkpoint_seconds)
    kept = goodput(interval, between=between, checkpoint=failures.checkpoint_seconds, restart=failures.restart_seconds)
    return TrainingPoint(
        gpus, step_seconds, rate, rate / gpus / single_images_per_second, interval, kept,
        cost_per_billion_images=1e9 / (rate * kept) / 3600 * gpus * price_per_hour, loader_cores_per_gpu=rate / gpus / loader_images_per_second,
    )  # fmt: skip


@dataclass(frozen=True)
class BuildPoint:
    """A build of so many crawl files."""

    files: int
    cores: int
    core_hours: float
    hours: float
    driver_part: float
    """Of the wall time that the driver alone would take: at 1 it is what the build waits for."""
    shard_bytes: float
    cost: float


def build_point(
    files: int, *, cores: int, core_seconds: float, efficiency: float, shard_bytes: float, driver_seconds: float, core_hour_price: float
) -> BuildPoint:
    """`core_seconds`, `shard_bytes` and `driver_seconds` are those of one file; a core computes `efficiency` of the time.

    The driver hands tasks out one after another while cores work, so the longer of the two is what the build takes. No more cores work than there are files.
    """
    working = min(cores, files)
    computing, driving = files * core_seconds / (efficiency * working), files * driver_seconds
    seconds = max(computing, driving)
    return BuildPoint(
        files, cores, files * core_seconds / 3600, seconds / 3600, driving / seconds, files * shard_bytes, cost=seconds / 3600 * working * core_hour_price
    )
