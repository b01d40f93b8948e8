"""Options that all evaluations share, and what they open."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from lcl.core.config import config
from lcl.evals.evaluated import CONTROLS, Control, Device, EvaluatedModel
from lcl.evals.feature_cache import FeatureCache
from lcl.evals.image_sets import ImageSet, open_image_set
from lcl.features import Weights

CACHE = "lcl-cache"


@config
class EvalConfig:
    checkpoint: str
    """A run folder (its newest checkpoint) or one checkpoint (step-N); where no text is read, also a folder of `lcl export` or a file of published weights."""
    data: str
    """Images: a folder (train/<class>/, validation/<class>/, test/<class>/), a tar or tar.gz of such folders, WebDataset tars, or a Hugging Face dataset on disk."""
    output: str
    """JSON file for the result; its predictions go beside it."""
    spec: str = ""
    """JSON file of class names and templates; without it classes.json in the data, or NAME.classes.json beside NAME.tar."""
    test_part: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of the images that is drawn as the test split of a set that has none, the same for every run."""
    cache: str = ""
    """Folder for features; without it lcl-cache beside the output."""
    weights: Weights = "model"
    """Weights of the last step, or their moving average."""
    controls: tuple[Control, ...] = CONTROLS
    """What is measured beside it, where the protocol has it: shuffled training labels, the encoder at its random start, raw pixels."""
    device: Device = "cpu"
    seed: int = 0


def open_model(settings: EvalConfig) -> EvaluatedModel:
    return EvaluatedModel.open(settings.checkpoint, weights=settings.weights, device=settings.device)


def open_images(settings: EvalConfig) -> ImageSet:
    return open_image_set(Path(settings.data), spec=Path(settings.spec) if settings.spec else None, test_part=settings.test_part)


def open_cache(settings: EvalConfig, *, beside: Path) -> FeatureCache:
    return FeatureCache(Path(settings.cache) if settings.cache else beside / CACHE)
