"""What spoils a picture, and how much: a head on the frozen tokens of a pretrained encoder.

    crops of a picture, at full size --encoder--> tokens of several layers --mean and deviation--> head --> a probability of each task, decibels left

A crop is never scaled, for that would hide noise and blur. How much is said in one unit for all: the PSNR against the clean picture, which the head guesses.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from downstream.encoder_record import check_encoder
from downstream.losses import Losses
from downstream.restore.process import Images
from downstream.restore.token_statistics import squares, statistics_layers, token_statistics
from downstream.tensor_file import read_model, write_model
from lcl.core.config import config, from_dict, to_dict
from lcl.features import Encoder

SCHEMA = "lcl-detector/1"
CLEAN = "clean"
MADE_BY = "lcl train detector"
MOST_DB = 50.0  # of a clean picture, which has no limit: 50 dB is an error of less than a level of 8 bits
PER_DB = 0.05   # weight of a decibel's error beside a nat of the task's


@config
class DetectorConfig:
    tasks: Annotated[tuple[str, ...], Field(min_length=2)] = (CLEAN, "rain")
    """Classes, `clean` among them."""
    layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Blocks of the encoder whose tokens are read; none: those at a quarter, at half and the last."""
    width: Annotated[int, Field(ge=1)] = 128
    """Of the head's hidden layer."""
    crop_px: Annotated[int, Field(ge=8)] = 64


class Detector(nn.Module):
    """The head. The encoder is no part of it, and is not trained."""

    def __init__(self, settings: DetectorConfig, encoder: Encoder) -> None:
        """Raises ValueError for a block that the encoder does not have."""
        super().__init__()
        self.layers = statistics_layers(encoder, settings.layers)
        self.settings, self._frozen = settings, (encoder,)  # in a tuple, so that it is no submodule
        num_features = 2 * len(self.layers) * encoder.width
        self.head = nn.Sequential(nn.LayerNorm(num_features), nn.Linear(num_features, settings.width), nn.SiLU(), nn.Linear(settings.width, len(settings.tasks) + 1))

    @property
    def encoder(self) -> Encoder:
        return self._frozen[0]

    def forward(self, x: Images) -> tuple[Float[Tensor, "images tasks"], Float[Tensor, " images"]]:
        """Logits of the tasks, and decibels."""
        found = self.head(token_statistics(self.encoder, x, self.layers))
        return found[:, :-1], MOST_DB * torch.sigmoid(found[:, -1])


class DetectorObjective(nn.Module):
    """L = cross-entropy of the task + 0.05 |decibels - PSNR|."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, degraded: Images, task: Int[Tensor, " images"], psnr_db: Float[Tensor, " images"]) -> Losses:
        logits, decibels = self.detector(degraded)
        apart = (decibels - psnr_db).abs().mean()
        named = functional.cross_entropy(logits, task)
        right = (logits.argmax(dim=1) == task).float().mean()
        return Losses(named + PER_DB * apart, {"accuracy": right, "decibels_off": apart.detach()})


def psnr_of(clean: Images, degraded: Images) -> Float[Tensor, " images"]:
    """Of each pair, at most 50 dB."""
    error = (clean - degraded).square().flatten(1).mean(dim=1)
    return (-10 * torch.log10(error.clamp(min=1e-12))).clamp(max=MOST_DB)


@dataclass(frozen=True)
class Detected:
    probabilities: dict[str, float]
    psnr_db: float

    @property
    def task(self) -> str:
        """The likeliest."""
        return max(self.probabilities, key=self.probabilities.__getitem__)


@torch.no_grad()
def detect(detector: Detector, x: Float[Tensor, "3 height width"], *, num_crops: int = 16) -> Detected:
    """The mean over at most `num_crops` crops on a grid."""
    crops = squares(x[None], side_px=detector.settings.crop_px, most=num_crops)[0]
    logits, decibels = detector(crops)
    probabilities = logits.softmax(dim=1).mean(dim=0)
    return Detected(dict(zip(detector.settings.tasks, probabilities.tolist(), strict=True)), float(decibels.mean()))


def save_detector(path: Path, detector: Detector, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    write_model(path, weights, schema=SCHEMA, settings=to_dict(detector.settings), encoder=detector.encoder.fingerprint, about=dict(about))


def load_detector(path: Path, encoder: Encoder) -> Detector:
    """Raises ValueError for a file that is no detector, and for another encoder than it was trained on."""
    found = read_model(path, schema=SCHEMA, what="detector", made_by=MADE_BY)
    metadata = found.metadata
    check_encoder(encoder, metadata["encoder"], of=str(path))
    detector = Detector(from_dict(DetectorConfig, metadata["settings"], origin=str(path)), encoder)
    detector.load_state_dict(found.tensors)
    return detector.eval()
