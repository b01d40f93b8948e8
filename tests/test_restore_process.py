"""Laws of the mean-reverting process, of the consistency function and of the ways back."""

import math

import pytest
import torch

from downstream.restore.consistency import coefficients, consistent, origin
from downstream.restore.process import Process, ProcessConfig
from downstream.restore.sampling import check_times, consistency_steps, many_steps, shares_of_start, start

KINDS = [ProcessConfig(schedule=schedule) for schedule in ("cosine", "linear", "constant")]
REVERTING, DENOISING = Process(ProcessConfig()), Process(ProcessConfig(kind="denoising", noise_255=70.0))
EACH = pytest.mark.parametrize("process", [Process(settings) for settings in KINDS], ids=lambda process: process.settings.schedule)


def times(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def pictures(number: int, *, seed: int = 0) -> torch.Tensor:
    return torch.rand(number, 3, 4, 5, generator=torch.Generator().manual_seed(seed))


def noise(like: torch.Tensor, *, seed: int = 1) -> torch.Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


def rate(schedule: str, t: torch.Tensor) -> torch.Tensor:
    """theta up to a factor, as IR-SDE and IR-CM write it."""
    u = t / 100
    if schedule == "constant":
        return torch.ones_like(u)
    if schedule == "linear":
        return 0.0001 + (0.02 - 0.0001) * u
    angle, first = ((place + 0.008) / 1.008 * math.pi / 2 for place in (u, torch.zeros_like(u[:1])))
    return 1 - torch.cos(angle) ** 2 / torch.cos(first) ** 2


@EACH
def test_theta_bar_is_the_integral_of_theta(process: Process) -> None:
    fine = torch.linspace(0, 100, 100_001, dtype=torch.float64)
    theta = rate(process.settings.schedule, fine)
    summed = torch.cat([torch.zeros(1), torch.cumsum((theta[1:] + theta[:-1]) / 2, 0)])
    torch.testing.assert_close(process.theta_bar(fine), summed / summed[-1] * -math.log(0.005), atol=1e-8, rtol=1e-6)
    assert process.theta_bar(times(0.0)) == 0 and process.decay(times(100.0)).item() == pytest.approx(0.005)


@EACH
def test_moments_are_those_of_a_simulation(process: Process) -> None:
    """Euler-Maruyama of dx = theta (mu - x) dt + sigma dw against m_t and v_t, for a clean value of 0.9 and a degraded one of 0.3."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.linspace(0, 100, 1001, dtype=torch.float64)
    steps = process.theta_bar(grid).diff()
    x = torch.full((20_000,), 0.9, dtype=torch.float64)
    checked = 0
    for number, step in enumerate(steps.tolist(), start=1):
        x = x + step * (0.3 - x) + process.level * math.sqrt(2 * step) * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        if number in (200, 500, 800, 1000):
            t = grid[number : number + 1]
            deviation = process.deviation(t).item()
            assert float(x.mean()) == pytest.approx(process.mean(torch.full((1, 1, 1, 1), 0.9), torch.full((1, 1, 1, 1), 0.3), t).item(), abs=0.004)
            assert float(x.std()) == pytest.approx(deviation, rel=0.05, abs=1e-5)
            checked += 1
    assert checked == 4


@EACH
def test_the_posterior_is_bayes_rule(process: Process) -> None:
    """p(x_s | x_t, x_0) ~ p(x_t | x_s) p(x_s | x_0), as products of densities on a grid of x_s."""
    s, t = times(30.0), times(80.0)
    x_0, mu, x_t = (torch.full((1, 1, 1, 1), value) for value in (0.9, 0.3, 0.45))
    grid = torch.linspace(-0.5, 1.5, 40_001)[None, None, None]
    prior = torch.distributions.Normal(process.mean(x_0, mu, s).flatten(), process.deviation(s).flatten())
    ahead = process.transition(grid, mu.expand_as(grid), s, t)
    logs = prior.log_prob(grid.flatten()) + torch.distributions.Normal(ahead.mean.flatten(), ahead.deviation.flatten()).log_prob(x_t.flatten())
    weights = torch.softmax(logs.double(), 0)
    mean = float((weights * grid.flatten()).sum())
    deviation = float((weights * (grid.flatten() - mean).square()).sum().sqrt())
    found = process.posterior(x_t, x_0, mu, t, s)
    assert found.mean.item() == pytest.approx(mean, abs=1e-5) and found.deviation.item() == pytest.approx(deviation, rel=1e-3)


@EACH
def test_transitions_chain(process: Process) -> None:
    """From 0 to s and on to t is from 0 to t, in mean and variance; so is from 0 alone the closed form."""
    s, t, x_0, mu = times(20.0), times(70.0), pictures(1), pictures(1, seed=2)
    first = process.transition(x_0, mu, times(0.0), s)
    second = process.transition(first.mean, mu, s, t)
    torch.testing.assert_close(first.mean, process.mean(x_0, mu, s))
    torch.testing.assert_close(second.mean, process.mean(x_0, mu, t))
    kept = torch.exp(-(process.theta_bar(t) - process.theta_bar(s))).float()
    torch.testing.assert_close((kept * first.deviation).square() + second.deviation.square(), process.deviation(t).square())


@EACH
def test_states_give_back_noise_and_origin(process: Process) -> None:
    x_0, mu, t = pictures(3), pictures(3, seed=2), times(5.0, 40.0, 100.0)
    given = noise(x_0)
    x_t = process.state(x_0, mu, t, given)
    torch.testing.assert_close(process.noise_in(x_t, x_0, mu, t), given, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(process.origin(x_t, mu, t, given), x_0, atol=1e-4, rtol=1e-4)


def test_errors_of_the_noise_grow_as_noted() -> None:
    """sqrt(v_T) exp(thb_T) = 200 x 10 / 255."""
    mu = pictures(1)
    t, zero = times(100.0), torch.zeros_like(mu)
    x_t = REVERTING.state(mu, mu, t, zero)
    assert float((REVERTING.origin(x_t, mu, t, zero + 1) - mu).abs().max()) == pytest.approx(200 * 10 / 255, rel=1e-3)


@EACH
def test_a_step_of_the_flow_solves_its_equation(process: Process) -> None:
    """dx / dthb = mu - x + lambda^2 (x - m) / v by fine Runge-Kutta steps, from t to the next whole t and across half of the time; and the noise is shared."""
    x_0, mu, t = pictures(1).double(), pictures(1, seed=2).double(), times(41.0)
    x_t = process.state(x_0, mu, t, noise(x_0).double())
    for other in (times(40.0), times(90.0)):
        x, bars = x_t, torch.linspace(float(process.theta_bar(t)), float(process.theta_bar(other)), 401, dtype=torch.float64)

        def slope(x: torch.Tensor, bar: torch.Tensor) -> torch.Tensor:
            mean = mu + (x_0 - mu) * torch.exp(-bar)
            return mu - x + (x - mean) / (-torch.expm1(-2 * bar))

        for bar, after in zip(bars, bars[1:], strict=False):
            step = after - bar
            one = slope(x, bar)
            two = slope(x + step / 2 * one, bar + step / 2)
            three = slope(x + step / 2 * two, bar + step / 2)
            x = x + step / 6 * (one + 2 * two + 2 * three + slope(x + step * three, after))
        torch.testing.assert_close(process.flow(x_t, x_0, mu, t, other), x, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(process.noise_in(process.flow(x_t, x_0, mu, t, other), x_0, mu, other), noise(x_0).double(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("process", [REVERTING, DENOISING], ids=("reverting", "denoising"))
@pytest.mark.parametrize("form", ["residual", "noise"])
@pytest.mark.parametrize("boundary", ["time", "noise", "mu"])
def test_the_boundary_condition(process: Process, form: str, boundary: str) -> None:
    """f(x, 0) = x, to the bit, whatever the network says; by time and noise f is the estimate at T, and in between the estimate's share only grows."""
    x_t, degraded, said = pictures(2), pictures(2, seed=2), 30 * noise(pictures(2))
    estimate = origin(process, said, x_t, degraded, times(0.0, 0.0), form=form)
    assert torch.equal(consistent(process, estimate, x_t, degraded, torch.zeros(2), boundary=boundary, spread_255=7.0), x_t)
    part = coefficients(process, torch.linspace(0, process.end, 201), boundary=boundary, spread_255=7.0)
    torch.testing.assert_close(sum(part), torch.ones(201, 1, 1, 1))
    if boundary == "mu":
        return
    last = torch.full((2,), process.end)
    estimate = origin(process, said, x_t, degraded, last, form=form)
    torch.testing.assert_close(consistent(process, estimate, x_t, degraded, last, boundary=boundary, spread_255=7.0), estimate)
    shares = part.out.flatten()
    assert (shares.diff() >= 0).all() and shares[0] == 0 and shares[-1] == pytest.approx(1) and not part.mu.any()
    seen = 0.95 if boundary == "noise" else 0.5
    assert shares[100] == pytest.approx(seen, abs=0.06)


@pytest.mark.parametrize("t", [5.0, 50.0, 100.0])
def test_the_boundary_around_mu_is_least_squares(t: float) -> None:
    """Of 200,000 changes of deviation r: the regression on the states' changes has the slope c_skip, and what it leaves has the deviation r c_out, in which no slope is left."""
    generator, part = torch.Generator().manual_seed(0), coefficients(REVERTING, times(t), boundary="mu", spread_255=7.0)
    change, mu = 7 / 255 * torch.randn(1, 1, 1, 200_000, generator=generator), torch.full((1, 1, 1, 200_000), 0.4)
    seen = REVERTING.state(mu + change, mu, times(t), torch.randn(change.shape, generator=generator)) - mu
    assert float((change * seen).mean() / seen.square().mean()) == pytest.approx(part.skip.item(), abs=0.01)
    left = change - part.skip * seen
    assert float(left.std()) == pytest.approx(7 / 255 * part.out.item(), rel=0.01)
    wanted = left / part.out  # what a network is to say: of deviation r, whatever the time
    f = consistent(REVERTING, mu + wanted, mu + seen, mu, times(t), boundary="mu", spread_255=7.0)
    torch.testing.assert_close(f, mu + change, atol=1e-6, rtol=0)


@pytest.mark.parametrize("process", [REVERTING, DENOISING], ids=("reverting", "denoising"))
def test_true_outputs_of_both_forms_give_the_clean_picture(process: Process) -> None:
    x_0, degraded, t, given = pictures(2), pictures(2, seed=2), torch.tensor([10.0, 60.0]), noise(pictures(2))
    x_t = process.state(x_0, process.target(x_0, degraded), t, given)
    torch.testing.assert_close(origin(process, given, x_t, degraded, t, form="noise"), x_0, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(origin(process, x_0 - degraded, x_t, degraded, t, form="residual"), x_0)


def test_a_noisy_picture_lies_on_the_path_of_its_noise() -> None:
    deviations = torch.tensor([5.0, 25.0, 50.0]) / 255
    t = DENOISING.time_of(deviations)
    torch.testing.assert_close(DENOISING.deviation(t).flatten(), deviations, atol=1e-6, rtol=1e-4)
    assert (t.diff() > 0).all()
    clean = pictures(3)
    torch.testing.assert_close(DENOISING.state(clean, clean, t, noise(clean)), clean + deviations[:, None, None, None] * noise(clean), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="not between 0 and 70.0"):
        DENOISING.time_of(torch.tensor([80 / 255]))


@pytest.mark.parametrize("method", ["posterior", "sde", "ode"])
def test_ways_back_find_the_distribution_of_clean_pictures(method: str) -> None:
    """Clean values ~ N(0.7, 0.1^2), degraded 0.4: with the exact E[x_0 | x_t] samples have that mean and spread (their last estimate a little less).

    Errors of the start, of which 0.005 x 0.3 is left, and of the steps stay below a tenth.
    """
    process = Process(ProcessConfig(noise_255=50.0))
    centre, spread, mu = 0.7, 0.1, 0.4

    def estimate(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        decay, variance = process.decay(t), process.deviation(t).square()
        gain = spread**2 * decay / (spread**2 * decay.square() + variance)
        return centre + gain * (x - (mu + (centre - mu) * decay))

    degraded = torch.full((1, 1, 100, 100), mu)
    found = many_steps(process, estimate, degraded, torch.Generator().manual_seed(0), num_steps=200, method=method)
    assert float(found.mean()) == pytest.approx(centre, abs=0.01) and float(found.std()) == pytest.approx(spread, rel=0.1)


def test_consistency_steps_halve_the_time_and_noise_anew() -> None:
    clean, degraded = pictures(1), pictures(1, seed=2)
    seen = []

    def known(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append((float(t), x))
        return clean

    found = consistency_steps(REVERTING, known, degraded, torch.Generator().manual_seed(3), num_steps=4)
    assert torch.equal(found, clean) and [t for t, _ in seen] == [100, 50, 25, 12.5]
    for t, x in seen:
        around = REVERTING.mean(clean, degraded, times(t)) if t < 100 else degraded
        assert float((x - around).std()) == pytest.approx(REVERTING.deviation(times(t)).item(), rel=0.4)
    again = [(t, x) for t, x in seen]
    seen.clear()
    consistency_steps(REVERTING, known, degraded, torch.Generator().manual_seed(3), num_steps=4)
    assert all(torch.equal(one, two) for (_, one), (_, two) in zip(again, seen, strict=True)), "the same seed gives the same states"
    seen.clear()
    consistency_steps(REVERTING, known, degraded, torch.Generator().manual_seed(4), num_steps=1)
    assert not torch.equal(seen[0][1], again[0][1])


def test_times_of_later_steps() -> None:
    """As published by default; those that are given, and then halves; each state lies where its time says."""
    assert shares_of_start((), 4) == [1, 0.5, 0.25, 0.125] and shares_of_start((0.25,), 3) == [1, 0.25, 0.125] and shares_of_start((0.25, 0.2), 1) == [1]
    clean, degraded, seen = pictures(1), pictures(1, seed=2), []

    def known(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append((t, x))
        return clean

    consistency_steps(REVERTING, known, degraded, torch.Generator().manual_seed(3), num_steps=2, times=(0.125,))
    generator = torch.Generator().manual_seed(3)
    first, second = (torch.randn(clean.shape, generator=generator) for _ in range(2))
    assert [float(t) for t, _ in seen] == [100, 12.5]
    torch.testing.assert_close(seen[0][1], degraded + REVERTING.deviation(times(100.0)) * first)
    torch.testing.assert_close(seen[1][1], REVERTING.state(clean, degraded, times(12.5), second))
    for part in (0.0, 0.5):  # of the noise, in later steps alone
        seen.clear()
        consistency_steps(REVERTING, known, degraded, torch.Generator().manual_seed(3), num_steps=2, times=(0.125,), renoise=part)
        torch.testing.assert_close(seen[0][1], degraded + REVERTING.deviation(times(100.0)) * first)
        torch.testing.assert_close(seen[1][1], REVERTING.state(clean, degraded, times(12.5), part * second))
    for wrong in ((0.25, 0.5), (0.5, 0.5)):
        with pytest.raises(ValueError, match="--times is 0.* each smaller than the one before"):
            check_times(wrong, option="--times")


def test_denoising_starts_at_the_noisy_picture() -> None:
    noisy = pictures(2)
    x, t = start(DENOISING, noisy, torch.Generator(), deviation=torch.tensor([10.0, 30.0]) / 255)
    assert torch.equal(x, noisy) and DENOISING.deviation(t).flatten().tolist() == pytest.approx([10 / 255, 30 / 255], rel=1e-4)
    with pytest.raises(ValueError, match="strength of the noise"):
        start(DENOISING, noisy, torch.Generator())
