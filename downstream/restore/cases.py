"""Pictures to measure restorers on: clean, and spoilt by a seed; pairs of a folder; frames of a video.

    photographs --each task, strengths drawn by (seed, name, task)--> cases      frames --each task, of one strength for all--> cases      GT, LQ --> cases

Of a photograph's middle, a case is what that is in the degraded photograph.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from downstream.photographs import list_photographs, middle, middle_window, read_photograph, to_bytes
from downstream.restore.degradations import DegradationConfig, degrade_window, parameters_of, reach_px
from downstream.restore.pairs import list_pairs
from lcl.core.config import from_dict

Pixels = UInt8[np.ndarray, "height width 3"]
PAIRS = "pairs"


@dataclass(frozen=True)
class Case:
    """A picture to restore."""

    name: str
    task: str
    clean: Pixels
    degraded: Pixels
    kernel: Float[np.ndarray, "side side"] | None = None
    """What it was blurred with, where that was all."""


def pair_cases(folder: Path, *, limit: int, crop_px: int) -> list[Case]:
    """Of FOLDER/GT and FOLDER/LQ, the first `limit` by name, or all for 0."""
    return [Case(clean.name, PAIRS, *(middle(read_photograph(path), crop_px) for path in (clean, degraded))) for clean, degraded in list_pairs(folder)[: limit or None]]


def made_cases(folder: Path, settings: DegradationConfig, *, seed: int, limit: int, crop_px: int) -> list[Case]:
    """Each photograph under each task; the same for the same seed and photograph, whichever others are there."""
    return cases_of(list_photographs(folder)[: limit or None], settings, seed=seed, crop_px=crop_px)


def cases_of(files: Sequence[Path], settings: DegradationConfig, *, seed: int, crop_px: int) -> list[Case]:
    """Each file under each task."""
    cases = []
    for path in files:
        pixels = read_photograph(path)
        for task in settings.tasks:
            rng, done = np.random.default_rng([seed, *f"{path.name} {task}".encode()]), replace(settings, tasks=(task,))
            window = middle_window(pixels, crop_px, margin_px=reach_px(done))
            made = degrade_window(window, done, rng)
            cases.append(Case(path.name, task, window.part, to_bytes(made.pixels), None if made.kernel is None else made.kernel.double().numpy()))
    return cases


def in_natural_order(files: Sequence[Path]) -> list[Path]:
    """By name, numbers in it by their value: 2.png before 10.png."""
    return sorted(files, key=lambda path: [int(word) if word.isdecimal() else word for word in re.split(r"(\d+)", str(path))])


def frame_cases(folder: Path, settings: DegradationConfig, *, seed: int, limit: int, crop_px: int) -> list[Case]:
    """Frames in the natural order of their names, each with noise of its own and all with one strength, the middle of its range.

    Raises ValueError for a single frame, and for frames of several sizes.
    """
    cases = cases_of(in_natural_order(list_photographs(folder))[: limit or None], halfway(settings), seed=seed, crop_px=crop_px)
    sizes = {case.clean.shape: case.name for case in cases}
    if len(sizes) > 1:
        raise ValueError(f"{folder}: frames {' and '.join(list(sizes.values())[:2])} have different sizes; frames of one video have one")
    if len(cases) < 2 * len(settings.tasks):
        raise ValueError(f"{folder} holds a single frame: flicker is between two")
    return cases


def halfway(settings: DegradationConfig) -> DegradationConfig:
    """Every range narrowed to its middle."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return replace(settings, **{name: (sum(value) / 2,) * 2 for name, value in values.items() if isinstance(value[0], float)})


def unseen_in_training(task: str, settings: DegradationConfig, *, tasks: tuple[str, ...], trained: Mapping[str, Any] | None) -> str:
    """What of a task a model had not met in its training: `task`, `strength` where a range goes beyond that of the training, or nothing, an empty text.

    `tasks` and `trained`, the degradations of its training, are what its file says; None of pairs, whose strengths nobody knows.
    """
    if task not in tasks:
        return "task"
    if trained is None:
        return ""
    before = from_dict(DegradationConfig, trained, origin="the model's file")
    if task == "mixed" and not set(settings.mixed_parts) <= set(before.mixed_parts):
        return "task"
    known = parameters_of(task, before)
    return "strength" if any(low < known[name][0] or high > known[name][1] for name, (low, high) in parameters_of(task, settings).items()) else ""
