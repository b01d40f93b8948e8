"""The numbers of docs/results.md are those of the files beside it."""

from pathlib import Path

import pytest

from lcl.core.files import read_json

DOCS = Path(__file__).resolve().parent.parent / "docs"
PROTOCOLS = {"linear_probe": "linear probe", "attentive_probe": "attentive probe", "knn": "nearest neighbours", "zero_shot": "zero-shot, by the sentences of the pages"}
COLUMNS = ("trained encoder", "random weights", "raw pixels (32 x 32)", "shuffled labels")


def shown(row: dict, *, bold: bool) -> str:
    value, low, high = (f"{100 * row[name]:.1f}" for name in ("value", "low", "high"))
    return f"{f'**{value}**' if bold else value} ({low} to {high})"


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_the_table_of_the_encoder(name: str) -> None:
    rows = {row["model"]: row for row in read_json(DOCS / "results" / "photo_pages" / f"{name}.json")["rows"] if row["metric"] == "accuracy"}
    cells = [shown(rows[model], bold=model == COLUMNS[0]) if model in rows else "" for model in COLUMNS]
    assert "| " + " | ".join([PROTOCOLS[name], *cells]).replace("|  |", "| |").replace("|  |", "| |") in (DOCS / "results.md").read_text()


def test_the_margins_in_words() -> None:
    """Over the README's raw pixels, over our own, over random weights: the linear probe's."""
    page = (DOCS / "results.md").read_text()
    rows = {row["model"]: 100 * round(row["value"], 3) for row in read_json(DOCS / "results" / "photo_pages" / "linear_probe.json")["rows"] if row["metric"] == "accuracy"}
    own, raw, random = (rows[model] for model in ("trained encoder", "raw pixels (32 x 32)", "random weights"))
    assert f"the linear probe is {own - 36.0:.1f} points" in page and f"fitted to train and validation, {own - raw:.1f}; above the same encoder at random weights {own - random:.1f}" in page
