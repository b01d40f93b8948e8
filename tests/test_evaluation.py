"""Probe and zero-shot by hand-computed cases and controls; the labelled set; the report page."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lcl.evaluation import majority, score
from lcl.labelled import find_labelled, load_pixels
from lcl.probe import linear_probe, wilson_interval

from lcl.core.files import read_json, write_json
from lcl.evals.zero_shot import class_weights, classify, text_features
from tests.conftest import Run, assert_one_line_error


def blobs(num: int, *, seed: int, spread: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % 3
    centres = np.eye(3, 8) * 2
    return centres[labels] + rng.normal(0, spread, (num, 8)), labels


def test_a_probe_finds_what_is_separable_and_is_at_chance_on_shuffled_labels() -> None:
    (train, labels), (test, wanted) = blobs(300, seed=0), blobs(300, seed=1)
    assert (linear_probe(train, labels, test).predicted == wanted).mean() > 0.98
    shuffled = np.random.default_rng(2).permutation(labels)
    assert abs((linear_probe(train, shuffled, test).predicted == wanted).mean() - 1 / 3) < 0.12


def test_a_probe_does_not_depend_on_what_else_is_tested() -> None:
    (train, labels), (test, _) = blobs(90, seed=0, spread=1.5), blobs(60, seed=1, spread=1.5)
    whole = linear_probe(train, labels, test).predicted
    assert np.array_equal(whole[:20], linear_probe(train, labels, test[:20]).predicted)


def test_a_class_with_one_image_cannot_be_probed() -> None:
    with pytest.raises(ValueError, match="at least 2 training images"):
        linear_probe(np.zeros((3, 2)), np.array([0, 0, 1]), np.zeros((1, 2)))


def test_wilson_interval_against_published_values() -> None:
    """Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, method 3: 81 of 263, and 0 of 20."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_scores_count() -> None:
    labels = np.array([0, 1, 1, 2])
    assert score("x", np.array([0, 1, 0, 0]), labels).accuracy == 0.5
    assert majority(labels).accuracy == 0.5


def test_zero_shot_by_hand() -> None:
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert classify(torch.tensor([[3.0, 1.0], [0.1, 0.2], [-1.0, -2.0]]), weights).argmax(dim=1).tolist() == [0, 1, 0]


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.processes import run_ranks

    run = tmp_path_factory.mktemp("trained") / "run"
    run_ranks(["lcl/pretrain.py", "--preset", "toy", "--data.shards", shards, "--output", run], world_size=1)
    return run


def test_text_features_do_not_depend_on_their_neighbours_and_templates_are_averaged(trained: Path) -> None:
    from lcl.features import load_model

    model, tokenizer = load_model(trained)
    texts = ["a red seven", "the number two in a garden full of words " * 30, ""]
    together = text_features(model, tokenizer, texts)
    for text, features in zip(texts, together, strict=True):
        torch.testing.assert_close(text_features(model, tokenizer, [text])[0], features, atol=1e-6, rtol=1e-5)
    unit = torch.nn.functional.normalize(text_features(model, tokenizer, ["one cat", "cat of one"]), dim=-1)
    torch.testing.assert_close(class_weights(model, tokenizer, ["cat"], ["one {}", "{} of one"])[0], torch.nn.functional.normalize(unit.mean(dim=0), dim=0))


def test_the_labelled_set_of_the_sample(sample: Path) -> None:
    labelled = find_labelled(sample / "labelled" / "digit")
    assert len(labelled.classes) == 10 and len(labelled.files["train"]) == 40 and len(labelled.files["test"]) == 20
    assert all("{}" in template for template in labelled.templates)
    assert load_pixels(labelled.files["test"], side_px=24).shape == (20, 24, 24, 3)


def _name_no_class(folder: Path) -> None:
    write_json(folder / "classes.json", read_json(folder / "classes.json") | {"templates": ["a {}", "a digit"]})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: shutil.rmtree(folder / "test"), "has no folder 'test'"),
        (lambda folder: (folder / "train" / "eleven").mkdir(), "its class is not among zero"),
        (lambda folder: [shutil.rmtree(path) for path in (folder / "test").iterdir()], "holds no image"),
        (_name_no_class, "template 'a digit' has no {} for the class name"),
    ],
)
def test_a_labelled_set_that_is_none_is_named(sample: Path, tmp_path: Path, spoil, message: str) -> None:
    folder = tmp_path / "labelled"
    shutil.copytree(sample / "labelled" / "digit", folder)
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        find_labelled(folder)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="x.jpg cannot be read as an image"):
        load_pixels((tmp_path / "x.jpg",), side_px=8)


def test_evaluations_and_report_as_commands(run: Run, trained: Path, sample: Path, shards: Path, tmp_path: Path) -> None:
    results = []
    for task in ("linear-probe", "zero-shot"):
        output = tmp_path / f"{task}.json"
        result = run("lcl", "eval", task, "--checkpoint", trained, "--data", sample / "labelled" / "colour", "--output", output)
        assert result.returncode == 0, result.stderr
        record = json.loads(output.read_text())
        assert record["num_images"] == 20 and record["checkpoint"].endswith("step-000006")
        rows = {row["name"]: row for row in record["rows"]}
        assert {"random weights", "most frequent class"} < set(rows) and all(row["low"] <= row["accuracy"] <= row["high"] for row in rows.values())
        assert any(name.startswith("trained") and name in result.stdout for name in rows)
        results.append(output)
    (shards / "report.json").exists() or (shards / "report.json").write_text(json.dumps(REPORT))
    page = tmp_path / "index.html"
    result = run("lcl", "report", "--shards", shards, "--run", trained, "--results", *results, "--output", page, "--num-documents", 3)
    assert result.returncode == 0 and str(page) in result.stdout, result.stderr
    text = page.read_text()
    assert text.count("<figure>") >= 3 and "linear probe" in text and "data:image/svg+xml" in text and "no images" in text
    assert "src=\"http" not in text and "<script" not in text, "the page fetches and runs nothing"


REPORT = {
    "schema": "lcl-shard/1", "crawls": {"in": 1, "out": 1, "failed": {}}, "records": {"page": 3}, "records_rejected": {},
    "documents": {"in": 3, "out": 2, "dropped": {"no_images": 1}}, "images": {"in": 2, "out": 2, "dropped": {}}, "shards": 1,
}  # fmt: skip


def test_page_text_is_shown_as_text(tmp_path: Path) -> None:
    from lcl.core.document import CrawlOrigin, Document, TextSegment
    from lcl.core.shards import write_shard
    from lcl.report import ReportConfig, main

    document = Document(
        key="0" * 32, segments=(TextSegment("<script>alert(1)</script> {{ 7 * 7 }}"),), page_url="javascript:alert(1)", crawl=CrawlOrigin(file="f", offset=0, date="")
    )
    write_shard(tmp_path, "a", [document], origin={})
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    main(ReportConfig(shards=str(tmp_path), output=str(tmp_path / "index.html")))
    text = (tmp_path / "index.html").read_text()
    assert "&lt;script&gt;alert(1)" in text and "<script" not in text and "{{ 7 * 7 }}" in text
    assert 'href="javascript' not in text


def test_a_report_of_something_else_is_one_line(run: Run, shards: Path, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    (shards / "report.json").exists() or (shards / "report.json").write_text(json.dumps(REPORT))
    result = run("lcl", "report", "--shards", shards, "--results", tmp_path / "x.json", "--output", tmp_path / "index.html")
    assert_one_line_error(result, "x.json is no result of an evaluation")


def test_a_missing_checkpoint_is_one_line(run: Run, tmp_path: Path, sample: Path) -> None:
    result = run("lcl", "eval", "zero-shot", "--checkpoint", tmp_path / "nothing", "--data", sample / "labelled" / "colour", "--output", tmp_path / "x.json")
    assert_one_line_error(result, "nothing: no such run or checkpoint folder")
