"""Statistics: sums equal the shards', memory is bounded, and hostile names stay text."""

import io
import json
import os
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet as pq

from lcl.core.files import read_json, write_json
from pipeline.tools.charts import Chart, draw_chart
from pipeline.tools.make_stats import StatsConfig, main
from pipeline.tools.removal import RemoveConfig, remove_documents
from pipeline.tools.selecting import SelectConfig, select_documents
from pipeline.tools.shard_stats import Histogram, gather_stats
from pipeline.tools.tally import Tally
from tests.conftest import Run, assert_one_line_error
from tests.made_shards import made_document, made_set

DOCUMENTS = [made_document(number) for number in range(30)]
HOSTILE = "https://$\\frac<script>alert(1)</script>.example/"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = made_set(tmp_path_factory.mktemp("set") / "shards", DOCUMENTS)
    dropped = {"no_images": 5}
    report = {kind: {"in": count + 5, "out": count, "dropped": dropped} for kind, count in (("documents", 30), ("images", 30))}
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def test_the_numbers_are_those_of_the_documents(folder: Path) -> None:
    stats = gather_stats([folder])
    assert stats["counts"]["documents"] == 30 and stats["counts"]["images"] == sum(len(item.images) for item in DOCUMENTS)
    assert stats["counts"]["characters"] == sum(len(text) for item in DOCUMENTS for text in item.texts)
    histograms = stats["histograms"]
    assert {int(low): count for low, _, count in histograms["images_per_document"]["bins"]} == Counter(len(item.images) for item in DOCUMENTS)
    assert histograms["words_per_document"]["mean"] == sum(item.scores["words"] for item in DOCUMENTS) / 30
    assert histograms["score.language_rank"]["values"] == sum("language_rank" in item.scores for item in DOCUMENTS)
    assert histograms["shorter_side_px"]["bins"] == [[0.0, 64.0, 30]] and histograms["aspect"]["mean"] == 1.5
    assert dict(stats["tallies"]["domains"]["top"]) == Counter(item.domain for item in DOCUMENTS)
    assert dict(stats["tallies"]["licenses"]["top"]) == {"none named": 24, "cc-by-4.0": 6}
    assert dict(stats["tallies"]["languages"]["top"]) == {"en": 10, "de": 10, "unknown": 10}


def test_an_early_catalogue_says_less(folder: Path, tmp_path: Path) -> None:
    early = made_set(tmp_path, DOCUMENTS)
    for path in early.glob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["license", "image_url", "image_source_sha256", "image_width", "image_height"]), path)
        sidecar = read_json(path.with_suffix(".json"))
        sidecar["bytes"][".parquet"] = path.stat().st_size
        write_json(path.with_suffix(".json"), sidecar)
    stats, full = gather_stats([early]), gather_stats([folder])
    assert stats["tallies"]["licenses"]["top"] == [["not recorded", 30]]
    assert set(full["histograms"]) - set(stats["histograms"]) == {"shorter_side_px", "aspect"}
    assert {name: full["histograms"][name] for name in stats["histograms"]} == stats["histograms"]


def test_of_a_selection_and_after_a_removal(folder: Path, tmp_path: Path) -> None:
    select_documents(SelectConfig(shards=(str(folder),), where="num_images == 2", output=str(tmp_path / "picked")))
    assert gather_stats([tmp_path / "picked"])["counts"] == {"shards": 5, "documents": 10, "images": 20, "characters": 770, "bytes_of_whole_shards": 0} | {
        "characters": sum(len(text) for item in DOCUMENTS if len(item.images) == 2 for text in item.texts)
    }
    changed = made_set(tmp_path / "shards", DOCUMENTS)
    (changed / "report.json").write_text((folder / "report.json").read_text())
    (tmp_path / "list").write_text("d1.example\n")
    remove_documents(RemoveConfig(shards=(str(changed),), domains=str(tmp_path / "list")))
    assert gather_stats([changed])["funnel"]["documents"] == {"in": 35, "out": 22, "dropped": {"no_images": 5, "removed": 8}}


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=50), st.lists(st.integers(-50, 50), min_size=1, max_size=8, unique=True))
def test_each_value_falls_into_one_bin(values: list[float], edges: list[int]) -> None:
    edges = sorted(edges)
    histogram = Histogram("x", tuple(map(float, edges)))
    for start in range(0, len(values), 7):
        histogram.add(np.array(values[start : start + 7]))
    expected = Counter(max([number for number, edge in enumerate(edges) if edge <= value], default=0) for value in values)
    assert histogram.counts.tolist() == [expected[number] for number in range(len(edges))]


@given(st.lists(st.lists(st.sampled_from("abcdefghij"), max_size=30), max_size=12), st.integers(1, 6))
def test_a_tally_undercounts_by_what_it_says(batches: list[list[str]], capacity: int) -> None:
    tally = Tally(capacity)
    for batch in batches:
        tally.add(batch)
        assert len(tally.counts) <= 2 * capacity
    exact = Counter(name for batch in batches for name in batch)
    for name, count in exact.items():
        assert count - tally.undercount <= tally.counts[name] <= count
    assert tally.total == exact.total() and tally.undercount * (capacity + 1) <= tally.total


def tags_of(html: str) -> list[tuple[str, dict[str, str | None]]]:
    found = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list) -> None:
            found.append((tag, dict(attributes)))

    Parser().feed(html)
    return found


def test_pages_and_pictures_hold_hostile_names_as_text(tmp_path: Path) -> None:
    documents = [made_document(1, url=HOSTILE), made_document(2, url="https://x.example/"), made_document(4, url="https://" + "a" * 5000 + ".example/")]
    object.__setattr__(documents[1], "scores", {"<img src=x onerror=alert(1)>": 0.5, "../../escape": 1.0})
    main(StatsConfig(shards=(str(made_set(tmp_path / "shards", documents)),), output=str(tmp_path / "stats")))
    page = (tmp_path / "stats" / "index.html").read_text()
    tags = tags_of(page)
    assert not {"script", "img", "iframe", "object", "link"} & {tag for tag, _ in tags}
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert "default-src 'none'" in page and "&lt;script&gt;" in page
    assert {path.suffix for path in (tmp_path / "stats").iterdir()} == {".json", ".html", ".svg", ".png"}
    for path in (tmp_path / "stats").glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_the_text_of_pictures_stays_text_and_the_bytes_are_the_same() -> None:
    chart = Chart("a title", ["$x^2$ & <b>", "bell \x07 null \x00"], [3, 4], sideways=True)
    svg, png = draw_chart(chart)
    assert (svg, png) == draw_chart(chart)
    texts = " ".join(ElementTree.fromstring(svg).itertext())
    assert "a title" in texts and "$x^2$ & <b>" in texts and "\x07" not in texts
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG" and min(image.size) > 100


def test_as_a_command(run: Run, folder: Path, tmp_path: Path) -> None:
    command = ("python", "-m", "lcl.cli", "stats", "--shards", folder, "--output", tmp_path / "stats")
    first = run(*command)
    assert first.returncode == 0 and "30 documents with 30 images" in first.stdout, first.stderr
    before = {path.name: path.read_bytes() for path in (tmp_path / "stats").iterdir()}
    assert run(*command).returncode == 0
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "stats").iterdir()}
    assert json.loads(before["stats.json"])["schema"] == "lcl-stats/1"
    os.mkdir(tmp_path / "mine")
    (tmp_path / "mine" / "notes").write_text("x")
    assert_one_line_error(run(*command[:-1], tmp_path / "mine"), "holds something else than statistics")
