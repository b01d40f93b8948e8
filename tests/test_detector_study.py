"""The study of detectors: a row from photographs to numbers, and what the page says of pairs."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lcl.core.files import read_json
from tests.conftest import ROOT, Run
from tests.made_checkpoint import made_checkpoint
from tests.test_image_codec import picture


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The scripts of studies/, which import each other by their own names."""
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    import detector
    import detector_page

    yield type("Study", (), {"rows": detector, "page": detector_page})
    for name in ("detector", "detector_page", "table", "tables_page", "commands", "random_twin"):
        sys.modules.pop(name, None)


def test_a_row_from_photographs_to_numbers(run: Run, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(2):
        Image.fromarray(picture(100, 110, seed=number)).save(tmp_path / "photos" / f"{number}.png")
    words = [sys.executable, "studies/detector.py", "--photographs", tmp_path / "photos", "--unseen", tmp_path / "photos", "--encoder", made_checkpoint(tmp_path / "step-000001")]
    result = run(*words, "--output", tmp_path / "out", "--results", tmp_path / "rows", "--toy", "True", "--jobs", "1", "--hours", "0.0001")
    assert result.returncode == 0 and "left" in result.stderr, result.stderr
    (row,) = (tmp_path / "rows").glob("*.json")
    measured = read_json(row)["measured"]
    assert len(measured["pictures"]) == 2 * 10 == sum(sum(counts.values()) for counts in measured["taken_for"].values())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["random_encoder"] or not list((tmp_path / "out" / "runs").iterdir())


def measured(right: list[bool]) -> dict[str, Any]:
    """Two pictures a photograph, one clean and one noisy."""
    pictures = [{"picture": f"{number // 2}.png", "task": task, "found": task if good else "haze"} for number, good in enumerate(right) for task in [("clean", "noise")[number % 2]]]
    taken_for = {task: {name: sum(one["task"] == task and one["found"] == name for one in pictures) for name in (task, "haze")} for task in ("clean", "noise")}
    return {"accuracy": {"value": sum(right) / len(right), "low": 0.1, "high": 0.9}, "decibels_off": {"value": 2.5}, "taken_for": taken_for, "pictures": pictures}


def test_the_page_pairs_by_picture_and_seed(study: Any, tmp_path: Path) -> None:
    for seed in range(3):
        for weights, right in (("trained", [True, True] * 8), ("random", [True, False] * 8)):
            (tmp_path / f"{study.page.name_of(study.rows.RunConfig(encoder=weights, seed=seed))}.json").write_text(json.dumps({"measured": measured(right)}))
    study.page.main(study.page.PageConfig(results=str(tmp_path)))
    text = (tmp_path.parent / f"{tmp_path.name}.md").read_text()
    assert "+50.0 points (95 % interval +50.0 to +50.0, bootstrap over photographs, 3 seeds): **a gain is shown**" in text
    assert "| noise | 100% | 0% | haze 0 |" in text and "| random | 2 | 50.0% | 10.0% to 90.0% | 2.50 |" in text
    mixed = study.page.paired([measured([True, False, False, True])], [measured([False, True, True, False])])
    assert mixed.value == 0 and mixed.low <= 0 <= mixed.high
    with pytest.raises(ValueError, match="of different pictures"):
        study.page.paired([measured([True])], [measured([True, True])])
