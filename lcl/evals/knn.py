"""Classification by the nearest training images: no parameter is fitted."""

from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from lcl.core.config import config
from lcl.evals.examples import Examples, Outcome, Refit, accuracy, best_of, joined

CHUNK = 128  # test images whose similarities to all training images exist at one time


@config
class KnnConfig:
    neighbours: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (10, 20, 50, 100, 200)
    """Numbers of neighbours to choose from; those above the number of training images are left out."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    refit: Refit = "train+validation"
    """Whose neighbours vote in the end."""


def knn_probe(train: Examples, validation: Examples, test: Float[np.ndarray, "test_images width"], *, num_classes: int, settings: KnnConfig) -> Outcome:
    """Each class's share of the votes of the nearest images (`knn_votes`), with the best k on the validation images, of equal ones the smallest.

    Raises ValueError if there are fewer training images than the smallest k.
    """
    usable = [k for k in sorted(settings.neighbours) if k <= len(train)]
    if not usable:
        raise ValueError(f"k ({min(settings.neighbours)}) is more than the {len(train)} training images: give smaller --knn.neighbours")

    def votes(voters: Examples, features: np.ndarray, k: int) -> np.ndarray:
        arrays = torch.from_numpy(voters.features), torch.from_numpy(voters.labels), torch.from_numpy(features)
        found = knn_votes(*arrays, k=k, temperature=settings.temperature, num_classes=num_classes)
        return (found / found.sum(dim=1, keepdim=True)).numpy()

    sweep = [{"k": k, "validation_accuracy": accuracy(votes(train, validation.features, k), validation.labels)} for k in usable]
    chosen = {"k": best_of(sweep)["k"]}
    return Outcome(votes(joined(train, validation) if settings.refit == "train+validation" else train, test, chosen["k"]), chosen, sweep)


def knn_predict(
    train_features: Float[Tensor, "images embed"], train_labels: Int[Tensor, " images"], test_features: Float[Tensor, "test_images embed"],
    *, k: int = 20, temperature: float = 0.07, num_classes: int, chunk: int = CHUNK,
) -> Int[Tensor, " test_images"]:
    """The label of each test image: the class with the most votes (`knn_votes`), of equal ones the lowest label."""
    votes = knn_votes(train_features, train_labels, test_features, k=k, temperature=temperature, num_classes=num_classes, chunk=chunk)
    return votes.argmax(dim=1)  # torch promises the first of equal maxima


@torch.no_grad()
def knn_votes(
    train_features: Float[Tensor, "images embed"], train_labels: Int[Tensor, " images"], test_features: Float[Tensor, "test_images embed"],
    *, k: int = 20, temperature: float = 0.07, num_classes: int, chunk: int = CHUNK,
) -> Float[Tensor, "test_images classes"]:
    """For each class c the sum of exp(s_i / temperature) over those of the `k` nearest training images that have label c.

    s_i is the cosine similarity to training image i (Wu et al. 2018, arXiv:1805.01978; with k = 20 and 0.07 in Caron et al. 2021,
    arXiv:2104.14294). Of equally near training images those that come first are taken.
    Raises ValueError if there are fewer than `k` training images.
    """
    if k > len(train_features):
        raise ValueError(f"k ({k}) is more than the {len(train_features)} training images: lower --k")
    train = functional.normalize(train_features.double(), dim=-1)  # nearly collapsed features differ by less than float32 tells apart
    found = []
    for part in functional.normalize(test_features.double(), dim=-1).split(chunk):
        similar = part @ train.T
        nearest = _nearest(similar, k).nonzero()[:, 1].view(len(part), k)
        weights = (similar.gather(1, nearest) / temperature).exp()
        found.append((functional.one_hot(train_labels[nearest], num_classes) * weights[..., None]).sum(dim=1))
    return torch.cat(found)


def _nearest(similar: Float[Tensor, "chunk images"], k: int) -> Bool[Tensor, "chunk images"]:
    """Marks the `k` largest of each row; among those equal to the k-th it takes the first. (`topk` leaves their choice open.)"""
    least = similar.topk(k, dim=1).values[:, -1:]
    above, equal = similar > least, similar == least
    return above | (equal & (equal.cumsum(dim=1, dtype=torch.int32) <= k - above.sum(dim=1, keepdim=True)))
