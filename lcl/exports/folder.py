"""What an export folder says to us, beside what it says to the library it is for: `lcl.json`, and our names of the weights.

    lcl.json        schema, target, model config, fingerprint, what it was trained on
    manifest.json   SHA-256 of each file
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_file
from torch import Tensor

from lcl.core.config import from_dict
from lcl.core.files import read_json
from lcl.exports.timm_names import from_timm
from lcl.model import ModelConfig
from lcl.step_folders import check_folder

RECORD = "lcl.json"
SCHEMA = "lcl-export/1"
WEIGHTS = "model.safetensors"
POOLING = "pooling.safetensors"
OPEN_CLIP_WEIGHTS = "open_clip_model.safetensors"
TRUNK = "visual.trunk."  # where open_clip keeps a tower of timm's

Target = Literal["timm", "hf", "open_clip", "onnx"]


def read_record(folder: Path) -> dict[str, Any]:
    """What `lcl.json` says. Raises ValueError if a file of the folder is missing or damaged, or if this is no export."""
    check_folder(folder)
    record = read_json(folder / RECORD)
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ValueError(f"{folder / RECORD} is not of {SCHEMA}: export the checkpoint again with this version")
    return record


def read_export(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The config and the weights of tower and pooling, in our names. Raises ValueError as `read_record` does, and for ONNX, which holds a graph."""
    record = read_record(folder)
    settings = from_dict(ModelConfig, record["model"], origin=str(folder / RECORD))
    if record["to"] not in READERS:
        raise ValueError(f"{folder} is an export to {record['to']}, a graph for onnxruntime: give the checkpoint, or an export to {', '.join(READERS)}")
    return settings, READERS[record["to"]](folder, settings)


def _of_timm(folder: Path, settings: ModelConfig) -> dict[str, Tensor]:
    tower = from_timm(load_file(folder / WEIGHTS), kind=settings.vision.kind)
    return {f"visual.{name}": value for name, value in tower.items()} | load_file(folder / POOLING)


def _of_open_clip(folder: Path, settings: ModelConfig) -> Mapping[str, Tensor]:
    state = load_file(folder / OPEN_CLIP_WEIGHTS)
    return {name.removeprefix(TRUNK): value for name, value in state.items() if name.startswith(TRUNK)}


READERS: dict[str, Callable[[Path, ModelConfig], Mapping[str, Tensor]]] = {"timm": _of_timm, "hf": _of_timm, "open_clip": _of_open_clip}
