"""What a pilot can be told: what a build can, and how to sample."""

from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import Field

from lcl.core.config import config
from pipeline.build_config import PRESETS as BUILD_PRESETS
from pipeline.build_config import BuildConfig
from pipeline.sample import Fraction


@config
class PilotConfig(BuildConfig):
    sample: Fraction = 0.01
    """Part to build, as 0.001 or 0.1%."""
    sample_of: Literal["auto", "files", "pages"] = "auto"
    """pages: every input is read, of its pages a part is extracted, and images are looked up in all inputs. files: a part of the inputs is built, and images in
    the others are not found. auto: files where the sample has 32 of them or more, else pages."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Workers for whose number the wall time is predicted; 0: as many as the pilot has."""
    compare: str = ""
    """Folder of a finished build of the whole: the error of each prediction is reported."""


def whole_build(pilot: PilotConfig) -> BuildConfig:
    """The build that the pilot is of."""
    return BuildConfig(**_build_values(pilot) | {"sample": 1.0})


def _build_values(value: BuildConfig) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(BuildConfig)}


PRESETS = {name: PilotConfig(**_build_values(preset) | {"sample": 0.01}) for name, preset in BUILD_PRESETS.items()}
