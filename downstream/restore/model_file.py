"""A restorer in one file: weights and settings. The file's hash names it in every picture that it restores.

    NAME.safetensors   weights of the network by name
                       metadata: schema, settings, kind of training, tasks, what it was trained on
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from downstream.restore.consistency import Boundary, Form
from downstream.restore.network import NetworkConfig, UNet
from downstream.restore.process import Process, ProcessConfig
from downstream.tensor_file import read_model, write_model
from lcl.core.config import config, from_dict, to_dict

Kind = Literal["regression", "ir_sde", "ir_cm"]
"""How it was trained, and so how it is used (downstream/restore/objective.py)."""
Device = Literal["cpu", "cuda"]
SCHEMA = "lcl-restorer/1"


@config
class RestorerConfig:
    network: NetworkConfig = NetworkConfig()
    process: ProcessConfig = ProcessConfig()
    form: Form = "residual"
    """What the network's output is: what is to be added to the degraded picture, or the noise in the state (needed by ir_sde)."""
    boundary: Boundary = "time"
    """How a consistency function passes from the state to the estimate: with the time, as published, or with the noise in the state."""


@dataclass(frozen=True)
class Restorer:
    network: UNet
    settings: RestorerConfig
    kind: Kind
    tasks: tuple[str, ...]
    """What it was trained to undo; `pairs` of a folder of pairs."""
    about: Mapping[str, Any]
    """How it was trained: data, steps, seed, commit."""
    sha256: str
    """Of its file."""

    @property
    def process(self) -> Process:
        return Process(self.settings.process)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device


def save_restorer(path: Path, weights: Mapping[str, Tensor], settings: RestorerConfig, *, kind: Kind, tasks: tuple[str, ...], about: Mapping[str, Any]) -> None:
    write_model(path, weights, schema=SCHEMA, settings=to_dict(settings), kind=kind, tasks=list(tasks), about=dict(about))


def load_restorer(path: Path, *, device: Device = "cpu") -> Restorer:
    """Raises ValueError for a file that is not there, is damaged or is no restorer, and for a device that is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch sees no such device here; leave it out, or install a PyTorch for this machine's")
    found = read_model(path, schema=SCHEMA, what="restorer", made_by="lcl train restorer")
    metadata = found.metadata
    if metadata["kind"] not in get_args(Kind):
        raise ValueError(f"{path} was trained in a way that is not known here ({metadata['kind']})")
    settings = from_dict(RestorerConfig, metadata["settings"], origin=str(path))
    network = UNet(settings.network)
    network.load_state_dict(found.tensors)
    network = network.to(device, memory_format=torch.channels_last).eval()  # twice as fast on a CPU
    return Restorer(network, settings, metadata["kind"], tuple(metadata["tasks"]), metadata["about"], found.sha256)
