"""What the training of a codec can be told, and named sets of it."""

from typing import Annotated

from pydantic import Field

from downstream.codec.cca import CCAConfig
from downstream.codec.mean_scale import MeanScaleConfig
from downstream.codec.model_file import CodecConfig
from downstream.codec.objective import ObjectiveConfig
from downstream.fit import FitConfig, FitOptimizerConfig
from lcl.core.config import config
from lcl.schedule import ScheduleConfig


@config
class TrainCodecConfig:
    photographs: str = ""
    """Folder of photographs to train on."""
    output: str = "outputs/codec"
    """Folder of the run; the same command again resumes it."""
    crop_px: Annotated[int, Field(ge=64, multiple_of=64)] = 256
    """Side of the square crops."""
    encoder: str = ""
    """A pretrained encoder (checkpoint, run or export), for --model.adapter.source tokens and --objective.gamma; it stays as it is."""
    start_from: str = ""
    """A trained codec with the same --model, whose weights are the start; it may lack the adapter. Other lmbdas are possible."""
    model: CodecConfig = CodecConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: FitOptimizerConfig = FitOptimizerConfig()
    fit: FitConfig = FitConfig()

    def check(self) -> None:
        """Raises ValueError for settings that do not fit together."""
        if not self.photographs:
            raise ValueError("--photographs: give a folder of photographs to train on")
        if self.model.num_levels != len(self.objective.lmbdas):
            raise ValueError(f"model.num_levels is {self.model.num_levels}, objective.lmbdas are {len(self.objective.lmbdas)}: give one lmbda for each level")
        self.objective.check()
        self.model.adapter.check()
        looks = self.model.adapter.source == "tokens" or self.objective.gamma > 0
        if looks and not self.encoder:
            raise ValueError("--model.adapter.source tokens and --objective.gamma look at pictures through an encoder: give --encoder, a checkpoint, run or export")
        if self.encoder and not looks:
            raise ValueError("--encoder is given and nothing looks through it: give --model.adapter.source tokens or --objective.gamma with it")


LMBDAS = (0.0018, 0.0035, 0.0067, 0.013, 0.025, 0.0483)  # of CompressAI's models of six qualities (its docs/source/zoo.rst)

CONSTANT = ScheduleConfig(warmup_steps=0, final_ratio=1.0)

PRESETS: dict[str, TrainCodecConfig] = {
    # One model of six rates in an hour on two cores (0.29 s a step with two processes on an Intel Xeon).
    "small": TrainCodecConfig(
        crop_px=128,
        model=CodecConfig(mean_scale=MeanScaleConfig(width=48, latent_width=128), num_levels=len(LMBDAS)), objective=ObjectiveConfig(lmbdas=LMBDAS, balance=0.5),
        optimizer=FitOptimizerConfig(kind="muon", learning_rate=3e-3, schedule=ScheduleConfig(warmup_steps=100)),
        fit=FitConfig(steps=11_000, batch_items=12, micro_items=6),
    ),
    # CCA's codec at a size for a CPU (0.45 s a step of eight crops with one process on an Intel Xeon), without its loss's adjustment, which does not pay there (docs/codec.md).
    "small_cca": TrainCodecConfig(
        crop_px=128,
        model=CodecConfig(
            kind="cca", cca=CCAConfig(widths=(16, 32, 64), latent_width=80, hyper_width=48, num_bottlenecks=1, num_blocks=1, entropy_width=48, entropy_blocks=1, head_widths=(48, 32)),
            num_levels=len(LMBDAS),
        ),
        objective=ObjectiveConfig(lmbdas=LMBDAS, balance=0.5),
        optimizer=FitOptimizerConfig(kind="muon", learning_rate=3e-3, schedule=ScheduleConfig(warmup_steps=100)),
        fit=FitConfig(steps=8000, batch_items=8, micro_items=4),
    ),
    # For telephones: a decoder of at most 20 thousand multiplications a pixel, that keeps to 256 MB at 768 x 512 px (a width of 80 takes 263 MiB). The encoder may be dear. Made for a GPU.
    "mobile": TrainCodecConfig(
        model=CodecConfig(mean_scale=MeanScaleConfig(width=64, latent_width=128, analysis_width=128), num_levels=len(LMBDAS)), objective=ObjectiveConfig(lmbdas=LMBDAS),
        optimizer=FitOptimizerConfig(learning_rate=2e-4, schedule=ScheduleConfig(warmup_steps=1000, final_ratio=0.02)), fit=FitConfig(steps=400_000, batch_items=24, micro_items=24),
    ),
    # As published (arXiv:2410.04847, README of its code), in two runs: 56 of 65 epochs at one rate, whichever is wanted, and with --start-from the last 9 at
    # a tenth of the learning rate with the beta that is wanted. Steps are what epochs of about 300,000 pictures make; betas from 7 on begin with 2.
    "cca": TrainCodecConfig(
        model=CodecConfig(kind="cca"), objective=ObjectiveConfig(lmbdas=(0.05,), beta=0.3, mode="published", alpha=1.0),
        optimizer=FitOptimizerConfig(learning_rate=1e-4, schedule=CONSTANT, ema_decay=0.0), fit=FitConfig(steps=2_100_000, batch_items=8, micro_items=8),
    ),
    "cca_end": TrainCodecConfig(
        model=CodecConfig(kind="cca"), objective=ObjectiveConfig(lmbdas=(0.05,), beta=0.85, mode="published", alpha=1.0),
        optimizer=FitOptimizerConfig(learning_rate=1e-5, schedule=CONSTANT, ema_decay=0.0), fit=FitConfig(steps=340_000, batch_items=8, micro_items=8),
    ),
    "toy": TrainCodecConfig(
        crop_px=64, model=CodecConfig(mean_scale=MeanScaleConfig(width=8, latent_width=12), num_levels=2), objective=ObjectiveConfig(lmbdas=(0.002, 0.02)),
        optimizer=FitOptimizerConfig(kind="muon", learning_rate=1e-3, schedule=ScheduleConfig(warmup_steps=2)), fit=FitConfig(steps=12, batch_items=4, micro_items=2, save_every=4, log_every=4),
    ),
    "toy_cca": TrainCodecConfig(
        crop_px=64,
        model=CodecConfig(kind="cca", cca=CCAConfig(widths=(8, 8, 12), latent_width=20, hyper_width=8, num_groups=3, num_bottlenecks=1, num_blocks=1, entropy_width=12, entropy_blocks=1, head_widths=(12, 8))),
        objective=ObjectiveConfig(lmbdas=(0.01,), mode="intent", alpha=0.3, alpha_warmup_steps=4),
        optimizer=FitOptimizerConfig(learning_rate=1e-3, schedule=ScheduleConfig(warmup_steps=2)), fit=FitConfig(steps=12, batch_items=4, micro_items=2, save_every=4, log_every=4),
    ),
}  # fmt: skip
