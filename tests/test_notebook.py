"""The notebook: its code runs from the first cell to the last, and shows what its texts say."""

import json
from pathlib import Path

import pytest

from lcl.core.files import read_json
from tests.conftest import ROOT, Run

NOTEBOOK = ROOT / "docs" / "notebooks" / "look_at_an_encoder.ipynb"
AT_THE_END = """
import json
drawn = [plt.figure(number) for number in plt.get_fignums()]
result = {
    "pictures": len(files), "pooled": pooled.shape, "own": int((neighbours == np.arange(len(files))[:, None]).sum()), "shares": shares,
    "sums": [found.weights.sum(axis=(1, 2)).tolist() for found in maps], "panels": [sum(len(panel.images) for panel in each.axes) for each in drawn],
}
print(json.dumps(result))
"""


def code_of(book: dict) -> str:
    return "\n\n".join("".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code")


def test_it_is_a_notebook_without_outputs() -> None:
    book = read_json(NOTEBOOK)
    assert book["nbformat"] == 4 and book["nbformat_minor"] >= 5 and len({cell["id"] for cell in book["cells"]}) == len(book["cells"]) > 10
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert {cell["cell_type"] for cell in book["cells"]} == {"code", "markdown"} and all(cell["source"] and "metadata" in cell for cell in book["cells"])


def test_its_code_runs_and_shows_neighbours_and_attention(run: Run, tmp_path: Path) -> None:
    result = run("python", "-c", code_of(read_json(NOTEBOOK)) + AT_THE_END, MPLBACKEND="Agg", TMPDIR=str(tmp_path))
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["pictures"] == found["pooled"][0] == 63 and found["own"] == 0, "a picture is not its own neighbour"
    assert found["panels"] == [6 * 6, 6 * (2 + len(found["sums"][0]))]
    assert [total for sums in found["sums"] for total in sums] == pytest.approx([1.0] * 6 * len(found["sums"][0]), abs=1e-5)
    assert found["shares"]["encoder"] > 2 * 9 / 63, "squares of one photograph are found more often than by chance, 8 of 62"
