"""Entry point: how well restorers do on photographs that they were not trained on, beside classical filters, and what that costs.

    python downstream/eval_restorer.py --models cm.safetensors regression.safetensors --photographs unseen --degradations.tasks rain noise --output outputs/restored
    python downstream/eval_restorer.py --models cm.safetensors --pairs Rain100H/test --output outputs/rain100h
    python downstream/eval_restorer.py --models cm.safetensors --frames video --degradations.tasks rain --output outputs/video

    photographs, degraded by seed (or pairs, or frames) --each method--> quality, seconds, memory, flicker --> OUTPUT/restoration.json (all of it), a table, sheet.png
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from pydantic import Field
from rich.table import Table

from downstream.backbones import Backbone
from downstream.origin_marks import Mark
from downstream.peak_memory import PeakMemory
from downstream.perceptual_distance import LPIPS
from downstream.photographs import to_bytes, to_tensor
from downstream.restore.baselines import BASELINES, wiener_deconvolution
from downstream.restore.cases import Case, Pixels, frame_cases, made_cases, pair_cases, unseen_in_training
from downstream.restore.degradations import DegradationConfig
from downstream.restore.judges import FeatureJudge, frechet_distance
from downstream.restore.model_file import Device, Restorer, load_restorer
from downstream.restore.quality import measure
from downstream.restore.restoring import STEPS, restore
from downstream.restore.sampling import check_times
from downstream.sheet import draw_sheet
from lcl.core.config import config, run_command
from lcl.core.logs import progress_bar, set_up_logging
from lcl.evals.results import console
from lcl.features import Encoder, load_encoder
from lcl.measured import write_result

log = logging.getLogger(__name__)

DECONVOLUTION = "Wiener deconvolution"
BaselineName = Literal["identity", "non-local means", "CLAHE", "Wiener", "Wiener deconvolution"]


@config
class EvalRestorerConfig:
    models: tuple[str, ...] = ()
    """Restorers, as train_restorer.py wrote them, or its run folders; none: the baselines alone."""
    encoder: str = ""
    """The encoder (checkpoint, run or export) of models that were trained with one, which are measured with it and without."""
    no_encoder: bool = False
    """Measure such models without alone."""
    photographs: str = ""
    """Folder of clean photographs that they were not trained on; they are degraded by --seed."""
    pairs: str = ""
    """In their place: a folder with GT (clean) and LQ (degraded)."""
    frames: str = ""
    """In their place: a folder with the clean frames of one video, in the order of their names, whose flicker is measured too."""
    output: Annotated[str, tyro.conf.arg(aliases=("-o",))]
    """Folder for the report."""
    degradations: DegradationConfig = DegradationConfig()
    """Each of its tasks is done to each photograph. Tasks and strengths beyond a model's training are marked."""
    max_photographs: Annotated[int, Field(ge=0)] = 0
    """The first so many, by name; 0: all."""
    crop_px: Annotated[int, Field(ge=0)] = 0
    """The middle of each photograph, at most so wide and high; 0: all of it."""
    border_px: Annotated[int, Field(ge=0)] = 0
    """Pixels at each edge that are not compared."""
    steps: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 2)
    """Of consistency models, each measured."""
    times: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Of their second and later steps, as parts of the first time; none: as each was trained (1/2, 1/4 ... unless its training said otherwise)."""
    sde_steps: Annotated[int, Field(ge=1)] = 100
    """Of IR-SDE."""
    baselines: tuple[BaselineName, ...] = ("identity", "non-local means", "CLAHE", "Wiener", "Wiener deconvolution")
    """The last is told the kernel of a blur, and left out of other tasks."""
    judge: str = ""
    """An encoder that had no part in the training: how far its features are, and their Frechet distance where there are enough; empty: neither."""
    lpips: Literal["none", "alex", "vgg", "squeeze"] = "none"
    """LPIPS of this backbone, where PyTorch's cache has its weights."""
    sheet_pictures: Annotated[int, Field(ge=0)] = 6
    """Pictures on the sheet, of each task; 0: no sheet."""
    tile_px: Annotated[int, Field(ge=0)] = 512
    seed: Annotated[int, Field(ge=0)] = 0
    device: Device = "cpu"
    """Of restorers; memory is measured of the CPU's alone."""
    threads: Annotated[int, Field(ge=1)] = 1


@dataclass(frozen=True)
class Method:
    """A way to restore."""

    name: str
    act: Callable[[Case], Pixels]
    model: Restorer | None = None

    def fits(self, case: Case) -> bool:
        return self.name != DECONVOLUTION or case.kernel is not None


@dataclass(frozen=True)
class Judges:
    features: FeatureJudge | None
    lpips: LPIPS | None


@dataclass(frozen=True)
class Row:
    """One method on all pictures of a task: means, and each picture's own."""

    method: str
    task: str
    unseen: str
    """What the model had not met in its training: the task, its strength, or nothing."""
    quality: dict[str, float]
    """By measure: of downstream/restore/quality.py, and of the judges that were asked for."""
    frechet: float | None
    seconds_per_megapixel: float
    peak_megabytes: float | None
    """The most memory above what was held before, of a picture."""
    peak_megabytes_per_megapixel: float | None
    flicker_255: float | None
    """Of frames: mean |d - d'|, d the clean frames' change from one to the next and d' the restored ones', in levels of 8 bits."""
    frames_per_second: float | None
    pictures: list[dict[str, Any]]


COLUMNS = {
    "psnr_db": ("PSNR, dB", 2), "psnr_y_db": ("PSNR-Y, dB", 2), "ssim": ("SSIM", 4), "ssim_y": ("SSIM-Y", 4), "gmsd": ("GMSD", 4), "haarpsi": ("HaarPSI", 4),
    "feature_distance": ("features", 4), "lpips": ("LPIPS", 4),
}  # fmt: skip


def main(settings: EvalRestorerConfig) -> None:
    set_up_logging()
    torch.set_num_threads(settings.threads)
    if [bool(settings.photographs), bool(settings.pairs), bool(settings.frames)].count(True) != 1:
        raise ValueError("give one of --photographs, a folder of clean photographs, --pairs, a folder with GT and LQ, and --frames, a folder with the frames of a video")
    if not settings.models and not settings.baselines:
        raise ValueError("there is nothing to measure: give --models, or --baselines")
    settings.degradations.check()
    check_times(settings.times, option="--times")
    if len(settings.times) >= max(settings.steps):
        raise ValueError(f"--times gives {len(settings.times)} later times, and --steps {' '.join(map(str, settings.steps))} have fewer: give more --steps, or fewer --times")
    models = load_models(settings)
    judges = load_judges(settings, models)
    methods, cases = methods_of(settings, models), read_cases(settings)
    rows: list[Row] = []
    shown: dict[int, list[tuple[str, Pixels]]] = {}
    with progress_bar("restoring", total=len(methods) * len(cases)) as bar:
        for task in dict.fromkeys(case.task for case in cases):
            places = [place for place, case in enumerate(cases) if case.task == task]
            for method in methods:
                of_task = [cases[place] for place in places]
                if not method.fits(of_task[0]):
                    bar.advance(len(of_task))
                    continue
                row, found = run(method, of_task, settings, judges, done=bar.advance)
                rows.append(row)
                for place, pixels in list(zip(places, found, strict=True))[: settings.sheet_pictures if method.name != "identity" else 0]:
                    shown.setdefault(place, [("degraded: " + task, cases[place].degraded)]).append((method.name, pixels))
    report(settings, rows, models)
    if shown:
        mark = Mark("algorithmicallyEnhanced", " ".join(dict.fromkeys(one.sha256 for one in models.values())), settings="sheet of comparisons") if models else None
        draw_sheet([[*cells, ("clean", cases[place].clean)] for place, cells in shown.items()], Path(settings.output) / "sheet.png", mark)


def load_models(settings: EvalRestorerConfig) -> dict[str, Restorer]:
    """By name: with their encoder, and once more without where they have one."""
    encoder: Encoder | None = load_encoder(settings.encoder) if settings.encoder else None
    if encoder is not None and settings.no_encoder:
        raise ValueError("--encoder and --no-encoder say opposite things; give one of them")
    short = len({Path(one).stem for one in settings.models}) == len(settings.models)
    models = {}
    for path in settings.models:
        name = Path(path).stem if short else path
        models[name] = load_restorer(Path(path), device=settings.device, encoder=encoder, needs_encoder=not settings.no_encoder)
        if models[name].guided:
            models[f"{name}, no encoder"] = load_restorer(Path(path), device=settings.device)
    return models


def load_judges(settings: EvalRestorerConfig, models: Mapping[str, Restorer]) -> Judges:
    """Raises ValueError for a judge that a model was trained with."""
    features = FeatureJudge(load_encoder(settings.judge)) if settings.judge else None
    for name, trained in models.items():
        if features is not None and trained.about.get("encoder") == features.encoder.fingerprint:
            raise ValueError(f"--judge is the encoder that {name} was trained with: give another, which had no part in it")
        if settings.lpips == "vgg" and _learned_from_vgg16(trained):
            raise ValueError(f"--lpips vgg looks through the network that {name} was trained with: give alex or squeeze, which had no part in it")
    backbone: Backbone | None = None if settings.lpips == "none" else settings.lpips
    return Judges(features, None if backbone is None else LPIPS(backbone))


def _learned_from_vgg16(trained: Restorer) -> bool:
    objective = trained.about.get("objective")
    return objective is not None and objective["perceptual"] == "vgg16" and objective["perceptual_weight"] > 0 and trained.kind != "ir_sde"


def methods_of(settings: EvalRestorerConfig, models: Mapping[str, Restorer]) -> list[Method]:
    methods = [Method(name, _deconvolved if name == DECONVOLUTION else partial(_filtered, BASELINES[name])) for name in settings.baselines]
    for name, trained in models.items():
        for steps in {"ir_cm": settings.steps, "ir_sde": (settings.sde_steps,)}.get(trained.kind, (STEPS[trained.kind],)):
            methods.append(Method(f"{name}, {trained.kind}, {steps} step{'s' * (steps > 1)}", partial(_restored, trained, steps, settings), trained))
    return methods


def _filtered(baseline: Callable[[Pixels], Pixels], case: Case) -> Pixels:
    return baseline(case.degraded)


def _deconvolved(case: Case) -> Pixels:
    return wiener_deconvolution(case.degraded, case.kernel)


def _restored(trained: Restorer, steps: int, settings: EvalRestorerConfig, case: Case) -> Pixels:
    tile_px = settings.tile_px if max(case.degraded.shape) > settings.tile_px else 0
    return to_bytes(restore(trained, to_tensor(case.degraded), num_steps=steps, times=settings.times, seed=settings.seed, tile_px=tile_px))


def read_cases(settings: EvalRestorerConfig) -> list[Case]:
    limit, crop_px = settings.max_photographs, settings.crop_px
    if settings.pairs:
        return pair_cases(Path(settings.pairs), limit=limit, crop_px=crop_px)
    make = frame_cases if settings.frames else made_cases
    return make(Path(settings.frames or settings.photographs), settings.degradations, seed=settings.seed, limit=limit, crop_px=crop_px)


def run(method: Method, cases: Sequence[Case], settings: EvalRestorerConfig, judges: Judges, *, done: Callable[[], None]) -> tuple[Row, list[Pixels]]:
    """What a method does on the cases of one task, and its pictures. The first case is done once more before, for what a first call does once is not the method's cost."""
    found, pictures, peaks = [], [], []
    method.act(cases[0])
    for case in cases:
        with PeakMemory() as memory:
            started = time.perf_counter()
            restored = method.act(case)
            seconds = time.perf_counter() - started
        found.append(restored)
        peaks.append(memory.peak_bytes)
        quality = asdict(measure(case.clean, restored, border_px=settings.border_px))
        if judges.features is not None:
            quality["feature_distance"] = judges.features.distance(case.clean, restored)
        if judges.lpips is not None:
            quality["lpips"] = judges.lpips(case.clean, restored)
        pictures.append({"picture": case.name, "seconds": seconds, "megapixels": case.clean.shape[0] * case.clean.shape[1] / 1e6, **quality})
        done()
    seconds, megapixels = (sum(one[name] for one in pictures) for name in ("seconds", "megapixels"))
    known = [peak for peak in peaks if peak is not None]
    row = Row(
        method.name, cases[0].task, unseen=_unseen(method.model, cases[0].task, settings), quality={name: fmean(one[name] for one in pictures) for name in quality},
        frechet=_frechet(judges.features, cases, found), seconds_per_megapixel=seconds / megapixels, peak_megabytes=max(known) / 1e6 if known else None,
        peak_megabytes_per_megapixel=max(peak / 1e6 / one["megapixels"] for peak, one in zip(known, pictures, strict=True)) if known else None,
        flicker_255=flicker_255([case.clean for case in cases], found) if settings.frames else None, frames_per_second=len(cases) / seconds if settings.frames else None,
        pictures=pictures,
    )  # fmt: skip
    return row, found


def _unseen(trained: Restorer | None, task: str, settings: EvalRestorerConfig) -> str:
    if trained is None or settings.pairs:
        return ""
    return unseen_in_training(task, settings.degradations, tasks=trained.tasks, trained=trained.about.get("degradations"))


def _frechet(judge: FeatureJudge | None, cases: Sequence[Case], found: Sequence[Pixels]) -> float | None:
    return None if judge is None else frechet_distance([judge.pooled(case.clean) for case in cases], [judge.pooled(pixels) for pixels in found])


def flicker_255(clean: Sequence[Pixels], restored: Sequence[Pixels]) -> float:
    """mean |d - d'| over places, channels and pairs of frames that follow each other: 0 where the error stays the same."""
    errors = (np.asarray(one, dtype=np.float32) - other for one, other in zip(restored, clean, strict=True))
    return fmean(float(np.abs(later - earlier).mean()) for earlier, later in pairwise(errors))


def report(settings: EvalRestorerConfig, rows: Sequence[Row], models: Mapping[str, Restorer]) -> None:
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    about = {name: {"sha256": trained.sha256, "kind": trained.kind, "tasks": list(trained.tasks), "about": dict(trained.about)} for name, trained in models.items()}
    write_result(output / "restoration.json", settings, {"rows": [_plain(asdict(row)) for row in rows], "models": about})
    table = Table(title=f"Restored pictures against the clean ones, means over pictures; border {settings.border_px} px", title_justify="left")
    said = [{"task": row.task, "method": row.method, **_cells(row)} for row in rows]
    columns = [name for name in dict.fromkeys(name for one in said for name in one) if any(one.get(name) for one in said)]
    for column in columns:
        table.add_column(column)
    for one in said:
        table.add_row(*(one.get(column, "") for column in columns))
    console().print(table)
    log.info("%s: restoration.json%s", output, ", sheet.png" if settings.sheet_pictures else "")


def _cells(row: Row) -> dict[str, str]:
    """By column; empty where there is nothing to say."""
    qualities = {title: f"{row.quality[name]:.{digits}f}" for name, (title, digits) in COLUMNS.items() if name in row.quality}
    costs = {
        "Frechet": (row.frechet, 4), "s / megapixel": (row.seconds_per_megapixel, 2), "peak MB": (row.peak_megabytes, 0), "MB / megapixel": (row.peak_megabytes_per_megapixel, 0),
        "flicker": (row.flicker_255, 3), "frames / s": (row.frames_per_second, 2),
    }  # fmt: skip
    return {"unseen": row.unseen, **qualities} | {title: "" if value is None else f"{value:.{digits}f}" for title, (value, digits) in costs.items()}


def _plain(value: Any) -> Any:
    """With None in the place of infinite decibels, which JSON has no number for."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if value == float("inf") else value


if __name__ == "__main__":
    run_command(EvalRestorerConfig, main, description=__doc__.splitlines()[0])
