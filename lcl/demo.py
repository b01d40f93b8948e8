"""Entry point: the whole system on one machine, from a crawl to a report.

    crawl --(ray job submit)--> shards --(deepspeed)--> encoder --(evaluations)--> results --> index.html
"""

import logging
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from lcl.commands import check_checkout, execute, free_port
from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging
from lcl.ray_head import ray_head

log = logging.getLogger(__name__)

OfEachClass = Annotated[int, Field(ge=10, multiple_of=10)]


@config
class DemoConfig:
    output: str | None = None
    """Folder for everything that the demo makes (demo, or demo-NAME for a crawl of yours); the same command again continues."""
    crawl: tuple[str, ...] = ()
    """Crawl files of your own; without any, the sample crawl is made and used."""
    num_pages: Annotated[int, Field(ge=16)] = 400
    """Pages of the sample crawl."""
    num_labelled: tuple[OfEachClass, OfEachClass] = (1500, 800)
    """Labelled pictures to train probes on, and to test with; of ten digits as many each."""
    train_preset: str = "small"
    """Preset of the pretraining."""
    steps: Annotated[int, Field(ge=0)] = 0
    """Training steps; 0 takes the preset's."""
    num_ranks: Annotated[int, Field(ge=0)] = 0
    """Training processes; 0 takes one per GPU, or two on a CPU."""


def main(settings: DemoConfig) -> None:
    set_up_logging()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that Ray's head is stopped on the way out
    check_checkout()
    started = time.perf_counter()
    crawls = [Path(name).resolve() for name in settings.crawl]
    for path in crawls:
        if not path.is_file():
            raise ValueError(f"{path}: no such crawl file")
    output = Path(settings.output or default_output(crawls)).resolve()
    output.mkdir(parents=True, exist_ok=True)
    sample, shards, run = output / "sample", output / "shards", output / "run"
    labelled, results = sample / "labelled", output / "results"

    _say("1/5 sample crawl and labelled pictures")
    train, test = settings.num_labelled
    counts = ["--num-pages", settings.num_pages, "--num-labelled-train", train, "--num-labelled-test", test]
    execute([sys.executable, "pipeline/samples/sample_crawl.py", "--output", sample, *counts])

    _say("2/5 shards, by a Ray job")
    with ray_head(output) as head:
        build = [sys.executable, "pipeline/build_shards.py", "--crawl", *(crawls or [sample / "sample.warc.gz"]), "--output", shards]
        execute(["ray", "job", "submit", "--address", head.jobs, "--working-dir", ".", "--", *build], variables=head.environment)

    _say("3/5 pretraining, by DeepSpeed")
    ranks = settings.num_ranks or torch.cuda.device_count() or 2
    options = ["--preset", settings.train_preset, "--data.shards", shards, "--output", run] + (["--steps", settings.steps] if settings.steps else [])
    execute(["deepspeed", "--num_gpus", ranks, "--master_port", free_port(), "lcl/pretrain.py", *options])

    _say("4/5 evaluation on labelled pictures that no page holds")
    for label in ("colour", "digit"):
        for script, task in (("lcl/eval_linear_probe.py", "linear_probe"), ("lcl/eval_zero_shot.py", "zero_shot")):
            execute([sys.executable, script, "--checkpoint", run, "--data", labelled / label, "--output", results / f"{label}_{task}.json"])

    _say("5/5 report")
    minutes = (time.perf_counter() - started) / 60
    source = ", ".join(path.name for path in crawls) or "the sample crawl"
    page = output / "index.html"
    note = f"{source}, {ranks} ranks, {minutes:.1f} minutes in this run."
    results_note = "The labelled pictures are coloured digits of the sample crawl's kind, held out from its pages. " + (
        "This crawl is another: what it teaches need not help with them." if crawls else "Minutes suffice for the colours, not for the digits (docs/demo.md)."
    )
    options = ["--shards", shards, "--run", run, "--results", *sorted(results.glob("*.json")), "--output", page]
    execute([sys.executable, "lcl/report.py", *options, "--note", note, "--results-note", results_note])
    _say(f"done in {minutes:.1f} minutes; open {page}")


def default_output(crawls: Sequence[Path]) -> str:
    """`demo`, or `demo-NAME` with the first crawl file's name, its endings and odd characters left out."""
    return "demo-" + re.sub(r"[^A-Za-z0-9_-]+", "-", crawls[0].name.partition(".")[0]) if crawls else "demo"


def _say(text: str) -> None:
    log.info("=== %s", text)


if __name__ == "__main__":
    run_command(DemoConfig, main, description=__doc__.splitlines()[0])
