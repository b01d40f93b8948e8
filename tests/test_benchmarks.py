"""The benchmarks at toy size: they run, their numbers keep the laws that hold at any size, and the page says what the results hold."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lcl.core.tokenizer import Tokenizer, TokenizerConfig
from lcl.loader import DataConfig, RowLoader, RowSource
from lcl.train_config import PRESETS
from tests.conftest import ROOT, Run, assert_one_line_error

RESULTS = ROOT / "docs" / "benchmarks"
TOY_DOCUMENTS = ["--documents.text-tokens", "40", "--documents.images", "1", "2"]


def measured(path: Path) -> dict[str, Any]:
    """The numbers of a result, which also says how it was made."""
    record = json.loads(path.read_text())
    assert record["commit"] and record["machine"]["cores"] >= 1 and record["versions"]["torch"] and record["command"].startswith(record["benchmark"])
    return record["measured"]


def test_packing(run: Run, tmp_path: Path) -> None:
    options = ["--model", "toy", "--rounds", 3, "--rows", 2, "--fill-documents", 300, "--windows", 1, 8, "--lanes", 1, 4, *TOY_DOCUMENTS]
    result = run("python", "benchmarks/packing.py", "--output", tmp_path / "packing.json", *options)
    assert result.returncode == 0, result.stderr
    found = measured(tmp_path / "packing.json")
    timed = found["throughput"]
    assert len(timed["rounds"]) == 3 and timed["documents"] > 6
    assert timed["nats_apart"] < 1e-5, "packed and padded rows did not hold the same documents"
    assert sum(one["documents"] for one in timed["rounds"]) == timed["documents"]
    for one in timed["rounds"]:
        assert one["bound"] > 1 and one["packed_fill"] > one["padded_fill"] and one["ratio"] > 0
        assert one["packed_fill"] / one["padded_fill"] == pytest.approx(one["documents"] / 2)  # rows of one length, two of them packed
    fill = found["fill"]
    for lanes in (1, 4):
        one_by_one, chosen = (one["fill"] for one in fill["packed"] if one["lanes"] == lanes)
        assert fill["padded"] < one_by_one < chosen <= 1, "a window to choose from must fill rows better"
    assert all(one["documents"] >= 300 for one in fill["packed"]) and fill["target"] == 0.95

    assert run("python", "benchmarks/plots.py", "--results", tmp_path).returncode == 0
    drawn = {path.name: path.read_bytes() for path in tmp_path.glob("*.svg")}
    assert set(drawn) == {"packing.svg", "packing_fill.svg"}
    assert run("python", "benchmarks/plots.py", "--results", tmp_path).returncode == 0
    assert drawn == {path.name: path.read_bytes() for path in tmp_path.glob("*.svg")}, "the same numbers must give the same picture"


def test_growth(run: Run, tmp_path: Path) -> None:
    options = ["--model", "toy", "--parts", "row_length", "documents", "contrastive", "--rounds", 1, "--negatives", 64, "--plain-up-to", 1]
    options += ["--row-lengths", 64, 128, "--document-tokens", 64, "--row-length", 128, "--documents", 1, 2]
    result = run("python", "benchmarks/growth.py", "--output", tmp_path / "growth.json", *options)
    assert result.returncode == 0, result.stderr
    found = measured(tmp_path / "growth.json")
    assert [(one["row_length"], one["document_tokens"]) for one in found["row_length"]] == [(64, 64), (128, 64), (128, 128)]
    assert all(one["documents"] * one["document_tokens"] == one["row_length"] and one["seconds"] > 0 for one in found["row_length"] + found["documents"])
    assert {one["images"] for one in found["documents"]} == {2}, "the row must hold the same images, however many documents share it"
    short, long = (one["flops"] for one in found["row_length"] if one["row_length"] == 128)
    assert short < long
    (one,) = found["contrastive"]
    assert one["images"] == 64 and one["seconds"] > 0 and one["similarities_bytes"] == 4 * 64**2

    assert run("python", "benchmarks/plots.py", "--results", tmp_path).returncode == 0
    names = {path.name for path in tmp_path.glob("*.svg")}
    assert names >= {"growth_row_length.svg", "growth_documents.svg", "growth_contrastive_seconds.svg"}


def test_documents_have_the_lengths_that_were_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from synthetic_documents import DocumentsConfig, write_documents

    toy = PRESETS["toy"]
    tokenizer = Tokenizer(TokenizerConfig(num_merges=500))
    arguments = {"num_documents": 12, "row_length": toy.row_length, "slots": toy.model.most_slots, "tokenizer": tokenizer}
    settings = DocumentsConfig(text_tokens=30, sigma=0.0, images=(2,))
    write_documents(tmp_path / "a", settings, **arguments)
    write_documents(tmp_path / "b", settings, **arguments, threads=3)
    source = RowSource(DataConfig(shards=(str(tmp_path / "a"),), num_lanes=1), toy.model, toy.row_length, 0, tokenizer=tokenizer)
    rows = RowLoader(source, rank=0, world_size=1, batch_rows=1).take(4)
    pieces = [piece for row in rows for piece in row.pieces]
    assert len(pieces) >= 4 and {(len(piece), len(piece.images)) for piece in pieces} == {(30 + 2 + 2 * (16 + 2), 2)}
    assert all((tmp_path / "a" / path.name).read_bytes() == path.read_bytes() for path in (tmp_path / "b").iterdir())
    with pytest.raises(ValueError, match="cannot hold 11 images of 16 places; lower --documents.images"):
        write_documents(tmp_path / "c", DocumentsConfig(images=(3, 11)), **arguments)


def test_a_table_continues_with_what_is_left(run: Run, tmp_path: Path) -> None:
    command = ["python", "benchmarks/gpu.py", "--output", tmp_path / "gpu", "--toy", "True", "--jobs", "shards"]
    first = run(*command)
    assert first.returncode == 0 and "nothing is left" in first.stderr, first.stderr
    assert measured(tmp_path / "gpu" / "shards.json")["documents"] == 40
    made = (tmp_path / "gpu" / "shards.json").stat().st_mtime_ns
    out_of_time = run(*command, "gradients", "--seconds", "1")
    assert out_of_time.returncode == 0 and "left: gradients" in out_of_time.stderr, out_of_time.stderr
    assert (tmp_path / "gpu" / "shards.json").stat().st_mtime_ns == made and not (tmp_path / "gpu" / "gradients.json").exists()


def test_building_stays_within_its_memory(run: Run, tmp_path: Path) -> None:
    options = ["--parts", "memory", "--large-bytes", 20_000_000, "--bomb-bytes", 300_000_000, "--bomb-records", 20_000]
    result = run("python", "benchmarks/building.py", "--output", tmp_path / "building.json", *options)
    assert result.returncode == 0, result.stderr
    found = measured(tmp_path / "building.json")["memory"]
    assert all(one["peak_mib"] < 1024 for one in found.values()) and found["large crawl"]["report"]["documents"]["out"] == 9
    assert found["bomb of one record"]["report"]["records_rejected"] == {"body_too_large": 2}


def test_mistakes_are_one_line(run: Run, tmp_path: Path) -> None:
    assert_one_line_error(run("python", "benchmarks/gpu.py", "--output", tmp_path, CUDA_VISIBLE_DEVICES=""), "no CUDA GPU", "--toy")
    assert_one_line_error(run("python", "benchmarks/gpu.py", "--output", tmp_path, "--toy", "True", "--jobs", "attentoin"), "attentoin", "attention")
    assert_one_line_error(run("python", "benchmarks/gpu.py", "--output", tmp_path, "--toy", "True", "--crawl", "a.warc.gz"), "--labelled, --photographs, --unseen: the flagship chain needs")
    assert_one_line_error(run("python", "benchmarks/packing.py", "--output", tmp_path / "a.json", "--model", "toi"), "toi", "lcl_vit_b32_mmc4")


def test_the_page_says_what_the_results_hold() -> None:
    page = " ".join((ROOT / "docs" / "benchmarks.md").read_text().split())
    shown = set(re.findall(r"\(benchmarks/(\w+\.svg)\)", page))
    assert shown == {path.name for path in RESULTS.glob("*.svg")} and len(shown) == 6
    for name in ("packing_3_to_6", "packing_3"):
        timed = measured(RESULTS / f"{name}.json")["throughput"]
        low, high = 100 * timed["ratio_of_bound_lowest"], 100 * timed["ratio_of_bound_highest"]
        assert (
            f"| {timed['documents']} in {len(timed['rounds'])} rounds | {100 * timed['packed_fill']:.1f} % | {100 * timed['padded_fill']:.1f} % | **{timed['ratio']:.2f}** "
            f"| {timed['bound']:.2f} | **{100 * timed['ratio_of_bound']:.0f} %** ({low:.0f} to {high:.0f}) |"
        ) in page
        assert timed["nats_apart"] < 1e-5 and timed["target_of_bound"] == 0.9
    fill = measured(RESULTS / "packing_window.json")["fill"]
    for lanes in (1, 64):
        cells = " | ".join(f"{100 * one['fill']:.1f} %" for one in fill["packed"] if one["lanes"] == lanes)
        assert f"| {lanes} | {cells} |" in page
    bounds = [next(one["bound"] for one in measured(RESULTS / f"{name}.json")["fill"]["packed"] if one["window"] == 32) for name in ("packing_window", "packing_window_3")]
    assert f"arithmetic allows **{bounds[0]:.2f}** (3 to 6 images) and **{bounds[1]:.2f}** (3)" in page
    growth = measured(RESULTS / "growth.json")
    seconds = {(one["row_length"], one["document_tokens"]): one["seconds"] for one in growth["row_length"]}
    short, long = (seconds[4096, tokens] / seconds[256, min(256, tokens)] for tokens in (128, 4096))
    assert f"takes {short:.1f} times as long with documents of 128 tokens and {long:.1f} times with one" in page
    chosen = [one for one in growth["contrastive"] if not one["plain"] and one["images"] != 2048]
    for unit, cells in (("seconds", [f"{one['seconds']:.3g}" for one in chosen]), ("MB", [f"{one['extra_bytes'] / 1e6:,.0f}" for one in chosen])):
        assert f"| {unit} | {' | '.join(cells)} |" in page
    building = measured(RESULTS / "building.json")
    seconds = [min(building["workers"]["seconds"][kind]) for kind in ("here", "ray-1", "ray-2")]
    assert f"| seconds | {' | '.join(f'{one:.1f}' for one in seconds)} |" in page
    assert f"Ray costs {100 * (seconds[1] / seconds[0] - 1):.1f} % (target: at most 10); two workers reach {50 * seconds[1] / seconds[2]:.0f} % of twice" in page
    for one in building["soak"]:
        assert f"| {one['files']} | {one['documents']:,} | {one['ms_per_document']:.1f} | {one['driver_mib']:.0f} MiB |" in page
    for name, one in building["memory"].items():
        assert re.search(rf"\| {name} \| [\d,]+ [kM]B \| {one['peak_mib']:.0f} MiB \| {one['seconds']:.1f} s \|", page) and one["peak_mib"] < 1024
    for number, one in measured(RESULTS / "splits.json")["splits"]["builds"].items():
        assert f"| {int(number):,} | {one['built']['ms_per_split']:.1f} | {one['continued']['ms_per_split']:.1f} | {one['built']['peak_mib']:,.0f} MiB |" in page
    for name in ("loading_photos512", "loading_photos768", "loading_web"):
        loading = measured(RESULTS / f"{name}.json")
        assert f"| {loading['images_per_second']:.0f} | {100 * loading['cpu_ratio']:.0f} % |" in page


@pytest.mark.slow
def test_the_whole_table_and_ranks(run: Run, tmp_path: Path) -> None:
    result = run("python", "benchmarks/gpu.py", "--output", tmp_path / "gpu", "--toy", "True", "--seconds", 900, timeout=900)
    assert result.returncode == 0 and "nothing is left" in result.stderr, result.stderr
    found = {path.stem: measured(path) for path in (tmp_path / "gpu").glob("*.json")}
    assert len(found) == 12
    assert found["gradients"]["fp32_error"] < 1e-5 and 1e-4 < found["gradients"]["bf16_error"] < 0.1
    assert found["attention"]["largest_fp32"] < 1e-5 and found["attention"]["largest_bf16"] < 0.02
    assert sum(found["profile"]["shares"].values()) == pytest.approx(1) and 0 < found["throughput_toy_2_of_4"]["data_wait"] < 1
    assert found["training"]["last_text_nats"] < found["training"]["first_text_nats"]

    sizes = ["--model", "toy", "--parts", "ranks", "--rounds", 1, "--steps", 6]
    result = run("python", "benchmarks/growth.py", "--output", tmp_path / "growth.json", *sizes)
    assert result.returncode == 0, result.stderr
    rates = measured(tmp_path / "growth.json")["ranks"]["rates"]
    assert [one["ranks"] for one in rates] == [1, 2] and all(one["tokens_per_second"] > 0 for one in rates)
