"""A vision encoder from its settings."""

from typing import TYPE_CHECKING

from lcl.vision import VisionConfig

if TYPE_CHECKING:
    from lcl.towers import FlexibleTower, SquareTower


def build_tower(settings: VisionConfig) -> "SquareTower | FlexibleTower":
    """The encoder with random weights. Raises ValueError as `VisionConfig.check` does."""
    settings.check()
    from lcl.towers import FlexibleTower, SquareTower  # here, because importing open_clip and timm takes seconds

    return FlexibleTower(settings) if settings.kind == "naflex" else SquareTower(settings.tower())
