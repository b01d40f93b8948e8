"""What the training of a density model can be told, and named sets of it."""

from typing import Annotated

from pydantic import Field

from downstream.density.contexts import ContextConfig
from downstream.density.model import DensityConfig
from downstream.density.objective import ObjectiveConfig
from downstream.density.schedules import NoiseConfig
from downstream.density.training_images import DIGIT_LEVELS, DIGIT_PX, SourceConfig
from downstream.density.unet import UNetConfig
from downstream.fit import FitConfig, FitOptimizerConfig
from lcl.core.config import config
from lcl.schedule import ScheduleConfig


@config
class TrainDensityConfig:
    source: SourceConfig = SourceConfig()
    output: str = "outputs/density"
    """Folder of the run; the same command again resumes it."""
    encoder: str = ""
    """Frozen encoder for a context of tokens, or for alignment: run, checkpoint or export."""
    start_from: str = ""
    """A trained density model with the same --model, whose weights are the start."""
    model: DensityConfig = DensityConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: FitOptimizerConfig = FitOptimizerConfig()
    fit: FitConfig = FitConfig()
    calibration_images: Annotated[int, Field(ge=1)] = 64
    """Training images from which the errors of the network, and so the variances of the reverse steps, are taken in the end."""

    def check(self) -> None:
        """Raises ValueError for settings that do not fit together."""
        self.model.check()
        digits = self.source.kind == "digits"
        if (self.model.channels, self.model.levels, self.model.size_px) != (1, DIGIT_LEVELS, DIGIT_PX) if digits else self.model.levels != 256:
            wanted = f"1, {DIGIT_LEVELS} and {DIGIT_PX} (--preset digits)" if digits else "1 or 3, 256 and any size"
            raise ValueError(f"{self.source.kind} need model.channels, model.levels and model.size_px of {wanted}, not {self.model.channels}, {self.model.levels}, {self.model.size_px}")
        if self.needs_encoder != bool(self.encoder):
            needs = "a context of tokens and alignment need" if self.needs_encoder else "only a context of tokens (--model.context.kind tokens) and --objective.alignment take"
            raise ValueError(f"--encoder is {self.encoder!r}: {needs} a frozen encoder")

    @property
    def needs_encoder(self) -> bool:
        return self.model.context.kind == "tokens" or self.objective.alignment > 0


DIGITS = DensityConfig(
    channels=1, levels=DIGIT_LEVELS, size_px=DIGIT_PX, noise=NoiseConfig(width=8), context=ContextConfig(size=4, chosen=1), unet=UNetConfig(widths=(32,), blocks=2, attention=True)
)

PRESETS: dict[str, TrainDensityConfig] = {
    # Minutes on one core.
    "digits": TrainDensityConfig(
        source=SourceConfig(kind="digits"), model=DIGITS, optimizer=FitOptimizerConfig(kind="muon", muon_ratio=1.0, learning_rate=4e-3, schedule=ScheduleConfig(warmup_steps=100, final_ratio=0.02), ema_decay=0.995),
        fit=FitConfig(steps=2000, batch_items=64, micro_items=64), calibration_images=1024,
    ),
    # Half an hour on one core; two processes share a step.
    "small": TrainDensityConfig(
        model=DensityConfig(context=ContextConfig(size=16, chosen=4), unet=UNetConfig(widths=(32, 64, 64), blocks=1)),
        optimizer=FitOptimizerConfig(kind="muon", muon_ratio=1.0, learning_rate=3e-3, schedule=ScheduleConfig(warmup_steps=100, final_ratio=0.02), ema_decay=0.995),
        fit=FitConfig(steps=3000, batch_items=16, micro_items=8),
    ),
    # The sizes of VDM and MuLAN for CIFAR-10 (their configs), with our head; for a GPU.
    "mulan": TrainDensityConfig(
        model=DensityConfig(context=ContextConfig(size=50, chosen=15), unet=UNetConfig(widths=(128,), blocks=32, dropout=0.1)),
        optimizer=FitOptimizerConfig(learning_rate=2e-4, schedule=ScheduleConfig(warmup_steps=100, final_ratio=1.0), beta2=0.99, weight_decay=0.01, ema_decay=0.9999),
        fit=FitConfig(steps=2_000_000, batch_items=128, micro_items=128),
    ),
    "toy": TrainDensityConfig(
        source=SourceConfig(kind="digits"),
        model=DensityConfig(
            channels=1, levels=DIGIT_LEVELS, size_px=DIGIT_PX, noise=NoiseConfig(width=4), context=ContextConfig(size=4, chosen=1, width=8), unet=UNetConfig(widths=(8, 8), blocks=1)
        ),
        optimizer=FitOptimizerConfig(kind="muon", muon_ratio=1.0, learning_rate=2e-3, schedule=ScheduleConfig(warmup_steps=2)),
        fit=FitConfig(steps=12, batch_items=8, micro_items=4, save_every=4, log_every=4),
        calibration_images=16,
    ),
}  # fmt: skip
