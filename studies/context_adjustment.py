"""Entry point: does CCA's context adjustment pay, as published or as meant, at equal weight of the rate; and do groups of channels that grow?

    python studies/context_adjustment.py --photographs photos-pd --unseen photos --output outputs/context_adjustment --hours 2

    row: train_codec with CCA's codec, small --> rate of each group, of z, error on crops of unseen photographs, R_F and R_G over training --> RESULTS/HASH.json

`studies/context_adjustment_page.py` makes tables and pictures of the rows.
"""

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from commands import command
from pydantic import Field
from table import TablesConfig, name_of, run_tables

from downstream.codec.cca import CCA, CCAConfig
from downstream.codec.model_file import CodecConfig, load_codec
from downstream.codec.objective import Mode, ObjectiveConfig
from downstream.codec.refine import reconstruct, squared_error
from downstream.codec.train_config import PRESETS
from downstream.photographs import Crops, list_photographs
from lcl.core.config import config, hash_of, run_command, to_dict
from lcl.core.files import write_json
from lcl.core.logs import read_metrics
from lcl.measured import write_result

ROOT = Path(__file__).resolve().parent.parent
CODEC = PRESETS["small_cca"].model.cca
LMBDA, ALPHA, BETAS = 0.02, 0.5, (0.5, 1.5, 4.0)  # rates that a small codec of few steps reaches; alpha / beta as published spans 3.3 to 0.07
SMALLER_ALPHAS = (0.02, 0.002)  # of intent, which runs away at ALPHA
SEEDS = 3
CURVE_POINTS = 60
CROP_PX, CROPS = 256, 50  # that rows are measured on


@config
class RunConfig:
    mode: Mode = "off"
    beta: float = BETAS[1]
    alpha: float = ALPHA
    group_exponent: float = 1.7
    steps: Annotated[int, Field(ge=1)] = 600
    recipe: str = hash_of((PRESETS["small"], CODEC, LMBDA))
    """Of all that trainings share: rows of another are other rows."""
    seed: int = 0


BASE = RunConfig()
VARIANTS = {
    "off": BASE,
    "published": replace(BASE, mode="published"),
    "intent": replace(BASE, mode="intent"),
    **{f"intent, alpha {alpha}": replace(BASE, mode="intent", alpha=alpha) for alpha in SMALLER_ALPHAS},
    "even groups": replace(BASE, group_exponent=0.0),
}


def row_of(name: str, beta: float, seed: int) -> RunConfig:
    """A variant in which the rate of y weighs as much as with this beta and ALPHA."""
    variant = VARIANTS[name]
    return replace(variant, beta=round(beta + ALPHA - variant.alpha, 6), seed=seed)


def rows_of_variants(*names: str) -> list[RunConfig]:
    return [row_of(name, beta, seed) for seed in range(SEEDS) for beta in BETAS for name in names]


TABLES: dict[str, list[RunConfig]] = {  # in the order of what is wanted first
    "modes": rows_of_variants("off", "published"),
    "groups": rows_of_variants("even groups"),
    "intent": rows_of_variants("intent", *(f"intent, alpha {alpha}" for alpha in SMALLER_ALPHAS)),
}


@config
class StudyConfig(TablesConfig):
    photographs: str
    """Folder of photographs to train on."""
    unseen: str
    """Folder of photographs to measure on."""
    output: str = "outputs/context_adjustment"
    """Folder for trainings; may be removed when the study is done."""
    results: str = "docs/results/context_adjustment"


def main(settings: StudyConfig) -> None:
    run_tables(TABLES, settings, script=Path(__file__), toy=lambda row: replace(row, steps=3), run_row=run_row)


def codec_of(row: RunConfig) -> CCAConfig:
    """Groups as the row says; other groups get the entropy width at which the codec has the parameters of the base, as nearly as can be."""
    if row.group_exponent == BASE.group_exponent:
        return CODEC
    wanted = num_parameters(CODEC)
    choices = [replace(CODEC, group_exponent=row.group_exponent, entropy_width=width) for width in range(8, 160, 2)]
    return min(choices, key=lambda one: abs(num_parameters(one) - wanted))


def num_parameters(settings: CCAConfig) -> int:
    with torch.device("meta"):
        return sum(one.numel() for one in CCA(settings).parameters())


def run_row(row: RunConfig, settings: StudyConfig) -> None:
    started, run = time.perf_counter(), Path(settings.output) / name_of(row)
    base = PRESETS["small"]
    training = replace(
        base, photographs=settings.photographs, output=str(run), model=CodecConfig(kind="cca", cca=codec_of(row)),
        objective=ObjectiveConfig(lmbdas=(LMBDA,), beta=row.beta, mode=row.mode, alpha=row.alpha, alpha_warmup_steps=row.steps // 10),
        fit=replace(base.fit, steps=row.steps, batch_items=8, micro_items=8, save_every=max(1, row.steps // 4), seed=row.seed),
    )  # fmt: skip
    run.mkdir(parents=True, exist_ok=True)
    write_json(file := run.with_suffix(".json"), {"config": to_dict(training)})
    command("downstream/train_codec.py", "--config", file)
    measured = measure(run, settings) | {"parameters": num_parameters(training.model.cca), "group_sizes": list(training.model.cca.group_sizes()), "curves": curves(run)}
    write_result(Path(settings.results) / f"{name_of(row)}.json", row, measured | {"seconds": time.perf_counter() - started})
    shutil.rmtree(run)
    file.unlink()


@torch.no_grad()
def measure(run: Path, settings: StudyConfig) -> dict[str, Any]:
    """Means over crops of unseen photographs: bits per pixel of each group and of z, squared error of 8-bit values, dB."""
    codec = load_codec(run / "codec.safetensors").codec
    crops = Crops(list_photographs(Path(settings.unseen)), side_px=CROP_PX, seed=0)
    groups, hyper, errors = [], [], []
    for number in range(CROPS):
        x = crops.batch(0, range(number, number + 1))
        found = reconstruct(codec, *codec.analyse(x))
        groups.append(found.coded.y_bits[:, 0].numpy() / CROP_PX**2)
        hyper.append(float(found.coded.z_bits[0]) / CROP_PX**2)
        errors.append(float(squared_error(x, found.x_hat.clamp(0, 1))[0]))
    y_bpp = np.mean(groups, axis=0)
    return {
        "y_bpp": y_bpp.tolist(), "z_bpp": float(np.mean(hyper)), "bpp": float(y_bpp.sum() + np.mean(hyper)), "squared_error": float(np.mean(errors)),
        "psnr_db": float(np.mean(10 * np.log10(255**2 / np.array(errors)))),
    }  # fmt: skip


def curves(run: Path) -> dict[str, list[float]]:
    """Rates of y under both entropy models over training, each point the mean of the steps since the last."""
    metrics = read_metrics(run / "metrics.jsonl")
    parts = np.array_split(np.arange(len(metrics)), min(CURVE_POINTS, len(metrics)))
    names = [name for name in ("y_bpp", "auxiliary_bpp", "squared_error") if f"train/{name}" in metrics[0]]
    return {"step": [metrics[part[-1]]["step"] for part in parts]} | {name: [float(np.mean([metrics[at][f"train/{name}"] for at in part])) for part in parts] for name in names}


if __name__ == "__main__":
    run_command(StudyConfig, main, description=__doc__.splitlines()[0])
