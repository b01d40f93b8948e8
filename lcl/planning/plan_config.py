"""What a plan can be told."""

from typing import Annotated, Literal

from pydantic import Field

from lcl.core.config import config
from lcl.estimate import DOCUMENT_IMAGES, DOCUMENT_TOKENS, UTILISATION
from lcl.planning.data_plan import DataPlanConfig
from lcl.planning.machines import MachineConfig
from lcl.train_config import PRESETS as TRAIN_PRESETS
from lcl.train_config import TrainConfig

Count = Annotated[int, Field(ge=1)]


@config
class PlanConfig:
    train: TrainConfig = TRAIN_PRESETS["lcl_vit_b32_mmc4"]
    """The training that is planned; --preset NAME takes one of `lcl pretrain`."""
    run: str = ""
    """Folder or run.json of a training run, whose config is planned in the place of --train."""
    machine: MachineConfig = MachineConfig()
    shards: tuple[str, ...] = ()
    """Folders of shards whose documents are looked at; none: documents of the two numbers below."""
    document_tokens: Count = DOCUMENT_TOKENS
    """Text tokens of a document (MMC4's mean)."""
    document_images: Count = DOCUMENT_IMAGES
    """Its images."""
    mfu: Annotated[float, Field(gt=0, lt=1)] = UTILISATION
    """Assumed model FLOPs utilisation of GPUs while they compute; `make gpu` measures it."""
    data: DataPlanConfig = DataPlanConfig()
    calibration: str = ""
    """JSON file of a CPU's rates: read where it is there, else measured on this machine and written; without a name measured each time."""
    measure: tuple[Literal["training", "pipeline"], ...] = ()
    """Short real runs on this machine's CPU beside what the plan says of them: of the trainer with one and two processes on --shards, of the pipeline on a sample crawl."""
    measured_steps: Count = 12
    """Steps of each timed run."""
    measured_pages: Count = 100
    """Pages of the sample crawl."""
    output: str = ""
    """JSON file for the whole plan."""


PRESETS = {name: PlanConfig(train=preset) for name, preset in TRAIN_PRESETS.items()}
