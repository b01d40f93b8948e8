"""What the training of a restorer can be told, and named sets of it."""

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from downstream.fit import FitConfig, FitOptimizerConfig
from downstream.restore.degradations import DegradationConfig
from downstream.restore.guide import GuideConfig
from downstream.restore.model_file import RestorerConfig
from downstream.restore.network import NetworkConfig
from downstream.restore.objective import ObjectiveConfig
from downstream.restore.perceptual import VGG_LEAST_PX
from downstream.restore.process import ProcessConfig
from lcl.core.config import config
from lcl.schedule import ScheduleConfig


@config
class TrainRestorerConfig:
    photographs: str = ""
    """Folder of clean photographs, which are degraded as they come."""
    pairs: str = ""
    """In their place: a folder with GT (clean) and LQ (degraded), the same names in both."""
    output: str = "outputs/restorer"
    """Folder of the run; the same command again resumes it."""
    crop_px: Annotated[int, Field(ge=8)] = 128
    """Side of the square crops (IR-CM: 128)."""
    tones_px: Annotated[int, Field(ge=8)] = 256
    """Of --model.tones: side of the square around a crop whose tones stand for those of the whole picture."""
    encoder: str = ""
    """Pretrained encoder for the perceptual term and for --model.guide: a run, checkpoint, export or published weights; it stays as it is. Empty: neither."""
    detector: str = ""
    """A detector that was trained on this encoder, whose head the guide takes and keeps; empty: the head is trained with the rest."""
    start_from: str = ""
    """A restorer whose weights are the start, such as one trained as ir_sde, which is how IR-CM starts."""
    degradations: DegradationConfig = DegradationConfig()
    model: RestorerConfig = RestorerConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: FitOptimizerConfig = FitOptimizerConfig()
    fit: FitConfig = FitConfig()

    def check(self) -> None:
        """Raises ValueError for settings that do not fit together."""
        if bool(self.photographs) == bool(self.pairs):
            raise ValueError("give either --photographs, a folder of clean photographs, or --pairs, a folder with GT and LQ")
        self.model.check()
        self.objective.check(form=self.model.form)
        self.degradations.check()
        self._check_encoder()
        if self.objective.teacher_decay and (self.fit.engine.zero_stage == 3 or self.fit.engine.precision == "bf16"):
            raise ValueError("objective.teacher_decay averages whole weights of 32 bits: give --fit.engine.zero-stage 0, 1 or 2 and --fit.engine.precision fp32 or mixed, or 0 for it")
        stride = 2 ** (len(self.model.network.widths) - 1)
        if self.crop_px % stride:
            raise ValueError(f"crop_px is {self.crop_px}: a network of {len(self.model.network.widths)} scales takes multiples of {stride}")
        if self.model.process.kind == "denoising":
            (least, most), limit = self.degradations.noise_255, self.model.process.noise_255
            if self.pairs or self.degradations.tasks != ("noise",):
                raise ValueError(
                    "model.process.kind denoising is for Gaussian noise of known strength: give --photographs and --degradations.tasks noise, or --model.process.kind reverting"
                )
            if self.objective.stages == "two":
                raise ValueError("objective.stages two begins with states around the degraded picture, where a denoising process already begins: give --objective.stages one")
            if most > 0.999 * limit or not least:
                raise ValueError(f"degradations.noise_255 goes from {least:g} to {most:g}: a denoising process takes noise above 0 and below model.process.noise_255, {limit:g}")

    @property
    def uses_perceptual(self) -> bool:
        return (bool(self.encoder) or self.objective.perceptual == "vgg16") and self.objective.kind != "ir_sde" and self.objective.perceptual_weight > 0

    def _check_encoder(self) -> None:
        guide = self.model.guide
        if guide.parts != "off" and not self.encoder:
            raise ValueError(f"model.guide.parts is {guide.parts}: give --encoder, a checkpoint, run or export")
        if self.encoder and guide.parts == "off" and not (self.uses_perceptual and self.objective.perceptual == "encoder"):
            raise ValueError("--encoder is given and nothing looks through it: give --model.guide.parts both, or a perceptual_weight to a kind other than ir_sde")
        if self.uses_perceptual and self.objective.perceptual == "vgg16" and self.crop_px < VGG_LEAST_PX:
            raise ValueError(f"crop_px is {self.crop_px}: five poolings of VGG16 take pictures of at least {VGG_LEAST_PX} px; give larger crops, or --objective.perceptual encoder")
        if self.detector and not guide.describes:
            raise ValueError("--detector is for the guide's head: give --model.guide.parts head or both with it")
        if guide.describes and guide.crop_px > self.crop_px:
            raise ValueError(f"model.guide.crop_px is {guide.crop_px}, crops have {self.crop_px} px: the head reads squares of them, so give a number that is not larger")


# Later steps mend the network's own first one, which gains where those of the path lose (docs/restoration.md).
MENDING = RestorerConfig(boundary="mu", times=(0.125,), renoise=0.0)
OWN_STATES = ObjectiveConfig(end_fraction=0.75, sampled_fraction=1.0, own_fraction=1.0)
SMALL = TrainRestorerConfig(
    crop_px=64, model=MENDING, objective=OWN_STATES,
    optimizer=FitOptimizerConfig(kind="muon", muon_ratio=1.0, learning_rate=3e-3, schedule=ScheduleConfig(warmup_steps=100, final_ratio=0.02), ema_decay=0.995),
    fit=FitConfig(steps=4000, batch_items=8, micro_items=8),
)
TOY = TrainRestorerConfig(
    crop_px=16, model=RestorerConfig(network=NetworkConfig(widths=(4, 8), num_blocks=(1, 1), time_width=8), guide=GuideConfig(width=8, crop_px=16)),
    optimizer=FitOptimizerConfig(learning_rate=1e-3, schedule=ScheduleConfig(warmup_steps=2)), fit=FitConfig(steps=12, batch_items=4, micro_items=2, save_every=4, log_every=4),
)  # fmt: skip

PRESETS: dict[str, TrainRestorerConfig] = {
    # At most half an hour on two cores. The average forgets quickly (0.995, as in IR-SDE), so that short runs are not held back by their start.
    "small": SMALL,
    "small_regression": replace(SMALL, objective=ObjectiveConfig(kind="regression")),
    "small_ir_sde": replace(SMALL, model=RestorerConfig(form="noise"), objective=ObjectiveConfig(kind="ir_sde")),
    "small_denoise": replace(SMALL, objective=ObjectiveConfig(), degradations=DegradationConfig(tasks=("noise",)), model=RestorerConfig(process=ProcessConfig(kind="denoising", noise_255=70.0))),
    # As published (section 5.1), but for the network, which is IR-SDE's there, and for the number of steps, which their 100 and 100 epochs of each set make.
    "ir_cm": TrainRestorerConfig(
        model=RestorerConfig(network=NetworkConfig(widths=(64, 128, 256, 512), num_blocks=(2, 2, 2, 2), time_width=256), form="noise"),
        objective=ObjectiveConfig(distance="absolute", stages="two", end_fraction=0.0),
        optimizer=FitOptimizerConfig(learning_rate=1e-5, weight_decay=0.01, ema_decay=0.995), fit=FitConfig(steps=200_000, batch_items=4, micro_items=4),
    ),
    "toy": TOY,
    "toy_regression": replace(TOY, objective=ObjectiveConfig(kind="regression")),
    "toy_ir_sde": replace(TOY, model=replace(TOY.model, form="noise"), objective=ObjectiveConfig(kind="ir_sde")),
    "toy_denoise": replace(TOY, degradations=DegradationConfig(tasks=("noise",)), model=replace(TOY.model, process=ProcessConfig(kind="denoising", noise_255=70.0))),
}  # fmt: skip
