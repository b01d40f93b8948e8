"""The benchmark of deduplication runs on a few invented texts, and its numbers belong together."""

import json
import random
from pathlib import Path

import pytest

from tests.conftest import Run, assert_one_line_error


def test_deduplication(run: Run, tmp_path: Path) -> None:
    chance = random.Random(0)
    texts = {str(number): {"articleBody": " ".join(f"w{chance.randrange(5000)}" for _ in range(400))} for number in range(5)}
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    sizes = ("--documents", 90, "--rounds", 1, "--scale-documents", 400, "--merged-documents", 1000, "--parts", "recall", "speed", "scale")
    result = run("python", "benchmarks/deduplication.py", "--texts", tmp_path / "texts.json", "--output", tmp_path / "out.json", *sizes, PYTHONPATH=".")
    assert result.returncode == 0, result.stderr
    measured = json.loads((tmp_path / "out.json").read_text())["measured"]
    recall, passed = measured["recall"], measured["recall"]["pass"]
    assert recall["documents"] == 90 and recall["pairs"] == 90 * 89 // 2
    assert all(0 <= row["found"] <= 1 and row["pairs"] > 0 for row in recall["bands"])
    assert next(row["s_curve"] for row in recall["bands"] if row["from"] == 0.8) == pytest.approx(0.96, abs=0.04)
    assert passed["wrongly_dropped"] == 0 and passed["dropped"] + passed["missed"] == passed["brute_force"] > 5 and passed["reported"] == passed["dropped"]
    assert min(measured["speed"].values()) > 0
    (scale,) = measured["scale"]["passes"]
    assert scale["documents"] == 400 and 40 < scale["dropped"]["near_duplicate"] < 120 and scale["peak_mib"] >= scale["imports_mib"] > 0
    assert measured["scale"]["merge"]["links"] == 900


def test_texts_that_are_none_are_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "texts.json").write_text("[]")
    command = ("python", "benchmarks/deduplication.py", "--texts", tmp_path / "texts.json", "--output", tmp_path / "out.json")
    assert_one_line_error(run(*command, PYTHONPATH="."), "--texts", "no file of articles")
