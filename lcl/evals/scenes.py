"""Scenes composed of an image set: several of its images on a background, with the class that each pixel shows.

    images of one split --drawn by a seed--> placed at random sizes over coloured noise, later ones in front --> pixels, label map

A scene is a function of seed, split and number alone, so more scenes of a split begin with the same ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image
from pydantic import Field

from lcl.core.config import config
from lcl.core.images import decode_image, to_pixels
from lcl.evals.found import SPLITS
from lcl.evals.image_sets import UNKNOWN, ImageSet

BACKGROUND = "background"
BLOBS = 4       # squares a side of the background's coarse colours
NOISE = 12.0    # deviation of its fine noise, of 255
DIM = (48, 208)  # range of its coarse colours: objects may be brighter and darker

Count = Annotated[int, Field(ge=1)]


@config
class SceneConfig:
    scene_px: Annotated[int, Field(ge=0)] = 0
    """Side of a scene, a whole number of patches; 0: twice the side that the encoder was trained on."""
    num_train: Count = 400
    num_validation: Count = 100
    num_test: Count = 200
    min_objects: Count = 2
    max_objects: Count = 5
    """Images in a scene, between these two."""
    smallest: Annotated[float, Field(gt=0, le=1)] = 0.25
    largest: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Longer side of an image as a part of the scene's, between these two."""

    def check(self) -> None:
        """Raises ValueError for ranges that are none."""
        if self.min_objects > self.max_objects:
            raise ValueError(f"--dense.scenes.min-objects {self.min_objects} is more than --dense.scenes.max-objects ({self.max_objects})")
        if self.smallest > self.largest:
            raise ValueError(f"--dense.scenes.smallest {self.smallest:g} is more than --dense.scenes.largest ({self.largest:g})")

    def count(self, split: str) -> int:
        return {"train": self.num_train, "validation": self.num_validation, "test": self.num_test}[split]


@dataclass(frozen=True)
class Scene:
    """`labels` hold the class of each pixel; the background's is the number of classes."""

    pixels: UInt8[np.ndarray, "side side 3"]
    labels: Int[np.ndarray, "side side"]


@dataclass(frozen=True)
class Scenes:
    """Scenes as an image set whose readers give raw pixels, so that their features are cached as those of any set, and the label map of each."""

    images: ImageSet
    labels: Int[np.ndarray, "scenes side side"]
    classes: tuple[str, ...]
    side_px: int

    def pixels(self, place: int | np.integer) -> UInt8[np.ndarray, "side side 3"]:
        return self.images.read(int(place), partial(from_raw, side_px=self.side_px))


def from_raw(data: bytes, *, side_px: int) -> UInt8[np.ndarray, "side side 3"]:
    """The pixels of a scene from what its reader gives."""
    return np.frombuffer(data, np.uint8).reshape(side_px, side_px, 3)


def compose_scenes(images: ImageSet, places: dict[str, Int[np.ndarray, " n"]], *, side_px: int, settings: SceneConfig, seed: int) -> Scenes:
    """Scenes of each split, of the (labelled) images at `places` of that split alone, every class as often.

    Raises ValueError for settings that do not fit together, and for an image that cannot be decoded.
    """
    settings.check()
    ids, scenes, splits = [], [], {}
    for split in SPLITS:
        splits[split] = np.arange(len(ids), len(ids) + settings.count(split))
        ids += [f"{split}/scene-{number:05d}" for number in range(settings.count(split))]
        scenes += list(_of_split(images, places[split], split, side_px, settings, seed))
    readers = tuple(scene.pixels.tobytes for scene in scenes)
    unlabelled = np.full(len(ids), UNKNOWN)
    composed = ImageSet(f"scenes of {images.name}", images.classes, images.templates, tuple(ids), unlabelled, ((),) * len(ids), splits, readers, images.test_drawn)
    return Scenes(composed, np.stack([scene.labels for scene in scenes]).astype(np.int32), (*images.classes, BACKGROUND), side_px)


def _of_split(images: ImageSet, places: Int[np.ndarray, " n"], split: str, side_px: int, settings: SceneConfig, seed: int) -> Iterator[Scene]:
    of_class = [places[images.labels[places] == label] for label in np.unique(images.labels[places])]
    for number in range(settings.count(split)):
        random = np.random.default_rng((seed, SPLITS.index(split), number))
        drawn = [random.choice(of_class[random.integers(len(of_class))]) for _ in range(random.integers(settings.min_objects, settings.max_objects + 1))]
        objects = [(images.read(int(place), decode_image), int(images.labels[place])) for place in drawn]
        yield compose(objects, side_px=side_px, background=len(images.classes), settings=settings, random=random)


def compose(objects: list[tuple[Image.Image, int]], *, side_px: int, background: int, settings: SceneConfig, random: np.random.Generator) -> Scene:
    """The images, each of its class, one over another at random places and sizes. Each keeps its aspect and lies inside of the scene."""
    coarse = random.integers(*DIM, (BLOBS, BLOBS, 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((side_px, side_px), Image.Resampling.BICUBIC), dtype=np.float64)
    pixels = np.clip(np.rint(smooth + random.normal(0, NOISE, smooth.shape)), 0, 255).astype(np.uint8)
    labels = np.full((side_px, side_px), background)
    for image, label in objects:
        longer_px = random.uniform(settings.smallest, settings.largest) * side_px
        width, height = (max(1, round(side * longer_px / max(image.size))) for side in image.size)
        left, top = int(random.integers(side_px - width + 1)), int(random.integers(side_px - height + 1))
        place = np.s_[top : top + height, left : left + width]
        pixels[place], labels[place] = to_pixels(image.resize((width, height), Image.Resampling.BICUBIC)), label
    return Scene(pixels, labels)


def patch_labels(labels: Int[np.ndarray, "scenes side side"], *, patch_px: int, num_classes: int) -> Int[np.ndarray, "scenes rows columns"]:
    """The class that most pixels of each patch show, of equal ones the smallest number."""
    rows = labels.shape[1] // patch_px
    tiles = labels.reshape(len(labels), rows, patch_px, rows, patch_px)
    most, found = np.zeros((len(labels), rows, rows), dtype=np.int64), np.zeros((len(labels), rows, rows), dtype=np.int64)
    for label in range(num_classes):
        count = (tiles == label).sum(axis=(2, 4))
        found, most = np.where(count > most, label, found), np.maximum(count, most)
    return found


def whole_pixels(patches: Int[np.ndarray, "scenes rows columns"], *, patch_px: int) -> Int[np.ndarray, "scenes side side"]:
    """Each patch's class for all its pixels."""
    return patches.repeat(patch_px, axis=1).repeat(patch_px, axis=2)
