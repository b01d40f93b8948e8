"""Pages and images that kill or hold up their worker: real processes, real signals."""

import subprocess
import sys
from pathlib import Path

import pytest

from lcl.core.shards import ShardSet
from pipeline.guard import DEATHS_WITHOUT, Guard
from tests.conftest import ROOT
from tests.crawls import Capture, html, jpeg, write_warc

# A build in a process of its own, in which one page, or the images of one document, do something that Python cannot catch.
BUILD = """
import ctypes, os, signal, sys, time
from pathlib import Path
from pipeline import assemble_split, extract_split
from tests.builds import build_here

deeds = {"crash": lambda: ctypes.string_at(0), "hang": lambda: time.sleep(60), "killed": lambda: os.kill(os.getpid(), signal.SIGKILL)}
module, name = {"page": (extract_split, "read_page"), "images": (assemble_split, "load_document")}[sys.argv[3]]
usual = getattr(module, name)

def poisoned(item, **options):
    if "poison" in getattr(item, "url", getattr(item, "page_url", "")):
        deeds[sys.argv[4]]()
    return usual(item, **options)

setattr(module, name, poisoned)
build_here([Path(sys.argv[1])], Path(sys.argv[2]), item_seconds=2.0)
"""


@pytest.mark.parametrize(("place", "deed", "deaths"), [("page", "crash", 2), ("page", "hang", 2), ("images", "crash", 2), ("page", "killed", DEATHS_WITHOUT)])
def test_what_kills_its_worker_is_left_out_after_a_few_deaths(tmp_path: Path, place: str, deed: str, deaths: int) -> None:
    image = Capture("https://a.example/i.jpg", jpeg((1, 2, 3)), "image/jpeg")
    crawl = write_warc(tmp_path / "a.warc.gz", [*(Capture(f"https://a.example/{name}", html(f"{name} <img src='/i.jpg'>")) for name in ("one", "poison", "two")), image])
    runs = []
    while not runs or runs[-1].returncode != 0:
        assert len(runs) <= deaths, runs[-1].stderr
        runs.append(subprocess.run([sys.executable, "-c", BUILD, crawl, tmp_path / "out", place, deed], cwd=ROOT, capture_output=True, text=True, timeout=60))
    assert len(runs) == deaths + 1
    assert [document.page_url for document in ShardSet([tmp_path / "out"])] == ["https://a.example/one", "https://a.example/two"]
    assert f'"{"page_crashes" if place == "page" else "images_crash"}": 1' in (tmp_path / "out" / "report.json").read_text()


def test_an_item_that_only_raises_is_no_death(tmp_path: Path) -> None:
    for _ in range(DEATHS_WITHOUT + 1):
        with pytest.raises(RuntimeError), Guard(tmp_path, "a", seconds=9.0) as guard, guard.item(7):
            raise RuntimeError
    assert Guard(tmp_path, "a", seconds=9.0).set_aside == {} and not list(tmp_path.iterdir())
