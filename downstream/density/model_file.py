"""A density model in one file: weights, calibration and settings. Its hash names it in every archive that it compresses.

    NAME.safetensors   weights (`model.*`), the table of errors (`calibration`); metadata: schema, settings, what it was trained on
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from downstream.density.calibration import Table
from downstream.density.model import DensityConfig, DensityModel
from lcl.core.config import from_dict, to_dict
from lcl.core.files import open_aside, sha256_of

SCHEMA = "lcl-density/1"
METADATA = "lcl"  # one entry: safetensors writes several in an order of its own, and the file's bytes are its name
CALIBRATION = "calibration"


@dataclass(frozen=True)
class TrainedDensity:
    model: DensityModel
    calibration: Table
    about: Mapping[str, Any]
    """How it was trained: data, steps, commit, encoder."""
    hash: int
    """Begins the SHA-256 of its file; 0 of one that is not in a file yet."""

    @property
    def settings(self) -> DensityConfig:
        return self.model.settings


def save_density(trained: TrainedDensity, path: Path) -> None:
    tensors = {f"model.{name}": value.contiguous() for name, value in trained.model.state_dict().items()} | {CALIBRATION: trained.calibration.contiguous()}
    metadata = {"schema": SCHEMA, "settings": to_dict(trained.settings), "about": dict(trained.about)}
    with open_aside(path) as file:
        file.write(save(tensors, {METADATA: json.dumps(metadata, sort_keys=True)}))


def load_density(path: Path) -> TrainedDensity:
    """Raises ValueError for a file that is not there, is damaged, or is no density model."""
    if not path.is_file():
        raise ValueError(f"{path}: no such model; `lcl train density` makes them")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (safe_open has no iteration)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no density model, or damaged ({error})") from error
    if metadata.get("schema") != SCHEMA:
        raise ValueError(f"{path} is no density model of this version ({SCHEMA}); `lcl train density` makes them")
    model = DensityModel(from_dict(DensityConfig, metadata["settings"], origin=str(path)))
    calibration = tensors.pop(CALIBRATION)
    model.load_state_dict({name.removeprefix("model."): value for name, value in tensors.items()})
    return TrainedDensity(model.eval().requires_grad_(False), calibration, metadata["about"], int(sha256_of(path)[:16], 16))
