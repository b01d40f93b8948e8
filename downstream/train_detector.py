"""Entry point: trains a detector, which says what spoils a picture, and how much.

    python downstream/train_detector.py --preset small --photographs photos
    python downstream/train_detector.py --photographs photos --encoder outputs/lcl                              (a head on its tokens)

    clean crops, one in so many left clean --degraded--> convolutions, or an encoder, frozen --> head; in the end OUTPUT/detector.safetensors, the file that `lcl detect` takes
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from downstream.fit import FitConfig, FitOptimizerConfig, fit
from downstream.photographs import Crops, list_photographs, to_tensor
from downstream.restore.degradations import PARTS, DegradationConfig, degrade_window, reach_px
from downstream.restore.detector import CLEAN, Detector, DetectorConfig, DetectorObjective, psnr_of, save_detector
from lcl.core.config import commit, config, run_command, to_dict
from lcl.core.logs import set_up_logging
from lcl.features import Encoder, load_encoder
from lcl.run_folder import Input
from lcl.schedule import ScheduleConfig

log = logging.getLogger(__name__)

BLOCK_PX = 8  # of JPEG: its blocks do not begin at the corner of a crop of a whole picture, so neither do they in training


@config
class TrainDetectorConfig:
    photographs: str = ""
    """Folder of clean photographs, which are degraded as they come."""
    encoder: str = ""
    """Pretrained, whose tokens it reads and which stays as it is: a run, checkpoint, export or published weights; empty: convolutions of its own, trained along."""
    output: str = "outputs/detector"
    """Folder of the run; the same command again resumes it."""
    degradations: DegradationConfig = DegradationConfig(tasks=PARTS)
    clean_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Part of the crops that are left clean; the tasks share the others evenly."""
    grey_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Part of the crops that lose their colours before they are degraded."""
    quiet_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Part of the low light that has no noise, as where a camera removed it."""
    crop_px: Annotated[int, Field(ge=8)] = 64
    layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Blocks of the encoder whose tokens are read; none: those at a quarter, at half and the last."""
    width: Annotated[int, Field(ge=1)] = 128
    """Of the head's hidden layer."""
    convolutions: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (8, 16, 32, 64)
    """Channels at each scale, without an encoder."""
    optimizer: FitOptimizerConfig = FitOptimizerConfig(learning_rate=1e-3, schedule=ScheduleConfig(warmup_steps=50))
    fit: FitConfig = FitConfig(steps=3000, batch_items=32, micro_items=32)

    def check(self) -> None:
        """Raises ValueError for what is missing or does not fit."""
        if not self.photographs:
            raise ValueError("give --photographs, a folder of clean photographs")
        if self.layers and not self.encoder:
            raise ValueError("--layers are an encoder's: give --encoder too, or leave them out")
        self.degradations.check()


PRESETS = {
    # Twenty minutes on one core, with convolutions of its own.
    "small": TrainDetectorConfig(
        degradations=DegradationConfig(tasks=(*PARTS, "mixed")), clean_fraction=0.2, grey_fraction=0.15, quiet_fraction=0.5, optimizer=FitOptimizerConfig(learning_rate=2e-3, schedule=ScheduleConfig(warmup_steps=50)),
        fit=FitConfig(steps=6000, batch_items=32, micro_items=32),
    ),
    "toy": TrainDetectorConfig(
        degradations=DegradationConfig(tasks=("noise", "low_light")), crop_px=16, convolutions=(4, 6), fit=FitConfig(steps=12, batch_items=4, micro_items=2, save_every=4, log_every=4)
    ),
}


class DetectorTask:
    def __init__(self, settings: TrainDetectorConfig, crops: Crops, encoder: Encoder | None) -> None:
        torch.manual_seed(settings.fit.seed)
        tasks = (CLEAN, *settings.degradations.tasks)
        made = DetectorConfig(tasks=tasks, layers=settings.layers, width=settings.width, crop_px=settings.crop_px, convolutions=settings.convolutions)
        self.module = DetectorObjective(Detector(made, encoder))
        self.crops, self.degradations, self.seed, self.tasks = crops, settings.degradations, settings.fit.seed, tasks
        self.clean_fraction, self.quiet_fraction = settings.clean_fraction, settings.quiet_fraction

    def batch(self, step: int, items: range, noise: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Each crop clean, or with one of the tasks."""
        clean, degraded, numbers = [], [], []
        for item in items:
            rng = np.random.default_rng([self.seed, step, item, 2])
            number = 0 if rng.random() < self.clean_fraction else int(rng.integers(1, len(self.tasks)))
            done = replace(self.degradations, tasks=(self.tasks[number],)) if number else None
            if self.tasks[number] == "low_light" and rng.random() < self.quiet_fraction:
                done = replace(done, low_light_noise_255=(0.0, 0.0))
            window = self.crops.window(step, item, margin_px=0 if done is None else reach_px(done) + int(rng.integers(BLOCK_PX)))
            numbers.append(number)
            clean.append(to_tensor(window.part))
            degraded.append(clean[-1] if done is None else degrade_window(window, done, rng).pixels)
        made = torch.stack(degraded)
        return made, torch.tensor(numbers), psnr_of(torch.stack(clean), made)

    def before_step(self, step: int) -> None:
        pass


def main(settings: TrainDetectorConfig) -> None:
    from lcl.distributed import process_group, together

    with process_group(threads=settings.fit.threads) as ranks:
        set_up_logging(rank=ranks.rank)
        with together():
            settings.check()
            crops = Crops(list_photographs(Path(settings.photographs)), side_px=settings.crop_px, seed=settings.fit.seed, grey_fraction=settings.grey_fraction)
            task = DetectorTask(settings, crops, load_encoder(settings.encoder) if settings.encoder else None)
        detector = task.module.detector
        inputs = {"photographs": Input(crops.fingerprint, f"the photographs in {settings.photographs}")}
        if detector.encoder is not None:
            inputs["encoder"] = Input(detector.encoder.fingerprint, f"the encoder {settings.encoder}")
        weights = fit(
            task, settings.fit, settings.optimizer, ranks, output=Path(settings.output), run_config=settings, identity={"detector": to_dict(detector.settings)},
            inputs=inputs, show=("loss", "accuracy", "decibels_off"),
        )  # fmt: skip
        if weights is not None:
            prefix = "detector."
            about = {
                "pictures": crops.fingerprint, "num_pictures": len(crops), "degradations": to_dict(settings.degradations),
                "steps": settings.fit.steps, "seed": settings.fit.seed, "commit": commit(),
            }  # fmt: skip
            path = Path(settings.output) / "detector.safetensors"
            save_detector(path, detector, {name.removeprefix(prefix): value for name, value in weights.items()}, about)
            log.info("%s: tells %s", path, ", ".join(detector.settings.tasks))


if __name__ == "__main__":
    run_command(TrainDetectorConfig, main, presets=PRESETS, description=__doc__.splitlines()[0])
