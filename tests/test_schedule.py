"""Laws of the learning rate."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcl.core.config import from_dict
from lcl.schedule import ScheduleConfig, learning_rate

schedules = st.builds(
    ScheduleConfig,
    kind=st.sampled_from(["cosine", "wsd"]), warmup_steps=st.integers(0, 60), decay_fraction=st.floats(0.01, 1.0), final_ratio=st.floats(0.0, 1.0),
)


def rates(schedule: ScheduleConfig, *, total_steps: int, peak: float = 2.0) -> list[float]:
    return [learning_rate(step, schedule, peak=peak, total_steps=total_steps) for step in range(total_steps + 1)]


@given(schedule=schedules, total_steps=st.integers(1, 300), peak=st.floats(1e-6, 10.0))
def test_a_rate_rises_in_the_warm_up_then_never_and_stays_within_its_bounds(schedule: ScheduleConfig, total_steps: int, peak: float) -> None:
    found = rates(schedule, total_steps=total_steps, peak=peak)
    assert all(0 <= rate <= peak for rate in found)
    warmup = min(schedule.warmup_steps, total_steps)
    assert found[:warmup] == [pytest.approx(peak * (step + 1) / schedule.warmup_steps) for step in range(warmup)]
    assert all(one >= two for one, two in zip(found[schedule.warmup_steps :], found[schedule.warmup_steps + 1 :], strict=False))


@given(schedule=schedules, total_steps=st.integers(61, 300))
def test_a_rate_ends_at_its_final_ratio_and_stays_there(schedule: ScheduleConfig, total_steps: int) -> None:
    for step in (total_steps, total_steps + 1, 10 * total_steps):
        assert learning_rate(step, schedule, peak=2.0, total_steps=total_steps) == pytest.approx(2.0 * schedule.final_ratio, abs=1e-12)


@pytest.mark.parametrize(("kind", "largest"), [("cosine", math.pi / 2 / 1000), ("wsd", 200**-0.5)])
def test_a_rate_makes_no_jump(kind: str, largest: float) -> None:
    """Cosine is no steeper than pi / 2 over its length; 1 - sqrt(t) is steepest in its first step."""
    found = rates(ScheduleConfig(kind=kind, warmup_steps=100), total_steps=1100 if kind == "cosine" else 1000, peak=1.0)[99:]
    assert max(one - two for one, two in zip(found, found[1:], strict=False)) <= largest + 1e-12


def test_cosine_by_hand() -> None:
    found = rates(ScheduleConfig(warmup_steps=4), total_steps=104)
    assert found[:5] == [0.5, 1.0, 1.5, 2.0, 2.0] and found[54] == pytest.approx(1.0) and found[29] == pytest.approx(1 + 0.5**0.5)
    assert rates(ScheduleConfig(warmup_steps=4, final_ratio=0.5), total_steps=104)[54] == pytest.approx(1.5)


def test_wsd_by_hand() -> None:
    found = rates(ScheduleConfig(kind="wsd", warmup_steps=10, decay_fraction=0.2, final_ratio=0.1), total_steps=500)
    assert set(found[10:401]) == {2.0}  # the whole of the middle is at the peak
    assert found[425] == pytest.approx(2 * (0.1 + 0.9 * 0.5)) and found[500] == pytest.approx(0.2)
    assert rates(ScheduleConfig(kind="wsd", warmup_steps=90, decay_fraction=0.5), total_steps=100)[89:91] == [2.0, 2.0]  # the warm-up is never cut


@given(schedule=schedules, total_steps=st.integers(1, 300), more=st.integers(0, 300))
def test_a_longer_wsd_run_is_the_same_up_to_the_fall_of_the_shorter(schedule: ScheduleConfig, total_steps: int, more: int) -> None:
    schedule = ScheduleConfig(kind="wsd", warmup_steps=schedule.warmup_steps, decay_fraction=schedule.decay_fraction, final_ratio=schedule.final_ratio)
    shared = total_steps - round(schedule.decay_fraction * total_steps) + 1
    assert rates(schedule, total_steps=total_steps)[:shared] == rates(schedule, total_steps=total_steps + more)[:shared]


@pytest.mark.parametrize("wrong", [{"kind": "linear"}, {"warmup_steps": -1}, {"decay_fraction": 0.0}, {"decay_fraction": 1.5}, {"final_ratio": 2.0}])
def test_settings_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        from_dict(ScheduleConfig, wrong, origin="test")
