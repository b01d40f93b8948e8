"""The benchmark of training steps: every schedule makes one, beside the plain one."""

import sys
from pathlib import Path
from typing import Any

import pytest

from downstream.density.train_config import PRESETS
from lcl.core.files import read_json
from tests.made_encoders import SQUARE, checkpoint_of, random_model

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import density_step

    yield density_step
    for name in ("density_step", "plain_step"):
        sys.modules.pop(name, None)


def test_schedules_are_compared_on_one_network(bench: Any) -> None:
    for preset in PRESETS.values():
        kinds = bench.kinds_of(preset.model, with_tokens=True)
        assert list(kinds) == ["linear", "scalar", "polynomial", "monotone", "polynomial, context convolutional", "polynomial, context tokens"]
        assert len({(one.unet, one.size_px, one.channels) for one in kinds.values()}) == 1
        for one in kinds.values():
            one.check()


def test_each_is_timed_in_every_round(bench: Any, tmp_path: Path) -> None:
    encoder = checkpoint_of(random_model(SQUARE), tmp_path / "encoder" / "step-000001")
    bench.main(bench.StepConfig(output=str(tmp_path / "step.json"), preset="toy", rounds=2, encoder=str(encoder)))
    measured = read_json(tmp_path / "step.json")["measured"]
    assert len(measured["schedules"]) == 6 and measured["schedules"]["linear"]["over_plain"] == 1
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in measured["rounds"].values())
