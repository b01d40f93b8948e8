"""Pilots: samples lie in the whole, a sample of all predicts exactly, intervals hold what they should, nothing is left behind."""

import random
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lcl.core.config import from_dict, to_dict
from lcl.core.files import read_json
from lcl.core.mirror import Mirror
from pipeline.build_config import BuildConfig
from pipeline.planning.pilot_config import PilotConfig, whole_build
from pipeline.planning.plan import describe
from pipeline.planning.ratio import Sample
from pipeline.planning.run_pilot import run_pilot, table_lines
from pipeline.run_splits import build_shards
from pipeline.sample import page_in_sample, parse_fraction
from tests.builds import build_here
from tests.conftest import Run, assert_one_line_error
from tests.crawls import Capture, html, jpeg, write_warc


@pytest.fixture(scope="module")
def crawls(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four files of 30 pages, most with images that lie in the next file; every tenth page is not found."""
    folder = tmp_path_factory.mktemp("crawls")
    found = []
    for number in range(4):
        images = "".join(f"<img src='https://s{(number + 1) % 4}.example/{image}.jpg'>" for image in range(2))
        pages = [
            Capture(f"https://s{number}.example/{page}", html(f"<p>{_words(100 * number + page)}</p>{images}"), status="404 Not Found" if page % 10 == 9 else "200 OK")
            for page in range(30)
        ]
        found.append(write_warc(folder / f"site-{number}.warc.gz", [*pages, *(Capture(f"https://s{number}.example/{image}.jpg", jpeg((40 * number, 90 * image, 7)), "image/jpeg") for image in range(2))]))
    return found


def _words(seed: int) -> str:
    chance = random.Random(seed)
    return " ".join("".join(chance.choices("abcdefgh", k=5)) for _ in range(40))


def pilot_of(crawls: list[Path], output: Path, **options: object) -> PilotConfig:
    values = to_dict(PilotConfig(crawl=tuple(map(str, crawls)), output=str(output), executor="here", max_failed_crawls=0.0))
    values["dedup"]["near"]["on"], values["dedup"]["max_image_url_documents"] = False, 0
    return from_dict(PilotConfig, values | options, origin="test")


def without_clocks(record: dict) -> dict:
    """A pilot's record without what depends on the machine."""
    kept = {name: value for name, value in record["predictions"].items() if not name.startswith(("core_hours", "wall_seconds", "storage_bytes.duplicates", "storage_bytes.in_all"))}
    return {name: record[name] for name in ("sample", "sample_of", "sampled_documents", "duplicates")} | kept


def test_samples_are_nested_and_lie_in_the_whole_extraction(crawls: list[Path], tmp_path: Path) -> None:
    keys = {}
    for sample in (0.2, 0.5, 1.0):
        build_here(crawls, tmp_path / str(sample), sample=sample, dedup__max_image_url_documents=0)
        rows = [pq.read_table(path, columns=["key", "text"]).to_pylist() for path in sorted((tmp_path / str(sample) / "work" / "extracted").glob("*.parquet"))]
        keys[sample] = {(row["key"], row["text"]) for split in rows for row in split}
    assert keys[0.2] < keys[0.5] < keys[1.0] and len(keys[1.0]) == 108
    report = read_json(tmp_path / "0.5" / "report.json")
    assert report["documents"]["in"] == report["documents"]["out"] + sum(report["documents"]["dropped"].values()) < 120
    assert report["records"]["page"] == 120, "pages outside the sample are counted as records"
    assert report["images"]["out"] == report["images"]["in"] > 0, "images are looked up in all files"


def test_a_sample_takes_its_share_and_all_captures_of_an_address() -> None:
    urls = [f"https://a.example/{number}" for number in range(20_000)]
    share = np.mean([page_in_sample(url, file="a", offset=0, fraction=0.1) for url in urls])
    assert abs(share - 0.1) < 4 * np.sqrt(0.09 / len(urls))
    assert all(page_in_sample(url, file="a", offset=1, fraction=0.3) == page_in_sample(f"{url}#part", file="b", offset=9, fraction=0.3) for url in urls[:500])
    alone = [page_in_sample("", file="a", offset=number, fraction=0.5) for number in range(100)]
    assert 0 < sum(alone) < 100, "pages without an address go by their place"


@pytest.mark.parametrize(("text", "value"), [("0.1%", 0.001), ("100%", 1.0), ("0.25", 0.25)])
def test_fractions_are_written_as_numbers_or_percent(text: str, value: float) -> None:
    assert parse_fraction(text) == pytest.approx(value)
    with pytest.raises(ValueError, match="'x%' is no fraction"):
        parse_fraction("x%")


def test_a_pilot_of_everything_predicts_exactly(crawls: list[Path], tmp_path: Path) -> None:
    config = pilot_of(crawls, tmp_path / "whole")
    build_shards(whole_build(config))
    record = run_pilot(replace(config, output=str(tmp_path / "again"), sample=1.0, compare=str(tmp_path / "whole")))
    compared = {name: found for name, found in record["compared"].items() if not name.startswith(("core_hours", "wall_seconds", "storage_bytes.duplicates", "storage_bytes.in_all", "storage_bytes.index"))}
    assert {found["error"] for found in compared.values()} <= {0.0, None} and len(compared) >= 7
    assert compared["documents_out"]["actual"] == 108 and record["predictions"]["documents_out"] == {"value": 108, "low": 108, "high": 108}


@pytest.mark.parametrize("sample_of", ["pages", "files"])
def test_pilots_are_repeatable_and_leave_one_file(sample_of: str, crawls: list[Path], tmp_path: Path) -> None:
    records = []
    for name in ("one", "two"):
        records.append(run_pilot(pilot_of(crawls, tmp_path / name / "shards", sample=0.5, sample_of=sample_of, core_hour_price=2.0, workers=3)))
        assert [path.name for path in (tmp_path / name).iterdir()] == ["shards.pilot.json"]
    assert without_clocks(records[0]) == without_clocks(records[1])
    assert records[0] == read_json(tmp_path / "one" / "shards.pilot.json")
    predicted, costs = records[0]["predictions"], records[0]["per_million_documents_out"]
    assert costs["core_cost"] == pytest.approx(2 * costs["core_hours"]) and records[0]["workers"] == 3
    documents = predicted["documents_out"]
    assert documents["low"] < documents["value"] < documents["high"] and documents["low"] <= 108 <= documents["high"]
    assert predicted["core_hours.extract"]["value"] > 0 and predicted["storage_bytes.shards"]["value"] > 0
    assert (records[0]["unseen_reason_at_most"] is None) == (sample_of == "files")
    text = "\n".join(table_lines(records[0]))
    assert "documents out" in text and ("in the sampled files only" in text) == (sample_of == "files")


def test_a_dry_run_tells_what_a_pilot_predicted(crawls: list[Path], tmp_path: Path) -> None:
    config = pilot_of(crawls, tmp_path / "shards", sample=0.5, mirror="memory://test_pilot/shards")
    assert "needed: not known" in describe(whole_build(config))
    run_pilot(config)
    assert not Mirror(config.mirror).sizes(), "a sample is not the build"
    assert "(95 %: " in describe(whole_build(config)) and "of other rules" not in describe(whole_build(config))
    assert "of other rules" in describe(replace(whole_build(config), shard_documents=7))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample": 1e-9}, "no page is in the sample: give a larger --sample"),
        ({"sample": 0.01, "sample_of": "files"}, "0 of 4 inputs are in the sample of files: .*--sample-of pages"),
        ({"compare": "nowhere"}, "--compare nowhere holds no finished build"),
        ({"until": "wanted"}, "--until wanted: a pilot predicts a whole build"),
    ],
)
def test_mistakes_of_a_pilot_leave_nothing(crawls: list[Path], tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_pilot(pilot_of(crawls, tmp_path / "shards", **options))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_pilot_is_not_removed(run: Run, crawls: list[Path], tmp_path: Path) -> None:
    mine = tmp_path / "shards.pilot" / "mine"
    mine.parent.mkdir()
    mine.touch()
    result = run(sys.executable, "pipeline/planning/pilot.py", "--crawl", *crawls, "--output", tmp_path / "shards", "--executor", "here", "--sample", "5%")
    assert_one_line_error(result, "is not empty and holds no shard build")
    assert mine.exists()


def test_every_option_of_a_build_is_one_of_a_pilot() -> None:
    assert {field.name for field in fields(BuildConfig)} < {field.name for field in fields(PilotConfig)}


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    values = generator.gamma(1.0, 10.0, size=2000) * (generator.random(2000) < 0.4)
    sizes = generator.uniform(1, 3, size=2000)
    hits = {"count": 0, "moments": 0, "files": 0}
    for _ in range(400):
        chosen = generator.permutation(2000)[:200]
        pages, files = Sample(sizes=200, total=2000), Sample(sizes=list(sizes[chosen]), total=float(sizes.sum()))
        count = pages.expand_count(int((values[chosen] > 0).sum()))
        moments = pages.expand_moments(float(values[chosen].sum()), float((values[chosen] ** 2).sum()))
        ratio = files.expand(list(values[chosen] * sizes[chosen]))
        hits["count"] += count.low <= (values > 0).sum() <= count.high
        hits["moments"] += moments.low <= values.sum() <= moments.high
        hits["files"] += ratio.low <= (values * sizes).sum() <= ratio.high
    assert all(0.90 <= number / 400 <= 0.99 for number in hits.values()), hits


def test_a_sample_of_all_units_has_no_error() -> None:
    assert Sample(sizes=3, total=3).expand_moments(6.0, 14.0).low == Sample(sizes=[1.0, 2.0], total=3.0).expand([5.0, 1.0]).high == 6.0
    assert Sample(sizes=10, total=1000).expand_count(0).high > 0, "none in the sample is not none in the whole"
