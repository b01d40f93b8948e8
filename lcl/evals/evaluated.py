"""What an evaluation compares: a trained encoder, the same encoder at its random start, and raw pixels."""

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float

from lcl.core.config import to_dict
from lcl.core.files import read_json, sha256_of
from lcl.core.images import decode_image, to_pixels
from lcl.core.tokenizer import Tokenizer
from lcl.crops import Crop, centre_box, cut
from lcl.evals.encode import encode
from lcl.evals.results import TRAINED
from lcl.exports.folder import RECORD
from lcl.features import Encoder, Weights, find_encoder, load_encoder, load_model, random_encoder, random_twin, read_settings
from lcl.model import LCL, ModelConfig
from lcl.vision import PIXEL_MEAN, PIXEL_STD

Device = Literal["cpu", "cuda"]
What = Literal["pooled", "tokens"]
Control = Literal["shuffled", "random", "pixels"]
CONTROLS: tuple[Control, ...] = ("shuffled", "random", "pixels")

RANDOM = "random weights"
RAW_PX = 32       # side of the raw-pixel control at most: 3072 numbers an image
RAW_PATCH_PX = 4  # its patch tokens: 8 x 8 of 48 numbers


@dataclass(frozen=True)
class Vectors:
    """Of a batch of images: the pooled vector, and patch tokens of which an image has the first `counts` (NaFlex images differ)."""

    pooled: Float[np.ndarray, "images embed"]
    tokens: Float[np.ndarray, "images patches width"]
    counts: tuple[int, ...]


Loaded = tuple[LCL, Tokenizer] | tuple[Encoder, None]


class Subject(Protocol):
    """What gives images vectors. `fingerprint` names all that its numbers depend on, besides the images."""

    name: str
    fingerprint: str
    parallel: bool  # whether several threads may ask at once

    def prepare(self, data: bytes) -> Any:
        """One image file, decoded. Raises Rejected for one that is none."""

    def encode(self, prepared: Sequence[Any]) -> Vectors: ...


@dataclass(frozen=True)
class EvaluatedModel:
    """An encoder under evaluation: a checkpoint, or an export or a file of published weights, which are the encoder alone.

    A checkpoint's weights are read when a feature is asked for that no cache holds.
    """

    path: Path
    weights: Weights = "model"
    device: Device = "cpu"

    @classmethod
    def open(cls, path: Path | str, *, weights: Weights = "model", device: Device = "cpu") -> "EvaluatedModel":
        """What `load_encoder` reads at `path`: of a run its newest checkpoint. Raises ValueError as that does, and for a device that is not there."""
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: PyTorch sees no such device here; leave it out, or install a PyTorch for this machine's")
        found = cls(find_encoder(Path(path)), weights, device)
        if not found.has_text:
            found._alone  # read at once: what is wrong with it is said before any work
        elif not found._file.exists():
            raise ValueError(f"{found.path} holds no moving average; train with --optimizer.ema-decay 0.9998, or take its last weights")
        return found

    @property
    def has_text(self) -> bool:
        """Whether this is a checkpoint, which holds the text model too."""
        return self.path.is_dir() and not (self.path / RECORD).exists()

    def require_text(self, task: str) -> None:
        """Raises ValueError if this is an encoder alone."""
        if not self.has_text:
            raise ValueError(f"{self.path} is an image encoder alone, and {task} needs the text model: give the checkpoint that it was made from (`lcl import-published` makes one of published weights)")

    @property
    def _file(self) -> Path:
        return self.path / f"{self.weights}.safetensors"

    @cached_property
    def _alone(self) -> Encoder:
        return load_encoder(self.path, weights=self.weights)

    @cached_property
    def sha256(self) -> str:
        """Of the checkpoint's file of weights; of an encoder alone its fingerprint."""
        return sha256_of(self._file) if self.has_text else self._alone.fingerprint

    @cached_property
    def settings(self) -> ModelConfig:
        return read_settings(self.path)[0] if self.has_text else self._alone.settings

    def record(self) -> dict[str, Any]:
        state = self.path / "state.json"
        step = read_json(state).get("step") if state.exists() else None
        return {"path": str(self.path), "weights": self.weights, "weights_sha256": self.sha256, "step": step, "device": self.device}

    def trained(self) -> "ModelSubject":
        load = partial(load_model, self.path, weights=self.weights) if self.has_text else lambda: (self._alone, None)
        return ModelSubject(TRAINED, self.sha256, self.settings, self.device, load)

    def random(self, *, seed: int) -> "ModelSubject":
        """The same architecture at its random start."""
        if self.has_text:
            return ModelSubject(RANDOM, f"random seed {seed}, torch {torch.__version__}", self.settings, self.device, partial(random_twin, self.path, seed=seed))
        alone = f"random seed {seed}, encoder alone, torch {torch.__version__}"
        return ModelSubject(RANDOM, alone, self.settings, self.device, lambda: (random_encoder(self.settings, seed=seed), None))

    def raw_pixels(self) -> "PixelSubject":
        return PixelSubject(min(RAW_PX, self.settings.vision.tower().image_px) // RAW_PATCH_PX * RAW_PATCH_PX)

    def encoders(self, controls: Sequence[Control], *, seed: int) -> list["ModelSubject"]:
        """The trained encoder, and its random twin where the controls have it."""
        return [self.trained(), *([self.random(seed=seed)] if "random" in controls else [])]

    def subjects(self, controls: Sequence[Control], *, seed: int) -> list["ModelSubject | PixelSubject"]:
        """The encoders, and raw pixels where the controls have them."""
        return [*self.encoders(controls, seed=seed), *([self.raw_pixels()] if "pixels" in controls else [])]

    def preprocessing(self) -> dict[str, Any]:
        """What happens to an image before the encoder sees it, for a result's record."""
        vision = self.settings.vision
        cut_as = f"centred square, {vision.tower().image_px} px" if vision.kind == "vit" else f"whole image, at most {vision.max_patches} patches of {vision.patch_px} px"
        return {"cut": cut_as, "mean": PIXEL_MEAN, "std": PIXEL_STD}


class ModelSubject:
    def __init__(self, name: str, weights: str, settings: ModelConfig, device: Device, load: Callable[[], Loaded]) -> None:
        self.name, self._vision, self._device, self._load = name, settings.vision, device, load
        self.fingerprint = json.dumps({"weights": weights, "model": to_dict(settings), "mean": PIXEL_MEAN, "std": PIXEL_STD}, sort_keys=True)
        self.parallel = device == "cpu"
        self._loaded: Loaded | None = None
        self._loading = threading.Lock()

    @property
    def loaded(self) -> Loaded:
        """The model and its tokenizer, or an encoder alone, read at the first use."""
        with self._loading:
            if self._loaded is None:
                model, tokenizer = self._load()
                self._loaded = model.to(self._device), tokenizer
            return self._loaded

    @property
    def encoder(self) -> Encoder:
        """The encoder alone, for images of any size."""
        model = self.loaded[0]
        return model if isinstance(model, Encoder) else Encoder(model)

    def prepare(self, data: bytes) -> Any:
        return self._vision.evaluation_input(data)

    def encode(self, prepared: Sequence[Any]) -> Vectors:
        encoded = encode(self.loaded[0], prepared)
        return Vectors(encoded.pooled.numpy(), encoded.patches.numpy(), tuple(rows * columns for rows, columns in (image.grid for image in prepared)))


class PixelSubject:
    """The centred square, shrunk: all its values in [0, 1] as one vector, and as patches."""

    parallel = True

    def __init__(self, side_px: int) -> None:
        self._side_px = side_px
        self.name = f"raw pixels ({side_px} x {side_px})"
        self.fingerprint = f"pixels {side_px} in patches of {RAW_PATCH_PX}"

    def prepare(self, data: bytes) -> Any:
        image = decode_image(data, draft_px=self._side_px)
        return to_pixels(cut(image, Crop(centre_box(*image.size), (1, 1)), patch_px=self._side_px))

    def encode(self, prepared: Sequence[Any]) -> Vectors:
        pixels = np.stack(prepared).astype(np.float32) / 255
        patches = rearrange(pixels, "images (rows ph) (columns pw) c -> images (rows columns) (ph pw c)", ph=RAW_PATCH_PX, pw=RAW_PATCH_PX)
        return Vectors(pixels.reshape(len(pixels), -1), patches, (patches.shape[1],) * len(pixels))
