"""What gives images and texts their vectors for similarities: an encoder of a run (here), or ONNX files (lcl/onnx_scorer.py)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float

from lcl.core.files import sha256_of
from lcl.core.scores import Kind
from lcl.evals.encode import pooled_features
from lcl.evals.zero_shot import text_features
from lcl.features import Weights, find_checkpoint, load_model

Device = Literal["cpu", "cuda"]
TEXTS = 64  # at a time


class Scorer(Protocol):
    """Vectors of images and of texts; or (kind "images") one number for each image and nothing of texts. `fingerprint` changes with its numbers."""

    kind: Kind
    fingerprint: str

    def of_images(self, images: Sequence[bytes]) -> Float[np.ndarray, "images width"]:
        """One row per image file. Raises Rejected for one that cannot be decoded."""

    def of_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "texts width"]: ...


def cosines(images: Float[np.ndarray, "images width"], texts: Float[np.ndarray, "texts width"]) -> Float[np.ndarray, "images texts"]:
    """Cosine similarity of each image with each text, computed in float64; 0 for a vector of zeros."""
    first, second = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny) for rows in (images.astype(np.float64), texts.astype(np.float64)))
    return first @ second.T


class RunScorer:
    """The features of zero-shot evaluation: pooled latents of images, context vectors of texts (lcl/zero_shot.py)."""

    kind: Kind = "pairs"

    def __init__(self, checkpoint: Path, *, weights: Weights, device: Device) -> None:
        """Raises ValueError as `load_model` does, and for a device that is not there."""
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: PyTorch sees no such device here; leave it out, or install a PyTorch for this machine's")
        folder = find_checkpoint(checkpoint)
        model, self._tokenizer = load_model(folder, weights=weights)
        self._model = model.to(device)
        self.fingerprint = sha256_of(folder / f"{weights}.safetensors")

    def of_images(self, images: Sequence[bytes]) -> Float[np.ndarray, "images width"]:
        inputs = [self._model.settings.vision.evaluation_input(data) for data in images]
        return pooled_features(self._model, inputs).numpy()

    def of_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "texts width"]:
        parts = [text_features(self._model, self._tokenizer, texts[at : at + TEXTS]) for at in range(0, len(texts), TEXTS)]
        return torch.cat(parts).float().cpu().numpy()
