"""The moving average of weights."""

import pytest
import torch

from lcl.ema import MovingAverage


def test_the_random_start_is_forgotten_in_the_first_steps() -> None:
    """From 1000 to weights of 0: a decay of 0.999 alone would leave 370 after 1000 steps."""
    average = MovingAverage(0.999, 10, weights={"w": torch.tensor([1000.0])})
    for step in range(10, 1001, 10):
        average.update({"w": torch.zeros(1)}, step=step)
    assert float(average.weights["w"]) < 1e-6


@pytest.mark.parametrize("every", [1, 10])
def test_late_updates_are_those_of_the_decay(every: int) -> None:
    average = MovingAverage(0.9, every, weights={"w": torch.tensor([1.0]), "n": torch.tensor([3])})
    average.update({"w": torch.tensor([2.0]), "n": torch.tensor([7])}, step=1000)
    assert float(average.weights["w"]) == pytest.approx(2 - 0.9**every) and int(average.weights["n"]) == 7


def test_the_first_update_by_hand() -> None:
    average = MovingAverage(0.999, 1, weights={"w": torch.tensor([1.0])})
    average.update({"w": torch.tensor([12.0])}, step=1)
    assert float(average.weights["w"]) == pytest.approx(2 / 11 * 1 + 9 / 11 * 12)
