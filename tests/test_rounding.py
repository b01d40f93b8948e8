"""Rounding of latents: the published probabilities, their limits, and gradients that are finite everywhere."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from downstream.codec.rounding import THREE_WAY, TWO_WAY, RoundingConfig, probabilities, relaxed, rounded, three_way_logits, training, two_way_logits

METHODS = ("ste", "noise", "anneal", *TWO_WAY[:1], *TWO_WAY[2:], *THREE_WAY)
VALUES = st.floats(min_value=-1e6, max_value=1e6, width=32)


def plain_two_way(method: str, value: float, slope: float) -> list[float]:
    """p(floor), p(ceiling) of the papers' functions, in double precision and by their own formulas."""

    def p(d: float) -> float:
        if method in ("sga", "anneal"):
            return math.exp(-math.atanh(d))
        if method == "linear":
            return 1 - d
        if method == "cosine":
            return math.cos(d * math.pi / 2) ** 2
        return 1 / (1 + math.exp(slope * math.log(d / (1 - d))))

    weights = [p(value - math.floor(value)), p(math.ceil(value) - value)]
    return [one / sum(weights) for one in weights]


@pytest.mark.parametrize("method", TWO_WAY)
def test_two_way_probabilities_are_the_published_ones(method: str) -> None:
    values = torch.linspace(-2.99, 2.99, 300, dtype=torch.float64)
    values = values[(values - values.round()).abs() > 1e-4]
    _, found = probabilities(values, RoundingConfig(method=method, ssl_slope=2.3))
    expected = np.array([plain_two_way(method, value, 2.3) for value in values.tolist()])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def plain_three_way(method: str, value: float) -> list[float]:
    """The weights of round - 1, round and round + 1 by the published formulas: r = 0.98, n = 1.5, 2, 1.4 and a = 1.4."""
    weights = []
    for candidate in (round(value) - 1, round(value), round(value) + 1):
        d = abs(value - candidate)
        if method == "linear3":
            weights.append(max(1 - 0.98 * d, 1e-6) ** 1.5)
        elif method == "cosine3":
            weights.append(max(math.cos(min(0.98 * d, 1) * math.pi / 2), 1e-6) ** 2)
        else:
            share = 0.98 * d / 1.5
            weights.append((1 / (1 + (share / (1 - share)) ** 1.4)) ** 1.4)
    return [one / sum(weights) for one in weights]


@pytest.mark.parametrize("method", THREE_WAY)
def test_three_way_probabilities_are_the_published_ones(method: str) -> None:
    values = torch.linspace(-2.987, 2.987, 300, dtype=torch.float64)
    candidates, found = probabilities(values, RoundingConfig(method=method))
    np.testing.assert_allclose(found.numpy(), np.array([plain_three_way(method, value) for value in values.tolist()]), atol=1e-6)
    assert torch.equal(candidates[:, 1], values.round()) and torch.equal(candidates[:, 0] + 2, candidates[:, 2])


def test_a_slope_of_one_is_linear() -> None:
    distance = torch.linspace(0.001, 0.999, 200, dtype=torch.float64)
    torch.testing.assert_close(two_way_logits(distance, "ssl", slope=1.0), two_way_logits(distance, "linear"))


@pytest.mark.parametrize("method", [*TWO_WAY, *THREE_WAY])
def test_cold_relaxations_round_to_the_nearest(method: str) -> None:
    values = torch.linspace(-5.03, 5.03, 400)
    values = values[(values - values.floor() - 0.5).abs() > 0.05]
    found = relaxed(values, RoundingConfig(method=method), temperature=1e-4, rng=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, values.round())


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=60, deadline=None)
@given(values=st.lists(VALUES, min_size=1, max_size=8), temperature=st.sampled_from([1e-3, 0.1, 0.5, 1.0]))
def test_values_and_gradients_are_finite_for_any_value(method: str, values: list[float], temperature: float) -> None:
    given_values = torch.tensor([*values, *(float(round(one)) for one in values), *(round(one) + 0.5 for one in values), 0.0, -0.0, 1e-38]).requires_grad_()
    found = relaxed(given_values, RoundingConfig(method=method), temperature=temperature, rng=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(found.sum(), given_values)
    assert found.isfinite().all() and gradient.isfinite().all()
    assert ((found - given_values).abs() <= 1.5 + 1e-6 * given_values.abs()).all()


@pytest.mark.parametrize("method", TWO_WAY)
def test_two_candidates_carry_no_gradient_at_an_integer(method: str) -> None:
    values = torch.tensor([-3.0, 0.0, 7.0], requires_grad=True)
    found = relaxed(values, RoundingConfig(method=method), temperature=0.5, rng=torch.Generator().manual_seed(0))
    assert torch.equal(found.detach(), values.detach()) and not torch.autograd.grad(found.sum(), values)[0].any()


def test_samples_have_the_probabilities() -> None:
    """At a low temperature a sample is one of the two integers; the share of ceilings over draws is its probability, which the temperature sharpens."""
    values = torch.full((20_000,), 0.3)
    found = relaxed(values, RoundingConfig(method="linear"), temperature=1.0, rng=torch.Generator().manual_seed(0))
    assert float((found > 0.5).float().mean()) == pytest.approx(0.3, abs=0.02)


def test_temperatures() -> None:
    settings_ = RoundingConfig(max_temperature=0.2, decay=4e-3)
    assert settings_.temperature(0) == 0.2 and settings_.temperature(1000) == pytest.approx(math.exp(-4))


@pytest.mark.parametrize("method", [*TWO_WAY, *THREE_WAY])
@pytest.mark.parametrize(("value", "changes"), [(0.5, {"scale": 1.0}), (2.0**24 + 2, {}), (0.3, {"decay": 0.1}), (-7.5, {"scale": 1.0, "decay": 1.0})])
def test_settings_at_their_ends_give_numbers(method: str, value: float, changes: dict) -> None:
    """Candidates a whole step and a half away; floats that have no neighbour at distance 1; temperatures that have long run out."""
    settings_ = RoundingConfig(method=method, **changes)
    values = torch.tensor([value], requires_grad=True)
    found = relaxed(values, settings_, temperature=settings_.temperature(2000), rng=torch.Generator().manual_seed(0))
    found.sum().backward()
    assert torch.isfinite(found).all() and torch.isfinite(values.grad).all() and abs(float(found.detach()) - value) <= 2


def test_rounding_is_around_the_centres() -> None:
    values, centres = torch.tensor([0.9, -1.2]), torch.tensor([0.25, 0.5])
    assert torch.equal(rounded(values, centres)[0], torch.tensor([1.25, -1.5]))
    measured, given_ = training(torch.Generator().manual_seed(0))(values, centres)
    assert torch.equal(given_, torch.tensor([1.25, -1.5])) and ((measured - values).abs() <= 0.5).all()


@pytest.mark.parametrize(("logits", "method"), [(two_way_logits, "ssl3"), (three_way_logits, "ssl")])
def test_a_method_of_the_other_kind_is_refused(logits: object, method: str) -> None:
    with pytest.raises(ValueError, match=f"{method} is no"):
        logits(torch.tensor([0.5]), method)
