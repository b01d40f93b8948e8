"""A density model in one file: weights, calibration and settings. Its hash names it in every archive that it compresses.

    NAME.safetensors   weights (`model.*`), the table of errors (`calibration`); metadata: schema, settings, what it was trained on
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from downstream.density.calibration import Table
from downstream.density.model import DensityConfig, DensityModel
from downstream.tensor_file import read_model, write_model
from lcl.core.config import from_dict, to_dict

SCHEMA = "lcl-density/1"
CALIBRATION = "calibration"


@dataclass(frozen=True)
class TrainedDensity:
    model: DensityModel
    calibration: Table
    about: Mapping[str, Any]
    """How it was trained: data, steps, commit, encoder."""
    sha256: str = ""
    """Of its file; empty of one that is not in a file yet."""

    @property
    def hash(self) -> int:
        """Begins the SHA-256: names the model in what it compresses."""
        return int(self.sha256[:16] or "0", 16)

    @property
    def settings(self) -> DensityConfig:
        return self.model.settings


def save_density(trained: TrainedDensity, path: Path) -> None:
    tensors = {f"model.{name}": value for name, value in trained.model.state_dict().items()} | {CALIBRATION: trained.calibration}
    write_model(path, tensors, schema=SCHEMA, settings=to_dict(trained.settings), about=dict(trained.about))


def load_density(path: Path) -> TrainedDensity:
    """Raises ValueError for a file that is not there, is damaged, or is no density model."""
    found = read_model(path, schema=SCHEMA, what="density model", made_by="lcl train density")
    model = DensityModel(from_dict(DensityConfig, found.metadata["settings"], origin=str(path)))
    calibration = found.tensors.pop(CALIBRATION)
    model.load_state_dict({name.removeprefix("model."): value for name, value in found.tensors.items()})
    return TrainedDensity(model.eval().requires_grad_(False), calibration, found.metadata["about"], found.sha256)
