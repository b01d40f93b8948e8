"""Entry point: how often a detector names what spoils photographs that it was not trained on.

    python downstream/eval_detector.py --photographs unseen --output outputs/detected
    python downstream/eval_detector.py --model outputs/detector --encoder outputs/lcl --photographs unseen --output outputs/detected

    photographs, as they are and with each task by seed --detector--> accuracy, what is taken for what, decibels off --> OUTPUT/detector.json, a table
"""

import logging
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from pydantic import Field
from rich.table import Table

from downstream.photographs import to_tensor
from downstream.restore.cases import Case, made_cases
from downstream.restore.degradations import PARTS, DegradationConfig
from downstream.restore.detector import CLEAN, Detected, detect, load_detector, psnr_of
from lcl.core.config import config, run_command
from lcl.core.logs import progress_bar, set_up_logging
from lcl.core.shipped import DETECTOR, or_shipped
from lcl.evals.intervals import clustered_bootstrap, clustered_share
from lcl.evals.results import console
from lcl.features import load_encoder
from lcl.measured import write_result

log = logging.getLogger(__name__)


@config
class EvalDetectorConfig:
    photographs: str
    """Folder of clean photographs that it was not trained on."""
    output: Annotated[str, tyro.conf.arg(aliases=("-o",))]
    """Folder for the report."""
    model: str = ""
    """The detector, as train_detector.py wrote it, or its run folder; empty: the one that comes with lcl."""
    encoder: str = ""
    """The encoder that it was trained on, if it was."""
    degradations: DegradationConfig = DegradationConfig(tasks=PARTS)
    """Each of its tasks is done to each photograph."""
    max_photographs: Annotated[int, Field(ge=0)] = 0
    """The first so many, by name; 0: all."""
    crop_px: Annotated[int, Field(ge=0)] = 0
    """The middle of each photograph, at most so wide and high; 0: all of it."""
    crops: Annotated[int, Field(ge=1)] = 16
    """Crops of a picture that are looked at, at most."""
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Annotated[int, Field(ge=1)] = 1


def main(settings: EvalDetectorConfig) -> None:
    set_up_logging()
    torch.set_num_threads(settings.threads)
    detector = load_detector(or_shipped(settings.model, DETECTOR), load_encoder(settings.encoder) if settings.encoder else None)
    settings.degradations.check()
    if unknown := set(settings.degradations.tasks) - set(detector.settings.tasks):
        raise ValueError(f"--degradations.tasks: this detector does not know {', '.join(sorted(unknown))}, but {', '.join(detector.settings.tasks)}")
    cases = made_cases(Path(settings.photographs), settings.degradations, seed=settings.seed, limit=settings.max_photographs, crop_px=settings.crop_px)
    cases += [replace(case, task=CLEAN, degraded=case.clean) for case in cases if case.task == settings.degradations.tasks[0]]
    with progress_bar("looking", total=len(cases)) as bar:
        found = []
        for case in cases:
            found.append(detect(detector, to_tensor(case.degraded), num_crops=settings.crops))
            bar.advance()
    report(settings, cases, found)


def report(settings: EvalDetectorConfig, cases: list[Case], found: list[Detected]) -> None:
    """Intervals are over photographs, for pictures made of one are no independent trials."""
    names = [case.name for case in cases]
    right = np.array([one.task == case.task for one, case in zip(found, cases, strict=True)])
    off = np.array([abs(one.psnr_db - decibels(case)) for one, case in zip(found, cases, strict=True)])
    taken_for = {task: dict(Counter(one.task for one, case in zip(found, cases, strict=True) if case.task == task).most_common()) for task in dict.fromkeys(case.task for case in cases)}
    accuracy, decibels_off = clustered_share(right, names, of="photographs"), clustered_bootstrap(off, names, of="photographs")
    output = Path(settings.output)
    pictures = [{"picture": case.name, "task": case.task, "found": one.task, "psnr_db": one.psnr_db} for one, case in zip(found, cases, strict=True)]
    write_result(output / "detector.json", settings, {"accuracy": asdict(accuracy), "decibels_off": asdict(decibels_off), "photographs": len(set(names)), "taken_for": taken_for, "pictures": pictures})
    table = Table(title=f"{accuracy.value:.1%} of {len(cases)} pictures named rightly ({accuracy.low:.1%} to {accuracy.high:.1%}), {decibels_off.value:.1f} dB off in the mean", title_justify="left")
    for column in ("what it is", "named rightly", "taken for"):
        table.add_column(column)
    for task, counts in taken_for.items():
        others = ", ".join(f"{name} {count}" for name, count in counts.items() if name != task)
        table.add_row(task, f"{counts.get(task, 0)} of {sum(counts.values())}", others)
    console().print(table)
    log.info("%s", output / "detector.json")


def decibels(case: Case) -> float:
    """What the detector is to guess of a picture."""
    return float(psnr_of(to_tensor(case.clean)[None], to_tensor(case.degraded)[None]))


if __name__ == "__main__":
    run_command(EvalDetectorConfig, main, description=__doc__.splitlines()[0])
