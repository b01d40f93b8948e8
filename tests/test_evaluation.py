"""Zero-shot by hand; evaluations of a trained model as commands; the report page."""

import json
from pathlib import Path

import pytest
import torch

from lcl.evals.compare import read_comparison
from lcl.evals.image_sets import open_image_set
from lcl.evals.zero_shot import class_weights, classify, text_features
from tests.conftest import Run, assert_one_line_error


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
    images = open_image_set(sample / "labelled" / "digit")
    assert len(images.classes) == 10 and images.classes[0] == "zero" and len(images.split("train")) == 40 and len(images.split("test")) == 20
    assert all("{}" in template for template in images.templates)


def test_evaluations_and_report_as_commands(run: Run, trained: Path, sample: Path, shards: Path, tmp_path: Path) -> None:
    results = []
    for task in ("linear-probe", "zero-shot"):
        output = tmp_path / f"{task}.json"
        result = run("lcl", "eval", task, "--checkpoint", trained, "--data", sample / "labelled" / "colour", "--output", output)
        assert result.returncode == 0, result.stderr
        record = json.loads(output.read_text())
        assert record["dataset"]["splits"]["test"] == 20 and record["model"]["path"].endswith("step-000006") and record["model"]["step"] == 6
        rows = {row["model"]: row for row in record["rows"] if row["metric"] == "accuracy"}
        assert {"trained encoder", "random weights", "most frequent class"} < set(rows) and all(row["low"] <= row["value"] <= row["high"] for row in rows.values())
        assert "trained encoder" in result.stdout
        results.append(output)
    (shards / "report.json").exists() or (shards / "report.json").write_text(json.dumps(REPORT))
    difference = tmp_path / "difference.json"
    assert run("lcl", "eval", "compare", results[0], results[0], "--output", difference).returncode == 0
    results[0].with_name("linear-probe.scenes.png").write_bytes(b"a picture of scenes")
    page = tmp_path / "index.html"
    result = run("lcl", "report", "--shards", shards, "--run", trained, "--results", *results, "--comparisons", difference, "--output", page, "--num-documents", 3)
    assert result.returncode == 0 and str(page) in result.stdout, result.stderr
    text = page.read_text()
    assert text.count("<figure>") >= 3 and "linear probe" in text and "data:image/svg+xml" in text and "no images" in text
    assert text.count("data:image/png;base64,YSBwaWN0dXJlIG9mIHNjZW5lcw==") == 1
    assert text.count("<h2>Two encoders on the same images</h2>") == 1 and "+0.0 to +0.0" in text
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
    for content, message in (("[]", "x.json is no comparison"), (None, "x.json: no such comparison")):
        (tmp_path / "x.json").unlink() if content is None else (tmp_path / "x.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            read_comparison(tmp_path / "x.json")


def test_a_missing_checkpoint_is_one_line(run: Run, tmp_path: Path, sample: Path) -> None:
    result = run("lcl", "eval", "zero-shot", "--checkpoint", tmp_path / "nothing", "--data", sample / "labelled" / "colour", "--output", tmp_path / "x.json")
    assert_one_line_error(result, "nothing: no such run or checkpoint folder")
