"""The README's commands, and the whole demo at toy size: a Ray job, two DeepSpeed ranks by the launcher, evaluations, a report."""

import json
import re
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

from lcl.core.files import read_json
from lcl.core.shards import ShardSet
from lcl.demo import DemoConfig, default_output
from tests.conftest import ROOT, Run, assert_one_line_error
from tests.printed_commands import blocks_of, commands_of, run_command
from tests.test_image_codec import picture

CANARY = "canary0123456789abcdefCANARY"  # what no log, config or report may hold
README = (ROOT / "README.md").read_text()


def readme_block(heading: str) -> list[str]:
    """The commands of the first bash block under a heading."""
    return commands_of(blocks_of(README.partition(f"\n## {heading}\n")[2], "bash")[0][1])


def test_the_two_commands_are_those_of_the_makefile_and_of_ci() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert readme_block("Try it") == ["make demo", "make test"] and {"demo", "test"} <= set(targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_step_by_step_as_the_readme_says(run: Run, tmp_path: Path) -> None:
    """The Python example at the end."""
    assert run_block(run, "Step by step", tmp_path, {"small": "toy"}, {"lcl sample-crawl": "--num-pages 24 --num-labelled-train 40 --num-labelled-test 20"}) == 6
    assert "linear probe" in (tmp_path / "demo/index.html").read_text()
    example = re.search(r"## Use the encoder\n```python\n(.*?)```", README, re.DOTALL)[1]
    result = run("python", "-c", example.replace("demo/run", f"{tmp_path}/demo/run"))
    assert result.returncode == 0 and result.stdout.count("torch.Size([4, ") == 2, result.stderr


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder with what the README's commands name."""
    for folder, count in (("photos", 4), ("unseen", 2)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            Image.fromarray(picture(90 + 10 * number, 120, seed=number)).save(tmp_path / folder / f"{number}.png")
    shutil.copyfile(tmp_path / "unseen" / "1.png", tmp_path / "photo.png")
    return tmp_path


def run_block(run: Run, heading: str, folder: Path, instead: dict[str, str], options: dict[str, str] | None = None) -> int:
    """Runs the commands under a heading as printed, in a folder and at toy size; returns how many they are."""
    commands = readme_block(heading)
    within = ("demo", "photos", "unseen", "photo", "back", "restored", "outputs", "features", "near")
    for command in commands:
        run_command(run, command, folder, within=within, instead=instead, options=options or {})
    return len(commands)


def test_use_it_at_once_as_the_readme_says(run: Run, photographs: Path) -> None:
    assert run_block(run, "Use it at once", photographs, {"16": "2"}) == 9
    assert "1.png" in (photographs / "near.html").read_text()
    with Image.open(photographs / "photo.png") as photo, Image.open(photographs / "back/photo.png") as back:
        assert photo.tobytes() == back.tobytes()


def test_compress_photographs_as_the_readme_says(run: Run, photographs: Path) -> None:
    assert run_block(run, "Compress photographs", photographs, {"small": "toy", "3": "1", "500": "3"}) == 4
    assert {path.suffix for path in (photographs / "outputs/rd").iterdir()} == {".png", ".svg", ".csv", ".json"}
    with Image.open(photographs / "back.png") as back:
        assert back.size == (120, 100)


def test_restore_photographs_as_the_readme_says(run: Run, photographs: Path) -> None:
    assert run_block(run, "Restore photographs", photographs, {"small": "toy", "1200": "4"}) == 3
    assert (photographs / "outputs/rain/eval/restoration.json").exists()
    with Image.open(photographs / "restored.png") as restored:
        assert restored.size == (120, 100)


def test_compress_without_loss_as_the_readme_says(run: Run, photographs: Path) -> None:
    assert run_block(run, "Compress without loss", photographs, {"1500": "2 --calibration-images 2", "50": "4", "16": "2", "128": "32", "3": "2", "8": "2"}) == 4
    measured = read_json(photographs / "outputs/density/eval/density.json")["measured"]
    assert measured["coded"][0]["images"] == 2 and measured["plain"]["PNG"]["bits_per_dim"] > 0
    assert (photographs / "back/photo.png").exists()
    with Image.open(photographs / "photo.png") as photo, Image.open(photographs / "back/photo.png") as back:
        assert photo.tobytes() == back.tobytes()


def test_the_readme_names_real_flags(run: Run) -> None:
    """The two commands for clusters are checked without one: their scripts and flags exist."""
    text = " ".join(README.split())
    for script, flags in (("pipeline/build_shards.py", ["--crawl", "--output"]), ("lcl/pretrain.py", ["--preset", "--data.shards", "--output"])):
        assert f"{script} " in text and (ROOT / script).exists()
        shown = run("python", script, "--help").stdout
        assert all(flag in shown for flag in flags)


def test_the_demo_from_crawl_to_report_and_again(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "demo"
    options = ["--output", output, "--num-pages", 24, "--num-labelled", 40, 20, "--train-preset", "toy", "--num-ranks", 2]
    began = time.time()
    result = run("lcl", "demo", *options, timeout=550, **dict.fromkeys(("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "WANDB_API_KEY"), CANARY))
    assert result.returncode == 0, result.stdout + result.stderr
    artefacts = [path for folder in (tmp_path, Path("/tmp/ray")) for path in folder.rglob("*") if path.is_file() and path.stat().st_mtime >= began]
    assert len(artefacts) > 50 and CANARY not in result.stdout + result.stderr and not [path for path in artefacts if CANARY.encode() in path.read_bytes()]
    assert not list(output.glob("ray-home/token")), "the token ends with its Ray"
    report = json.loads((output / "shards" / "report.json").read_text())
    for kind in ("documents", "images"):
        counts = report[kind]
        assert counts["in"] == counts["out"] + sum(counts["dropped"].values()) > 0
    assert len(ShardSet([output / "shards"])) == report["documents"]["out"]
    assert (output / "run" / "step-000006" / "manifest.json").exists()
    page = (output / "index.html").read_text()
    assert "zero-shot classification" in page and "linear probe" in page and "sample.example" in page
    assert f"open {output / 'index.html'}" in result.stderr
    assert not [path for path in (ROOT / "outputs", ROOT / "demo") if path.exists() and path.stat().st_mtime > output.stat().st_mtime]
    written = (output / "run" / "step-000006" / "manifest.json").stat().st_mtime_ns
    again = run("lcl", "demo", *options, timeout=550)
    assert again.returncode == 0, again.stderr
    assert (output / "run" / "step-000006" / "manifest.json").stat().st_mtime_ns == written, "a finished demo is not trained again"


@pytest.mark.slow
def test_the_demo_at_its_own_size_shows_that_it_learned(run: Run, tmp_path: Path) -> None:
    """Held-out digits on held-out crops, by colour: far above the same encoder with random weights, and above raw pixels."""
    result = run("lcl", "demo", "--output", tmp_path / "demo", timeout=1500)
    assert result.returncode == 0, result.stderr
    rows = {
        task: {row["model"].split(" (")[0]: row for row in json.loads((tmp_path / "demo" / "results" / f"colour_{task}.json").read_text())["rows"] if row["metric"] == "accuracy"}
        for task in ("linear_probe", "zero_shot")
    }
    probe, zero_shot = rows["linear_probe"], rows["zero_shot"]
    assert probe["trained encoder"]["low"] > max(probe["random weights"]["high"], probe["raw pixels"]["high"]) + 0.1
    assert zero_shot["trained encoder"]["low"] > zero_shot["random weights"]["high"] + 0.5


def test_a_missing_crawl_is_one_line(run: Run, tmp_path: Path) -> None:
    assert_one_line_error(run("lcl", "demo", "--crawl", tmp_path / "none.warc.gz", "--output", tmp_path / "demo"), "none.warc.gz: no such crawl file")


def test_default_folders() -> None:
    assert DemoConfig().output is None and default_output([]) == "demo" and "demo/run" in README
    assert default_output([Path("/x/my crawl.2024.warc.gz"), Path("other.warc")]) == "demo-my-crawl"


@pytest.mark.parametrize("name", ["README.md", "docs/architecture.md", "docs/shard-format.md", "cluster/README.md", "downstream/README.md", "docs/tutorial.md"])
def test_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()) if not target.startswith("http")]
    assert all((path.parent / target).exists() for target in targets), targets
