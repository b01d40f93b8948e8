"""Classification from a few images per class: ridge regression onto labels of +-1, solved in closed form."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field

from lcl.core.config import config

STRENGTHS = tuple(4.0**power for power in range(11))  # candidates for l2; big_vision fixes 2**10


@config
class FewShotConfig:
    shots: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 5, 10, 25)
    """Training images of each class; numbers that a class lacks are left out, and the result says so."""
    num_seeds: Annotated[int, Field(ge=2)] = 3
    """Draws of images."""


@dataclass(frozen=True)
class Ridge:
    """Scores of classes are features @ weights + bias. `squared_error` is the mean leave-one-out error at the strength that was taken."""

    weights: Float[np.ndarray, "width classes"]
    bias: Float[np.ndarray, " classes"]
    l2: float
    squared_error: float


def few_shot_accuracy(
    train_features: Float[np.ndarray, "images width"], train_labels: Int[np.ndarray, " images"],
    test_features: Float[np.ndarray, "test_images width"], test_labels: Int[np.ndarray, " test_images"],
    *, shots: int, seeds: Sequence[int] = (0, 1, 2), strengths: Sequence[float] = STRENGTHS,
) -> tuple[float, float]:
    """Mean and (unbiased) standard deviation over `seeds` of the test accuracy from `shots` training images of each class.

    Each seed draws its own images (`few_shot_scores`). Raises ValueError for fewer than two seeds, and as `draw_shots` does.
    """
    if len(seeds) < 2:
        raise ValueError(f"a standard deviation needs two seeds or more, not {len(seeds)}: give more --seeds")
    accuracies = []
    for seed in seeds:
        classes, scores = few_shot_scores(train_features, train_labels, test_features, shots=shots, seed=seed, strengths=strengths)
        accuracies.append(float((classes[scores.argmax(axis=1)] == test_labels).mean()))
    return float(np.mean(accuracies)), float(np.std(accuracies, ddof=1))


def few_shot_scores(
    train_features: Float[np.ndarray, "images width"], train_labels: Int[np.ndarray, " images"], test_features: Float[np.ndarray, "test_images width"],
    *, shots: int, seed: int, strengths: Sequence[float] = STRENGTHS,
) -> tuple[Int[np.ndarray, " classes"], Float[np.ndarray, "test_images classes"]]:
    """The labels that occur, sorted, and the score of each for each test image, from `shots` training images of each class.

    A ridge regression of +-1 labels on the standardised features; the highest score is the prediction. The strength is chosen among the drawn
    images only, by `fit_ridge`. This is the protocol of big_vision's few-shot evaluator (three draws, least squares to +-1), which fixes the
    strength instead. Raises ValueError as `draw_shots` does.
    """
    drawn = draw_shots(train_labels, shots=shots, seed=seed)
    classes, labels = np.unique(train_labels[drawn], return_inverse=True)
    ridge = fit_ridge(train_features[drawn], 2.0 * np.eye(len(classes))[labels] - 1.0, strengths=strengths)
    return classes, test_features @ ridge.weights + ridge.bias


def draw_shots(labels: Int[np.ndarray, " images"], *, shots: int, seed: int) -> Int[np.ndarray, " drawn"]:
    """Places of `shots` images of each class, drawn without repetition. Raises ValueError if a class has fewer."""
    rng = np.random.default_rng(seed)
    places = {label: np.flatnonzero(labels == label) for label in np.unique(labels)}
    for label, found in places.items():
        if len(found) < shots:
            raise ValueError(f"class {label} has {len(found)} training images, {shots} shots need as many: lower --shots")
    return np.concatenate([rng.permutation(found)[:shots] for found in places.values()])


def fit_ridge(
    features: Float[np.ndarray, "images width"], targets: Float[np.ndarray, "images classes"], *, strengths: Sequence[float] = STRENGTHS
) -> Ridge:
    """The least-squares fit of `targets` with a penalty l2 * |weights|^2 on standardised features; the bias has no penalty.

    With Z = U S V' the standardised features and Y the centred targets, the weights are V S / (S^2 + l2) U' Y. Of `strengths` (one
    of them fixes it) l2 has the least mean squared leave-one-out error, in closed form (Y - H Y)_i / (1 - h_i) with
    H = U S^2 / (S^2 + l2) U' + 1/n (Allen's PRESS; mean and deviation of the features stay those of all images). Of one image
    per class nothing can be left out to any use, and the strongest tends to win: then the nearest class mean is the prediction.
    """
    features = features.astype(np.float64)
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation[deviation == 0] = 1.0  # a constant feature is zero after the mean is taken off
    left, singular, right = np.linalg.svd((features - mean) / deviation, full_matrices=False)
    bias = targets.mean(axis=0)
    centred = targets - bias
    projected = left.T @ centred

    def leave_one_out(l2: float) -> float:
        kept = (singular**2 / (singular**2 + l2))[:, None]
        leverage = left**2 @ kept + 1 / len(features)
        return float((((centred - left @ (kept * projected)) / (1 - leverage)) ** 2).mean())

    errors = {l2: leave_one_out(l2) for l2 in strengths}
    best = min(errors, key=lambda l2: errors[l2])
    weights = right.T @ ((singular / (singular**2 + best))[:, None] * projected) / deviation[:, None]
    return Ridge(weights, bias - mean @ weights, best, errors[best])
