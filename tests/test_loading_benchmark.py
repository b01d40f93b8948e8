"""The benchmark of the loader runs on small shards, and its numbers belong together."""

import json
from pathlib import Path

import pytest

from lcl.core.shards import write_shard
from tests.conftest import Run, assert_one_line_error
from tests.made_documents import document
from tests.test_loader import made_documents


def test_loading(run: Run, tmp_path: Path) -> None:
    write_shard(tmp_path, "photos", made_documents(20), origin={})
    options = ("--rounds", 3, "--images", 8, "--num-lanes", 1, "--row-length", 300, "--model.vision.image-px", 32, "--model.vision.patch-px", 8)
    result = run("python", "benchmarks/loading.py", "--shards", tmp_path, "--output", tmp_path / "out" / "loading.json", *options)
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "out" / "loading.json").read_text())
    measured = record["measured"]
    assert record["benchmark"] == "loading" and record["config"]["images"] == 8 and measured["target"] == 0.85
    for number, images in enumerate(measured["rounds"]["images"]):
        ratio, fast, slow = (measured["rounds"][name][number] for name in ("ratio", "images_per_second", "bare_images_per_second"))
        assert images >= 8 and ratio == pytest.approx(fast / slow) and ratio > 0
    assert sum(measured["shares"].values()) == pytest.approx(1, abs=1e-3) and min(measured["shares"].values()) > 0
    assert f"ratio {measured['ratio']:.3f}" in result.stderr + result.stdout


def test_shards_without_an_image_are_refused(run: Run, tmp_path: Path) -> None:
    write_shard(tmp_path, "text", [document("only text")], origin={})
    assert_one_line_error(run("python", "benchmarks/loading.py", "--shards", tmp_path, "--output", tmp_path / "loading.json"), "hold no image to time")
