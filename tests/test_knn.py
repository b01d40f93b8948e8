"""Nearest neighbours against a plain loop, and laws of ties."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lcl.evals.knn import knn_predict


def plain_knn(train: np.ndarray, labels: np.ndarray, test: np.ndarray, *, k: int, temperature: float, num_classes: int) -> list[int]:
    found = []
    for one in test:
        similar = [float(one @ other / np.linalg.norm(one) / np.linalg.norm(other)) for other in train]
        nearest = sorted(range(len(train)), key=lambda index: (-similar[index], index))[:k]
        votes = [sum(math.exp(similar[index] / temperature) for index in nearest if labels[index] == label) for label in range(num_classes)]
        found.append(votes.index(max(votes)))
    return found


@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_equals_a_plain_loop(k: int, temperature: float, chunk: int) -> None:
    rng = np.random.default_rng(k)
    train, test, labels = rng.normal(size=(40, 6)), rng.normal(size=(50, 6)), rng.integers(0, 4, 40)
    ours = knn_predict(
        torch.from_numpy(train).float(), torch.from_numpy(labels), torch.from_numpy(test).float(), k=k, temperature=temperature, num_classes=4, chunk=chunk
    )
    assert ours.tolist() == plain_knn(train, labels, test, k=k, temperature=temperature, num_classes=4)


def test_nearly_collapsed_features_are_told_apart() -> None:
    """Cosines of 1 - 1e-8 to 1 - 1e-6: float32 has some sixteen values between."""
    rng = np.random.default_rng(0)
    train, test = (np.float32(1 + 1e-3 * rng.normal(size=(number, 6))) for number in (200, 300))
    labels = rng.integers(0, 4, 200)
    ours = knn_predict(torch.from_numpy(train), torch.from_numpy(labels), torch.from_numpy(test), k=10, num_classes=4)
    assert ours.tolist() == plain_knn(train.astype(np.float64), labels, test.astype(np.float64), k=10, temperature=0.07, num_classes=4)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 12))
def test_equals_a_plain_loop_where_many_are_equally_near(seed: int, k: int) -> None:
    """Signed axes: every cosine is exactly 0, 1 or -1."""
    rng = np.random.default_rng(seed)
    axes = np.concatenate([np.eye(3), -np.eye(3)])
    train, test, labels = axes[rng.integers(0, 6, 12)], axes[rng.integers(0, 6, 5)], rng.integers(0, 3, 12)
    # a power of two keeps exp(0) + ... and its order exact enough to compare: weights are 1, e^2 or e^-2, summed in the same order
    ours = knn_predict(torch.from_numpy(train), torch.from_numpy(labels), torch.from_numpy(test), k=k, temperature=0.5, num_classes=3)
    assert ours.tolist() == plain_knn(train, labels, test, k=k, temperature=0.5, num_classes=3)


def test_ties_go_to_the_first_image_and_the_lowest_label() -> None:
    same = torch.ones(4, 2)
    assert knn_predict(same, torch.tensor([2, 1, 1, 1]), same[:1], k=1, num_classes=3).tolist() == [2]
    assert knn_predict(same, torch.tensor([2, 1, 0, 0]), same[:1], k=2, num_classes=3).tolist() == [1]


@given(seed=st.integers(0, 1000))
@settings(deadline=None)
def test_blind_to_length_order_and_company(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    train, test, labels = torch.randn(30, 5, generator=rng), torch.randn(9, 5, generator=rng), torch.randint(0, 3, (30,), generator=rng)
    expected = knn_predict(train, labels, test, k=6, num_classes=3)
    order = torch.randperm(30, generator=rng)
    assert torch.equal(knn_predict(train[order], labels[order], test, k=6, num_classes=3), expected)
    assert torch.equal(knn_predict(train * torch.rand(30, 1, generator=rng).add(0.5), labels, 7 * test, k=6, num_classes=3), expected)
    assert torch.equal(knn_predict(train, labels, test[4:5], k=6, num_classes=3), expected[4:5])


def test_a_training_image_is_its_own_nearest_and_chance_is_chance() -> None:
    rng = torch.Generator().manual_seed(0)
    train, labels = torch.randn(600, 8, generator=rng), torch.randint(0, 3, (600,), generator=rng)
    assert torch.equal(knn_predict(train, labels, train, k=1, num_classes=3), labels)
    other = torch.randint(0, 3, (600,), generator=rng)
    assert abs(float((knn_predict(train, labels, torch.randn(600, 8, generator=rng), num_classes=3) == other).float().mean()) - 1 / 3) < 0.08


def test_more_neighbours_than_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"k \(20\) is more than the 5 training images: lower --k"):
        knn_predict(torch.ones(5, 2), torch.zeros(5, dtype=torch.int64), torch.ones(1, 2), num_classes=1)
