"""Entry point: throughput, goodput under failures and cost on paper, for 1 to 1024 GPUs and 1 to a million crawl files, from rates that were measured.

    python benchmarks/scaling.py --output docs/scaling/scaling.json

    lcl/planning (step, links), docs/benchmarks/*.json (loader, build, checkpoint) --> lcl/planning/scaling.py --> scaling.json, two pictures
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

from plots import OTHER, OURS, label, logarithmic, picture
from pydantic import Field

from lcl.core.config import config, run_command
from lcl.core.files import read_json
from lcl.core.tokenizer import Tokenizer
from lcl.estimate import count_parameters
from lcl.measured import write_result
from lcl.planning.machines import MachineConfig
from lcl.planning.reading import typical_of_numbers
from lcl.planning.scaling import BuildPoint, Failures, TrainingPoint, build_point, training_point
from lcl.planning.training_plan import checkpoint_bytes, time_step
from lcl.train_config import PRESETS

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"


@config
class ScalingConfig:
    output: str
    """JSON file for the numbers; pictures are written beside it."""
    models: tuple[str, ...] = ("lcl_vit_b32_mmc4", "lcl_vit_l14")
    """Presets of `lcl pretrain`."""
    rows_per_gpu: Count = 8
    """Rows of each GPU in a step: the batch grows with the GPUs."""
    gpus: tuple[Count, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    accelerator: str = "h100"
    mfu: Positive = 0.4
    """Assumed; not measured here."""
    network_gbit: Positive = 400.0
    price_per_hour: Positive = 2.5
    """Of a GPU, in any currency; assumed."""
    gpu_failure_hours: Positive = 50_700.0
    """Mean hours between failures of one GPU: 419 in 54 days on 16,384 (Grattafiori et al. 2024, arXiv:2407.21783, section 3.3.4)."""
    restart_seconds: Positive = 600.0
    """From a failure until training goes on: noticed (collective timeout), scheduled, started, checkpoint read. Assumed."""
    host_copy_bytes: Positive = 1e9
    """Bytes per second at which a rank writes its part of a checkpoint to its scratch folder, while training stands still; the rest is behind it. Assumed: one NVMe disk for a GPU."""
    loader_images_per_second: Positive = 519.0
    """Of a core, photographs of 512 px (docs/benchmarks.md, loading)."""
    files: tuple[Count, ...] = (1, 10, 100, 1000, 10_000, 100_000, 1_000_000)
    """Crawl files; 10,000 x 100 is the last."""
    cores: tuple[Count, ...] = (2, 64, 4096)
    pages_per_file: Positive = 35_000.0
    """3.16 billion pages in 90,000 files (Common Crawl's announcement of CC-MAIN-2024-10)."""
    shard_bytes_per_page: Positive = 270e3
    """Three photographs of 90 kB, as the pages have them whose build was timed. Assumed of crawls."""
    efficiency: Positive = 0.92
    """Of two workers (docs/benchmarks.md, building)."""
    driver_seconds: Positive = 4 * 0.6e-3
    """Of the driver for one file: 0.6 ms a task (docs/benchmarks.md, many splits), tasks of four phases."""
    core_hour_price: Positive = 0.04
    """Assumed."""


def main(settings: ScalingConfig) -> None:
    output = Path(settings.output)
    training = {name: training_points(settings, name) for name in settings.models}
    builds = {cores: build_points(settings, cores) for cores in settings.cores}
    measured = {
        "training": {name: [asdict(point) for point in points] for name, points in training.items()},
        "builds": {str(cores): [asdict(point) for point in points] for cores, points in builds.items()},
    }  # fmt: skip
    write_result(output, settings, measured)
    draw_training(training, output.with_name("scaling_goodput.svg"))
    draw_builds(builds, output.with_name("scaling_builds.svg"))


def training_points(settings: ScalingConfig, name: str) -> list[TrainingPoint]:
    """The preset at each number of GPUs, ZeRO and micro-batch as in the preset but for as many rows on each."""
    chosen = replace(PRESETS[name], micro_rows=settings.rows_per_gpu)
    vocab_size = Tokenizer(chosen.model.tokenizer).vocab_size
    parameters, typical = count_parameters(chosen, vocab_size), typical_of_numbers(chosen, tokens=425, images=3)
    points: list[TrainingPoint] = []
    for gpus in settings.gpus:
        run = replace(chosen, batch_rows=gpus * settings.rows_per_gpu)
        machine = MachineConfig(accelerator=settings.accelerator, gpus=gpus, network_gbit=settings.network_gbit)
        step = time_step(run, parameters, typical, vocab_size, machine, mfu=settings.mfu, rates=None, row_seconds=0.0)
        written = checkpoint_bytes(run, parameters, ranks=gpus)
        waited = (written.rank_0 + 4.0 * parameters.total) / settings.host_copy_bytes  # rank 0 also brings whole weights to its memory
        failures = Failures(3600 * settings.gpu_failure_hours, settings.restart_seconds, waited)
        images = typical.readings_in(run.batch_rows, run.row_length) * typical.reading.images
        alone = points[0].images_per_second / points[0].gpus if points else images / gpus / step.total
        points.append(
            training_point(
                gpus, step_seconds=step.total, images=images, single_images_per_second=alone, failures=failures, price_per_hour=settings.price_per_hour,
                loader_images_per_second=settings.loader_images_per_second,
            )
        )  # fmt: skip
    return points


def build_points(settings: ScalingConfig, cores: int) -> list[BuildPoint]:
    """Builds at the rate that one core had on pages with three photographs."""
    built = read_json(RESULTS / "building.json")["measured"]["workers"]
    seconds = min(built["seconds"]["here"]) / built["documents"]
    return [
        build_point(
            files, cores=cores, core_seconds=settings.pages_per_file * seconds, efficiency=settings.efficiency,
            shard_bytes=settings.pages_per_file * settings.shard_bytes_per_page,
            driver_seconds=settings.driver_seconds, core_hour_price=settings.core_hour_price,
        )
        for files in settings.files
    ]  # fmt: skip


def draw_training(training: dict[str, list[TrainingPoint]], path: Path) -> None:
    """What of N times one GPU is left, behind the network, and behind failures too."""
    name, points = next(iter(training.items()))
    last = points[-1]
    message = f"{last.gpus:,} GPUs do {100 * last.scaling * last.goodput:.0f} % of {last.gpus:,} times one; failures take {100 * (1 - last.goodput):.1f} %"
    with picture(path, message) as axes:
        for colour, (name, some) in zip((OURS, OTHER), training.items(), strict=False):
            axes.plot([one.gpus for one in some], [100 * one.scaling for one in some], marker="o", color=colour)
            axes.plot([one.gpus for one in some], [100 * one.scaling * one.goodput for one in some], linestyle="--", color=colour)
            label(axes, some[-1].gpus, 100 * some[-1].scaling, name, colour)
        logarithmic(axes, [one.gpus for one in points], None)
        axes.set_xlim(right=8 * last.gpus)
        axes.set_ylim(0, 105)
        axes.set_xlabel("GPUs (dashed: with failures)")
        axes.set_ylabel("% of as many times one GPU")


def draw_builds(builds: dict[int, Sequence[BuildPoint]], path: Path) -> None:
    """Days of a build against crawl files, a line for each number of cores."""
    largest = {cores: points[-1] for cores, points in builds.items()}
    most = largest[max(largest)]
    with picture(path, f"{most.files:,} crawl files take {most.hours / 24:,.0f} days on {most.cores:,} cores") as axes:
        for number, (cores, points) in enumerate(builds.items()):
            axes.plot([one.files for one in points], [one.hours / 24 for one in points], marker="o", color=f"C{number}")
            label(axes, points[-1].files, points[-1].hours / 24, f"{cores:,} cores", f"C{number}")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(right=20 * most.files)
        axes.set_xlabel("crawl files")
        axes.set_ylabel("days")


if __name__ == "__main__":
    run_command(ScalingConfig, main, description=__doc__.splitlines()[0])
