"""The study of refinement: rows that settle others, and what the page makes of them."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from downstream.codec.mean_scale import MeanScaleConfig
from downstream.codec.model_file import CodecConfig, finish, load_codec, save_codec
from tests.conftest import Run, assert_one_line_error
from tests.made_weights import made_weights
from tests.test_image_codec import picture, widen

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The scripts of studies/, which import each other by their own names."""
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    import refinement
    import refinement_page

    yield type("Study", (), {"rows": refinement, "page": refinement_page})
    for name in ("refinement", "refinement_page", "svg", "table"):
        del sys.modules[name]


@pytest.fixture
def settings(study: Any, tmp_path: Path) -> Any:
    """Pictures, and a made codec of four rates whose gains spread them."""
    for folder in ("tune", "photos"):
        (tmp_path / folder).mkdir()
        for number in range(8):
            Image.fromarray(picture(140, 160, seed=number)).save(tmp_path / folder / f"{number}.png")
    kind = CodecConfig(mean_scale=MeanScaleConfig(width=8, latent_width=12), num_levels=4)
    codec = kind.build()
    codec.load_state_dict(made_weights(codec.state_dict()))
    widen(codec)
    with torch.no_grad():
        gains = torch.tensor([-1.0, 0.0, 1.0, 2.0])[:, None].expand(4, 12)
        codec.gains.before.copy_(gains)
        codec.gains.after.copy_(-gains)
    save_codec(finish(codec, kind, (0.002, 0.005, 0.01, 0.03), {}, [torch.rand(2, 3, 64, 64)]), tmp_path / "codec.safetensors")
    return study.rows.StudyConfig(
        models=(f"made={tmp_path / 'codec.safetensors'}",), tune=str(tmp_path / "tune"), pictures=(f"photos={tmp_path / 'photos'}",), results=str(tmp_path / "rows"),
        methods=("ste", "ssl3"), iterations=(6,), crops=3, toy=True,
    )  # fmt: skip


def run_all(study: Any, settings: Any) -> list[Any]:
    """All rows, as their processes compute them."""
    trained = {"made": load_codec(Path(settings.models[0].partition("=")[2]))}
    folders = {"tune": settings.tune, "photos": settings.pictures[0].partition("=")[2]}
    done: list[Any] = []
    for rows_of in (study.rows.grid_rows, study.rows.all_rows):
        for row in rows_of(trained, settings):
            if row not in done:
                study.rows.run_row(row, trained["made"], folders[row.pictures], Path(settings.results))
                done.append(row)
    return done


def test_the_grid_settles_the_other_rows(study: Any, settings: Any) -> None:
    rows = run_all(study, settings)
    grid = [row for row in rows if row.pictures == "tune"]
    assert [len(row.cells) for row in grid] == [4, 4] and len(study.rows.GRID) == 48
    found = study.rows.read_rows(Path(settings.results), grid)
    for row in rows[len(grid) :]:
        of_grid = next(one for one in grid if one.method == row.method)
        best = study.rows.best_cell(of_grid, found[study.rows.name_of(of_grid)])
        assert len(row.cells) == 1 and row.cells[0].learning_rate == best.learning_rate
        assert row.cells[0].decay * row.iterations == pytest.approx(best.decay * of_grid.iterations)  # the same temperatures from start to end
    assert {row.level for row in rows if row.iterations == 6} == {0.0, 1.0, 2.0, 3.0}


def test_the_page_says_what_the_rows_hold(study: Any, settings: Any, capsys: pytest.CaptureFixture) -> None:
    run_all(study, settings)
    study.page.main(study.page.PageConfig(results=settings.results))
    text = Path(settings.results).with_suffix(".md").read_text()
    assert text.count("\n## mean_scale") + text.startswith("## mean_scale") == 3 and "| photos | 6 | ste |" in text and "of 4 |" in text
    assert (Path(settings.results) / "untuned-mean_scale.svg").stat().st_size > 1000


def test_rates_are_compared_at_equal_quality(study: Any) -> None:
    """Half the bits at the same errors is a BD-rate of -50 %, whichever pictures are drawn."""
    rows = []
    for level in range(4):
        settings = study.rows.RunConfig(model="m", pictures="photos", crops=3, crop_px=128, level=level, method="ssl", iterations=5, cells=())
        bits, errors = (np.array([0.2, 0.3, 0.5]) * 2**level).tolist(), (np.array([90.0, 80.0, 70.0]) / 2**level).tolist()
        measured = {"plain": {"bpp": bits, "squared_error": errors}, "cells": [{"bpp": [0.5 * one for one in bits], "squared_error": errors}]}
        rows.append(study.page.Row(settings, measured))
    assert study.page.difference_of_rates(rows) == "-50.0 (-50.0 to -50.0)"


def test_a_level_that_one_number_of_iterations_has_alone_is_on_no_curve(study: Any) -> None:
    common = study.rows.RunConfig(model="m", pictures="photos", crops=3, crop_px=128, level=0, method="ssl", iterations=5, cells=())
    ten = [study.page.Row(replace(common, level=level, iterations=10), {}) for level in (0, 1, 1.5, 2, 3)]
    five = [study.page.Row(replace(common, level=level), {}) for level in (0, 1, 2, 3)]
    once = [study.page.Row(replace(common, level=1.5, iterations=20), {})]
    assert study.page.levels_of_curves(ten + five + once) == {0, 1, 2, 3}
    assert study.page.levels_of_curves(ten) == {0, 1, 1.5, 2, 3} and study.page.levels_of_curves(once) == set()


def test_mistakes_are_one_line(settings: Any, run: Run, tmp_path: Path) -> None:
    common = ["studies/refinement.py", "--tune", settings.tune, "--models"]
    assert_one_line_error(run(sys.executable, *common, "codec.safetensors", "--pictures", *settings.pictures), "give NAME=PATH")
    assert_one_line_error(run(sys.executable, *common, *settings.models, "--pictures", "tune=here"), "and not 'tune'")


def test_settings_that_differ_in_a_temperature_that_a_method_lacks_are_fitted_once(study: Any) -> None:
    fittings = {
        method: {study.rows.fitting_of(study.rows.RunConfig(model="", pictures="", crops=1, crop_px=64, level=0.0, method=method, iterations=1, cells=()), cell) for cell in study.rows.GRID}
        for method in study.rows.METHODS
    }  # fmt: skip
    assert {method: len(found) for method, found in fittings.items()} == {method: len(study.rows.LEARNING_RATES) if method in ("ste", "noise") else 48 for method in study.rows.METHODS}
