"""The study of restoration: rows that differ in one thing, what its page computes of them, and a row by command."""

import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from downstream.restore.train_config import PRESETS, TrainRestorerConfig
from lcl.core.config import run_command
from lcl.core.files import read_json
from tests.conftest import ROOT, Run
from tests.made_encoders import SQUARE, checkpoint_of, random_model
from tests.test_image_codec import picture


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The scripts of studies/, which import each other by their own names."""
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    import restoration
    import restoration_page

    yield type("Study", (), {"rows": restoration, "page": restoration_page})
    for name in ("restoration", "restoration_page", "table", "svg", "commands", "random_twin"):
        sys.modules.pop(name, None)


def test_rows_are_different_and_ablations_change_what_they_name(study: Any) -> None:
    names = [study.rows.name_of(row) for table in study.rows.TABLES.values() for row in table]
    assert len(set(names)) == len(names) == 4 + 51 + 24 + (4 * 3 + 12)
    for name, row in {**study.rows.ABLATIONS, **study.rows.ENCODERS}.items():
        base = study.rows.PATH if name.startswith(("of the path", "as published")) else study.rows.BASE
        changed = [field.name for field in fields(row) if getattr(row, field.name) != getattr(base, field.name)]
        assert len(changed) == {"as published": 4}.get(name, 1), name


def test_the_rows_own_way_is_that_of_the_preset(study: Any) -> None:
    base, model, objective = study.rows.BASE, PRESETS["small"].model, PRESETS["small"].objective
    assert (base.form, base.boundary, base.times, base.renoise) == (model.form, model.boundary, model.times, model.renoise)
    names = ("distance", "stages", "consistency_weight", "origin_weight", "end_fraction", "sampled_fraction", "own_fraction", "teacher_decay")
    assert all(getattr(base, name) == getattr(objective, name) for name in names)


def test_every_rows_training_is_one_that_the_command_takes(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The options of rows by the training's own parser and checks: the same network, crops, steps and optimiser, and an encoder in the loss of one."""
    settings = study.rows.StudyConfig(photographs="p", unseen="u", encoder="e", judge="j", output=str(tmp_path))
    (tmp_path / "random_encoder").mkdir()
    taken: list[TrainRestorerConfig] = []
    rows = [row for table in study.rows.TABLES.values() for row in table if row.kind != "classical" and row.seed == 0 and row.task in ("rain", "mixed")]
    for row in rows:
        monkeypatch.setattr(sys, "argv", ["lcl train restorer", *map(str, study.rows.training_options(row, tmp_path, settings))])
        run_command(TrainRestorerConfig, lambda config: taken.append(config), presets=PRESETS)
    for row, config in zip(rows, taken, strict=True):
        config.check()
        looks = row.encoder != "none" or row.perceptual_weight > 0
        assert (config.objective.kind, config.degradations.tasks, bool(config.encoder), config.model.times) == (row.kind, (row.task,), looks, row.times)
        assert config.uses_perceptual == (row.perceptual_weight > 0) and (config.model.guide.parts == "both") == (row.encoder != "none")
    assert len(taken) == 8 + 1 + 4 + 16 and len({(config.model.network, config.crop_px, config.fit.steps, config.fit.batch_items, config.optimizer) for config in taken}) == 1


def made(row: Any, *, psnr_db: float, diverged: bool = False) -> dict[str, Any]:
    """What a row holds, better by a decibel with each doubling of its steps."""
    def one(method: str, value: float, seconds: float) -> dict[str, Any]:
        quality = {"psnr_db": value, "psnr_y_db": value + 1, "ssim": 0.8, "ssim_y": 0.8, "gmsd": 0.1, "haarpsi": 0.5, "feature_distance": 0.2}
        return {"method": method, "quality": quality, "seconds_per_megapixel": seconds}

    steps = {"classical": {}, "regression": {"1 step": 0}, "ir_sde": {"100 steps": 2}, "ir_cm": {"1 step": 0, "2 steps": 1, "4 steps": 2}}[row.kind]
    rows = [one("identity", 20.0, 0.001)] + [one(f"restorer, {row.kind}, {name}", psnr_db + more, 0.05 * float(name.split()[0])) for name, more in steps.items()]
    rows += [one("restorer, no encoder, ir_cm, 1 step", 0.0, 1.0)] * (row.encoder != "none") + [one("CLAHE", 15.0, 0.1)] * (row.kind == "classical")
    if row.own_fraction and row.kind == "ir_cm":
        rows[2]["quality"] |= {"gmsd": 0.05, "haarpsi": 0.6}
    return {"diverged": True} if diverged else {"diverged": False, "rows": rows, "stronger": rows}


def test_the_page_shows_what_rows_hold(study: Any, tmp_path: Path) -> None:
    """Gains of the encoder: 0.5 dB with a spread of 0.1, so more than it; of the random one 0.1. One ablation diverges, by its loss once and by its quality once."""
    folder = tmp_path / "restoration"
    folder.mkdir()
    weak = study.rows.ABLATIONS["of the path, no origin loss"]
    for row in (row for table in study.rows.TABLES.values() for row in table):
        gain = {"none": 0.0, "random": 0.1, "trained": 0.5}[row.encoder]
        psnr_db = {0: 30.0 + gain, 1: 30.1 + gain, 2: 30.2 + gain}[row.seed]
        if replace(row, seed=0) == weak:
            psnr_db = 19.0 if row.seed else psnr_db
        found = made(row, psnr_db=psnr_db, diverged=row == replace(weak, seed=2))
        (folder / f"{study.rows.name_of(row)}.json").write_text(json.dumps({"measured": found}))
    study.page.main(study.page.PageConfig(results=str(folder)))
    text = (tmp_path / "restoration.md").read_text()
    assert "| rain | +10.10: yes | +15.10: yes | +0.00: yes | 100: yes | +0.1000, -0.0500: yes | +0.0000, +0.0000: no |" in text
    assert "| IR-SDE of x_0, 100 steps | 3 | 32.10 (32.00 to 32.20) |" in text and text.count("IR-SDE of x_0") == 1
    assert "| degraded | 1 | 20.00 |" in text and "| CLAHE | 1 | 15.00 |" in text
    assert "| IR-CM, 1 step | 3 | 30.10 (30.00 to 30.20) | 31.10 (31.00 to 31.20) | 0.8000 | 0.1000 | 0.5000 | 0.2000 | 0.05 | 100 |" in text
    assert "| IR-SDE, 100 steps | 3 | 32.10 (32.00 to 32.20) |" in text
    assert "| noise | 1 | 3 | 30.10 (30.00 to 30.20) | +0.50 | yes | +0.10 | no | +0.40 | yes |" in text
    assert "| of the path, no origin loss | 3 | 2 of 3 | 24.50 (19.00 to 30.00) |" in text and "| of the path, two stages | 3 | 0 of 3 | 30.10 (30.00 to 30.20) | 31.10 (" in text
    assert "| rain | 20.00 | 30.10 (30.00 to 30.20) | 30.10 (30.00 to 30.20) | 31.10 (31.00 to 31.20) |" in text and (folder / "quality.svg").exists()


def test_what_cannot_be_studied(study: Any, tmp_path: Path) -> None:
    settings = study.rows.StudyConfig(photographs=str(tmp_path), unseen=str(tmp_path), encoder="e", judge="e", output=str(tmp_path / "out"), results=str(tmp_path / "results"))
    with pytest.raises(ValueError, match="--tables method: there are methods, encoder, ablations"):
        study.rows.main(replace(settings, tables=("method",)))
    with pytest.raises(ValueError, match="holds no photographs"):
        study.rows.main(settings)
    Image.fromarray(picture(70, 80)).save(tmp_path / "0.png")
    checkpoint = str(checkpoint_of(random_model(SQUARE), tmp_path / "encoder" / "step-000001"))
    with pytest.raises(ValueError, match="--judge is the encoder that guides"):
        study.rows.main(replace(settings, encoder=checkpoint, judge=checkpoint))
    with pytest.raises(ValueError, match="holds no row of this study"):
        study.page.main(study.page.PageConfig(results=str(tmp_path)))


def test_a_training_that_diverges_is_a_result_and_other_failures_are_none(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = study.rows.StudyConfig(photographs="p", unseen="u", encoder="e", judge="j", output=str(tmp_path), results=str(tmp_path / "results"))

    def fails(said: str) -> None:
        def command(script: str, *arguments: Any) -> None:
            raise ValueError(said)

        monkeypatch.setattr(study.rows, "command", command)

    fails("downstream/train_restorer.py failed: ['error: step 7: the loss is not finite ...']")
    study.rows.run_row(study.rows.BASE, settings)
    assert read_json(tmp_path / "results" / f"{study.rows.name_of(study.rows.BASE)}.json")["measured"]["diverged"]
    fails("downstream/train_restorer.py failed: ['error: no space']")
    with pytest.raises(ValueError, match="no space"):
        study.rows.run_row(replace(study.rows.BASE, seed=1), settings)


@pytest.mark.slow
def test_rows_from_pictures_to_numbers(study: Any, run: Run, tmp_path: Path) -> None:
    for folder in ("seen", "unseen"):
        (tmp_path / folder).mkdir()
        for number in range(3):
            Image.fromarray(picture(60, 70, seed=number + 5 * (folder == "seen"))).save(tmp_path / folder / f"{number}.png")
    encoder, judge = (checkpoint_of(random_model(SQUARE, seed=seed), tmp_path / name / "step-000001") for seed, name in ((0, "encoder"), (1, "judge")))
    pictures = ("--photographs", tmp_path / "seen", "--unseen", tmp_path / "unseen", "--encoder", encoder, "--judge", judge)
    command = ("python", "studies/restoration.py", *pictures, "--output", tmp_path / "out", "--results", tmp_path / "results", "--toy", "True", "--jobs", "1")
    result = run(*command, "--tables", "encoder", "--hours", "0.003", timeout=900)
    assert result.returncode == 0 and "the same command continues" in result.stderr, result.stderr
    found = [read_json(path) for path in (tmp_path / "results").glob("*.json")]
    assert found and all(one["config"]["encoder"] == "trained" and not one["measured"]["diverged"] for one in found)
    methods = {row["method"] for row in found[0]["measured"]["rows"]}
    assert methods == {"identity"} | {f"restorer{end}, ir_cm, {steps}" for end in ("", ", no encoder") for steps in ("1 step", "2 steps", "4 steps")}
    row = study.rows.name_of(replace(study.rows.BASE, steps=4))
    result = run(*command, "--row", row, timeout=900)
    assert result.returncode == 0, result.stderr
    measured = read_json(tmp_path / "results" / f"{row}.json")["measured"]
    assert [one["unseen"] for one in measured["stronger"]] == ["", *["strength"] * 2]
    assert [one["method"] for one in measured["rows"]] == ["identity", *(f"restorer, ir_cm, {steps}" for steps in ("1 step", "2 steps", "4 steps"))]
