"""Entry point: what each way of rounding gains when latents are fitted to a picture: tuned, untuned, over rates, and on pictures unlike those it was tuned on.

    python studies/refinement.py --models mean_scale=codec.safetensors --tune photos-pd --pictures photographs=photos clothing=clothes --hours 1

    grid        crops of the tune pictures x methods x 48 settings, with the first codec --> the settings of each method, and how it does without them
    curves      crops of the first other pictures x methods x iterations x levels, with the first codec, as tuned
    elsewhere   crops of all other pictures x methods, with every codec, as the first was tuned

    row: refine --> true loss, rate and error of each crop --> RESULTS/HASH.json

`studies/refinement_page.py` makes tables and pictures of the rows.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from table import TableConfig, name_of, read_rows, run_study

from downstream.codec.model_file import TrainedCodec, load_codec
from downstream.codec.refine import RefineConfig, Refined, refine
from downstream.codec.rounding import THREE_WAY, TWO_WAY, Method, RoundingConfig
from downstream.photographs import list_photographs, read_photograph, to_tensor
from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging
from lcl.measured import write_result

ROOT = Path(__file__).resolve().parent.parent
METHODS: tuple[Method, ...] = ("ste", "noise", "anneal", "sga", "linear", "cosine", "ssl", "linear3", "cosine3", "ssl3")
LEARNING_RATES, MAX_TEMPERATURES, DECAYS = (0.0025, 0.005, 0.01, 0.02), (0.2, 0.5, 1.0), (5e-4, 1e-3, 2e-3, 4e-3)  # 48; published settings are among them
ITERATIONS = (100, 500, 2000)
TUNED_AT = 500  # iterations; for another number the schedule of temperatures is stretched
TUNE = "tune"
TUNE_CROPS, TUNE_PX, CROP_PX = 8, 64, 64

Positive = Annotated[int, Field(ge=1)]


@config
class Cell:
    learning_rate: float
    max_temperature: float
    decay: float


GRID = tuple(Cell(learning_rate=rate, max_temperature=highest, decay=decay) for rate, highest, decay in product(LEARNING_RATES, MAX_TEMPERATURES, DECAYS))


@config
class RunConfig:
    """One row: crops of one set of pictures, a codec at one level, a method in one or more settings."""

    model: str
    """SHA-256 of its file, the first 16 digits."""
    pictures: str
    crops: Positive
    crop_px: Positive
    level: float
    method: Method
    iterations: Positive
    cells: tuple[Cell, ...]
    seed: int = 0


@config
class StudyConfig(TableConfig):
    models: tuple[str, ...]
    """Codecs as NAME=FILE; settings are chosen with the first."""
    tune: str
    """Folder of pictures on which settings are chosen."""
    pictures: tuple[str, ...]
    """Other sets of pictures, as NAME=FOLDER; curves are measured on the first."""
    results: str = "docs/results/refinement"
    methods: tuple[Method, ...] = METHODS
    iterations: tuple[Positive, ...] = ITERATIONS
    crops: Positive = 16
    """Of each of the other sets: one of a picture, of the first by name."""
    num_levels: Annotated[int, Field(ge=4)] = 4
    """Points of a curve, over all levels of a codec."""


def main(settings: StudyConfig) -> None:
    set_up_logging()
    models, folders = named(settings.models, "models"), {TUNE: settings.tune} | named(settings.pictures, "pictures")
    trained = {name: load_codec(Path(path)) for name, path in models.items()}
    if settings.row:
        row = next(row for row in all_rows(trained, settings) if name_of(row) == settings.row)
        run_row(row, next(one for one in trained.values() if hash_of(one) == row.model), folders[row.pictures], Path(settings.results))
        return
    started = time.monotonic()
    for rows_of in (grid_rows, all_rows):  # the second are known when the first are done
        if run_study(rows_of(trained, settings), settings, script=Path(__file__), seconds=max(0.0, 3600 * settings.hours - (time.monotonic() - started))):
            return


def named(words: Sequence[str], option: str) -> dict[str, str]:
    """Names and what they stand for. Raises ValueError for a word that is no NAME=PATH, and for a name that stands twice or is taken."""
    found: dict[str, str] = {}
    for word in words:
        name, sign, path = word.partition("=")
        if not (name and sign and path) or name in found or name == TUNE:
            raise ValueError(f"--{option} {word}: give NAME=PATH, each name once, and not {TUNE!r}")
        found[name] = path
    return found


def hash_of(trained: TrainedCodec) -> str:
    return f"{trained.hash:016x}"


def grid_rows(trained: Mapping[str, TrainedCodec], settings: StudyConfig) -> list[RunConfig]:
    """Every method in every setting, on small crops at the middle level of the first codec."""
    cells, first = GRID[::12] if settings.toy else GRID, next(iter(trained.values()))
    return [
        RunConfig(model=hash_of(first), pictures=TUNE, crops=TUNE_CROPS, crop_px=TUNE_PX, level=middle(first), method=method, iterations=tuned_at(settings), cells=cells)
        for method in settings.methods
    ]  # fmt: skip


def all_rows(trained: Mapping[str, TrainedCodec], settings: StudyConfig) -> list[RunConfig]:
    """The grid, and where that is done the rows that it settles."""
    rows = grid_rows(trained, settings)
    found = read_rows(Path(settings.results), rows)
    if len(found) < len(rows):
        return rows
    tuned = {row.method: best_cell(row, found[name_of(row)]) for row in rows}
    sets = list(named(settings.pictures, "pictures"))
    more = []
    for (place, one), method in product(enumerate(trained.values()), settings.methods):
        common = RunConfig(model=hash_of(one), pictures=sets[0], crops=settings.crops, crop_px=CROP_PX, level=middle(one), method=method, iterations=tuned_at(settings), cells=(tuned[method],))
        more += [replace(common, pictures=name) for name in sets]
        if place:
            continue
        more += [replace(common, level=level, iterations=num, cells=(replace(common.cells[0], decay=common.cells[0].decay * tuned_at(settings) / num),)) for num in settings.iterations for level in levels_of(one, settings.num_levels)]
    return list(dict.fromkeys(rows + more))


def tuned_at(settings: StudyConfig) -> int:
    return 20 if settings.toy else TUNED_AT


def middle(trained: TrainedCodec) -> float:
    return float((len(trained.lmbdas) - 1) // 2)


def levels_of(trained: TrainedCodec, num: int) -> list[float]:
    """So many levels, evenly, lowest and highest among them. Raises ValueError for a codec of one rate."""
    if len(trained.lmbdas) == 1:
        raise ValueError("a model of one rate has no curve: train one with several --objective.lmbdas")
    return [round(float(level), 2) for level in np.linspace(0, len(trained.lmbdas) - 1, num)]


def best_cell(row: RunConfig, measured: Mapping[str, Any]) -> Cell:
    """The setting with the least true loss at the end, as the mean over crops of its ratio to that of the start."""
    return min(zip(row.cells, measured["cells"], strict=True), key=lambda pair: change_of(pair[1]))[0]


def change_of(cell: Mapping[str, Any]) -> float:
    return fmean(last / first for first, last in zip(cell["first"], cell["last"], strict=True))


def run_row(row: RunConfig, trained: TrainedCodec, folder: str, results: Path) -> None:
    torch.set_num_threads(1)
    x = crops_of(Path(folder), row)
    level = trained.level(row.level)
    started = time.perf_counter()

    def fitted(fitting: RefineConfig) -> Refined:
        return refine(trained.codec, x, fitting, lmbda=trained.lmbda(row.level), level=None if level is None else level.expand(len(x)))

    @cache
    def numbers(fitting: RefineConfig) -> dict[str, list[float]]:
        found = fitted(fitting)
        losses = list(found.losses.values())
        return {
            "first": losses[0].tolist(), "last": losses[-1].tolist(), "best": torch.stack(losses).min(dim=0).values.tolist(),
            "bpp": found.bpp.tolist(), "squared_error": found.squared_error.tolist(),
        }  # fmt: skip

    cells = [asdict(cell) | numbers(fitting_of(row, cell)) for cell in row.cells]
    plain = fitted(RefineConfig(iterations=0))
    measured = {"codec": trained.settings.kind, "cells": cells, "plain": {"bpp": plain.bpp.tolist(), "squared_error": plain.squared_error.tolist()}, "seconds": time.perf_counter() - started}
    write_result(results / f"{name_of(row)}.json", row, measured)


def fitting_of(row: RunConfig, cell: Cell) -> RefineConfig:
    """The refinement in one setting; settings that differ only in a temperature which the method does not have are one."""
    tempered = {"max_temperature": cell.max_temperature, "decay": cell.decay} if row.method in TWO_WAY + THREE_WAY else {}
    return RefineConfig(iterations=row.iterations, learning_rate=cell.learning_rate, seed=row.seed, rounding=RoundingConfig(method=row.method, **tempered))


def crops_of(folder: Path, row: RunConfig) -> Float[torch.Tensor, "crops 3 side side"]:
    """One crop of each of the first pictures that are large enough, at a place drawn by its number. Raises ValueError if there are too few."""
    found = list(_crops(list_photographs(folder), row))
    if len(found) < row.crops:
        raise ValueError(f"{folder} has {len(found)} pictures of {row.crop_px} px or more, {row.crops} are asked for: lower --crops, or add pictures")
    return torch.stack(found)


def _crops(files: Sequence[Path], row: RunConfig) -> Iterator[torch.Tensor]:
    taken = 0
    for number, path in enumerate(files):
        if taken == row.crops:
            return
        pixels = read_photograph(path)
        if min(pixels.shape[:2]) >= row.crop_px:
            top, left = (int(np.random.default_rng([number, side]).integers(side - row.crop_px + 1)) for side in pixels.shape[:2])
            yield to_tensor(pixels[top : top + row.crop_px, left : left + row.crop_px])
            taken += 1


if __name__ == "__main__":
    run_command(StudyConfig, main, description=__doc__.splitlines()[0])
