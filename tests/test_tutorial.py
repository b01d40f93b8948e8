"""The tutorial: every command and every piece of Python on the page, in its order, at small size; what each step leaves."""

import functools
import gzip
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from lcl.core.files import read_json
from lcl.core.shards import ShardSet
from tests.conftest import ROOT, Run
from tests.printed_commands import blocks_of, commands_of, run_command
from tests.s3_server import s3_server

PAGE = (ROOT / "docs" / "tutorial.md").read_text()
COMMON_CRAWL = "https://data.commoncrawl.org/"
LIST = "crawl-data/CC-MAIN-2024-51/warc.paths.gz"
SMALL = {"small": "toy", "20": "1", "100": "2", "6": "2", "2": "1"}  # words of commands, and what stands in their place; one rank starts in half the time of two
OPTIONS = {
    "lcl sample-crawl": "--num-pages 24 --num-labelled-train 40 --num-labelled-test 20",
    "lcl eval restorer": "--crop-px 64 --steps 1",
}


@pytest.fixture
def common_crawl(tmp_path: Path) -> Iterator[str]:
    """The address of a server on loopback with a list of crawl files where Common Crawl has its own."""
    path = tmp_path / "served" / LIST
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(b"crawl-data/CC-MAIN-2024-51/a.warc.gz\ncrawl-data/CC-MAIN-2024-51/b.warc.gz\n"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "served")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_every_step_runs_and_leaves_what_the_page_says(run: Run, tmp_path: Path, common_crawl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = tmp_path / "outputs"
    printed: list[str] = []
    instead = SMALL | {COMMON_CRAWL: common_crawl, COMMON_CRAWL + LIST: common_crawl + LIST}
    blocks = blocks_of(PAGE, "bash", "python")
    with s3_server(monkeypatch, "bucket") as store:
        store.put_object(Bucket="bucket", Key="crawls/a.warc.gz", Body=b"")
        for language, block in blocks:
            if language == "python":
                result = run("python", "-c", block.replace('"outputs', f'"{outputs}').replace("local-dir:outputs", f"local-dir:{outputs}"))
                assert result.returncode == 0, block + result.stderr
                printed.append(result.stdout)
                continue
            for command in commands_of(block):
                if not command.startswith("export "):  # the tests' own environment
                    run_command(run, command, tmp_path, within=("outputs",), instead=instead, options=OPTIONS)
                    check(command, outputs)
    assert len(blocks) > 15  # none was passed over
    assert any("image_too_small" in text for text in printed), "what was left out"
    assert sum(text.count("torch.Size([2, ") for text in printed) == 4 and any("(6, 10) 2" in text for text in printed), "features in timm, transformers and here"


def check(command: str, outputs: Path) -> None:
    """What a command of the page has left."""
    if command.startswith("lcl build-shards"):
        assert not (outputs / "mine").exists(), "a plan writes nothing"
    if command.startswith("lcl build-shards --crawl outputs/sample/sample.warc.gz"):
        counts = read_json(outputs / "shards" / "report.json")["documents"]
        assert counts["in"] == counts["out"] + sum(counts["dropped"].values()) and len(ShardSet([outputs / "shards"])) == counts["out"] > 0
    elif command.startswith("lcl view"):
        assert "sample.example" in (outputs / "view/index.html").read_text() and (outputs / "stats/index.html").exists()
    elif command.startswith("lcl pretrain"):
        assert ("--dry-run" in command) == (not (outputs / "run").exists())
    elif command.startswith("deepspeed"):
        assert read_json(outputs / "run/status.json") == {"step": 6, "finished": True}
    elif command.startswith("lcl cluster"):
        assert (outputs / "cluster/slurm/train.sbatch").exists()
    elif command.startswith("lcl eval knn"):
        result = read_json(outputs / "results" / Path(command.split()[-1]).name)
        assert {"trained encoder", "random weights", "shuffled labels"} <= {row["model"] for row in result["rows"]}
    elif command.startswith("lcl report"):
        assert ("linear probe" in (outputs / "index.html").read_text()) == ("--results" in command)
    elif command.startswith("lcl attention-maps"):
        assert all((outputs / name).exists() for name in ("features/features.json", "search.html", "six.html", "paint.html", "attention.html"))
    elif command.startswith("lcl export"):
        assert "linear probe" in (outputs / "export/README.md").read_text()
    elif command.startswith("lcl codec decode"):
        with Image.open(outputs / "decoded.png") as decoded:
            assert decoded.size == (640, 427)
    elif command.startswith("lcl eval restorer"):
        assert "no encoder" in (outputs / "rain/eval/restoration.json").read_text()
    elif command.startswith("lcl restore"):
        with Image.open(outputs / "restored.png") as restored:
            assert restored.size == (640, 427)
