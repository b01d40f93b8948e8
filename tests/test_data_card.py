"""The data card: it says what the set holds, follows from the set alone, and keeps names from the web as text."""

import ast
import json
import re
from pathlib import Path

import pytest

from lcl.core.files import write_json
from pipeline.tools.data_card import write_card
from pipeline.tools.repack import RepackConfig, repack
from pipeline.tools.selecting import SelectConfig, select_documents
from tests.conftest import Run, assert_one_line_error
from tests.made_shards import made_document, made_set

DOCUMENTS = [made_document(number) for number in range(30)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = made_set(tmp_path / "shards", DOCUMENTS)
    report = {kind: {"in": 37, "out": 30, "dropped": {"no_images": 5, "too_few_words": 2}} for kind in ("documents", "images")}
    write_json(folder / "report.json", report)
    write_json(folder / "run.json", {"config": {"crawl": ["/secret/place/a.warc"], "output": "/secret/out", "pages": {"min_words": 10}}, "commit": "abc", "started": "now"})
    return folder


def test_it_says_what_the_set_holds(folder: Path) -> None:
    text = write_card(folder, title="Harbour", note="ask us")
    assert text == (folder / "README.md").read_text()
    for part in ("# Data card: Harbour", "ask us", "30 interleaved", "30 pictures", "5 WebDataset shards", "| `d0.example` | 8 |", "| `cc-by-4.0` | 6 |", "| `en` | 10 |",
                 "| `- no images` | 5 |", "| `= kept` | 30 |", '"min_words": 10', "| `crawl.warc.gz` | 30 |", "## Known limits", "lcl verify --shards shards"):  # fmt: skip
        assert part in text, part
    assert "secret" not in text and "now" not in text.split(), "neither paths nor times"


def test_the_same_set_gives_the_same_card(folder: Path) -> None:
    assert write_card(folder) == write_card(folder)


def test_its_code_can_be_run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", write_card(folder), re.DOTALL)
    ast.parse(code)
    monkeypatch.chdir(folder.parent)
    exec(code, {})
    assert len(capsys.readouterr().out.splitlines()) == 30


def test_of_a_selection_and_of_repacked_shards(folder: Path, tmp_path: Path) -> None:
    select_documents(SelectConfig(shards=(str(folder),), where="num_images == 2", output=str(tmp_path / "picked")))
    assert "where `num_images == 2`" in write_card(tmp_path / "picked")
    repack(RepackConfig(shards=(str(tmp_path / "picked"),), output=str(tmp_path / "b"), seed=4))
    text = write_card(tmp_path / "b")
    assert '"seed": 4' in text and str(tmp_path) not in text and "10 interleaved" in text


def test_names_from_the_web_stay_text(tmp_path: Path) -> None:
    documents = [made_document(1, url="https://a`|<script>x\u202e.example/"), made_document(2, url="https://[x](javascript:1)/")]
    object.__setattr__(documents[1], "page_url", "https://x.example/")
    object.__setattr__(documents[1], "language", "`|\n# x")
    text = write_card(made_set(tmp_path / "shards", documents), title="<img src=x> [a](javascript:b)")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.count("|") == 3 and line.count("`") in (0, 2) for line in rows)
    outside = re.sub(r"`[^`\n]*`", "", text.replace("```", ""))
    assert "<script" not in outside and "\u202e" not in text and "\\<img" in text and "\n# x" not in text


def test_somebody_elses_readme_stays(run: Run, folder: Path) -> None:
    result = run("python", "-m", "lcl.cli", "card", "--shards", folder)
    assert result.returncode == 0 and "data card: " in result.stdout, result.stderr
    (folder / "README.md").write_text("mine")
    assert_one_line_error(run("python", "-m", "lcl.cli", "card", "--shards", folder), "was not written by `lcl card`")
    assert (folder / "README.md").read_text() == "mine" and json.loads((folder / "run.json").read_text())
