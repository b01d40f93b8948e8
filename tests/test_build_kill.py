"""Builds whose workers and drivers are killed at random times: the same command again gives the bytes of an undisturbed build."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lcl.core.shards import verify_shard
from tests.builds import built_bytes
from tests.conftest import ROOT
from tests.crawls import Capture, html, jpeg, write_warc

NUM_TRIALS = 20


@pytest.fixture(scope="module")
def crawls(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pages with images of their own and of other files, duplicates among them."""
    folder = tmp_path_factory.mktemp("crawls")
    found = []
    for number in range(4):
        pages = [
            Capture(f"https://s{number}.example/{page}", html(f"<p>{words(100 * number + page)}</p><img src='/{page % 9}.jpg'><img src='https://s{(number + 1) % 4}.example/0.jpg'>"))
            for page in range(40)
        ]
        images = [Capture(f"https://s{number}.example/{image}.jpg", jpeg((40 * number, 25 * image, 7), (700, 600)), "image/jpeg") for image in range(9)]
        found.append(write_warc(folder / f"site-{number}.warc.gz", [*pages, *images]))
    return found


def words(seed: int) -> str:
    """Text that is like no other."""
    chance = random.Random(seed)
    return " ".join("".join(chance.choices("abcdefgh", k=5)) for _ in range(200))


def command(crawls: list[Path], output: Path) -> list[str]:
    return [sys.executable, "pipeline/build_shards.py", "--crawl", *map(str, crawls), "--output", str(output), "--shard-documents", "7", "--dedup.max-image-url-documents", "0", "--keep-rejects", "True"]


def descendants(parent: int) -> list[int]:
    """Process ids of the tree below `parent`, of workers only: the rest of Ray dies with its driver."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                names[int(entry.name)] = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    below, frontier = [], {parent}
    while frontier:
        frontier = {child for child, above in parents.items() if above in frontier}
        below += frontier
    return [process for process in below if b"ray::" in names[process]]


@pytest.mark.slow
def test_killed_builds_give_the_bytes_of_an_undisturbed_one(crawls: list[Path], tmp_path: Path) -> None:
    assert subprocess.run(command(crawls, tmp_path / "whole"), cwd=ROOT, capture_output=True, timeout=200).returncode == 0
    expected = built_bytes(tmp_path / "whole")
    assert sum(name.endswith(".tar") for name in expected) >= 8
    chance = random.Random(0)
    kills = 0
    for trial in range(NUM_TRIALS):
        output = tmp_path / f"trial-{trial}"
        for attempt in range(6):
            process = subprocess.Popen(command(crawls, output), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if attempt < 5:
                time.sleep(chance.uniform(2.0, 9.0))
                victims = [process.pid] if chance.random() < 0.4 else descendants(process.pid)
                if victims and process.poll() is None:
                    os.kill(chance.choice(victims), signal.SIGKILL)
                    kills += 1
            printed = process.communicate(timeout=200)[0]
            if process.returncode == 0:
                break
        assert process.returncode == 0, printed
        assert built_bytes(output) == expected, f"trial {trial}"
        assert not [path for path in output.rglob("*.tmp")]
    assert kills >= NUM_TRIALS // 2
    for tar in (tmp_path / "whole").glob("*.tar"):
        verify_shard(tar.with_suffix(".json"))
