"""The study of CCA's context adjustment: equal parameters, a row from photographs to numbers, and what the page makes of rows."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lcl.core.files import read_json
from tests.conftest import ROOT, Run, assert_one_line_error
from tests.test_image_codec import picture


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The scripts of studies/, which import each other by their own names."""
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    import context_adjustment
    import context_adjustment_page

    yield type("Study", (), {"rows": context_adjustment, "page": context_adjustment_page})
    for name in ("context_adjustment", "context_adjustment_page", "svg", "table"):
        del sys.modules[name]


def test_even_and_growing_groups_have_equal_parameters(study: Any) -> None:
    even = study.rows.codec_of(replace(study.rows.BASE, group_exponent=0.0))
    assert even.group_sizes() == (16,) * 5 and study.rows.CODEC.group_sizes() == (2, 7, 14, 23, 34)
    assert study.rows.num_parameters(even) == pytest.approx(study.rows.num_parameters(study.rows.CODEC), rel=0.01)


def test_a_row_from_photographs_to_numbers(run: Run, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(2):
        Image.fromarray(picture(260, 270, seed=number)).save(tmp_path / "photos" / f"{number}.png")
    words = [sys.executable, "studies/context_adjustment.py", "--photographs", tmp_path / "photos", "--unseen", tmp_path / "photos", "--output", tmp_path / "out"]
    result = run(*words, "--results", tmp_path / "rows", "--toy", "True", "--jobs", "1", "--hours", "0.0001")
    assert result.returncode == 0 and "left" in result.stderr, result.stderr
    (row,) = (tmp_path / "rows").glob("*.json")
    measured = read_json(row)["measured"]
    assert len(measured["y_bpp"]) == 5 and measured["bpp"] == pytest.approx(sum(measured["y_bpp"]) + measured["z_bpp"]) and len(measured["curves"]["y_bpp"]) == 3
    assert not list((tmp_path / "out").iterdir())


def test_the_page_compares_at_equal_quality(study: Any, tmp_path: Path) -> None:
    """Intent needs 10 % fewer bits at the same errors, with every seed; what came as published is worse where it has more bits, and is no curve."""
    for mode, factor, rises in (("off", 1.0, 3.0), ("intent", 0.9, 3.0), ("published", 1.0, -3.0)):
        for seed in range(3):
            for rank, beta in enumerate(study.rows.BETAS):
                curves = {"step": [1, 2], "y_bpp": [2.0, 1.0]} | ({"auxiliary_bpp": [2.0, 1.5]} if mode == "intent" else {})
                bpp = factor * (1 + 0.01 * seed) / 2**rank
                measured = {"bpp": bpp, "psnr_db": 32.0 - rises * rank, "y_bpp": [bpp / 5] * 5, "curves": curves, "group_sizes": [1] * 5, "parameters": 10}
                name = study.page.name_of(study.rows.row_of(mode, beta, seed))
                (tmp_path / f"{name}.json").write_text(json.dumps({"measured": measured}))
    study.page.main(study.page.PageConfig(results=str(tmp_path)))
    text = (tmp_path.parent / f"{tmp_path.name}.md").read_text()
    assert "| intent | -10.00 | -10.00 to -10.00 | -10.00 |" in text and "| intent | 1 | 3 | 0.9090 ± 0.0090 | 32.000 ± 0.000 | 1.50 ± 0.00 |" in text
    assert "| published |  |  | none (a curve's quality does not rise" in text
    assert {"rates.svg", "curves.svg"} <= {path.name for path in tmp_path.iterdir()}


def test_a_page_without_rows_is_one_line(run: Run, tmp_path: Path) -> None:
    assert_one_line_error(run(sys.executable, "studies/context_adjustment_page.py", "--results", tmp_path), "holds no row of this study")
