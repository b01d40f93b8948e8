"""Entry point: how well restorers do on photographs that they were not trained on, beside classical filters, and what that costs.

    python downstream/eval_restorer.py --models cm.safetensors regression.safetensors --photographs unseen --degradations.tasks rain noise --output outputs/restored
    python downstream/eval_restorer.py --models cm.safetensors --pairs Rain100H/test --output outputs/rain100h

    photographs, degraded by seed (or pairs) --each method--> quality, seconds, memory --> OUTPUT/restoration.json (all of it), a table, sheet.png
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from pydantic import Field
from rich.table import Table

from downstream.peak_memory import PeakMemory
from downstream.photographs import list_photographs, read_photograph, to_bytes, to_tensor
from downstream.restore.baselines import BASELINES
from downstream.restore.degradations import DegradationConfig, degrade
from downstream.restore.model_file import Device, Restorer, load_restorer
from downstream.restore.pairs import list_pairs
from downstream.restore.quality import Quality, measure
from downstream.restore.restoring import STEPS, restore
from lcl.core.config import config, run_command
from lcl.core.files import open_aside
from lcl.core.logs import progress_bar, set_up_logging
from lcl.evals.results import console
from lcl.measured import write_result

log = logging.getLogger(__name__)

Pixels = UInt8[np.ndarray, "height width 3"]
BaselineName = Literal["identity", "non-local means", "CLAHE", "Wiener"]
LABEL_PX = 16  # of a sheet's line of text


@config
class EvalRestorerConfig:
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    """Restorers, as train_restorer.py wrote them."""
    photographs: str = ""
    """Folder of clean photographs that they were not trained on; they are degraded by --seed."""
    pairs: str = ""
    """In their place: a folder with GT (clean) and LQ (degraded)."""
    output: str
    """Folder for the report."""
    degradations: DegradationConfig = DegradationConfig()
    """Each of its tasks is done to each photograph."""
    max_photographs: Annotated[int, Field(ge=0)] = 0
    """The first so many, by name; 0: all."""
    crop_px: Annotated[int, Field(ge=0)] = 0
    """The middle of each photograph, at most so wide and high; 0: all of it."""
    border_px: Annotated[int, Field(ge=0)] = 0
    """Pixels at each edge that are not compared."""
    steps: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 2)
    """Of consistency models, each measured."""
    sde_steps: Annotated[int, Field(ge=1)] = 100
    """Of IR-SDE."""
    baselines: tuple[BaselineName, ...] = ("identity", "non-local means", "CLAHE", "Wiener")
    sheet_pictures: Annotated[int, Field(ge=0)] = 6
    """Pictures on the sheet, of each task; 0: no sheet."""
    tile_px: Annotated[int, Field(ge=0)] = 512
    seed: Annotated[int, Field(ge=0)] = 0
    device: Device = "cpu"
    """Of restorers; memory is measured of the CPU's alone."""
    threads: Annotated[int, Field(ge=1)] = 1


@dataclass(frozen=True)
class Case:
    """A picture to restore."""

    name: str
    task: str
    clean: Pixels
    degraded: Pixels


Method = Callable[[Case], Pixels]


@dataclass(frozen=True)
class Row:
    """One method on all pictures of a task: means, and each picture's own."""

    method: str
    task: str
    psnr_db: float
    psnr_y_db: float
    ssim: float
    ssim_y: float
    gmsd: float
    seconds_per_megapixel: float
    peak_megabytes: float | None
    """The most memory above what was held before, of a picture."""
    pictures: list[dict[str, Any]]


def main(settings: EvalRestorerConfig) -> None:
    set_up_logging()
    torch.set_num_threads(settings.threads)
    if bool(settings.photographs) == bool(settings.pairs):
        raise ValueError("give either --photographs, a folder of clean photographs, or --pairs, a folder with GT and LQ")
    settings.degradations.check()
    models = {path: load_restorer(Path(path), device=settings.device) for path in settings.models}
    methods = methods_of(settings, models)
    cases = read_cases(settings)
    rows: list[Row] = []
    shown: dict[str, list[Pixels]] = {}
    with progress_bar("restoring", total=len(methods) * len(cases)) as bar:
        for task in dict.fromkeys(case.task for case in cases):
            of_task = [case for case in cases if case.task == task]
            for name, method in methods.items():
                row, found = run(name, method, of_task, border_px=settings.border_px, done=bar.advance)
                rows.append(row)
                shown.setdefault(name, []).extend(found[: settings.sheet_pictures])
    report(settings, rows, models)
    if settings.sheet_pictures:
        first = [case for task in dict.fromkeys(case.task for case in cases) for case in [one for one in cases if one.task == task][: settings.sheet_pictures]]
        draw_sheet(first, {name: found for name, found in shown.items() if name != "identity"}, Path(settings.output) / "sheet.png")


def methods_of(settings: EvalRestorerConfig, models: Mapping[str, Restorer]) -> dict[str, Method]:
    methods: dict[str, Method] = {name: partial(_filtered, BASELINES[name]) for name in settings.baselines}
    for path, trained in models.items():
        name = Path(path).stem if len({Path(one).stem for one in models}) == len(models) else path
        for steps in {"ir_cm": settings.steps, "ir_sde": (settings.sde_steps,)}.get(trained.kind, (STEPS[trained.kind],)):
            methods[f"{name}, {trained.kind}, {steps} step{'s' * (steps > 1)}"] = partial(_restored, trained, steps, settings)
    return methods


def _filtered(baseline: Callable[[Pixels], Pixels], case: Case) -> Pixels:
    return baseline(case.degraded)


def _restored(trained: Restorer, steps: int, settings: EvalRestorerConfig, case: Case) -> Pixels:
    tile_px = settings.tile_px if max(case.degraded.shape) > settings.tile_px else 0
    return to_bytes(restore(trained, to_tensor(case.degraded), num_steps=steps, seed=settings.seed, tile_px=tile_px))


def read_cases(settings: EvalRestorerConfig) -> list[Case]:
    """Each photograph under each task; the same for the same seed and photograph, whichever others are there."""
    limit = settings.max_photographs or None
    if settings.pairs:
        found = [(clean.name, *(middle(read_photograph(path), settings.crop_px) for path in (clean, degraded))) for clean, degraded in list_pairs(Path(settings.pairs))[:limit]]
        return [Case(name, "pairs", clean, degraded) for name, clean, degraded in found]
    cases = []
    for path in list_photographs(Path(settings.photographs))[:limit]:
        clean = middle(read_photograph(path), settings.crop_px)
        for task in settings.degradations.tasks:
            rng = np.random.default_rng([settings.seed, *f"{path.name} {task}".encode()])
            made = degrade(to_tensor(clean), replace(settings.degradations, tasks=(task,)), rng)
            cases.append(Case(path.name, task, clean, to_bytes(made.pixels)))
    return cases


def middle(pixels: Pixels, side_px: int) -> Pixels:
    """At most `side_px` wide and high; 0: all of it."""
    if not side_px:
        return pixels
    top, left = (max(0, (length - side_px) // 2) for length in pixels.shape[:2])
    return pixels[top : top + side_px, left : left + side_px]


def run(name: str, method: Method, cases: Sequence[Case], *, border_px: int, done: Callable[[], None]) -> tuple[Row, list[Pixels]]:
    found, pictures, peaks = [], [], []
    for case in cases:
        started = time.perf_counter()
        with PeakMemory() as memory:
            restored = method(case)
        seconds = time.perf_counter() - started
        found.append(restored)
        peaks.append(memory.peak_bytes)
        megapixels = case.clean.shape[0] * case.clean.shape[1] / 1e6
        pictures.append({"picture": case.name, "seconds": seconds, "megapixels": megapixels, **asdict(measure(case.clean, restored, border_px=border_px))})
        done()
    means = {field: fmean(one[field] for one in pictures) for field in Quality.__dataclass_fields__}
    peak = None if None in peaks else max(peaks) / 1e6
    rate = sum(one["seconds"] for one in pictures) / sum(one["megapixels"] for one in pictures)
    return Row(name, cases[0].task, **means, seconds_per_megapixel=rate, peak_megabytes=peak, pictures=pictures), found


def report(settings: EvalRestorerConfig, rows: Sequence[Row], models: Mapping[str, Restorer]) -> None:
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    about = {path: {"sha256": trained.sha256, "kind": trained.kind, "tasks": list(trained.tasks), "about": dict(trained.about)} for path, trained in models.items()}
    write_result(output / "restoration.json", settings, {"rows": [_plain(asdict(row)) for row in rows], "models": about})
    table = Table(title=f"Restored pictures against the clean ones, means over pictures; border {settings.border_px} px", title_justify="left")
    for column in ("task", "method", "PSNR, dB", "PSNR-Y, dB", "SSIM", "SSIM-Y", "GMSD", "s / megapixel", "peak MB"):
        table.add_column(column)
    for row in rows:
        peak = "" if row.peak_megabytes is None else f"{row.peak_megabytes:.0f}"
        qualities = (f"{row.psnr_db:.2f}", f"{row.psnr_y_db:.2f}", f"{row.ssim:.4f}", f"{row.ssim_y:.4f}", f"{row.gmsd:.4f}")
        table.add_row(row.task, row.method, *qualities, f"{row.seconds_per_megapixel:.2f}", peak)
    console().print(table)
    log.info("%s: restoration.json%s", output, ", sheet.png" if settings.sheet_pictures else "")


def _plain(value: Any) -> Any:
    """With None in the place of infinite decibels, which JSON has no number for."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if value == float("inf") else value


def draw_sheet(cases: Sequence[Case], shown: Mapping[str, Sequence[Pixels]], path: Path) -> None:
    """A row for each picture: degraded, each method, clean; at most 256 px wide each."""
    rows = [[("degraded: " + case.task, case.degraded), *((name, found[number]) for name, found in shown.items()), ("clean", case.clean)] for number, case in enumerate(cases)]
    side = 256
    images = []
    for row in rows:
        cells = []
        for label, pixels in row:
            image = Image.fromarray(pixels)
            image.thumbnail((side, side))
            cell = Image.new("RGB", (side + 4, image.height + LABEL_PX), "white")
            cell.paste(image, (0, LABEL_PX))
            ImageDraw.Draw(cell).text((2, 2), label, fill="black")
            cells.append(cell)
        images.append(_joined(cells, across=True))
    with open_aside(path) as file:
        _joined(images, across=False).save(file, "PNG")


def _joined(images: Sequence[Image.Image], *, across: bool) -> Image.Image:
    widths, heights = [image.width for image in images], [image.height for image in images]
    whole = Image.new("RGB", (sum(widths), max(heights)) if across else (max(widths), sum(heights)), "white")
    place = 0
    for image in images:
        whole.paste(image, (place, 0) if across else (0, place))
        place += image.width if across else image.height
    return whole


if __name__ == "__main__":
    run_command(EvalRestorerConfig, main, description=__doc__.splitlines()[0])
