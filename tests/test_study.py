"""A study: rows are computed once and continue, failures are named, and the page says what the rows hold."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcl.core.files import read_json
from tests.conftest import SHARED, Run, assert_one_line_error

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = SHARED / "data" / "eval" / "clothing10_cc0_s128.tar"

ROW = """
import json, sys
from pathlib import Path
name, folder = sys.argv[sys.argv.index("--row") + 1], Path(sys.argv[sys.argv.index("--results") + 1])
with open(folder / "started", "a") as file:
    file.write(name + "\\n")
if (folder / f"{name}.bad").exists():
    sys.exit(1)
(folder / f"{name}.json").write_text(json.dumps({"measured": {"is": name}}))
"""


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The scripts of studies/, which import each other by their own names."""
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    import objectives
    import objectives_page
    import table

    yield type("Study", (), {"table": table, "rows": objectives, "page": objectives_page})
    for name in ("objectives", "objectives_page", "svg", "table"):
        del sys.modules[name]


def test_rows_are_computed_once_and_a_failure_stops_no_other(study: Any, tmp_path: Path) -> None:
    rows = [replace(study.rows.BASE, seed=seed) for seed in range(4)]
    names = [study.table.name_of(row) for row in rows]
    assert len(set(names)) == 4
    script = tmp_path / "row.py"
    script.write_text(ROW)
    (tmp_path / f"{names[1]}.bad").touch()
    options = {"script": script, "options": ["--results", str(tmp_path)], "jobs": 2}
    assert study.table.run_table(rows, tmp_path, **options, seconds=0) == names
    with pytest.raises(ValueError, match=f"rows {names[1]} failed"):
        study.table.run_table([*rows, rows[0]], tmp_path, **options, seconds=60)
    assert study.table.read_rows(tmp_path, rows) == {name: {"is": name} for name in names if name != names[1]}
    (tmp_path / f"{names[1]}.bad").unlink()
    assert study.table.run_table(rows, tmp_path, **options, seconds=60) == []
    assert sorted((tmp_path / "started").read_text().split()) == sorted([*names, names[1]])


def test_a_rows_command_says_all_that_is_for_it(study: Any) -> None:
    settings = study.rows.StudyConfig(photos="p.tar", corpus=("a", "b"), tables=("corpus",), toy=True, hours=3.0, row="x")
    words = study.table.options_of(settings)
    assert words == ["--toy", "True", "--tables", "corpus", "--photos", "p.tar", "--corpus", "a", "b", "--output", "outputs/objectives", "--results", "docs/results/objectives", "--gpu", "False"]
    assert "--corpus" not in study.table.options_of(study.rows.StudyConfig(photos="p.tar"))


def test_a_row_that_was_stopped_is_no_row(study: Any, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    assert [line["step"] for line in study.rows.finished_metrics(tmp_path, 2)] == [1, 2]
    with pytest.raises(ValueError, match="was stopped at step 2 of 3; the same command continues"):
        study.rows.finished_metrics(tmp_path, 3)


def test_a_law_without_noise_is_found_again(study: Any) -> None:
    points = [(num, size, math.exp(0.3 - 0.2 * math.log(num) - 0.1 * math.log(size))) for num in (300, 900, 3000) for size in (1e4, 1e5, 1e6)]
    law, margins = study.page.fit_law(points)
    assert law == pytest.approx([0.3, -0.2, -0.1]) and margins == pytest.approx(0, abs=1e-9)


def test_the_least_difference_is_that_of_a_t_test(study: Any) -> None:
    """Two groups of three whose means lie just that far apart have p = 0.05."""
    from scipy.stats import ttest_ind

    first, second = np.array([1.0, 2.0, 4.0]), np.array([2.0, 2.5, 3.9])
    least = study.page.least_difference([first.std(ddof=1), second.std(ddof=1)], num=3)
    shifted = second - second.mean() + first.mean() + least
    assert ttest_ind(first, shifted).pvalue == pytest.approx(0.05)


def evaluations(value: float) -> list[dict[str, Any]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for task, metric in (("linear probe", "accuracy"), ("attentive probe", "accuracy"), ("nearest neighbours", "accuracy"), ("zero-shot classification", "accuracy"), ("context retrieval (set)", "context to image R@1")):
        found.setdefault(task, []).append({"model": "trained encoder", "metric": metric, "value": value, "low": value - 0.1, "high": value + 0.1, "n": 372})
    return [{"task": task, "rows": rows} for task, rows in found.items()]


@pytest.mark.parametrize("gpu", [False, True])
def test_the_page_shows_what_rows_hold(study: Any, tmp_path: Path, gpu: bool) -> None:
    curve = {"images_seen": [100, 200], "text_nats": [3.0, 2.0], "contrastive_nats": [4.0, None], "effective_rank": [5.0, 6.0], "embedding_variance": [0.5, 0.6]}
    rows = [*(replace(study.rows.BASE, seed=seed) for seed in range(3)), study.rows.TABLES["pair_share"][1]]
    for number, row in enumerate(rows):
        measured = {"evaluations": evaluations(0.4 + 0.1 * number), "images_seen": 1000.0, "curves": curve, "num_photos": 3000, "tower_parameters": 100_000}
        (tmp_path / f"{study.table.name_of(study.rows.for_gpu(row) if gpu else row)}.json").write_text(json.dumps({"measured": measured}))
    with pytest.raises(ValueError, match="holds no row of this study"):
        study.page.main(study.page.PageConfig(results=str(tmp_path), gpu=not gpu))
    study.page.main(study.page.PageConfig(results=str(tmp_path), gpu=gpu))
    text = (tmp_path.parent / f"{tmp_path.name}.md").read_text()
    assert "| lcl | 3 | " + " | ".join(["50.0 ± 10.0"] * 5) + " |" in text and "| base | 1,000 | 40.0 |" in text and "| pair share 0.25 | 1,000 | 70.0 |" in text and "## Corpus" not in text and "| linear probe | trained encoder | 40.0 | 30.0 to 50.0 | 372 |" in text
    assert {"loss.svg", "rank.svg"} <= {path.name for path in tmp_path.iterdir()} and "## Scaling" not in text


def test_what_cannot_be_studied(run: Run, tmp_path: Path) -> None:
    study = ("python", "studies/objectives.py", "--photos", tmp_path, "--output", tmp_path / "out", "--results", tmp_path / "results")
    assert_one_line_error(run(*study, "--tables", "objectivs"), "--tables objectivs: there are objectives,")
    assert_one_line_error(run(*study, "--tables", "corpus"), "the table corpus needs --corpus")
    assert_one_line_error(run("python", "studies/objectives_page.py", "--results", tmp_path), "holds no row of this study")


@pytest.mark.slow
@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.skipif(not PHOTOS.exists(), reason="needs shared/data/eval, which is not beside this checkout")
def test_a_row_from_photographs_to_numbers(run: Run, tmp_path: Path, gpu: bool) -> None:
    study = ("python", "studies/objectives.py", "--photos", PHOTOS, "--output", tmp_path / "out", "--results", tmp_path / "results", "--toy", "True", "--jobs", "1", "--gpu", str(gpu))
    result = run(*study, "--tables", "contrastive_weight", "--hours", "0.0001", timeout=600)
    assert result.returncode == 0 and "3 rows, 2 left" in result.stderr, result.stderr
    (row,) = (tmp_path / "results").glob("*.json")
    measured = read_json(row)["measured"]
    assert {one["task"] for one in measured["evaluations"]} == {"linear probe", "attentive probe", "nearest neighbours", "zero-shot classification", "context retrieval (set)"}
    assert measured["tower_parameters"] > 1e6 if gpu else measured["tower_parameters"] < 2e5
    assert 300 <= measured["images_seen"] <= 700 and measured["curves"]["effective_rank"]
