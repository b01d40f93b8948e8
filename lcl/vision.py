"""Vision encoders: images to patch tokens. The published squares (open_clip's ViT) or images of their own aspect (timm's NaFlex ViT)."""

import difflib
import math
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from pydantic import Field
from torch import Tensor

from lcl.core.config import config
from lcl.core.files import read_json
from lcl.core.images import decode_image, to_pixels
from lcl.core.open_clip_files import open_clip_folder
from lcl.crops import Crop, Grid, centre_box, cut, grid_within, random_box, random_box_of_same_aspect
from lcl.rows import ImageInput

Positive = Annotated[int, Field(ge=1)]
Grids = tuple[Grid, ...]

# CLIP's pixel statistics (Radford et al. 2021), as open_clip's OPENAI_DATASET_MEAN and _STD
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

# What open_clip's vision configs may say besides sizes, and still be a tower whose patch tokens we can take.
SIZES = {"image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio"}
UNUSED = {"output_tokens", "pool_type", "final_ln_after_pool", "attn_pooler_heads", "attn_pooler_queries"}  # of its pooling, which ours replaces
OPTIONS = {"ls_init_value", "no_ln_pre", "pos_embed_type", "norm_kwargs", "act_kwargs"}


@config
class VisionConfig:
    kind: Literal["vit", "naflex"] = "vit"
    """vit: open_clip's vision transformer on squares. naflex: timm's, on images of their own aspect, packed in sequences."""
    open_clip: str = ""
    """open_clip's model whose vision tower to take (ViT-B-16, ViT-L-14, ...); the sizes below do not count then."""
    image_px: Positive = 224
    """Side of the square that a vit sees."""
    patch_px: Positive = 16
    width: Positive = 768
    layers: Positive = 12
    head_width: Positive = 64
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    max_patches: Positive = 256
    """naflex: patches that an image gives at most; also the length of the sequences that images are packed in."""

    def check(self) -> None:
        """Raises ValueError for sizes that do not fit together, and for an open_clip model that is unknown or has no plain ViT."""
        if self.open_clip and self.kind != "vit":
            raise ValueError(f"model.vision.open_clip {self.open_clip} is a vit: give --model.vision.kind vit with it")
        tower = self.tower()
        if self.kind == "vit" and tower.image_px % tower.patch_px:
            raise ValueError(f"model.vision.image_px is no multiple of model.vision.patch_px ({tower.image_px} and {tower.patch_px})")
        if tower.width % tower.head_width:
            raise ValueError(f"model.vision.width is no multiple of model.vision.head_width ({tower.width} and {tower.head_width})")

    def tower(self) -> "Tower":
        """The sizes in force. Raises ValueError as `check` does."""
        if self.open_clip:
            return _open_clip_tower(self.open_clip)
        return Tower(self.image_px, self.patch_px, self.width, self.layers, self.head_width, self.mlp_ratio)

    @property
    def square_px(self) -> int:
        """Side of the square that a vit sees, or of the largest that a naflex tower's patches cover."""
        tower = self.tower()
        return math.isqrt(self.max_patches) * tower.patch_px if self.kind == "naflex" else tower.image_px

    @property
    def most_patches(self) -> int:
        """Patches of the largest image."""
        tower = self.tower()
        return self.max_patches if self.kind == "naflex" else (tower.image_px // tower.patch_px) ** 2

    def training_crop(self, width: int, height: int, *, scale: tuple[float, float], flip: float, random: np.random.Generator) -> Crop:
        """A random crop of an image of this size (px), mirrored with probability `flip`."""
        mirrored = bool(random.random() < flip)
        if self.kind == "vit":
            return Crop(random_box(width, height, scale, random), self._square_grid(), mirrored)
        left, top, right, bottom = box = random_box_of_same_aspect(scale, random)
        return Crop(box, self._own_grid((right - left) * width, (bottom - top) * height), mirrored)

    def evaluation_crop(self, width: int, height: int) -> Crop:
        """The centred square (vit), or all of the image (naflex)."""
        if self.kind == "vit":
            return Crop(centre_box(width, height), self._square_grid())
        return Crop((0.0, 0.0, 1.0, 1.0), self._own_grid(float(width), float(height)))

    def draft_px(self, crop: Crop) -> tuple[int, int]:
        """Width and height (px) of the whole image at which decoding loses nothing that the crop shows."""
        left, top, right, bottom = crop.box
        patch_px, (rows, columns) = self.tower().patch_px, crop.grid
        return math.ceil(patch_px * columns / (right - left)), math.ceil(patch_px * rows / (bottom - top))

    def _square_grid(self) -> Grid:
        tower = self.tower()
        return (tower.image_px // tower.patch_px,) * 2

    def _own_grid(self, width: float, height: float) -> Grid:
        return grid_within(width, height, patch_px=self.patch_px, max_patches=self.max_patches)

    def evaluation_input(self, data: bytes) -> ImageInput:
        """What the encoder takes of an image file, cut as in evaluation. Raises Rejected as `decode_image` does."""
        image = decode_image(data, draft_px=self.tower().image_px if self.kind == "vit" else None)
        return self.input_of(image, self.evaluation_crop(*image.size))

    def input_of(self, image: Image.Image, crop: Crop) -> ImageInput:
        """What the encoder takes of the crop of an RGB image."""
        patch_px = self.tower().patch_px
        pixels = to_pixels(cut(image, crop, patch_px=patch_px))
        if self.kind == "naflex":
            pixels = rearrange(pixels, "(rows ph) (columns pw) channels -> (rows columns) (ph pw channels)", ph=patch_px, pw=patch_px)
        return ImageInput(pixels, crop.grid)


@dataclass(frozen=True)
class Tower:
    """Sizes of a vision transformer. `options` are what else open_clip's config of the model says, by its names."""

    image_px: int
    patch_px: int
    width: int
    layers: int
    head_width: int
    mlp_ratio: float
    options: tuple[tuple[str, Any], ...] = ()


@cache
def _open_clip_tower(name: str) -> Tower:
    models = {path.stem: path for path in (open_clip_folder() / "model_configs").glob("*.json")}
    if name not in models:
        near = difflib.get_close_matches(name, models, n=3)
        raise ValueError(f"model.vision.open_clip: no model is called {name!r}; near ones: {', '.join(near) or 'none'}")
    record = read_json(models[name])
    given = record["vision_cfg"]
    unusable = sorted(key for key, value in given.items() if key not in SIZES | UNUSED | OPTIONS and value) + (["layers"] if isinstance(given.get("layers"), list) else [])
    if unusable:
        raise ValueError(f"model.vision.open_clip: {name} is no plain vision transformer (its {', '.join(unusable)}); take a ViT-*")
    options = {key: given[key] for key in OPTIONS if given.get(key)} | ({"quick_gelu": True} if record.get("quick_gelu") else {})
    size, patch = given.get("image_size", 224), given.get("patch_size", 16)
    return Tower(size, patch, given.get("width", 768), given.get("layers", 12), given.get("head_width", 64), given.get("mlp_ratio", 4.0), tuple(options.items()))


def normalise(pixels: UInt8[Tensor, "images ..."] | Float[Tensor, "images ..."], *, dtype: torch.dtype) -> Float[Tensor, "images ..."]:
    """Pixels of files (uint8), or in [0, 1], as an encoder's input: zero mean and unit variance over CLIP's data, channel by channel."""
    mean, std = (torch.tensor(values, device=pixels.device) for values in (PIXEL_MEAN, PIXEL_STD))
    values = pixels if pixels.is_floating_point() else pixels.float() / 255
    if pixels.ndim == 4:
        return ((values - mean.view(3, 1, 1)) / std.view(3, 1, 1)).to(dtype)
    values = rearrange(values, "images patches (pixels channels) -> images patches pixels channels", channels=3)
    return rearrange((values - mean) / std, "images patches pixels channels -> images patches (pixels channels)").to(dtype)


def valid_patches(grids: Grids, length: int, device: torch.device) -> Bool[Tensor, "images patches"] | None:
    """Which patch tokens of each image are there; None where all are."""
    counts = [rows * columns for rows, columns in grids]
    if all(count == length for count in counts):
        return None
    return (torch.arange(length) < torch.tensor(counts)[:, None]).to(device)
