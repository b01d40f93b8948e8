"""Our tower with its pooling under a name of timm's, so that open_clip can build it: import this and call `register_tower(folder)` first."""

from pathlib import Path
from typing import Any

import timm
from jaxtyping import Float
from torch import Tensor

from lcl.core.config import from_dict
from lcl.exports.folder import RECORD, read_record
from lcl.features import VisionPart
from lcl.model import ModelConfig


class PooledTower(VisionPart):
    """Images, normalised, to their pooled latents."""

    def __init__(self, settings: ModelConfig) -> None:
        super().__init__(settings)
        self.num_features = settings.embed_width

    def forward(self, images: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images embed"]:
        return self.pool_project(self.visual.with_layers(images, ())[0], None).pooled


def tower_name(fingerprint: str) -> str:
    """What timm calls the tower of these weights."""
    return f"lcl_{fingerprint[:16]}"


def register_tower(folder: Path | str) -> str:
    """Makes the tower of an open_clip export known to timm in this process, and returns its name.

    Raises ValueError if the folder is no export, or is damaged.
    """
    folder = Path(folder)
    record = read_record(folder)
    settings = from_dict(ModelConfig, record["model"], origin=str(folder / RECORD))
    name = tower_name(record["fingerprint"])

    def build(pretrained: bool = False, **_: Any) -> PooledTower:
        """What timm calls; its options of classifiers and pooling do not concern the tower."""
        return PooledTower(settings)

    if not timm.is_model(name):
        build.__name__ = name
        timm.models.register_model(build)
    return name
