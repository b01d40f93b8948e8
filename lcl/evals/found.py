"""What a reader of some form of data found: images, each with its split and label."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lcl.core.images import ENDINGS, is_foreign_name, is_image_name

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {"train": "train", "training": "train", "validation": "validation", "val": "validation", "valid": "validation", "dev": "validation", "test": "test"}


@dataclass(frozen=True, slots=True)
class FoundImage:
    """One image. `split` is "" where the data names none; `label` is a class as the data names it, or its number."""

    id: str
    split: str
    label: str | int | None
    read: Callable[[], bytes]
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoundSet:
    """Images with what the data says of their classes: names in the order of their numbers, and a spec as `classes.json`."""

    images: tuple[FoundImage, ...]
    classes: tuple[str, ...] = ()
    spec: Mapping[str, object] = field(default_factory=dict)


def is_image(name: str) -> bool:
    """`is_image_name`. Raises ValueError for a picture of a format that is not read."""
    if is_foreign_name(name):  # left out in silence it would change what is compared
        raise ValueError(f"{name} is of a format that is not read ({', '.join(ENDINGS)} are): convert it, or take it out of the set")
    return is_image_name(name)
