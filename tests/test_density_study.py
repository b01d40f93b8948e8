"""The study of noise schedules: what a row measures of a model, and what the page makes of rows."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from downstream.density.calibration import calibrate
from downstream.density.measuring import to_code
from downstream.density.model import DensityModel
from downstream.density.model_file import TrainedDensity
from downstream.density.train_config import PRESETS
from downstream.density.training_images import levels_of, read_digits
from downstream.density.unseen_images import unseen_images
from downstream.sight import Sight, SightConfig
from lcl.core.files import read_json
from lcl.features import random_encoder
from tests.conftest import Run
from tests.made_encoders import SQUARE, checkpoint_of, random_model
from tests.test_image_codec import picture

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The scripts of studies/, which import each other by their own names."""
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    import density
    import density_page

    yield type("Study", (), {"rows": density, "page": density_page})
    for name in ("density", "density_page", "seeds", "svg", "table"):
        sys.modules.pop(name, None)


def test_rows_are_different_and_every_kind_has_its_seeds(study: Any) -> None:
    rows = [row for table in study.rows.TABLES.values() for row in table]
    kinds = len(study.rows.KINDS)
    assert len({study.rows.name_of(row) for row in rows}) == len(rows) == study.rows.SEEDS * (kinds + (kinds - 1) + (kinds - 2))
    assert {study.page.BASE, study.page.PRIMARY} < study.rows.KINDS.keys()


def test_a_curve_is_means_of_windows_and_says_when_it_is_there(study: Any) -> None:
    curve = study.rows.curve_of([{"train/bits_per_dim": 10.0 - step / 50} for step in range(130)])
    assert curve["steps"] == [50, 100] and curve["bits_per_dim"] == pytest.approx([10 - 24.5 / 50, 9 - 24.5 / 50])
    assert study.page.steps_to(curve, 9.0) == 100 and study.page.steps_to(curve, 3.0) is None
    assert study.rows.curve_of([{"train/bits_per_dim": 1.0}, {"train/bits_per_dim": 2.0}])["bits_per_dim"] == [1.5]


def test_what_a_row_measures(study: Any, tmp_path: Path) -> None:
    """Of a model with a context, at its random start."""
    torch.manual_seed(0)
    model = DensityModel(PRESETS["toy"].model).eval().requires_grad_(False)
    u = torch.stack([levels_of(one) for one in read_digits("train")[:60]])
    trained = TrainedDensity(model, calibrate(model, u[:8], aligned=True), {})
    sight, unseen = Sight(random_encoder(SQUARE), SightConfig(num_layers=1)), unseen_images("digits", model.settings, num=8)
    found = study.rows.measure(trained, unseen, to_code(unseen.images[:2]), sight, study.rows.TOY, grids=tmp_path)
    assert found["vlb"]["bits_per_dim"] > 0 and [one["steps"] for one in found["coded"]] == [study.rows.TOY_STEPS] and len(found["samples"]) == 2
    assert (tmp_path / "ancestral_2.png").exists() and json.dumps(found)
    labels = np.arange(60) % 3
    marked = torch.where(torch.from_numpy(labels == 1)[:, None, None, None], u.clone().index_fill(3, torch.tensor([0]), 16), u)
    accuracies = study.rows.from_few_labels(trained, sight, marked, labels, marked, labels)
    assert accuracies.keys() == {"pixels", "tokens", "context", "denoiser at 0.4", "denoiser at 0.6"} and accuracies["pixels"].keys() == {"1", "5"}
    assert accuracies["pixels"]["5"][0] > 0.5 and all(0 <= mean <= 1 for by_shots in accuracies.values() for mean, _ in by_shots.values())


def made(kind: str, seed: int) -> dict[str, Any]:
    """A row in which context helps by 0.2 bits, and a schedule of all pixels by as much as it hurts."""
    bits = 2.0 + 0.01 * seed - (0.2 if "context" in kind else 0.03 * (seed - 1) if kind == "scalar" else 0.0)
    summary = {"bits_per_dim": bits, "standard_error": 0.01, "context": 0.02}
    coded = {"steps": 8, "images": 4, "elbo": summary, "elbo_uncalibrated": summary, "payload_bits_per_dim": bits, "bits_per_dim": bits + 0.1, "encode_seconds": 4.0, "elbo_of_these": bits, "payload_over_elbo": 0.002}
    labels = {"pixels": {"1": [0.5, 0.1]}, "denoiser at 0.4": {"1": [0.25, 0.1]}}
    return {
        "images": 8, "dims": 64, "parameters": 1000, "vlb": summary, "ode": {**summary, "images": 2}, "coded": [coded], "plain": {"PNG": {"bits_per_dim": 3.7, "encode_seconds": 0.1}, "JPEG XL without loss": None},
        "samples": [{"way": "ancestral_2", "images": 8, "evaluations": 2, "kernel_distance": 0.3, "standard_error": 0.1}], "between_halves_of_the_images": {"kernel_distance": 0.01, "standard_error": 0.1}, "labels": labels, "train_seconds": 100.0,
        "curve": {"steps": [50.0, 100.0], "bits_per_dim": [3.0, bits]},
    }  # fmt: skip


def test_the_page_says_what_is_shown_and_what_is_not(study: Any, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for data in ("digits", "photographs"):
        for kind, row in study.rows.KINDS.items():
            for seed in range(study.rows.SEEDS):
                name = study.rows.name_of(replace(row, data=data, steps=study.rows.STEPS[data], seed=seed))
                (folder / f"{name}.json").write_text(json.dumps({"measured": made(kind, seed)}))
    grids = folder / study.rows.name_of(replace(study.rows.KINDS["scalar"], steps=study.rows.STEPS["digits"]))
    grids.mkdir()
    study.page.main(study.page.PageConfig(results=str(folder)))
    text = (tmp_path / "rows.md").read_text()
    assert "| linear | 3 | 1,000 | 2.010 (0.010) |  | 0.020 (0.000) |" in text
    assert "| MuLAN, context of tokens | 3 | 1,000 | 1.810 (0.010) | +0.200 (+0.200 to +0.200) |" in text
    assert f'<img src="rows/{grids.name}/ancestral_8.png"' in text and text.count("Samples, seed 0.") == 1
    scalar = next(line for line in text.splitlines() if line.startswith("| scalar | 3"))
    assert "+0.000 (-0.075 to +0.075): not shown" in scalar
    assert "is 2.010, where the linear schedule is after 60% of its steps" in text and "| MuLAN, context of tokens | 1.0000 | 3 of 3 | 100 | 100 |" in text
    assert "JPEG XL without loss |  |  |  |  |  |  | not installed" in text and "| +0.20 +0.20 +0.20 % |" in text and study.page.PRIMARY in text.splitlines()[0]
    assert (folder / "curve_digits.svg").exists()


def test_what_cannot_be_studied(study: Any, tmp_path: Path) -> None:
    settings = study.rows.StudyConfig(
        photographs=str(tmp_path), test_photographs=str(tmp_path), photos=str(tmp_path), encoder=str(tmp_path), output=str(tmp_path / "out"), results=str(tmp_path / "results")
    )  # fmt: skip
    with pytest.raises(ValueError, match="--tables digit: there are digits, photographs, few_steps"):
        study.rows.main(replace(settings, tables=("digit",)))
    with pytest.raises(ValueError, match="holds no photographs"):
        study.rows.main(settings)
    with pytest.raises(ValueError, match="holds no row of this study"):
        study.page.main(study.page.PageConfig(results=str(tmp_path)))


@pytest.mark.slow
def test_rows_from_pictures_to_numbers(run: Run, tmp_path: Path) -> None:
    for split, count in (("train", 6), ("test", 3)):
        for label in ("bright", "dark"):
            (tmp_path / "labelled" / split / label).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(picture(60, 50, seed=number) // (1 if label == "bright" else 3)).save(tmp_path / "labelled" / split / label / f"{number}.png")
    for folder in ("photographs", "unseen"):
        (tmp_path / folder).mkdir()
        for number in range(2):
            Image.fromarray(picture(140, 150, seed=number + len(folder))).save(tmp_path / folder / f"{number}.png")
    encoder = checkpoint_of(random_model(SQUARE), tmp_path / "encoder" / "step-000001")
    study = (
        "python", "studies/density.py", "--photographs", tmp_path / "photographs", "--test-photographs", tmp_path / "unseen", "--photos", tmp_path / "labelled", "--encoder", encoder,
        "--output", tmp_path / "out", "--results", tmp_path / "results", "--toy", "True", "--jobs", "1",
    )  # fmt: skip
    for table in ("digits", "photographs"):  # some rows of each
        result = run(*study, "--hours", "0.003", "--tables", table, timeout=900)
        assert result.returncode == 0, result.stderr
    measured = [read_json(path)["measured"] for path in (tmp_path / "results").glob("*.json")]
    assert {one["dims"] for one in measured} == {64, 3072} and all(math.isfinite(one["vlb"]["bits_per_dim"]) and one["train_seconds"] > 0 for one in measured)
