"""What a probe gets and gives: features with labels, and the scores of classes for images that it has not seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

Refit = Literal["train+validation", "train"]


@dataclass(frozen=True)
class Examples:
    """Features of images, one vector each or patch tokens of which image i has the first counts[i], with labels."""

    features: Float[np.ndarray, "images ..."]
    labels: Int[np.ndarray, " images"]
    counts: Int[np.ndarray, " images"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def chosen(self, places: Int[np.ndarray, " n"]) -> "Examples":
        return Examples(self.features[places], self.labels[places], None if self.counts is None else self.counts[places])

    def with_labels(self, labels: Int[np.ndarray, " images"]) -> "Examples":
        return replace(self, labels=labels)


def joined(first: Examples, second: Examples) -> Examples:
    counts = None if first.counts is None or second.counts is None else np.concatenate([first.counts, second.counts])
    return Examples(np.concatenate([first.features, second.features]), np.concatenate([first.labels, second.labels]), counts)


@dataclass(frozen=True)
class Outcome:
    """Scores of each class for the test images (the highest is the prediction); the hyper-parameters that were chosen, and all that were tried."""

    scores: Float[np.ndarray, "images classes"]
    chosen: Mapping[str, Any]
    sweep: Sequence[Mapping[str, Any]] = ()

    @property
    def predicted(self) -> Int[np.ndarray, " images"]:
        return self.scores.argmax(axis=1)


def accuracy(scores: Float[np.ndarray, "images classes"], labels: Int[np.ndarray, " images"]) -> float:
    return float((scores.argmax(axis=1) == labels).mean())


def best_of(sweep: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The entry with the highest validation_accuracy, of equal ones the first."""
    return max(sweep, key=lambda entry: entry["validation_accuracy"])
