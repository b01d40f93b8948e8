"""Weights of torchvision's backbones, trained on ImageNet, where the user has them in PyTorch's cache; nothing is downloaded."""

from pathlib import Path
from typing import Literal

import torch

Backbone = Literal["alex", "vgg", "squeeze"]
WEIGHTS: dict[Backbone, str] = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth", "squeeze": "squeezenet1_1-b8a52dc0.pth"}


def weights_file(backbone: Backbone, *, wanted_by: str) -> Path:
    """The backbone's file. Raises ValueError where it is not, naming the option that wants it."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS[backbone]
    if not file.is_file():
        raise ValueError(f"{wanted_by} needs {file}: put torchvision's file of that name there (or set TORCH_HOME), or leave the option out; nothing is downloaded")
    return file
