"""Entry point: what `lcl plan` predicts of the trainer with one and two processes on this machine's CPU, beside short real runs; fails if one is off by more than 25 %.

    python benchmarks/plan_check.py --output plan_check.json

    synthetic shards, calibration (no training step) --> predicted processor seconds of a step --> ratio to those of real ones
"""

import difflib
import logging
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from pydantic import Field
from synthetic_documents import DocumentsConfig, write_documents

from lcl.core.config import config, run_command, to_dict
from lcl.core.logs import set_up_logging
from lcl.core.tokenizer import Tokenizer
from lcl.measured import write_result
from lcl.planning.measuring import WITHIN, compare_training
from lcl.planning.run_plan import is_close, read_or_calibrate
from lcl.train_config import PRESETS, TrainConfig

log = logging.getLogger(__name__)

Count = Annotated[int, Field(ge=1)]


@config
class PlanCheckConfig:
    output: str
    """JSON file for the numbers."""
    models: tuple[str, ...] = ("small",)
    """Presets of `lcl pretrain`."""
    steps: Count = 12
    """Steps of each run that are timed."""
    processes: tuple[Count, ...] = (1, 2)
    calibration: str = ""
    """JSON of rates, as of `lcl plan`."""


def main(settings: PlanCheckConfig) -> None:
    set_up_logging()
    for name in settings.models:
        if name not in PRESETS:
            near = difflib.get_close_matches(name, PRESETS, n=1)
            raise ValueError(f"--models {name}: no preset is called so" + (f", did you mean {near[0]}?" if near else f"; there are {', '.join(PRESETS)}"))
    rates = read_or_calibrate(settings.calibration)
    measured: dict[str, Any] = {"calibration": to_dict(rates)}
    for name in settings.models:
        with TemporaryDirectory() as folder:
            chosen = on_synthetic_shards(PRESETS[name], Path(folder))
            measured[name] = compare_training(chosen, rates, steps=settings.steps, processes=settings.processes)
        for one in measured[name]:
            log.info("%s, %d processes: predicted %.4g s, measured %.4g s, ratio %.2f", name, one["processes"], one["predicted_seconds"], one["measured_seconds"], one["ratio"])
    write_result(Path(settings.output), settings, measured)
    far = [f"{name} with {one['processes']} processes ({one['ratio']:.2f})" for name in settings.models for one in measured[name] if not is_close(one)]
    if far:
        raise ValueError(f"predictions are not within {WITHIN:.0%} of the measurement: {', '.join(far)}; {settings.output} has all numbers")


def on_synthetic_shards(chosen: TrainConfig, folder: Path) -> TrainConfig:
    """The preset on 400 documents with an image each, as `growth.py` has them."""
    tokenizer, slots = Tokenizer(chosen.model.tokenizer), chosen.model.most_slots
    tokens = chosen.row_length - 2 - slots - 2
    documents = DocumentsConfig(text_tokens=max(1, tokens // 2), sigma=0.5, images=(1,))
    write_documents(folder / "shards", documents, num_documents=400, row_length=chosen.row_length, slots=slots, tokenizer=tokenizer)
    return replace(chosen, data=replace(chosen.data, shards=(str(folder / "shards"),)))


if __name__ == "__main__":
    run_command(PlanCheckConfig, main, description=__doc__.splitlines()[0])
