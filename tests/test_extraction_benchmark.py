"""The scores by hand, the benchmark on a toy set, and what the extraction reaches on labelled pages."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from lcl.core.files import write_json
from tests.conftest import ROOT, Run, assert_one_line_error

RESULT = ROOT / "docs" / "benchmarks" / "extraction.json"
TOLERANCE = 0.005


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import extraction_scores

    return extraction_scores


def test_shingles_of_a_text_by_hand(scores: Any) -> None:
    assert scores.compare_texts("a b c d e", "a b c d e") == (1, 0, 0)
    assert scores.compare_texts("a b c d e", "a b c d x") == pytest.approx((1 / 3, 1 / 3, 1 / 3))  # abcd | abcx... : one right, one wrong, one missing
    assert scores.compare_texts("a b c d", "a b c d a b c d") == pytest.approx((1 / 5, 4 / 5, 0))  # abcd twice, bcda cdab dabc once: counted, not a set
    assert scores.compare_texts("a b", "a b") == (1, 0, 0) and scores.compare_texts("a b", "A b") == (0, 0.5, 0.5)  # short texts are one shingle; case counts
    assert scores.compare_texts("", "") == (0, 0, 0) and scores.compare_texts("", "a, b!") == (0, 1, 0)


def test_scores_are_means_over_pages_for_texts_and_sums_for_images(scores: Any) -> None:
    pages = [scores.Counts(0.5, 0.5, 0), scores.Counts(0.5, 0, 0.5), scores.Counts(0, 0, 1)]
    score = scores.score_texts(pages)
    assert (score.precision, score.recall) == (pytest.approx((0.5 + 1) / 2), pytest.approx((1 + 0.5 + 0) / 3))  # nothing found: no precision
    assert score.f1 == pytest.approx(2 * 0.75 * 0.5 / 1.25)
    score = scores.score_images([scores.Counts(9, 1, 0), scores.Counts(0, 0, 3)])
    assert (score.precision, score.recall) == (0.9, 0.75) and scores.score_images([scores.Counts(0, 0, 0)]).f1 == 0


@pytest.mark.parametrize(
    ("true", "found", "counts"),
    [
        (["http://a/x/1.jpg"], [("http://b/1.jpg?w=7",)], (1, 0, 0)),
        (["http://a/1.jpg"], [("http://a/big.jpg", "http://a/1.jpg")], (1, 0, 0)),
        (["http://a/1.jpg", "http://b/1.jpg"], [("http://a/1.jpg",), ("http://a/1.jpg",)], (1, 0, 0)),
        (["http://a/1.jpg", "http://a/2.jpg"], [("http://a/3.jpg", "http://a/4.jpg")], (0, 1, 2)),
        (["data:image/gif;base64,xx/1.jpg"], [("data:image/gif;base64,xx/1.jpg",)], (0, 0, 0)),
        ([], [("http://a/1.jpg",), ("http://b/1.jpg",)], (0, 1, 0)),
    ],
)
def test_images_are_matched_by_name_of_any_candidate(scores: Any, true: list[str], found: list[tuple[str, ...]], counts: tuple[int, int, int]) -> None:
    assert scores.compare_images(true, found) == counts


def write_toy(folder: Path) -> list[object]:
    text = "A paragraph of a page, which is long enough, as it goes on and on, to be what a reader came for. " * 3
    html = f"<nav><img src=logo.png>Home</nav><article><p>{text}</p><img src=one.jpg><p>{text}</p></article>"
    for path, content in {"articles/html/k.html.gz": html, "pages/p/source.html.gz": html, "pages/p/expected.html.gz": "<img src='http://fakehost/test/one.jpg'>"}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(gzip.compress(html.encode() if content is html else content.encode()))
    write_json(folder / "articles" / "ground-truth.json", {"k": {"articleBody": text + text, "url": "http://site.example/"}})
    return ["--articles", folder / "articles", "--pages", folder / "pages", "--output", folder / "out.json", "--rounds", 1]


def test_the_benchmark_on_a_toy_set(run: Run, tmp_path: Path) -> None:
    result = run("python", "benchmarks/extraction.py", *write_toy(tmp_path), "--peers", "ours", "whole page", "resiliparse")
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "out.json").read_text())
    found = record["measured"]["extractors"]
    assert found["ours"]["text"]["f1"] == found["ours"]["image"]["f1"] == 1 and found["whole page"]["image"] == {"f1": 0.6667, "precision": 0.5, "recall": 1}
    assert all(one["documents_per_second"] > 0 for one in found.values()) and record["measured"]["packages"]["resiliparse"]
    assert "| ours | 1.000 | 1.000 | 1.000 | 1.000 |" in result.stdout


def test_mistakes_are_one_line(run: Run, tmp_path: Path) -> None:
    options = write_toy(tmp_path)
    assert_one_line_error(run("python", "benchmarks/extraction.py", *options, "--peers", "nobody"), "--peers nobody", "trafilatura")
    assert_one_line_error(run("python", "benchmarks/extraction.py", *options, "--articles", tmp_path), "no ground-truth.json")
    assert_one_line_error(run("python", "benchmarks/extraction.py", *options, "--pages", tmp_path / "articles"), "no */expected.html.gz")


def test_the_recorded_scores_still_hold(run: Run, shared: Path, tmp_path: Path) -> None:
    """A change of the rules that moves a score by more than the tolerance, up or down, has to record it anew."""
    folder = shared / "data" / "extraction"
    if not folder.is_dir():
        pytest.skip(f"needs {folder.relative_to(shared.parent)} beside the checkout")
    options = ["--articles", folder / "articles", "--pages", folder / "pages-with-images", "--output", tmp_path / "out.json", "--rounds", 1, "--peers", "ours"]
    result = run("python", "benchmarks/extraction.py", *options)
    assert result.returncode == 0, result.stderr
    now, recorded = (json.loads(path.read_text())["measured"]["extractors"]["ours"] for path in (tmp_path / "out.json", RESULT))
    for kind, target in (("text", 0.93), ("image", 0.80)):
        assert now[kind]["f1"] == pytest.approx(recorded[kind]["f1"], abs=TOLERANCE) and now[kind]["f1"] >= target


def test_the_page_shows_what_was_recorded() -> None:
    page = (ROOT / "docs" / "extraction.md").read_text()
    for name, found in json.loads(RESULT.read_text())["measured"]["extractors"].items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {name} |")]
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        wanted = [f"{found[kind][key]:.3f}" if found[kind]["f1"] else "" for kind in ("text", "image") for key in ("f1", "precision", "recall")]
        assert cells[1:] == [*wanted, f"{found['documents_per_second']:.0f}"]
