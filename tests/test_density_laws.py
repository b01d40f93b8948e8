"""The mathematics of the density model: schedules, subsets, bounds, ODE, each by a law or a closed form."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from downstream.density.coding_times import cheapest_times, evenly, of_steps, shortest_path, step_costs
from downstream.density.diffusion import (
    alpha,
    antithetic_times,
    calibrated_step_nats,
    diffuse,
    diffusion_nats,
    eps_of_v,
    prior_nats,
    reconstruction_log_probabilities,
    reconstruction_nats,
    reverse_step,
    sigma,
    step_nats,
    to_data,
    to_levels,
)  # fmt: skip
from downstream.density.kernel_distance import kernel_distance, squared_distance
from downstream.density.likelihood import dequantise, importance_bound, ode_log_density, rademacher, summary
from downstream.density.schedules import Ends, NoiseConfig, Path, ends_for, linear_path, polynomial_path, with_slope
from downstream.density.subsets import kl_to_uniform_nats, log_normaliser, log_probability, marginals, most_likely, relaxed_sample, sample, uniform_nats
from downstream.density.times import ImportanceTimes

KINDS = ("linear", "scalar", "polynomial", "monotone")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made_schedule(kind: str, *, levels: int = 256) -> torch.nn.Module:
    """A schedule with weights far from its start, in float64."""
    schedule = NoiseConfig(kind=kind, width=4).build(channels=2, context_size=3, levels=levels).double()
    with torch.no_grad():
        for number, value in enumerate(schedule.parameters()):
            value.copy_(torch.randn(value.shape, generator=rng(number), dtype=torch.float64) * 2)
    return schedule


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 99), scale=st.sampled_from([0.0, 1.0, 20.0]))
def test_gamma_rises_between_fixed_ends(kind: str, height: int, width: int, seed: int, scale: float) -> None:
    """For any context and any size of image."""
    context = torch.randn(1, 3, generator=rng(seed), dtype=torch.float64) * scale
    path = made_schedule(kind)(context, height, width)
    times = torch.linspace(0, 1, 100, dtype=torch.float64)
    found = torch.stack([path(t[None])[0] for t in times]).detach()
    assert found.shape[1:] in ((1, 1, 1), (2, height, width))
    assert (found.diff(dim=0) >= -1e-9).all()
    ends = ends_for(256, 5.0)
    assert torch.allclose(found[0], torch.full_like(found[0], ends.gamma_min), atol=1e-9) and torch.allclose(found[-1], torch.full_like(found[-1], 5.0), atol=1e-9)


def test_the_end_is_the_published_one() -> None:
    assert ends_for(256, 5.0).gamma_min == pytest.approx(-13.3, abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_the_slope_is_autograds_and_can_be_trained_through(kind: str) -> None:
    schedule = made_schedule(kind)
    context = torch.randn(5, 3, generator=rng(), dtype=torch.float64)
    t = torch.rand(5, generator=rng(), dtype=torch.float64).requires_grad_()
    gamma, slope = with_slope(schedule(context, 3, 4), t)
    plain = schedule(context, 3, 4)(t)
    for place in range(plain[0].numel()):
        wanted = torch.autograd.grad(plain.flatten(1)[:, place].sum(), t, retain_graph=True)[0]
        assert torch.allclose(slope.flatten(1)[:, place], wanted, rtol=1e-9)
    assert torch.equal(gamma, plain)
    if kind != "linear":
        slope.square().sum().backward()
        assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in schedule.parameters())


def test_the_polynomials_slope_is_its_square() -> None:
    """(g_max - g_min) (a t^2 + b t + d)^2 / f(1)."""
    a, b, d = (torch.randn(1, 2, 3, 3, generator=rng(one), dtype=torch.float64) for one in range(3))
    t, ends = torch.tensor([0.3], dtype=torch.float64), Ends(-13.3, 5.0)
    whole = a**2 / 5 + a * b / 2 + (b**2 + 2 * a * d) / 3 + b * d + d**2
    assert torch.allclose(with_slope(polynomial_path(a, b, d, ends), t)[1], 18.3 * (a * 0.09 + b * 0.3 + d) ** 2 / whole)


# Times of a codec's steps


def test_a_step_costs_what_the_bound_says() -> None:
    gamma = torch.linspace(-13.3, 5.0, 6, dtype=torch.float64)[:, None] + torch.rand(1, 7, generator=rng(), dtype=torch.float64)
    error = torch.rand(6, 7, generator=rng(1), dtype=torch.float64)
    costs = step_costs(gamma, error)
    for s, t in itertools.product(range(6), repeat=2):
        wanted = math.inf
        if s < t:
            one = [value[:, None, None, None] for value in (error[t].sqrt(), gamma[s], gamma[t], error[t])]
            wanted = float(calibrated_step_nats(one[0], torch.zeros_like(one[0]), one[1], one[2], squared_error=one[3]).mean())
        assert float(costs[s, t]) == pytest.approx(wanted)


@settings(max_examples=30, deadline=None)
@given(times=st.integers(2, 8), data=st.data(), seed=st.integers(0, 999))
def test_the_shortest_path_by_enumeration(times: int, data: st.DataObject, seed: int) -> None:
    steps = data.draw(st.integers(1, times - 1))
    costs = torch.rand(times, times, generator=rng(seed), dtype=torch.float64).triu(1) + torch.full((times, times), math.inf, dtype=torch.float64).tril()
    costs[costs.isnan()] = math.inf
    ways = [(0, *between, times - 1) for between in itertools.combinations(range(1, times - 1), steps - 1)]
    price = {way: sum(float(costs[s, t]) for s, t in itertools.pairwise(way)) for way in ways}
    assert price[tuple(shortest_path(costs, steps))] == pytest.approx(min(price.values()))


def test_times_of_any_number_of_steps() -> None:
    """Those of the shortest path, or between them; long steps at both ends, where the error is near 1 and near 0."""
    gamma = torch.linspace(-13.3, 5.0, 65)[:, None]
    found = cheapest_times(gamma, torch.sigmoid(-(gamma + 2)))
    assert len(found) == 17 and found[0] == 0 and found[-1] == 1 and (found.diff() > 0).all() and found.diff().argmin() not in (0, 15)
    for steps in (1, 5, 16, 64):
        times = of_steps(found, steps)
        assert len(times) == steps + 1 and times[0] == 0 and times[-1] == 1 and (np.diff(times) > 0).all()
        assert np.allclose(of_steps(evenly(), steps), np.arange(steps + 1) / steps, atol=1e-6)
    assert np.allclose(of_steps(found, 16), found, atol=1e-6)


# Subsets


def subsets_of(size: int, chosen: int) -> Tensor:
    rows = [[float(item in picked) for item in range(size)] for picked in itertools.combinations(range(size), chosen)]
    return torch.tensor(rows, dtype=torch.float64)


@settings(max_examples=30, deadline=None)
@given(size=st.integers(2, 7), data=st.data(), scale=st.sampled_from([0.1, 1.0, 8.0]), seed=st.integers(0, 999))
def test_subsets_by_enumeration(size: int, data: st.DataObject, scale: float, seed: int) -> None:
    chosen = data.draw(st.integers(1, size - 1))
    logits = torch.randn(3, size, generator=rng(seed), dtype=torch.float64) * scale
    all_of_them = subsets_of(size, chosen)
    scores = logits @ all_of_them.T
    q = scores.softmax(dim=1)
    assert torch.allclose(log_normaliser(logits, chosen), scores.logsumexp(dim=1))
    assert torch.allclose(marginals(logits, chosen), q @ all_of_them, atol=1e-10)
    assert torch.allclose(kl_to_uniform_nats(logits, chosen), (q * (q * len(all_of_them)).log()).sum(dim=1), atol=1e-9)
    assert math.exp(uniform_nats(size, chosen)) == pytest.approx(len(all_of_them))
    assert torch.allclose(log_probability(all_of_them[:3].bool()[: len(logits)], logits[: len(all_of_them)], chosen), scores.log_softmax(dim=1).diagonal()[:3])
    assert torch.equal(most_likely(logits, chosen).double(), all_of_them[q.argmax(dim=1)])


def test_samples_have_their_probabilities() -> None:
    logits = torch.tensor([[0.5, -1.0, 2.0, 0.0, 1.0]], dtype=torch.float64)
    all_of_them, num = subsets_of(5, 2), 20_000
    drawn = sample(logits.expand(num, -1), 2, rng()).double()
    counts = (drawn @ all_of_them.T == 2).sum(dim=0)
    wanted = (logits @ all_of_them.T).softmax(dim=1)[0] * num
    assert counts.sum() == num and float(((counts - wanted) ** 2 / wanted).sum()) < 27.9  # chi-squared of 9 degrees, 0.1 %


def test_a_relaxed_sample_has_the_gradient_of_the_marginals() -> None:
    logits = torch.randn(4, 6, generator=rng(), dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, 6, generator=rng(1), dtype=torch.float64)
    found, nats = relaxed_sample(logits, 3, rng())
    assert torch.equal(found.detach().round().bool(), sample(logits.detach(), 3, rng())) and torch.allclose(nats, kl_to_uniform_nats(logits, 3))
    assert set(found.detach().round(decimals=9).flatten().tolist()) == {0.0, 1.0} and (found.sum(dim=1) - 3).abs().max() < 1e-9
    ours = torch.autograd.grad((found * weights).sum(), logits)[0]
    assert torch.allclose(ours, torch.autograd.grad((marginals(logits, 3) * weights).sum(), logits)[0])


def test_a_subset_costs_more_than_a_single_choice() -> None:
    """The published KL is that of one choice among n by the softmax of the logits."""
    logits = torch.zeros(1, 50, dtype=torch.float64)
    logits[:, :15] = 40.0
    single = (logits.softmax(dim=1) * (logits.log_softmax(dim=1) + math.log(50))).sum()
    assert float(kl_to_uniform_nats(logits, 15)) / math.log(2) == pytest.approx(41.03, abs=0.01) and float(single) / math.log(2) < 2


# Diffusion and its bound


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_levels_come_back(levels: int) -> None:
    u = torch.arange(levels).reshape(1, 1, 1, -1)
    assert torch.equal(to_levels(to_data(u, levels=levels), levels=levels), u)


def test_v_and_eps_are_one() -> None:
    x, eps = (torch.randn(2, 1, 3, 3, generator=rng(one), dtype=torch.float64) for one in range(2))
    gamma = torch.randn(2, 1, 3, 3, generator=rng(2), dtype=torch.float64) * 4
    assert torch.allclose(eps_of_v(alpha(gamma) * eps - sigma(gamma) * x, diffuse(x, eps, gamma), gamma), eps)


def test_times_are_spread_evenly() -> None:
    times = antithetic_times(8, rng()).sort().values
    assert (times.diff() - 1 / 8).abs().max() < 1e-6 and 0 <= times[0] and times[-1] < 1


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), steepness=st.floats(0, 12))
def test_weighted_times_change_no_mean(seed: int, steepness: float) -> None:
    """And where a density has been learned of a steep function, its mean varies less than at uniform times."""

    def term(t: torch.Tensor) -> torch.Tensor:
        return torch.exp(steepness * t)

    times, generator = ImportanceTimes(), torch.Generator().manual_seed(seed)
    for _ in range(20):  # the first draws are uniform
        t, weight = times(torch.rand(64, generator=generator))
        times.note(t, term(t))
        times.update(lambda values: values)
    t, weight = times((torch.arange(100_000) + 0.5) / 100_000)
    assert 0 <= float(t.min()) and float(t.max()) < 1 and float(times.density().mean()) == pytest.approx(1, abs=1e-5) and float(weight.max()) <= 10
    assert float((weight * term(t)).mean()) == pytest.approx(float(np.expm1(steepness) / steepness) if steepness > 1e-3 else 1, rel=2e-3)
    if steepness > 4:
        assert float((weight * term(t)).std()) < 0.5 * float(term((torch.arange(100_000) + 0.5) / 100_000).std())


def test_weighted_times_do_not_depend_on_how_a_batch_is_divided() -> None:
    whole, parts = ImportanceTimes(), [ImportanceTimes() for _ in range(2)]
    for step in range(3):
        t = torch.rand(512, generator=torch.Generator().manual_seed(step))
        whole.note(t, t)
        whole.update(lambda values: values)
        for rank, part in enumerate(parts):
            part.note(t[rank::2], t[rank::2])
        shared = [torch.cat([part.new_sum, part.new_seen]) for part in parts]
        for part in parts:
            part.update(lambda values: shared[0] + shared[1])
    for part in parts:
        torch.testing.assert_close(part.density(), whole.density())
    assert whole.density().std() > 0.1 and len(whole.state_dict()) == 4 and not list(whole.parameters())


def test_reconstruction_is_a_distribution_and_nearly_free() -> None:
    u = torch.randint(0, 256, (2, 3, 4, 4), generator=rng())
    gamma_0 = torch.full((1, 1, 1, 1), ends_for(256, 5.0).gamma_min, dtype=torch.float64)
    z_0 = diffuse(to_data(u, levels=256, dtype=torch.float64), torch.randn(u.shape, generator=rng(), dtype=torch.float64), gamma_0)
    found = reconstruction_log_probabilities(z_0, gamma_0, levels=256)
    assert torch.allclose(found.exp().sum(dim=-1), torch.ones_like(z_0))
    assert 0 <= float(reconstruction_nats(u, z_0, gamma_0, levels=256).mean()) / u[0].numel() < 0.05


def test_a_step_is_the_divergence_of_its_normals() -> None:
    """q(z_s | z_t, x) has the mean of `reverse_step` at the true eps, and both have its variance."""
    x, eps, wrong = (torch.randn(2, 1, 3, 3, generator=rng(one), dtype=torch.float64) for one in range(3))
    gamma_s, gamma_t = torch.tensor([[[[-2.0]]]], dtype=torch.float64), torch.randn(2, 1, 3, 3, generator=rng(3), dtype=torch.float64).abs() - 1.5
    z = diffuse(x, eps, gamma_t)
    q, p = reverse_step(z, eps, gamma_s, gamma_t), reverse_step(z, eps + wrong, gamma_s, gamma_t)
    wanted = ((q.mean - p.mean).square() / (2 * q.variance)).flatten(1).sum(dim=1)
    assert torch.allclose(step_nats(eps, eps + wrong, gamma_s, gamma_t), wanted)
    # the mean and variance of q by Bayes' rule from q(z_t | z_s) q(z_s | x)
    ratio = alpha(gamma_t) / alpha(gamma_s)
    noise = torch.sigmoid(gamma_t) - ratio.square() * torch.sigmoid(gamma_s)
    precision = 1 / torch.sigmoid(gamma_s) + ratio.square() / noise
    assert torch.allclose(q.variance, 1 / precision)
    assert torch.allclose(q.mean, (alpha(gamma_s) * x / torch.sigmoid(gamma_s) + ratio * z / noise) / precision)


def test_the_calibrated_variance_is_the_best() -> None:
    eps, eps_hat = torch.randn(4000, 1, 1, 1, generator=rng(), dtype=torch.float64), torch.zeros(4000, 1, 1, 1, dtype=torch.float64)
    gamma_s, gamma_t = (torch.full((1, 1, 1, 1), value, dtype=torch.float64) for value in (-3.0, 1.0))
    error = eps.square().mean()
    costs = [float(calibrated_step_nats(eps, eps_hat, gamma_s, gamma_t, squared_error=torch.full((1, 1, 1, 1), float(error) * share, dtype=torch.float64)).mean()) for share in (0.0, 0.5, 1.0, 2.0)]
    assert min(costs) == costs[2] < costs[0] / 5
    assert costs[0] == pytest.approx(float(step_nats(eps, eps_hat, gamma_s, gamma_t).mean()))


class Gaussian:
    """Data of independent normals with these deviations, and the exact denoiser for it: E[eps | z] = sigma z / (alpha^2 s^2 + sigma^2)."""

    def __init__(self, deviations: Tensor) -> None:
        self.deviations = deviations

    def denoise(self, z: Tensor, gamma: Tensor) -> Tensor:
        return sigma(gamma) * z / self.variance(gamma)

    def variance(self, gamma: Tensor) -> Tensor:
        return torch.sigmoid(-gamma) * self.deviations.square() + torch.sigmoid(gamma)

    def log_density(self, z_0: Tensor, gamma_0: Tensor) -> Tensor:
        variance = self.variance(gamma_0)
        return (-0.5 * z_0.square() / variance - 0.5 * (2 * math.pi * variance).log()).flatten(1).sum(dim=1)


GAUSSIAN = Gaussian(torch.tensor([0.2, 1.0, 0.6], dtype=torch.float64).reshape(1, 3, 1, 1))
ENDS = Ends(-6.0, 12.0)


def paths() -> dict[str, Path]:
    a, b, d = (torch.tensor(values, dtype=torch.float64).reshape(1, 3, 1, 1) for values in ((3.0, -1.0, 0.0), (0.5, 2.0, -2.0), (0.4, 1.0, 1.5)))
    return {
        "linear": linear_path(ENDS), "scalar": polynomial_path(a[:, :1], b[:, :1], d[:, :1], ENDS), "vector": polynomial_path(a, b, d, ENDS),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["linear", "scalar", "vector"])
def test_bound_ode_and_exact_likelihood_agree_on_gaussian_data(kind: str) -> None:
    """With the exact denoiser the bound on E[-log p(z_0)], prior + diffusion + entropy of q(z_0 | x), is tight, along any path."""
    path, num = paths()[kind], 40_000
    generator = rng()
    x = torch.randn(num, 3, 1, 1, generator=generator, dtype=torch.float64) * GAUSSIAN.deviations
    eps = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    gamma_0, gamma_1 = (torch.full((1, 1, 1, 1), end, dtype=torch.float64) for end in ENDS)
    z_0 = diffuse(x, torch.randn(x.shape, generator=generator, dtype=torch.float64), gamma_0)
    gamma, slope = with_slope(path, antithetic_times(num, generator).double()[torch.randperm(num, generator=generator)])
    bound = prior_nats(x, gamma_1) + diffusion_nats(eps, GAUSSIAN.denoise(diffuse(x, eps, gamma), gamma), slope) + 1.5 * float((2 * math.pi * math.e * sigma(gamma_0).square()).log())
    exact = -GAUSSIAN.log_density(z_0, gamma_0)
    error = math.sqrt(float(bound.var() + exact.var()) / num)
    assert abs(float(bound.mean() - exact.mean())) < 4 * error and error < 0.1
    few = z_0[:20]
    flow = ode_log_density(few, path, GAUSSIAN.denoise, None, tolerance=1e-7)
    assert torch.allclose(flow, GAUSSIAN.log_density(few, gamma_0), atol=2e-4)
    # the Jacobian is diagonal here, so that v^T J v is exact
    assert torch.allclose(ode_log_density(few, path, GAUSSIAN.denoise, rademacher(few, generator), tolerance=1e-7), flow, atol=1e-6)


def test_hutchinson_is_right_in_the_mean() -> None:
    mix = torch.tensor([[0.3, 0.2, -0.1], [0.4, 0.1, 0.3], [-0.2, 0.5, 0.2]], dtype=torch.float64)
    denoise = lambda z, gamma: torch.einsum("ij,njhw->nihw", mix, z).tanh()  # noqa: E731
    z_0 = torch.randn(1, 3, 1, 1, generator=rng(), dtype=torch.float64).repeat(400, 1, 1, 1)
    exact = ode_log_density(z_0[:1], linear_path(ENDS), denoise, None, tolerance=1e-6)
    found = ode_log_density(z_0, linear_path(ENDS), denoise, rademacher(z_0, rng(1)), tolerance=1e-6)
    assert abs(float(found.mean() - exact)) < 4 * float(found.std()) / 20 and float(found.std()) > 0.01


def test_a_schedule_that_stands_still_gives_numbers() -> None:
    """In float32 gamma falls there by its last digits."""
    gamma_t = torch.tensor([-3.0, -3.0, -3.0]).view(1, 3, 1, 1)
    gamma_s = torch.tensor([-3.0, np.nextafter(np.float32(-3.0), np.float32(0)), -3.00001]).view(1, 3, 1, 1)
    eps, eps_hat, error = (torch.randn(1, 3, 1, 1, generator=rng(seed)) for seed in range(3))
    step = reverse_step(eps, eps_hat, gamma_s, gamma_t, squared_error=error.square())
    assert step.variance.sqrt().isfinite().all() and step.mean[0, :2].allclose(eps[0, :2], atol=1e-5)
    assert 0 <= float(calibrated_step_nats(eps, eps_hat, gamma_s, gamma_t, squared_error=error.square())) < 1e-3
    _, slope = with_slope(lambda t: -1e-7 * t.view(-1, 1, 1, 1), torch.rand(4))
    assert (slope == 0).all()


@pytest.mark.parametrize("kind", ["linear", "vector"])
def test_many_steps_become_continuous_time(kind: str) -> None:
    path, num = paths()[kind], 3000
    generator = rng()
    x = torch.randn(num, 3, 1, 1, generator=generator, dtype=torch.float64) * GAUSSIAN.deviations
    eps = torch.randn(x.shape, generator=generator, dtype=torch.float64)  # one noise for all times: the sums differ by their steps alone

    def cost(t: float, steps: int) -> float:
        at = lambda value: path(torch.full((1,), value, dtype=torch.float64))  # noqa: E731
        gamma = at(t)
        return float(step_nats(eps, GAUSSIAN.denoise(diffuse(x, eps, gamma), gamma), at(t - 1 / steps), gamma).mean())

    sums = {steps: sum(cost((step + 1) / steps, steps) for step in range(steps)) for steps in (128, 512)}
    times = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    whole = 0.0
    for t in times:
        gamma, slope = with_slope(path, t[None])
        whole += float(diffusion_nats(eps, GAUSSIAN.denoise(diffuse(x, eps, gamma), gamma), slope).mean()) / 400
    few, many = (sums[steps] - whole for steps in (128, 512))
    assert 0 < many < 0.03 * whole and 3 < few / many < 5


@settings(max_examples=30, deadline=None)
@given(weights=st.lists(st.floats(-5, 5), min_size=5, max_size=5))
def test_more_samples_do_not_worsen_the_bound(weights: list[float]) -> None:
    """The mean over all subsets of K weights rises with K, for any weights."""
    values = torch.tensor(weights, dtype=torch.float64)
    means = [float(importance_bound(torch.stack([values[list(picked)] for picked in itertools.combinations(range(5), num)], dim=1)).mean()) for num in range(1, 6)]
    assert all(after >= before - 1e-12 for before, after in itertools.pairwise(means))


@pytest.mark.parametrize("kind", ["uniform", "truncated_normal"])
def test_dequantised_values_stay_in_their_part_and_have_their_density(kind: str) -> None:
    levels = 17
    ends = ends_for(levels, 5.0)
    u = torch.full((20_000, 1, 1, 1), 5)
    x = to_data(u, levels=levels, dtype=torch.float64)
    z_0, log_q = dequantise(x, ends.gamma_min, rng(), levels=levels, kind=kind)
    of_data = float(alpha(torch.full((1, 1, 1, 1), ends.gamma_min, dtype=torch.float64)))
    assert torch.equal(to_levels((z_0 / of_data * (1 - 1e-6)).clamp(-1, 1), levels=levels), u)
    assert float((-log_q).exp().mean()) == pytest.approx(of_data * 2 / levels, rel=0.02)  # E[1 / q] is the length of the part


def test_gaussian_levels_have_their_probability() -> None:
    """-log P(u) by K dequantisations of the exact density comes near that of the integral over the part."""
    levels, ends = 64, ends_for(64, 12.0)
    data = Gaussian(torch.tensor([0.5], dtype=torch.float64).reshape(1, 1, 1, 1))
    gamma_0 = torch.full((1, 1, 1, 1), ends.gamma_min, dtype=torch.float64)
    u = torch.tensor([20, 32, 50]).reshape(3, 1, 1, 1)
    x = to_data(u, levels=levels, dtype=torch.float64)
    weights = [data.log_density(z_0, gamma_0) - log_q for z_0, log_q in (dequantise(x, ends.gamma_min, rng(seed), levels=levels, kind="truncated_normal") for seed in range(4000))]
    deviation, of_data = float(data.variance(gamma_0).sqrt()), float(alpha(gamma_0))
    edges = [torch.tensor((of_data * (x + side / levels) / deviation / math.sqrt(2)).tolist()).erf() for side in (-1, 1)]
    exact = ((edges[1] - edges[0]) / 2).log().flatten().double()
    assert torch.allclose(importance_bound(torch.stack(weights)), exact, atol=0.1)
    assert (torch.stack(weights).mean(dim=0) < exact).all()


# The paper's central claim, on a mixture whose posterior is known


class Mixture:
    """Two normals of deviation 0.1 in the plane; E[eps | z] in closed form for a vector gamma. The imperfect denoiser looks at the first number alone to find its noise."""

    CENTRES = torch.tensor([[-0.6, -0.3], [0.5, 0.6]], dtype=torch.float64)
    WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)
    DEVIATION = 0.1

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        which = torch.multinomial(self.WEIGHTS, num, replacement=True, generator=generator)
        return (self.CENTRES[which] + self.DEVIATION * torch.randn(num, 2, generator=generator, dtype=torch.float64)).reshape(num, 2, 1, 1)

    def denoise(self, z: Tensor, gamma: Tensor, *, perfect: bool) -> Tensor:
        flat = gamma.expand_as(z).flatten(1)[:, None]
        variance = torch.sigmoid(-flat) * self.DEVIATION**2 + torch.sigmoid(flat)
        apart = z.flatten(1)[:, None] - torch.sigmoid(-flat).sqrt() * self.CENTRES
        of_each = -0.5 * apart.square() / variance
        both = (self.WEIGHTS.log() + of_each.sum(dim=2)).softmax(dim=1)
        first = both if perfect else (self.WEIGHTS.log() + of_each[..., 0]).softmax(dim=1)
        return (torch.stack([first, both], dim=2) * torch.sigmoid(flat).sqrt() * apart / variance).sum(dim=1).reshape(z.shape)


def mixture_elbo(path: Path, *, perfect: bool) -> float:
    """Prior and diffusion, by a fine sum over time with the same data and noise at each."""
    mixture = Mixture()
    x = mixture.draw(3000, rng())
    eps = torch.randn(x.shape, generator=rng(1), dtype=torch.float64)
    total = float(prior_nats(x, torch.full((1, 1, 1, 1), ENDS.gamma_max, dtype=torch.float64)).mean())
    for t in (torch.arange(80, dtype=torch.float64) + 0.5) / 80:
        gamma, slope = with_slope(path, t[None])
        total += float(diffusion_nats(eps, mixture.denoise(diffuse(x, eps, gamma), gamma, perfect=perfect), slope).mean()) / 80
    return total


def test_scalar_paths_give_one_bound_and_vector_paths_do_not() -> None:
    """With an imperfect denoiser the bound of a vector gamma is a line integral that depends on its path; with the exact one it does not."""
    two = lambda *values: torch.tensor(values, dtype=torch.float64).reshape(1, -1, 1, 1)  # noqa: E731
    scalar = [linear_path(ENDS), polynomial_path(two(3.0), two(0.5), two(0.4), ENDS), polynomial_path(two(-1.0), two(2.0), two(0.5), ENDS)]
    vector = [polynomial_path(two(4.0, 0.0), two(0.0, 0.0), two(0.05, 1.0), ENDS), polynomial_path(two(0.0, 4.0), two(0.0, 0.0), two(1.0, 0.05), ENDS)]
    of_scalar, of_vector = ([mixture_elbo(path, perfect=False) for path in group] for group in (scalar, vector))
    assert max(of_scalar) - min(of_scalar) < 0.003
    assert of_vector[0] < min(of_scalar) - 0.1 and of_vector[1] > max(of_scalar) + 0.1, "what the denoiser uses must be known before what it helps to find"
    exact = [mixture_elbo(path, perfect=True) for path in scalar[:2] + vector]
    assert max(exact) - min(exact) < 0.12 and max(exact) < min(of_scalar)


def test_a_summary_has_the_standard_error_of_the_mean() -> None:
    values = np.array([1.0, 2.0, 4.0]) * math.log(2)
    found = summary(values.tolist(), dims=1)
    assert found.bits_per_dim == pytest.approx(7 / 3) and found.standard_error == pytest.approx(np.std([1, 2, 4], ddof=1) / math.sqrt(3))
    with pytest.raises(ValueError, match="two sources"):
        summary([1.0], dims=1)


def test_squares_of_one_photograph_are_not_independent() -> None:
    """Copies of an image take nothing from the standard error; and each image its own source, it is that of images."""
    values = [1.0, 2.0, 4.0, 7.0]
    once, copied = summary(values, dims=1), summary(values * 3, dims=1, sources=[0, 1, 2, 3] * 3)
    assert copied == pytest.approx(once) and summary(values * 3, dims=1).standard_error < 0.6 * once.standard_error
    assert summary(values, dims=1, sources=[7, 3, 5, 1]) == pytest.approx(once)
    with pytest.raises(ValueError, match="two sources"):
        summary(values, dims=1, sources=[2, 2, 2, 2])


# Distances of samples


def slow_distance(ours: Tensor, theirs: Tensor) -> float:
    kernel = lambda x, y: float((x @ y / len(x) + 1) ** 3)  # noqa: E731
    within = [[kernel(x, y) for i, x in enumerate(one) for j, y in enumerate(one) if i != j] for one in (ours, theirs)]
    return sum(map(np.mean, within)) - 2 * float(np.mean([kernel(x, y) for x in ours for y in theirs]))


def test_a_kernel_distance_is_its_sum_over_pairs_and_zero_in_the_mean_of_equals() -> None:
    ours, theirs = torch.randn(7, 3, generator=rng(), dtype=torch.float64), torch.randn(5, 3, generator=rng(1), dtype=torch.float64) + 0.5
    assert squared_distance(ours, theirs) == pytest.approx(slow_distance(ours, theirs))
    drawn = [torch.randn(200, 6, generator=rng(seed)) for seed in range(2)]
    same, other = kernel_distance(*drawn), kernel_distance(drawn[0], drawn[1] + 1.0)
    assert abs(same.value) < 4 * same.standard_error and other.value > 4 * other.standard_error > 0
    in_order = drawn[1][drawn[1].sum(dim=1).argsort()]  # as pictures of one photograph after the other
    sorted_ones = kernel_distance(drawn[0], in_order)
    assert abs(sorted_ones.value) < 4 * sorted_ones.standard_error
    with pytest.raises(ValueError, match="needs four images or more"):
        kernel_distance(ours[:3], theirs)
