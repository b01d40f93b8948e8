"""The text loss against float64 NumPy."""

import numpy as np
import pytest
import torch

from lcl.losses import text_nll_sum
from lcl.rows import IGNORED


@pytest.mark.parametrize("chunk", [3, 8, 1000])
def test_text_loss_equals_numpy_in_value_and_gradient(chunk: int) -> None:
    rng = np.random.default_rng(0)
    hidden, weight = rng.normal(size=(2, 9, 6)), rng.normal(size=(11, 6))
    targets = rng.integers(0, 11, (2, 9))
    targets[0, 3:6] = IGNORED
    head = torch.nn.Linear(6, 11, bias=False)
    head.weight.data = torch.tensor(weight, dtype=torch.float32)
    variable = torch.tensor(hidden, dtype=torch.float32, requires_grad=True)
    value = text_nll_sum(variable, torch.from_numpy(targets), torch.from_numpy(np.flatnonzero(targets != IGNORED)), head, chunk=chunk)
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
    value = text_nll_sum(hidden, torch.full((1, 3), IGNORED), torch.zeros(0, dtype=torch.int64), head)
    value.backward()
    assert value == 0 and (hidden.grad == 0).all() and head.weight.grad is not None
