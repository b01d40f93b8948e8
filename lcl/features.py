"""A trained encoder and its features: what evaluation, search and everything in `downstream/` use.

    checkpoint, run, export folder, published weights --load_encoder--> Encoder
    images in [0, 1] --whole patches--> normalised --> tower --> final norm --> tokens --pooling--> pooled
                                                         +--> layers
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from lcl.build_tower import build_tower
from lcl.core.config import from_dict
from lcl.core.files import read_json
from lcl.core.tokenizer import Tokenizer
from lcl.exports.folder import RECORD, read_export
from lcl.model import LCL, ModelConfig, PoolProject
from lcl.published import load_state, published_vision, read_weights
from lcl.step_folders import check_folder, newest_valid
from lcl.vision import normalise

VISION_PARTS = ("visual.", "pool_project.")  # of a model's parameter names


@dataclass(frozen=True)
class Features:
    """What the encoder makes of images; nothing is scaled to unit length.

    `tokens`: patch tokens after the tower's final norm, row by row over `grid` (rows, columns). The latents that LCL's language model
    reads are projections of them. `pooled`: the pooled latent, of the contrastive space. `layers`: what the blocks asked for put out,
    before any final norm, without the class token.
    """

    tokens: Float[Tensor, "images patches width"]
    pooled: Float[Tensor, "images embed"]
    layers: tuple[Float[Tensor, "images patches width"], ...]
    grid: tuple[int, int]


class VisionPart(nn.Module):
    """Tower and pooling of a model, whose weights are to be loaded; parameters are called as in the whole model."""

    def __init__(self, settings: ModelConfig) -> None:
        super().__init__()
        self.settings = settings
        self.visual = build_tower(settings.vision)
        self.pool_project = PoolProject(settings.vision.tower().width, settings.embed_width, settings.pool_heads, settings.image_latents)


class Encoder(nn.Module):
    """The vision encoder with frozen parameters, in evaluation mode. Gradients flow to the images.

    `image_px` is the side of the square that it was trained on (naflex: of the largest square in its budget of patches).
    """

    def __init__(self, model: LCL | VisionPart) -> None:
        super().__init__()
        self.settings = model.settings
        self.visual, self.pool_project = model.visual.requires_grad_(False), model.pool_project.requires_grad_(False)
        tower = self.settings.vision.tower()
        self.image_px, self.patch_px = self.settings.vision.square_px, tower.patch_px
        self.width, self.embed_width, self.num_layers = tower.width, self.settings.embed_width, tower.layers
        self.eval()

    def forward(self, images: Float[Tensor, "images 3 height width"], layers: Sequence[int] = ()) -> Features:
        """Features of images with values in [0, 1], of any height and width.

        Sides that are no whole number of patches are continued to the right and below by their last pixels. Away from the trained size, positions
        are resized (bicubic with antialiasing, as timm's `resample_abs_pos_embed`). `layers` are numbers of blocks, from 0, or from -1 backwards.
        Raises ValueError for another shape, for integers, and for a block that is not there.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(f"images are {str(images.dtype).removeprefix('torch.')} of shape {tuple(images.shape)}: give float values in [0, 1] of shape (images, 3, height, width)")
        if 0 in images.shape:
            raise ValueError(f"images of shape {tuple(images.shape)} have no pixel")
        wrong = [layer for layer in layers if not -self.num_layers <= layer < self.num_layers]
        if wrong:
            raise ValueError(f"layers {wrong} are not there: the encoder has {self.num_layers} blocks, from 0 to {self.num_layers - 1} or from -1 backwards")
        padded = whole_patches(images, patch_px=self.patch_px)
        dtype = self.pool_project.query_token.dtype
        tokens, outputs = self.visual.with_layers(normalise(padded, dtype=dtype), [layer % self.num_layers for layer in layers])
        grid = (padded.shape[-2] // self.patch_px, padded.shape[-1] // self.patch_px)
        return Features(tokens=tokens, pooled=self.pool_project(tokens, None).pooled, layers=outputs, grid=grid)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights (names, shapes, float32 values): equal for a checkpoint, its exports and the file it was imported from."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def whole_patches(images: Float[Tensor, "images 3 height width"], *, patch_px: int) -> Float[Tensor, "images 3 padded_height padded_width"]:
    """The images, their last row and column repeated until each side is a multiple of `patch_px`."""
    height, width = images.shape[-2:]
    if height % patch_px == 0 and width % patch_px == 0:
        return images
    return functional.pad(images, (0, -width % patch_px, 0, -height % patch_px), mode="replicate")


def find_checkpoint(path: Path) -> Path:
    """`path` if it is a valid checkpoint, or the newest valid one of the run at `path`. Raises ValueError otherwise."""
    if not path.is_dir():
        raise ValueError(f"{path}: no such run or checkpoint folder")
    if (path / RECORD).exists():
        raise ValueError(f"{path} is an export, which holds the encoder alone: this takes the run or checkpoint that it was made from")
    if (path / "model.safetensors").exists():
        check_folder(path)
        return path
    found = newest_valid(path)
    if found is None:
        raise ValueError(f"{path} holds no checkpoint (step-N); train one with `lcl pretrain`")
    return found


def find_encoder(path: Path) -> Path:
    """What `load_encoder` reads at `path`: of a run its newest valid checkpoint, else `path` itself. Raises ValueError as `find_checkpoint`."""
    return path if path.is_file() or (path / RECORD).exists() else find_checkpoint(path)


Weights = Literal["model", "ema"]


def load_model(path: Path, *, weights: Weights = "model") -> tuple[LCL, Tokenizer]:
    """The model of a checkpoint or of the newest one of a run, with the tokenizer it was trained with.

    `weights` are those of the last step, or their moving average (optimizer.ema_decay).
    Raises ValueError if there is none, if it is damaged, or if this version's tokenizer gives other ids.
    """
    folder = find_checkpoint(path)
    settings, tokenizer = read_settings(folder)
    state = load_file(_weights_file(folder, weights))
    model = LCL.for_tokenizer(settings, tokenizer, regression=any(name.startswith("regression_head.") for name in state))
    model.load_state_dict(state)
    return model.eval(), tokenizer


def _weights_file(folder: Path, weights: Weights) -> Path:
    file = folder / f"{weights}.safetensors"
    if not file.exists():
        raise ValueError(f"{folder} holds no moving average; train with --optimizer.ema-decay 0.9998, or take its last weights")
    return file


def random_twin(path: Path, *, seed: int = 0) -> tuple[LCL, Tokenizer]:
    """The same model as `load_model`, at its random start: the control of every evaluation."""
    settings, tokenizer = read_settings(find_checkpoint(path))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LCL.for_tokenizer(settings, tokenizer).eval(), tokenizer


def random_encoder(settings: ModelConfig, *, seed: int = 0) -> Encoder:
    """An encoder of these sizes at its random start. `random_twin` has the same tower and another pooling: it draws a text model in between."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        part = VisionPart(settings)
        part.pool_project.initialise(settings.pool_std)
        return Encoder(part)


def read_settings(folder: Path) -> tuple[ModelConfig, Tokenizer]:
    """What a checkpoint's `config.json` says. Raises ValueError if this version's tokenizer gives other ids."""
    record = read_json(folder / "config.json")
    settings = from_dict(ModelConfig, record["model"], origin=str(folder / "config.json"))
    tokenizer = Tokenizer(settings.tokenizer, folder=folder)
    if tokenizer.fingerprint != record["tokenizer"]:
        raise ValueError(f"{folder} was trained with another vocabulary; install the versions of open_clip_torch and tokenizers that its run.json names")
    return settings, tokenizer


def load_encoder(path: Path | str, *, weights: Weights = "model") -> Encoder:
    """The encoder of a checkpoint (`step-N`), of a run's newest one, of a folder that `lcl export` wrote, or of a file of published weights.

    Published weights (.pt, .safetensors) are read without running code, and their sizes taken from their shapes; heads, which no shape tells, are 64 wide
    as in all released models (for others: `lcl import-published`).
    Raises ValueError if nothing is there, if it is damaged or something else, and for a moving average (`weights`) that it does not hold.
    """
    path = find_encoder(Path(path))
    exported = (path / RECORD).exists()
    if not (path.is_file() or exported):
        record = read_json(path / "config.json")
        settings = from_dict(ModelConfig, record["model"], origin=str(path / "config.json"))
        return _encoder(settings, _vision_weights(_weights_file(path, weights)), origin=str(path))
    if weights != "model":
        raise ValueError(f"{path} holds one set of weights: leave out `weights`, or give the checkpoint that it was made from")
    if exported:
        return _encoder(*read_export(path), origin=str(path))
    state = read_weights(path)
    vision = {name: value.float() for name, value in state.items() if name.startswith(VISION_PARTS) and name != "visual.proj"}
    return _encoder(published_vision(vision, origin=str(path)), vision, origin=str(path))


def _encoder(settings: ModelConfig, state: Mapping[str, Tensor], *, origin: str) -> Encoder:
    part = VisionPart(settings)
    load_state(part, state, origin=origin)
    return Encoder(part)


def _vision_weights(file: Path) -> dict[str, Tensor]:
    with safe_open(file, framework="pt") as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys() if name.startswith(VISION_PARTS)}
