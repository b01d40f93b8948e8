"""Images with labels or captions in one form, whatever they lie in.

    folders, tar of class folders --(lcl/evals/class_folders.py)--+
    WebDataset tars --(lcl/evals/web_dataset.py)------------------+--> found images --> ImageSet: ids, labels, captions, splits, a way to read each image
    datasets.load_from_disk --(lcl/evals/hugging_face.py)---------+

    classes.json   {"classes": ["zero", "one"] or {"0": "zero", "1": "one"}, "templates": ["a picture of a {}"]}
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Int

from lcl.core.config import config, from_dict
from lcl.core.files import files_below, read_json
from lcl.core.rejected import Rejected
from lcl.evals.class_folders import find_in_folders, find_in_tar
from lcl.evals.found import SPLITS, FoundImage, FoundSet
from lcl.evals.hugging_face import find_in_hugging_face, is_hugging_face
from lcl.evals.tar_members import is_tar, read_members
from lcl.evals.web_dataset import find_in_web_dataset, is_web_dataset

Decoded = TypeVar("Decoded")

SPEC = "classes.json"
MOST_CLASSES = 100_000  # that data without names may number
UNKNOWN = -1  # the label of an image without one
DRAW_SEED = 0  # of a test split that is drawn: the same for every run, or results could not be compared
DEFAULT_TEMPLATES = ("a picture of a {}",)


@config
class Spec:
    """What `classes.json` may say."""

    classes: tuple[str, ...] | dict[str, str] = ()
    """Names in the order of their numbers; or folder (or number) to name."""
    templates: tuple[str, ...] = DEFAULT_TEMPLATES
    """Sentences for zero-shot classification, with {} for the class name."""


@dataclass(frozen=True)
class ImageSet:
    """Images sorted by id. `labels` index `classes`, or are UNKNOWN; `splits` hold the official places of train, validation and test (those that exist)."""

    name: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    ids: tuple[str, ...]
    labels: Int[np.ndarray, " images"]
    captions: tuple[tuple[str, ...], ...]
    splits: Mapping[str, Int[np.ndarray, " chosen"]]
    readers: tuple[Callable[[], bytes], ...]
    test_drawn: str = ""  # how the test split was drawn, where the set has none

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, place: int, decode: Callable[[bytes], Decoded]) -> Decoded:
        """The image at `place`, decoded. Raises ValueError naming an image that cannot be decoded."""
        try:
            return decode(self.readers[place]())
        except Rejected as rejected:
            raise ValueError(f"{self.name}: {self.ids[place]} cannot be read as an image ({rejected}); remove it") from rejected

    def split(self, name: str) -> Int[np.ndarray, " chosen"]:
        """Places of the images of a split. Raises ValueError with the cure if the set has none."""
        if name not in self.splits:
            cure = "put images into train/, validation/ or test/" + (", or draw a part of all with --test-part 0.2" if name == "test" or not self.splits else "")
            seen = f"it has {', '.join(self.splits)}" if self.splits else f"its {len(self)} images lie in {', '.join(self.classes[:3])}{' ...' if len(self.classes) > 3 else ''}"
            raise ValueError(f"{self.name} has no {name} split ({seen}): {cure}; if it is one of the splits, give the folder above it")
        return self.splits[name]

    @cached_property
    def index_sha256(self) -> str:
        """A hash of ids, image bytes, labels and official splits: what features and results are keyed by. Reads every image once."""
        split_of = np.full(len(self), "", dtype="U10")
        for name, places in self.splits.items():
            split_of[places] = name
        digest = hashlib.sha256()
        for image, label, split, read in zip(self.ids, self.labels.tolist(), split_of, self.readers, strict=True):
            digest.update(f"{image}\0{label}\0{split}\0{hashlib.sha256(read()).hexdigest()}\n".encode())
        return digest.hexdigest()


def captioned_index(images: ImageSet, captions: Sequence[Sequence[str]]) -> str:
    """A hash of the set together with captions. Its own is without them, for features do not depend on captions."""
    return hashlib.sha256(json.dumps([images.index_sha256, captions]).encode()).hexdigest()


def open_image_set(path: Path, *, spec: Path | None = None, test_part: float = 0.0) -> ImageSet:
    """The images at `path`: a folder, a tar or a tar.gz of class folders, WebDataset tars, or a dataset that Hugging Face's `save_to_disk` wrote.

    Class names and templates come from `spec`, else from classes.json in the data or beside it (NAME.classes.json beside NAME.tar), else from the data.
    With `test_part`, a set without a test split gives that part of its images, drawn by a fixed seed within each class.
    Raises ValueError for data of no known form, a class that the spec lacks, a template without {}, and a tar that holds links or names outside of it.
    """
    found = _find(path)
    record = _spec_record(path, spec, found)
    origin = str(spec or path / SPEC)
    named = from_dict(Spec, record, origin=origin)
    for template in named.templates:
        if "{}" not in template:
            raise ValueError(f"{origin}: template {template!r} has no {{}} for the class name")
    images = sorted(found.images, key=lambda image: image.id)
    if not images:
        raise ValueError(f"{path} holds no image; it should be a folder, a tar, WebDataset tars or a Hugging Face dataset (docs/evaluation.md has the forms)")
    classes, numbers = _classes(named.classes, found, origin)
    labels = np.array([_number(image, numbers, path, origin) for image in images])
    splits = {name: np.array(places) for name in SPLITS if (places := [place for place, image in enumerate(images) if image.split == name])}
    unsplit = np.array([place for place, image in enumerate(images) if not image.split], dtype=int)
    splits, drawn = _with_test(splits, unsplit, labels, classes, test_part)
    captions, readers = tuple(image.captions for image in images), tuple(image.read for image in images)
    return ImageSet(path.name, classes, named.templates, tuple(image.id for image in images), labels, captions, splits, readers, drawn)


def draw_stratified(labels: Int[np.ndarray, " images"], classes: Sequence[str], *, part: float, seed: int) -> Int[np.ndarray, " drawn"]:
    """Sorted places of a random `part` of each class: at least one image, and at least one is left. Raises ValueError for a class of one image."""
    rng = np.random.default_rng(seed)
    drawn = []
    for label in np.unique(labels):
        places = rng.permutation(np.flatnonzero(labels == label))
        if len(places) < 2:
            raise ValueError(f"class {classes[label]} has one training image: every class needs at least 2 training images, one to fit and one to choose on")
        drawn.append(places[: min(len(places) - 1, max(1, round(part * len(places))))])
    return np.sort(np.concatenate(drawn))


def _find(path: Path) -> FoundSet:
    if path.is_file():
        if not is_tar(path):
            raise ValueError(f"{path} is no tar (.tar, .tar.gz, .tgz); give a folder or a tar")
        members = read_members(path)
        return find_in_web_dataset([path]) if is_web_dataset(members) else find_in_tar(path, members)
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder or tar of images")
    if is_hugging_face(path):
        return find_in_hugging_face(path)
    found = find_in_folders(path)
    return found if found.images else find_in_web_dataset([file for file in files_below(path) if is_tar(file)], root=path)


def _spec_record(path: Path, spec: Path | None, found: FoundSet) -> Mapping[str, object]:
    if spec is not None:
        if not spec.is_file():
            raise ValueError(f"--spec {spec}: no such file")
        return read_json(spec)
    beside = path / SPEC if path.is_dir() else path.with_name(f"{path.name.partition('.')[0]}.{SPEC}")
    return read_json(beside) if beside.is_file() else found.spec


def _classes(named: Sequence[str] | Mapping[str, str], found: FoundSet, origin: str) -> tuple[tuple[str, ...], dict[str | int, int]]:
    """Class names, and the place of each label as it is found: a name, or a number."""
    named = named or found.classes or _named_by_labels(found, origin)
    names = tuple(named.values()) if isinstance(named, Mapping) else tuple(named)
    if len(set(names)) < len(names):
        raise ValueError(f"{origin}: a class stands there twice ({next(name for name in names if names.count(name) > 1)})")
    if isinstance(named, Mapping):
        places: dict[str | int, int] = {label: place for place, label in enumerate(named)}
        numbered = {number: name for number, name in enumerate(found.classes)} or {int(label): label for label in named if label.isdecimal()}
        return names, places | {number: places[label] for number, label in numbered.items() if label in places}
    return names, {name: place for place, name in enumerate(names)} | {place: place for place in range(len(names))}


def _named_by_labels(found: FoundSet, origin: str) -> list[str] | dict[str, str]:
    labels = {image.label for image in found.images} - {None, UNKNOWN}
    if not all(isinstance(label, int) for label in labels):
        return {name: name for name in sorted(str(label) for label in labels)}
    most = max(labels, default=-1)
    if most >= MOST_CLASSES:
        raise ValueError(f"{next(image.id for image in found.images if image.label == most)} is of class {most}: if that is no mistake, name the classes in {origin}")
    return [str(number) for number in range(most + 1)]


def _number(image: FoundImage, numbers: Mapping[str | int, int], path: Path, origin: str) -> int:
    if image.label in (None, UNKNOWN):
        return UNKNOWN
    if image.label in numbers:
        return numbers[image.label]
    known = [str(label) for label in numbers if isinstance(label, type(image.label))] or list(map(str, numbers))
    shown = ", ".join(known[:20]) + (" ..." if len(known) > 20 else "")
    raise ValueError(f"{path}: the class of {image.id} ({image.label}) is not among {shown}; add it to {origin}")


def _with_test(
    splits: Mapping[str, Int[np.ndarray, " n"]], unsplit: Int[np.ndarray, " m"], labels: Int[np.ndarray, " images"], classes: Sequence[str], test_part: float
) -> tuple[dict[str, Int[np.ndarray, " n"]], str]:
    if "test" in splits or not test_part:
        return dict(splits), ""
    source, name = (splits["train"], "train") if "train" in splits else (unsplit, "all images")
    if not len(source):
        return dict(splits), ""
    drawn = source[draw_stratified(labels[source], classes, part=test_part, seed=DRAW_SEED)]
    return {**splits, "train": np.setdiff1d(source, drawn), "test": drawn}, f"{test_part:.0%} of {name}, drawn within each class, seed {DRAW_SEED}"
