"""Entry point: what restoration in one to four steps is worth beside regression and a hundred steps, and what a pretrained encoder adds, at equal steps.

    python studies/restoration.py --photographs photos-pd --unseen photos --encoder run --judge other-run --output outputs/restoration --results docs/results/restoration

    row: photographs --train_restorer, one task, kind, seed--> restorer --eval_restorer, photographs not trained on--> quality, seconds --> RESULTS/HASH.json

All rows have the same U-Net, crops and number of steps, and where they have an L_OG the same: L1 alone, but for one ablation, so that encoders, and the judge, stay outside of the
loss. Rows are computed in the order of TABLES, finished ones are passed over, and an interrupted one continues. `studies/restoration_page.py` makes tables of them.

Estimated, not measured, in CPU-seconds of a row of 300 steps of 8 crops of 64 px (0.17 s a step; 0.22 with a guide) with 25 pictures of 128 x 128 px to measure on (12 s; 55 of 100
steps) and 20 s to start each command: 105, of IR-SDE 145, with a guide 130, and 30 more where stronger degradations are measured too, which is once for each task, or an early
second step, which is in all IR-CM rows of `methods`. These have 51 rows and 4 of classical filters, `encoder` 24, `ablations` 22: 3.3 hours.
"""

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from commands import command
from pydantic import Field
from random_twin import random_twin_of
from table import TablesConfig, name_of, run_tables

from downstream.photographs import list_photographs
from downstream.restore.train_config import PRESETS
from lcl.core.config import config, hash_of, run_command
from lcl.core.files import read_json
from lcl.features import load_encoder
from lcl.measured import write_result

Positive = Annotated[int, Field(ge=1)]
Task = Literal["rain", "noise", "low_light", "mixed"]
TASKS: tuple[Task, ...] = get_args(Task)
SEEDS = 3
CROP_PX = 128  # of what is measured: the middle of each picture
EARLY = 0.125   # of T: where the preset has its second step, at which a state says more of the picture than at T / 2, as published
NOT_FINITE = "is not finite"  # in what a training says that diverged
STRONGER: dict[Task, dict[str, tuple[float, float]]] = {  # than any of the training, which has the presets' strengths
    "rain": {"rain-streaks": (800.0, 1600.0)},
    "noise": {"noise-255": (50.0, 75.0)},
    "low_light": {"low-light-gain": (0.05, 0.1)},
    "mixed": {"rain-streaks": (800.0, 1600.0), "noise-255": (50.0, 75.0), "low-light-gain": (0.05, 0.1), "jpeg-quality": (5.0, 10.0)},
}


@config
class RunConfig:
    """One row: all that decides its numbers, but for the pictures and the encoder themselves."""

    task: Task = "rain"
    kind: Literal["classical", "regression", "ir_sde", "ir_cm"] = "ir_cm"
    """classical: the degraded picture and filters, without a training."""
    form: Literal["residual", "noise"] = "residual"
    boundary: Literal["time", "noise", "mu"] = "mu"
    times: tuple[float, ...] = (EARLY,)
    """Of the second and later steps; none: 1/2, 1/4 ..."""
    renoise: float = 0.0
    distance: Literal["squared", "huber", "absolute"] = "squared"
    stages: Literal["one", "two"] = "one"
    consistency_weight: float = 1.0
    origin_weight: float = 0.8
    perceptual_weight: float = 0.0
    """Of the features of the trained encoder, which is not the judge."""
    end_fraction: float = 0.75
    sampled_fraction: float = 1.0
    own_fraction: float = 1.0
    teacher_decay: float = 0.0
    encoder: Literal["none", "trained", "random"] = "none"
    """Whether one guides the network, and with which weights."""
    steps: Positive = 300
    recipe: str = hash_of(PRESETS["small"])
    """Of the preset that trainings follow in all else: rows of another are other rows."""
    seed: Annotated[int, Field(ge=0)] = 0


BASE = RunConfig()
PATH = replace(BASE, boundary="time", times=(), renoise=1.0, end_fraction=0.5, sampled_fraction=0.0, own_fraction=0.0)
"""States of the path from degraded to clean, and later steps at T / 2, T / 4 with fresh noise, as published."""
METHODS = {"regression": replace(BASE, kind="regression"), "IR-SDE": replace(PATH, kind="ir_sde", form="noise"), "IR-CM": BASE, "IR-CM of the path": PATH}
CLEAN_SDE = replace(PATH, kind="ir_sde")
"""IR-SDE whose network predicts x_0, on rain."""
UNSTABLE = {  # of the path, on rain, with every seed, for the share of them that diverges
    "of the path, no origin loss": replace(PATH, origin_weight=0.0),
    "of the path, no consistency term": replace(PATH, consistency_weight=0.0),
    "of the path, noise in place of the residual": replace(PATH, form="noise"),
    "of the path, two stages": replace(PATH, stages="two"),
}
ABLATIONS = UNSTABLE | {  # and with one
    "of the path, boundary by noise": replace(PATH, boundary="noise"),
    "of the path, a quarter of the states at times of sampling": replace(PATH, sampled_fraction=0.25),
    "fresh noise": replace(BASE, renoise=1.0),
    "boundary by time": replace(BASE, boundary="time"),
    "true states in the place of its own": replace(BASE, own_fraction=0.0),
    "second step at T / 2": replace(BASE, times=(0.5,)),
    "no consistency term": replace(BASE, consistency_weight=0.0),
    "a perceptual term": replace(BASE, perceptual_weight=0.125),
    "no states more at T": replace(BASE, end_fraction=0.0),
    "half of the states at T": replace(BASE, end_fraction=0.5),
    "average as teacher": replace(BASE, teacher_decay=0.99),
    "as published": replace(PATH, form="noise", distance="absolute", stages="two", end_fraction=0.0),  # but for its start from IR-SDE
}
ENCODERS: dict[str, RunConfig] = {"trained encoder": replace(BASE, encoder="trained"), "random encoder": replace(BASE, encoder="random")}

TABLES: dict[str, list[RunConfig]] = {
    "methods": [replace(BASE, task=task, kind="classical") for task in TASKS]
    + [replace(row, task=task, seed=seed) for seed in range(SEEDS) for task in TASKS for row in METHODS.values()]
    + [replace(CLEAN_SDE, seed=seed) for seed in range(SEEDS)],
    "encoder": [replace(row, task=task, seed=seed) for seed in range(SEEDS) for task in TASKS for row in ENCODERS.values()],
    "ablations": [replace(row, seed=seed) for seed in range(SEEDS) for name, row in ABLATIONS.items() if name in UNSTABLE or not seed],
}  # fmt: skip


@config
class StudyConfig(TablesConfig):
    photographs: str
    """Folder of photographs that restorers are trained on."""
    unseen: str
    """Folder of others, that they are measured on."""
    encoder: str
    """A trained encoder (run, checkpoint or export), for the rows with one, in the network or in the loss."""
    judge: str
    """Another, which measures the distance of features and has no part in any training."""
    output: str = "outputs/restoration"
    """Folder for restorers and the random encoder; may be removed when the study is done."""
    results: str = "docs/results/restoration"
    """Folder for the rows' numbers."""


def main(settings: StudyConfig) -> None:
    run_tables(TABLES, settings, script=Path(__file__), toy=lambda row: replace(row, steps=4), prepare=prepare, run_row=run_row)


def prepare(rows: list[RunConfig], settings: StudyConfig) -> None:
    """Makes what several rows share, where it is missing. Raises ValueError for what no row could be computed with."""
    for folder in (settings.photographs, settings.unseen):
        list_photographs(Path(folder))
    if load_encoder(settings.judge).fingerprint == load_encoder(settings.encoder).fingerprint:
        raise ValueError("--judge is the encoder that guides, and is in the loss of a row: give another, which had no part in any training")
    if any(row.encoder == "random" for row in rows):
        encoder_path("random", settings)


def encoder_path(weights: Literal["trained", "random"], settings: StudyConfig) -> Path:
    return Path(settings.encoder) if weights == "trained" else random_twin_of(settings.encoder, Path(settings.output) / "random_encoder")


# --- One row

def run_row(row: RunConfig, settings: StudyConfig) -> None:
    started = time.perf_counter()
    run = Path(settings.output) / "runs" / name_of(row)
    measured: dict[str, Any] = {"diverged": False}
    if row.kind != "classical":
        measured |= trained(row, run, settings)
    if not measured["diverged"]:
        measured["rows"] = evaluated(row, run, settings)
        method = replace(row, task=BASE.task, seed=BASE.seed, steps=BASE.steps)
        if method in (METHODS["regression"], METHODS["IR-CM"]) and not row.seed:
            measured["stronger"] = evaluated(row, run, settings, part="stronger")
    write_result(Path(settings.results) / f"{name_of(row)}.json", row, measured | {"seconds": time.perf_counter() - started})
    shutil.rmtree(run, ignore_errors=True)


def trained(row: RunConfig, run: Path, settings: StudyConfig) -> dict[str, Any]:
    """Trains the row's restorer, and says how long that took and whether its loss stayed finite; one that did not is a result too."""
    began = time.perf_counter()
    try:
        command("downstream/train_restorer.py", *training_options(row, run, settings))
    except ValueError as error:
        if NOT_FINITE not in str(error):
            raise
        return {"diverged": True, "said": str(error)}
    return {"diverged": False, "training_seconds": time.perf_counter() - began}


def training_options(row: RunConfig, run: Path, settings: StudyConfig) -> list[Any]:
    options = {
        "--preset": "toy" if settings.toy else "small", "--photographs": settings.photographs, "--output": run, "--degradations.tasks": row.task, "--fit.steps": row.steps,
        "--fit.seed": row.seed, "--fit.save-every": max(1, row.steps // 2), "--fit.keep-checkpoints": 1, "--model.form": row.form, "--model.boundary": row.boundary,
        "--objective.kind": row.kind, "--objective.distance": row.distance, "--objective.stages": row.stages, "--objective.origin-weight": row.origin_weight,
        "--objective.end-fraction": row.end_fraction, "--objective.teacher-decay": row.teacher_decay, "--objective.perceptual-weight": row.perceptual_weight,
        "--objective.consistency-weight": row.consistency_weight, "--objective.sampled-fraction": row.sampled_fraction, "--objective.own-fraction": row.own_fraction,
        "--model.renoise": row.renoise,
    }  # fmt: skip
    if row.encoder != "none":
        options |= {"--encoder": encoder_path(row.encoder, settings), "--model.guide.parts": "both"}
    elif row.perceptual_weight:
        options |= {"--encoder": encoder_path("trained", settings)}
    return [*(word for pair in options.items() for word in pair), "--model.times", *row.times]


def evaluated(row: RunConfig, run: Path, settings: StudyConfig, *, part: Literal["rows", "stronger"] = "rows") -> list[dict[str, Any]]:
    """What `lcl eval restorer` says of the row's restorer, or of the filters, without single pictures; `stronger` than in its training."""
    report = run / part
    options = {
        "--photographs": settings.unseen, "--output": report, "--degradations.tasks": row.task, "--crop-px": 48 if settings.toy else CROP_PX,
        "--max-photographs": 2 if settings.toy else 0, "--judge": settings.judge, "--sheet-pictures": 0, "--sde-steps": 3 if settings.toy else 100,
    }  # fmt: skip
    words = [word for pair in options.items() for word in pair]
    words += ["--baselines", *(("identity", "non-local means", "CLAHE", "Wiener") if row.kind == "classical" else ("identity",))]
    if row.kind != "classical":
        words += ["--models", run / "restorer.safetensors", "--steps", *{"rows": (1, 2, 4), "stronger": (1, 2)}[part]]
    if row.encoder != "none":
        words += ["--encoder", encoder_path(row.encoder, settings)]
    if part == "stronger":
        words += [word for name, ends in STRONGER[row.task].items() for word in (f"--degradations.{name}", *ends)]
    command("downstream/eval_restorer.py", *words)
    found = read_json(report / "restoration.json")["measured"]["rows"]
    return [{name: value for name, value in one.items() if name != "pictures"} for one in found]


if __name__ == "__main__":
    run_command(StudyConfig, main, description=__doc__.splitlines()[0])
