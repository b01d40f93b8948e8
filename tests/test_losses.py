"""Both losses against float64 NumPy and closed forms."""

import math

import numpy as np
import pytest
import torch

from lcl.losses import contrastive_loss, text_nll_sum
from lcl.rows import IGNORED
from lcl.schedule import learning_rate


def numpy_contrastive(pooled: np.ndarray, contexts: np.ndarray, logit_scale: float) -> float:
    one, two = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (pooled, contexts))
    logits = math.exp(logit_scale) * one @ two.T
    rows = logits - np.log(np.exp(logits - logits.max()).sum(axis=1, keepdims=True)) - logits.max()
    columns = logits - np.log(np.exp(logits - logits.max()).sum(axis=0, keepdims=True)) - logits.max()
    return float(-(np.diag(rows).mean() + np.diag(columns).mean()) / 2)


@pytest.mark.parametrize("num", [1, 2, 7, 64])
def test_contrastive_loss_equals_numpy(num: int) -> None:
    rng = np.random.default_rng(num)
    pooled, contexts = rng.normal(size=(2, num, 12)).astype(np.float32)
    ours = contrastive_loss(torch.from_numpy(pooled), torch.from_numpy(contexts), torch.tensor(2.5))
    assert float(ours) == pytest.approx(numpy_contrastive(pooled.astype(np.float64), contexts.astype(np.float64), 2.5), rel=1e-5, abs=1e-6)


def test_contrastive_loss_in_closed_form() -> None:
    scale = math.log(10.0)
    orthonormal = torch.eye(6)
    assert float(contrastive_loss(orthonormal, orthonormal, torch.tensor(scale))) == pytest.approx(math.log(1 + 5 * math.exp(-10.0)), abs=1e-6)
    same = torch.ones(6, 4)
    assert float(contrastive_loss(same, same, torch.tensor(scale))) == pytest.approx(math.log(6), rel=1e-6)
    assert float(contrastive_loss(torch.zeros(0, 4), torch.zeros(0, 4), torch.tensor(scale))) == 0.0


def test_contrastive_loss_is_symmetric_and_blind_to_order_and_length() -> None:
    rng = torch.Generator().manual_seed(0)
    pooled, contexts = torch.randn(2, 9, 5, generator=rng)
    scale = torch.tensor(1.0)
    value = contrastive_loss(pooled, contexts, scale)
    order = torch.randperm(9, generator=rng)
    for other in (contrastive_loss(contexts, pooled, scale), contrastive_loss(pooled[order], contexts[order], scale), contrastive_loss(3 * pooled, contexts / 2, scale)):
        torch.testing.assert_close(value, other)


@pytest.mark.parametrize("chunk", [3, 8, 1000])
def test_text_loss_equals_numpy_in_value_and_gradient(chunk: int) -> None:
    rng = np.random.default_rng(0)
    hidden, weight = rng.normal(size=(2, 9, 6)), rng.normal(size=(11, 6))
    targets = rng.integers(0, 11, (2, 9))
    targets[0, 3:6] = IGNORED
    head = torch.nn.Linear(6, 11, bias=False)
    head.weight.data = torch.tensor(weight, dtype=torch.float32)
    variable = torch.tensor(hidden, dtype=torch.float32, requires_grad=True)
    value = text_nll_sum(variable, torch.from_numpy(targets), head, chunk=chunk)
    value.backward()
    logits = hidden @ weight.T
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    counted = targets != IGNORED
    expected = -np.log(np.take_along_axis(shares, np.where(counted, targets, 0)[..., None], axis=-1)[..., 0])[counted].sum()
    gradient = (shares - np.eye(11)[np.where(counted, targets, 0)]) @ weight * counted[..., None]
    assert value.item() == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(variable.grad.numpy(), gradient, atol=1e-5)


def test_text_loss_without_targets_is_zero_and_keeps_the_graph() -> None:
    head = torch.nn.Linear(4, 5)
    hidden = torch.randn(1, 3, 4, requires_grad=True)
    value = text_nll_sum(hidden, torch.full((1, 3), IGNORED), head)
    value.backward()
    assert value == 0 and (hidden.grad == 0).all() and head.weight.grad is not None


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    rates = [learning_rate(step, peak=2.0, warmup_steps=4, total_steps=104) for step in range(104)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0] and rates[4] == 2.0
    assert rates[54] == pytest.approx(1.0) and rates[-1] < 1e-3 and all(one >= two for one, two in zip(rates[4:], rates[5:], strict=False))
