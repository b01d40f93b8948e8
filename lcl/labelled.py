"""Labelled image sets: a folder per class.

    DATA/train/<class>/*    DATA/test/<class>/*    DATA/classes.json   {"classes": [...], "templates": ["a picture of {}"]}
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from lcl.core.files import read_json
from lcl.core.images import decode_image, to_pixels
from lcl.core.rejected import Rejected
from lcl.crops import Crop, centre_box, cut
from lcl.model import LCL
from lcl.rows import ImageInput, stack_inputs
from lcl.vision import VisionConfig, normalise

Decoded = TypeVar("Decoded")

SPLITS = ("train", "test")
IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif"}
BATCH = 256


@dataclass(frozen=True)
class LabelledSet:
    """Image files with labels; `labels` index `classes`. `templates` put a class name into a sentence at {}."""

    classes: tuple[str, ...]
    templates: tuple[str, ...]
    files: dict[str, tuple[Path, ...]]
    labels: dict[str, Int[np.ndarray, " images"]]


def find_labelled(folder: Path) -> LabelledSet:
    """The set in `folder`. Class names come from classes.json, else from the folders of the train split, sorted.

    Raises ValueError if a split is missing or empty, if a class folder is not in classes.json, or if a template has no {}.
    """
    spec = read_json(folder / "classes.json") if (folder / "classes.json").exists() else {}
    for split in SPLITS:
        if not (folder / split).is_dir():
            raise ValueError(f"{folder} has no folder {split!r}: labelled images lie in train/<class>/ and test/<class>/")
    found = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
    classes = tuple(spec.get("classes", found))
    files: dict[str, tuple[Path, ...]] = {}
    labels: dict[str, np.ndarray] = {}
    for split in SPLITS:
        listed: list[tuple[Path, int]] = []
        for path in sorted((folder / split).iterdir()):
            if not path.is_dir():
                continue
            if path.name not in classes:
                raise ValueError(f"{path}: its class is not among {', '.join(classes)}; add it to {folder / 'classes.json'}")
            listed += [(file, classes.index(path.name)) for file in sorted(path.iterdir()) if file.suffix.lower() in IMAGE_ENDINGS]
        if not listed:
            raise ValueError(f"{folder / split} holds no image ({', '.join(sorted(IMAGE_ENDINGS))})")
        files[split] = tuple(file for file, _ in listed)
        labels[split] = np.array([label for _, label in listed])
    templates = tuple(spec.get("templates", ("a picture of a {}",)))
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"{folder / 'classes.json'}: template {template!r} has no {{}} for the class name")
    return LabelledSet(classes, templates, files, labels)


def load_pixels(files: tuple[Path, ...], *, side_px: int) -> UInt8[np.ndarray, "images height width 3"]:
    """The centre square of each image at `side_px`. Raises ValueError naming a file that is no image."""
    images = [_read(file, partial(decode_image, draft_px=side_px)) for file in files]
    return np.stack([to_pixels(cut(image, Crop(centre_box(*image.size), (1, 1)), patch_px=side_px)) for image in images])


def load_inputs(files: tuple[Path, ...], vision: VisionConfig) -> list[ImageInput]:
    """What the encoder takes of each image, cut as in evaluation. Raises ValueError naming a file that is no image."""
    return [_read(file, vision.evaluation_input) for file in files]


def _read(file: Path, decode: Callable[[bytes], Decoded]) -> Decoded:
    try:
        return decode(file.read_bytes())
    except Rejected as rejected:
        raise ValueError(f"{file} cannot be read as an image ({rejected}); remove it") from rejected


@torch.no_grad()
def pooled_features(model: LCL, inputs: Sequence[ImageInput]) -> Float[Tensor, "images embed"]:
    """The pooled latent of each image, in float32 on the CPU."""
    device, dtype = model.logit_scale.device, model.logit_scale.dtype
    pooled = []
    for part in (inputs[at : at + BATCH] for at in range(0, len(inputs), BATCH)):
        images = torch.from_numpy(stack_inputs(part)).to(device)
        pooled.append(model.encode_images(normalise(images, dtype=dtype), tuple(image.grid for image in part)).pooled.float().cpu())
    return torch.cat(pooled)
