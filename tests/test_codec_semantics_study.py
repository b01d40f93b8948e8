"""The study of what an encoder is worth to a codec: rows by command, and what its page computes of them."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lcl.core.files import read_json
from lcl.features import load_encoder
from tests.conftest import Run
from tests.made_encoders import SQUARE, checkpoint_of, random_model
from tests.test_image_codec import picture

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The scripts of studies/, which import each other by their own names."""
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    import codec_semantics
    import codec_semantics_page
    import pixel_judge

    yield type("Study", (), {"rows": codec_semantics, "page": codec_semantics_page, "judge": pixel_judge})
    for name in ("codec_semantics", "codec_semantics_page", "pixel_judge", "seeds", "table"):
        sys.modules.pop(name, None)


def test_rows_are_different_and_controls_have_as_many_weights(study: Any) -> None:
    for rows in study.rows.TABLES.values():
        assert len({study.rows.name_of(row) for row in rows}) == len(rows)
    codecs = study.rows.CODECS
    assert codecs["adapter"].latent_width == 2 * 64 and {codec.encoder for codec in codecs.values()} == {"none", "trained", "random"}


def test_a_judge_learns_and_comes_back(study: Any, tmp_path: Path) -> None:
    """Dark pictures from bright ones, in a few steps."""
    labels = np.arange(64) % 2
    pictures = np.stack([np.full((64, 64, 3), 60 + 100 * label + number, dtype=np.uint8) for number, label in enumerate(labels.tolist())])
    judge = study.judge.train_judge(pictures, labels, num_classes=2, epochs=8, seed=0)
    found = study.judge.log_probabilities([judge, judge], pictures)
    assert found.shape == (2, 64, 2) and np.allclose(np.exp(found).sum(axis=2), 1, atol=1e-5) and (found[0].argmax(axis=1) == labels).mean() > 0.9
    study.judge.save_judge(judge, tmp_path / "judge.safetensors")
    assert np.array_equal(study.judge.log_probabilities([study.judge.load_judge(tmp_path / "judge.safetensors")], pictures)[0], found[0])


def point(study: Any, rate: float, rng: np.random.Generator, gain: float = 0.0) -> Any:
    """Accuracy that rises by 2 for each bit per pixel, above that by `gain`."""
    bpp = rate + rng.normal(0, 0.02, 50)
    return study.page.Point([str(number) for number in range(50)], bpp, 30 + 10 * bpp, 2 * bpp + gain, -2 * bpp - gain)


def test_what_lies_on_the_curve_gains_nothing_at_equal_rate(study: Any) -> None:
    rng = np.random.default_rng(0)
    curve = [point(study, rate, rng) for rate in (0.3, 0.1, 0.2)]
    for rate in (0.12, 0.15, 0.25, 0.28):
        on, above = point(study, rate, rng), point(study, rate, rng, gain=0.3)
        for name in ("psnr_db", "accuracy"):
            assert np.allclose(study.page.at_equal_rate(on, curve, name), 0, atol=1e-9)
        assert np.allclose(study.page.at_equal_rate(above, curve, "accuracy"), 0.3) and np.allclose(study.page.at_equal_rate(above, curve, "nats"), -0.3)
    assert study.page.at_equal_rate(point(study, 0.5, rng), curve, "nats") is None


def test_the_mean_at_equal_rate_is_what_interpolation_gives(study: Any) -> None:
    rng = np.random.default_rng(1)

    def any_point(rate: float) -> Any:
        return study.page.Point(list(map(str, range(30))), rng.gamma(4, rate / 4, 30), *(rng.normal(size=30) for _ in range(3)))

    curve, one = sorted((any_point(rate) for rate in (0.1, 0.4, 0.9)), key=lambda point: point.bpp.mean()), any_point(0.35)
    wanted = one.accuracy.mean() - np.interp(one.bpp.mean(), [point.bpp.mean() for point in curve], [point.accuracy.mean() for point in curve])
    assert study.page.at_equal_rate(one, curve, "accuracy").mean() == pytest.approx(wanted)


def made(rate: float, right: float, levels: tuple[int, ...]) -> dict[str, Any]:
    num = 40
    hits = [[int(number < num * right) for number in range(num)]] * 3
    points = [{"level": level, "bytes": [round(2048 * rate * (1 + level))] * num, "psnr_db": [25.0 + level] * num, "distance": [0.1] * num, "right": hits, "nats": [[1.0] * num] * 3} for level in levels]
    return {"ids": [str(number) for number in range(num)], "original": {"right": hits, "nats": [[0.5] * num] * 3}, "levels": points, "parameters": {"codec": 100, "adapter": 10}}


def test_the_page_shows_what_rows_hold(study: Any, tmp_path: Path) -> None:
    for row in study.rows.TABLES["refinement"] + study.rows.TABLES["training"]:
        better = 0.2 if row.encoder == "trained" or row.codec.adapter == "tokens" else 0.0
        (tmp_path / f"{study.rows.name_of(row)}.json").write_text(json.dumps({"measured": made(0.1, 0.5 + better, row.levels)}))
    study.page.main(study.page.PageConfig(results=str(tmp_path)))
    text = (tmp_path.parent / f"{tmp_path.name}.md").read_text()
    assert "| 1 | trained encoder, weight 4 | 0.200 | 26.00 | 70.0 | +0.0 | +0.00 (+0.00 to +0.00) | +20.0 (" in text and "| 4 | no encoder | 0.500 | 29.00 | 50.0 |" in text
    assert "| adapter | 3 | 10 | +0.000 (+0.000 to +0.000) | +20.0 (+20.0 to +20.0) |" in text and (tmp_path / "accuracy.svg").exists()
    assert "| refinement, level 1, weight 4 | +0.0 | +0.00 (+0.00 to +0.00) | +20.0 (" in text and "| adapter in training, 3 seeds | | +0.000" in text
    changed = tmp_path / f"{study.rows.name_of(study.rows.TABLES['refinement'][0])}.json"
    row = json.loads(changed.read_text())
    row["measured"]["original"]["nats"][1][3] = 0.7
    changed.write_text(json.dumps(row))
    with pytest.raises(ValueError, match="have other judges"):
        study.page.main(study.page.PageConfig(results=str(tmp_path)))


def test_what_cannot_be_studied(study: Any, tmp_path: Path) -> None:
    settings = study.rows.StudyConfig(photos=str(tmp_path), photographs=str(tmp_path), encoder=str(tmp_path), output=str(tmp_path / "out"), results=str(tmp_path / "results"))
    with pytest.raises(ValueError, match="--tables refine: there are refinement, training"):
        study.rows.main(replace(settings, tables=("refine",)))
    with pytest.raises(ValueError, match="holds no photographs"):
        study.rows.main(settings)
    Image.fromarray(picture(140, 150)).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match="holds no checkpoint"):
        study.rows.main(settings)
    with pytest.raises(ValueError, match="holds no row of this study"):
        study.page.main(study.page.PageConfig(results=str(tmp_path)))


@pytest.mark.slow
def test_a_row_from_pictures_to_numbers(run: Run, tmp_path: Path) -> None:
    for split, count in (("train", 10), ("test", 5)):
        for label in ("bright", "dark"):
            (tmp_path / "labelled" / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = picture(130, 150, seed=number) // (1 if label == "bright" else 3)
                Image.fromarray(pixels).save(tmp_path / "labelled" / split / label / f"{number}.png")
    (tmp_path / "photographs").mkdir()
    Image.fromarray(picture(140, 150)).save(tmp_path / "photographs" / "0.png")
    encoder = checkpoint_of(random_model(SQUARE), tmp_path / "encoder" / "step-000001")
    study = ("python", "studies/codec_semantics.py", "--photos", tmp_path / "labelled", "--photographs", tmp_path / "photographs", "--encoder", encoder, "--output", tmp_path / "out", "--results", tmp_path / "results", "--toy", "True", "--jobs", "1")  # fmt: skip
    result = run(*study, "--hours", "0.003", timeout=600)  # three rows or so: the first of refinement
    assert result.returncode == 0 and "the same command continues" in result.stderr, result.stderr
    measured = [read_json(path)["measured"] for path in (tmp_path / "results").glob("*.json")]
    assert measured and all(len(one["ids"]) == len(one["levels"][0]["bytes"]) == 6 and len(one["original"]["right"]) == 3 for one in measured)
    assert load_encoder(tmp_path / "out" / "random_encoder").fingerprint != load_encoder(encoder).fingerprint
