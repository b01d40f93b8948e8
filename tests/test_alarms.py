"""Spikes and collapse: laws of the detectors, states that resume, closed forms of the measures."""

import json
import math
import re

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.nn import functional

from lcl.alarms import CollapseAlarms, CollapseConfig, SpikeConfig, SpikeGuard, embedding_health

SPIKES = SpikeConfig(threshold=5.0, window=8, max_skips=3)


def verdicts(guard: SpikeGuard, losses: list[float]) -> list[bool | str]:
    """What the guard says of each loss; its error, where it raises one, is the last."""
    said: list[bool | str] = []
    for loss in losses:
        try:
            said.append(guard.is_spike(loss))
        except ValueError as error:
            return [*said, str(error)]
    return said


def wobble(num: int, *, seed: int = 0, size: float = 0.01) -> list[float]:
    return (3.0 + size * torch.randn(num, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).tolist()


def test_a_spike_is_found_and_does_not_hide_the_next() -> None:
    guard = SpikeGuard(SPIKES)
    assert not any(verdicts(guard, wobble(100)))
    assert verdicts(guard, [9.0, 3.0, 9.0, 3.0, 3.3]) == [True, False, True, False, True]
    assert guard.num_skips == 3


def test_what_is_no_spike() -> None:
    assert not any(verdicts(SpikeGuard(SPIKES), [3.0] * 7 + [9.0]))  # the window was not full
    assert not any(verdicts(SpikeGuard(SPIKES), [3.0] * 20 + [3.0 + 0.09, 2.0, 0.1]))  # too small an excess where nothing spreads; lower is fine
    assert verdicts(SpikeGuard(SPIKES), [3.0] * 20 + [3.0 + 0.11])[-1] is True
    noisy = wobble(200, size=1.0)
    assert not any(verdicts(SpikeGuard(SpikeConfig(threshold=5.0)), [*noisy, max(noisy) + 0.5]))  # usual where losses spread
    off = SpikeGuard(SpikeConfig())
    assert not any(verdicts(off, [3.0] * 200 + [1e9])) and off.state()["losses"] == []


def test_the_limit_is_that_of_the_formula() -> None:
    losses = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]  # median 12; deviations 11 10 8 4 4 20 52 116, their median 10.5
    limit = 12 + 5 * 1.4826 * 10.5
    assert verdicts(SpikeGuard(SPIKES), [*losses, limit - 1e-6])[-1] is False
    assert verdicts(SpikeGuard(SPIKES), [*losses, limit + 1e-6])[-1] is True


def test_too_many_spikes_stop_the_run_and_old_ones_are_forgotten() -> None:
    said = verdicts(SpikeGuard(SPIKES), [3.0] * 8 + [9.0] * 4)
    assert said[:-1] == [False] * 8 + [True] * 3
    assert "4 of the last 8 losses were spikes" in said[-1]
    for flag in ("--optimizer.learning-rate", "--spikes.max-skips", "--spikes.threshold"):
        assert flag in said[-1]
    rare = SpikeGuard(SPIKES)
    assert verdicts(rare, ([3.0] * 8 + [9.0]) * 10).count(True) == rare.num_skips == 10  # one in nine steps is let pass
    assert verdicts(SpikeGuard(SpikeConfig(threshold=5.0, window=8, max_skips=0)), [3.0] * 8 + [9.0])[-1] is not True
    with pytest.raises(ValueError, match=r"--spikes\.max-skips \(8\) must be below --spikes\.window \(8\)"):
        SpikeGuard(SpikeConfig(window=8, max_skips=8))


@given(losses=st.lists(st.one_of(st.floats(2.9, 3.1), st.sampled_from([2.0, 3.2, 50.0, 60.0])), max_size=60), cut=st.integers(0, 60))
@example(losses=[3.0] * 4 + [50.0] * 3, cut=6)  # spikes on both sides of the cut stop the run
def test_a_guard_goes_on_from_its_json_state(losses: list[float], cut: int) -> None:
    settings = SpikeConfig(threshold=3.0, window=4, max_skips=2)
    whole, first = SpikeGuard(settings), SpikeGuard(settings)
    expected, before = verdicts(whole, losses), verdicts(first, losses[:cut])
    if before and isinstance(before[-1], str):
        assert before == expected
        return
    second = SpikeGuard(settings, state=json.loads(json.dumps(first.state())))
    assert before + verdicts(second, losses[cut:]) == expected
    assert second.state() == whole.state()


COLLAPSE = CollapseConfig(patience=3)
HEALTHY = {"num_positives": 64, "num_features": 32, "contrastive_nats": 1.0, "effective_rank": 20.0, "embedding_variance": 0.5}
WRONG = {"contrastive": {"contrastive_nats": math.log(64) * 0.995}, "rank": {"effective_rank": 4.9}, "variance": {"embedding_variance": 0.005}}
SAYS = {"contrastive": "has not left log N", "rank": "effective rank .* fell to 4.9 .best 20.0.", "variance": "point the same way"}


def make_alarms(**state: object) -> CollapseAlarms:
    return CollapseAlarms(COLLAPSE, warmup_steps=10, **state)


def say(alarms: CollapseAlarms, *observations: dict, step: int = 10) -> list[int]:
    """How many messages each observation brings up."""
    return [len(alarms.observe(step=step, **(HEALTHY | observation))) for observation in observations]


@pytest.mark.parametrize("name", WRONG)
def test_an_alarm_is_said_once_after_patience_and_again_only_when_it_had_cleared(name: str) -> None:
    alarms, wrong = make_alarms(), WRONG[name]
    assert say(alarms, {}, wrong, wrong, {}, wrong, wrong) == [0] * 6
    (message,) = alarms.observe(step=10, **(HEALTHY | wrong))
    assert re.search(SAYS[name], message) and "--" in message
    assert say(alarms, *[wrong] * 10, {}, wrong, wrong, wrong, wrong) == [0] * 13 + [1, 0]


def test_healthy_numbers_bring_no_alarm() -> None:
    alarms = make_alarms()
    fine = {"contrastive_nats": math.log(64) * 0.98, "effective_rank": 5.1, "embedding_variance": 0.011}
    assert say(alarms, {}, *[fine] * 20) == [0] * 21
    all_wrong = {key: value for wrong in WRONG.values() for key, value in wrong.items()}
    assert say(alarms, *[all_wrong] * 3) == [0, 0, 3]


def test_warm_up_small_batches_and_a_loss_without_weight_do_not_count() -> None:
    all_wrong = {key: value for wrong in WRONG.values() for key, value in wrong.items()}
    assert say(make_alarms(), *[all_wrong] * 20, step=9) == [0] * 20
    alarms = make_alarms()
    assert say(alarms, {}, all_wrong, all_wrong, {"num_positives": 1, "num_features": 1, "effective_rank": 0.0, "embedding_variance": 0.0}, all_wrong) == [0] * 4 + [3]
    assert say(make_alarms(), *[{"contrastive_nats": None}] * 20) == [0] * 20
    few = {"num_features": 5, "effective_rank": 3.0}  # five vectors have rank four at most
    assert say(make_alarms(), {"effective_rank": 40.0}, *[few] * 20) == [0] * 21


@given(kinds=st.lists(st.sampled_from(["", *WRONG]), max_size=40), cut=st.integers(0, 40))
def test_alarms_go_on_from_their_json_state(kinds: list[str], cut: int) -> None:
    observations = [WRONG.get(kind, {}) for kind in kinds]
    whole, first = make_alarms(), make_alarms()
    expected, before = say(whole, *observations), say(first, *observations[:cut])
    second = make_alarms(state=json.loads(json.dumps(first.state())))
    assert before + say(second, *observations[cut:]) == expected
    assert second.state() == whole.state()


def test_isotropic_features_have_full_rank_and_variance_one() -> None:
    """The vertices of a cross-polytope: +-e_i, centred, all singular values equal."""
    vertices = torch.cat([torch.eye(6), -torch.eye(6)])
    rank, variance = embedding_health(3 * vertices)
    assert float(rank) == pytest.approx(6) and float(variance) == pytest.approx(12 / 11)  # the cosine of a pair is -1/11 in the mean
    rank, variance = embedding_health(torch.eye(6))
    assert float(rank) == pytest.approx(5) and float(variance) == pytest.approx(1)
    rank, variance = embedding_health(torch.randn(4000, 16, generator=torch.Generator().manual_seed(0)))
    assert 15.9 < float(rank) <= 16 and float(variance) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_collapsed_features_have_no_rank_and_no_variance(dtype: torch.dtype) -> None:
    one = torch.randn(1, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    rank, variance = embedding_health(one.expand(50, -1))
    assert float(rank) == 0 and float(variance) == pytest.approx(0, abs=1e-12)
    rank, _ = embedding_health(torch.cat([one, -one, one, -one]))
    assert float(rank) == pytest.approx(1, abs=1e-6)  # a line
    for few in (one, one[:0]):
        assert [float(value) for value in embedding_health(few)] == [0.0, 0.0]


@given(seed=st.integers(0, 1000), num=st.integers(2, 30), width=st.integers(1, 12))
def test_laws_of_embedding_health(seed: int, num: int, width: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(num, width, generator=rng, dtype=torch.float64) + torch.randn(width, generator=rng, dtype=torch.float64)
    rank, variance = (float(value) for value in embedding_health(features))
    assert 0 <= rank <= min(num - 1, width) + 1e-9
    cosines = functional.normalize(features, dim=1) @ functional.normalize(features, dim=1).T
    assert variance == pytest.approx(1 - float(cosines.sum() - cosines.trace()) / (num * (num - 1)), abs=1e-9)
    turned = torch.linalg.qr(torch.randn(width, width, generator=rng, dtype=torch.float64)).Q
    lengths = torch.rand(num, 1, generator=rng, dtype=torch.float64) + 0.5
    for other in (features[torch.randperm(num, generator=rng)], features @ turned, lengths * features):
        assert [float(value) for value in embedding_health(other)] == pytest.approx([rank, variance], abs=1e-6)
