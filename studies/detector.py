"""Entry point: what pretraining adds to the encoder that a detector of damage looks through: the trained one beside itself at its random start.

    python studies/detector.py --photographs photos-pd --unseen photos --encoder run --output outputs/detector-study --results docs/results/detector

    row: photographs --train_detector, on the trained or the random encoder--> head --eval_detector, photographs not trained on--> what each picture is taken for --> RESULTS/HASH.json

The encoder is frozen, heads, crops, damage and steps are equal. Finished rows are passed over. `studies/detector_page.py` makes tables of them.
"""

import shutil
from pathlib import Path
from typing import Annotated, Literal

from commands import command
from pydantic import Field
from random_twin import random_twin_of
from table import TablesConfig, name_of, run_tables

from downstream.photographs import list_photographs
from lcl.core.config import config, run_command
from lcl.core.files import read_json
from lcl.features import load_encoder
from lcl.measured import write_result

Weights = Literal["trained", "random"]
SEEDS = 3
DAMAGE = ("rain", "noise", "shot_noise", "motion_blur", "defocus", "low_light", "jpeg", "haze", "downscale")
CROP_PX = 256  # of what is measured: the middle of each picture


@config
class RunConfig:
    """One row: all that decides its numbers, but for the pictures and the encoder themselves."""

    encoder: Weights = "trained"
    steps: Annotated[int, Field(ge=1)] = 1000
    seed: Annotated[int, Field(ge=0)] = 0


TABLES = {"encoders": [RunConfig(encoder=encoder, seed=seed) for seed in range(SEEDS) for encoder in ("trained", "random")]}


@config
class StudyConfig(TablesConfig):
    photographs: str
    """Folder of photographs that detectors are trained on."""
    unseen: str
    """Folder of others, that they are measured on."""
    encoder: str
    """A trained encoder: run, checkpoint or export."""
    output: str = "outputs/detector-study"
    """Folder for detectors and the random encoder; may be removed when the study is done."""
    results: str = "docs/results/detector"
    """Folder for the rows' numbers."""


def main(settings: StudyConfig) -> None:
    run_tables(TABLES, settings, script=Path(__file__), toy=lambda row: RunConfig(encoder=row.encoder, steps=4, seed=row.seed), prepare=prepare, run_row=run_row)


def prepare(rows: list[RunConfig], settings: StudyConfig) -> None:
    """Makes the random encoder. Raises ValueError for what no row could be computed with."""
    for folder in (settings.photographs, settings.unseen):
        list_photographs(Path(folder))
    load_encoder(settings.encoder)
    encoder_path("random", settings)


def encoder_path(weights: Weights, settings: StudyConfig) -> Path:
    return Path(settings.encoder) if weights == "trained" else random_twin_of(settings.encoder, Path(settings.output) / "random_encoder")


def run_row(row: RunConfig, settings: StudyConfig) -> None:
    run, encoder = Path(settings.output) / "runs" / name_of(row), encoder_path(row.encoder, settings)
    tasks = ("--degradations.tasks", *DAMAGE)
    command("downstream/train_detector.py", "--encoder", encoder, *tasks, "--photographs", settings.photographs, "--fit.steps", row.steps, "--fit.seed", row.seed, "--fit.keep-checkpoints", 1, "--output", run)
    sizes = ("--crop-px", 64, "--max-photographs", 2) if settings.toy else ("--crop-px", CROP_PX)
    command("downstream/eval_detector.py", "--model", run / "detector.safetensors", "--encoder", encoder, "--photographs", settings.unseen, "--output", run / "eval", *tasks, *sizes)
    write_result(Path(settings.results) / f"{name_of(row)}.json", row, read_json(run / "eval" / "detector.json")["measured"])
    shutil.rmtree(run, ignore_errors=True)


if __name__ == "__main__":
    run_command(StudyConfig, main, description=__doc__.splitlines()[0])
