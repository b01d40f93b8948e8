"""What spoils a picture, and how much: a head on convolutions of its own, or on the frozen tokens of a pretrained encoder.

    crops of a picture, at full size --convolutions--> channels of several scales --mean and deviation--> head --> a probability of each task, decibels left
                                     --encoder--> tokens of several layers --mean and deviation--> head

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
from downstream.restore.own_statistics import OwnStatistics
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
    convolutions: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (8, 16, 32, 64)
    """Channels at each scale of a detector that looks through no encoder."""


class Detector(nn.Module):
    """The head, and its convolutions. An encoder is no part of it, and is not trained."""

    def __init__(self, settings: DetectorConfig, encoder: Encoder | None = None) -> None:
        """Raises ValueError for a block that the encoder does not have."""
        super().__init__()
        self.settings, self._frozen = settings, (encoder,)  # in a tuple, so that it is no submodule
        if encoder is None:
            self.own = OwnStatistics(settings.convolutions)
            num_features = self.own.num_features
        else:
            self.layers = statistics_layers(encoder, settings.layers)
            num_features = 2 * len(self.layers) * encoder.width
        self.head = nn.Sequential(nn.LayerNorm(num_features), nn.Linear(num_features, settings.width), nn.SiLU(), nn.Linear(settings.width, len(settings.tasks) + 1))

    @property
    def encoder(self) -> Encoder | None:
        return self._frozen[0]

    def forward(self, x: Images) -> tuple[Float[Tensor, "images tasks"], Float[Tensor, " images"]]:
        """Logits of the tasks, and decibels."""
        found = self.head(self.own(x) if self.encoder is None else token_statistics(self.encoder, x, self.layers))
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
    """The mean over at most `num_crops` crops on a grid; of probabilities the geometric one, for flat crops say little, and one that shows damage much."""
    crops = squares(x[None], side_px=detector.settings.crop_px, most=num_crops)[0]
    logits, decibels = detector(crops)
    probabilities = logits.log_softmax(dim=1).mean(dim=0).softmax(dim=0)
    return Detected(dict(zip(detector.settings.tasks, probabilities.tolist(), strict=True)), float(decibels.mean()))


def save_detector(path: Path, detector: Detector, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    fingerprint = None if detector.encoder is None else detector.encoder.fingerprint
    write_model(path, weights, schema=SCHEMA, settings=to_dict(detector.settings), encoder=fingerprint, about=dict(about))


def load_detector(path: Path, encoder: Encoder | None = None) -> Detector:
    """One with convolutions of its own takes no notice of the encoder. Raises ValueError for a file that is no detector, and for none or another encoder than it was trained on."""
    found = read_model(path, schema=SCHEMA, what="detector", made_by=MADE_BY)
    metadata = found.metadata
    if metadata["encoder"] is not None:
        if encoder is None:
            raise ValueError(f"{path} looks at pictures through the encoder {metadata['encoder'][:16]}: give --encoder, its checkpoint, run or export")
        check_encoder(encoder, metadata["encoder"], of=str(path))
    detector = Detector(from_dict(DetectorConfig, metadata["settings"], origin=str(path)), encoder if metadata["encoder"] is not None else None)
    detector.load_state_dict(found.tensors)
    return detector.eval()
