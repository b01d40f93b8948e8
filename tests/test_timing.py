"""What builds cost: ledgers that add up over interruptions, timing.json beside records that do not change, rates, and plans that write nothing."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lcl.core import logs
from lcl.core.files import read_json
from pipeline import meter
from pipeline.build_config import PRESETS, BuildConfig
from pipeline.meter import Ledger, Meter, Usage, read_note, storage_bytes
from pipeline.planning.plan import describe
from pipeline.timing import Phase, summary_lines
from tests.builds import build_here
from tests.conftest import ROOT, Run
from tests.crawls import Capture, html, jpeg, write_warc

KILLED = """
import os, time
from pathlib import Path
from pipeline.meter import Meter

for _ in Meter(Path({folder!r}), "a").over(range(5)):
    until = time.process_time() + 0.25
    while time.process_time() < until:
        pass
os.kill(os.getpid(), 9)
"""


def spin(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


@pytest.fixture
def crawl(tmp_path: Path) -> Path:
    pages = [Capture(f"https://a.example/{page}", html(f"<p>Page {page}.</p><img src='/i.jpg'>")) for page in range(5)]
    return write_warc(tmp_path / "a.warc.gz", [*pages, Capture("https://a.example/i.jpg", jpeg((1, 90, 200)), "image/jpeg")])


def test_usages_add_up_and_peaks_do_not() -> None:
    total = Usage(core_seconds=1.0, peak_memory_bytes=5) + Usage(core_seconds=2.0, peak_memory_bytes=3)
    assert total == Usage(core_seconds=3.0, peak_memory_bytes=5)


def test_a_meter_counts_documents_apart_from_what_gets_them(tmp_path: Path) -> None:
    def items():
        for number in range(3):
            spin(0.02)
            yield number

    for _ in range(2):  # the first document of a process is a warm-up
        with Meter(tmp_path / "kind", "a", total_documents=3) as used:
            for _ in used.over(items()):
                spin(0.03)
    record = read_json(tmp_path / "kind" / "a.json")
    assert record["attempts"] == 2 and record["lost_attempts"] == 0
    usage = record["usage"]
    assert usage["documents"] == 6 and 0.15 <= usage["document_core_seconds"] < 0.25 and usage["core_seconds"] >= usage["document_core_seconds"] + 0.12
    assert usage["core_seconds"] > 0.3 and usage["peak_memory_bytes"] > 1e7
    assert usage["wall_seconds"] > usage["core_seconds"] - 0.05  # two clocks, which disagree by a tick
    assert not list((tmp_path / "kind" / meter.RUNNING).iterdir())


def test_attempts_that_fail_or_are_killed_count_too(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Meter(tmp_path, "a"):
        spin(0.05)
        raise ZeroDivisionError
    assert subprocess.run([sys.executable, "-c", KILLED.format(folder=str(tmp_path))], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode == -9
    left = read_note(tmp_path / meter.RUNNING / "a.now")
    assert 0.5 < left.core_seconds < 1.3 and left.documents >= 3
    with Meter(tmp_path, "a"):
        spin(0.05)
    record = read_json(tmp_path / "a.json")
    assert record["attempts"] == 3 and record["lost_attempts"] == 2
    assert record["lost_core_seconds"] == pytest.approx(left.core_seconds + 0.05, abs=0.04)
    assert record["usage"]["core_seconds"] == pytest.approx(left.core_seconds + 0.1, abs=0.06)


def test_a_build_says_what_it_cost_and_its_records_do_not_know(crawl: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    build_here([crawl], one, core_hour_price=3.0)
    build_here([crawl], two)
    assert (one / "report.json").read_bytes() == (two / "report.json").read_bytes()
    timing = read_json(one / "timing.json")
    phases, total = timing["phases"], timing["total"]
    assert list(phases) == ["extract", "index", "duplicates", "assemble"]
    assert phases["extract"]["documents_in"] == 5 == phases["assemble"]["documents_out"] == total["documents_out"]
    assert phases["extract"]["bytes_read"] >= crawl.stat().st_size
    assert total["core_seconds"] == pytest.approx(sum(phase["core_seconds"] for phase in phases.values()))
    assert total["held_core_seconds"] == pytest.approx(total["wall_seconds"]), "one worker"
    million = timing["per_million_documents_out"]
    assert million["core_hours"] == pytest.approx(total["core_seconds"] / 3600 * 1e6 / 5) and million["core_cost"] == pytest.approx(3 * million["core_hours"])
    assert timing["storage_bytes"]["shards"] == storage_bytes(*one.glob("a-*.*"))
    assert "core_cost" not in read_json(two / "timing.json")["per_million_documents_out"]
    assert "at the price given" in "\n".join(summary_lines(timing))
    build_here([crawl], one)
    again = read_json(one / "timing.json")
    assert again["phases"]["extract"]["core_seconds"] == phases["extract"]["core_seconds"], "what is done is not redone, nor counted again"
    assert again["phases"]["extract"]["sessions"] == 2


def test_a_phase_sums_the_rates_of_what_is_under_way(tmp_path: Path) -> None:
    with Phase(tmp_path, "extract", workers=2) as phase:
        ledgers = [Ledger(tmp_path / "timing" / "extract", name) for name in "ab"]
        ledgers[0].note(Usage(wall_seconds=2.0, documents=10, bytes_read=4e6, share=0.25))
        ledgers[1].note(Usage(wall_seconds=1.0, documents=20, bytes_read=1e6, share=0.5))
        assert phase.live() == (0.75, "25 documents/s, 3 MB/s read")
        os.utime(tmp_path / "timing" / "extract" / meter.RUNNING / "a.now", (0, 0))
        assert phase.live() == (0.5, "20 documents/s, 1 MB/s read"), "a worker that died in an earlier session is not under way"
        for ledger in ledgers:
            ledger.close(Usage(), lost=False)


def test_rates_are_logged_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(logs, "LINE_SECONDS", 0.05)
    caplog.set_level("INFO")
    with logs.progress_bar("extracting", total=4, live=lambda: (0.5, "7 documents/s")) as bar:
        bar.advance()
        time.sleep(0.2)
    lines = [record.getMessage() for record in caplog.records]
    assert lines and all(re.fullmatch(r"extracting: [01] of 4, 7 documents/s, .* left", line) for line in lines)
    assert [logs.duration(seconds) for seconds in (0.25, 41, 720, 12_600, 181_440)] == ["0.2 s", "41 s", "12 min", "3.5 h", "2.1 days"]


def test_a_dry_run_shows_the_plan_and_writes_nothing(run: Run, crawl: Path, tmp_path: Path) -> None:
    output = tmp_path / "shards"
    command = [sys.executable, "pipeline/build_shards.py", "--crawl", crawl, "--output", output, "--executor", "here", "--images.min-side-px", 99, "--dry-run"]
    result = run(*command)
    assert result.returncode == 0 and not output.exists() and '"min_side_px": 99' in result.stdout
    for part in ("inputs: 1, ", "1 crawl", "extract: 0 of 1 inputs done, 1 left", "workers: 1, this process", "rules: as preset minimal, but", "--images.min-side-px 99 (preset: 150)", "free on the disk"):
        assert part in result.stderr, part
    build_here([crawl], output)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    config = BuildConfig(**{**vars(PRESETS["minimal"]), "crawl": (str(crawl),), "output": str(output)})
    with pytest.raises(ValueError, match="another --"):
        describe(config)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


def test_a_plan_tells_what_is_done(crawl: Path, tmp_path: Path) -> None:
    config = BuildConfig(crawl=(str(crawl),), output=str(tmp_path / "shards"), executor="here")
    (tmp_path / "bad.tar").write_bytes(b"no tar")
    more = BuildConfig(crawl=(str(crawl), str(tmp_path / "bad.tar")), output=str(tmp_path / "shards"), executor="here")
    assert "1 of no known kind (will fail)" in describe(more)
    from pipeline.run_splits import build_shards

    build_shards(config)
    assert "extract: 1 of 1 inputs done, 0 left" in describe(config) and "assemble: 1 of 1 inputs done, 0 left" in describe(config)
