"""A trained encoder and its features, for evaluation and for whatever builds on it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from lcl.checkpoint import check_folder, newest_valid
from lcl.core.config import from_dict
from lcl.core.files import read_json
from lcl.core.tokenizer import Tokenizer
from lcl.model import LCL, ModelConfig
from lcl.vision import normalise


@dataclass(frozen=True)
class Features:
    """Latents of images: one per patch (row by row over `grid`) or learned query, and the pooled one. Not normalised."""

    tokens: Float[Tensor, "images patches embed"]
    pooled: Float[Tensor, "images embed"]
    grid: tuple[int, int]


class Encoder(nn.Module):
    """The vision encoder with frozen parameters. Gradients flow to the images."""

    def __init__(self, model: LCL) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.image_px = model.settings.vision.tower().image_px

    def forward(self, images: Float[Tensor, "images 3 height width"]) -> Features:
        """Features of images with values in [0, 1], at the encoder's own size, or (naflex) of any whole number of patches up to its limit.

        Raises ValueError for another size.
        """
        values, grid = self.model.settings.vision.tensor_input(images)
        latents = self.model.encode_images(normalise(values, dtype=images.dtype), (grid,) * len(images))
        return Features(tokens=latents.tokens, pooled=latents.pooled, grid=grid)


def find_checkpoint(path: Path) -> Path:
    """`path` if it is a valid checkpoint, or the newest valid one of the run at `path`. Raises ValueError otherwise."""
    if not path.is_dir():
        raise ValueError(f"{path}: no such run or checkpoint folder")
    if (path / "model.safetensors").exists():
        check_folder(path)
        return path
    found = newest_valid(path)
    if found is None:
        raise ValueError(f"{path} holds no checkpoint (step-N); train one with `lcl pretrain`")
    return found


Weights = Literal["model", "ema"]


def load_model(path: Path, *, weights: Weights = "model") -> tuple[LCL, Tokenizer]:
    """The model of a checkpoint or of the newest one of a run, with the tokenizer it was trained with.

    `weights` are those of the last step, or their moving average (optimizer.ema_decay).
    Raises ValueError if there is none, if it is damaged, or if this version's tokenizer gives other ids.
    """
    folder = find_checkpoint(path)
    settings, tokenizer = read_settings(folder)
    file = folder / f"{weights}.safetensors"
    if not file.exists():
        raise ValueError(f"{folder} holds no moving average; train with --optimizer.ema-decay 0.9998, or take its last weights")
    state = load_file(file)
    model = LCL.for_tokenizer(settings, tokenizer, regression=any(name.startswith("regression_head.") for name in state))
    model.load_state_dict(state)
    return model.eval(), tokenizer


def random_twin(path: Path, *, seed: int = 0) -> tuple[LCL, Tokenizer]:
    """The same model as `load_model`, at its random start: the control of every evaluation."""
    settings, tokenizer = read_settings(find_checkpoint(path))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LCL.for_tokenizer(settings, tokenizer).eval(), tokenizer


def read_settings(folder: Path) -> tuple[ModelConfig, Tokenizer]:
    """What a checkpoint's `config.json` says. Raises ValueError if this version's tokenizer gives other ids."""
    record = read_json(folder / "config.json")
    settings = from_dict(ModelConfig, record["model"], origin=str(folder / "config.json"))
    tokenizer = Tokenizer(settings.tokenizer, folder=folder)
    if tokenizer.fingerprint != record["tokenizer"]:
        raise ValueError(f"{folder} was trained with another vocabulary; install the versions of open_clip_torch and tokenizers that its run.json names")
    return settings, tokenizer


def load_encoder(path: Path | str, *, weights: Weights = "model") -> Encoder:
    """The encoder of a checkpoint (`step-N`) or of a run's newest one. Raises ValueError as `load_model` does."""
    return Encoder(load_model(Path(path), weights=weights)[0])
