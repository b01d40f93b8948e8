"""The comparison with CLIP_benchmark: its own counting against a slow one, and the page against its results. The comparison itself needs an environment of GB."""

import re
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from tests.test_benchmarks import measured

PAGE = (ROOT / "docs" / "export.md").read_text()


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import clip_benchmark_peer

    return clip_benchmark_peer


def test_recalls_are_those_of_sorted_lists(peer: Any) -> None:
    random = np.random.default_rng(0)
    owner = np.repeat(np.arange(12), 3)
    scores = random.normal(size=(36, 12))
    found = peer.recalls(torch.from_numpy(scores), owner)
    for k in (1, 5, 10):
        by_text = [owner[text] in np.argsort(-scores[text])[:k] for text in range(36)]
        by_image = [bool({image} & set(owner[np.argsort(-scores[:, image])[:k]])) for image in range(12)]
        assert found[f"image_retrieval_recall@{k}"] == np.mean(by_text) and found[f"text_retrieval_recall@{k}"] == np.mean(by_image)
    assert 0 < found["image_retrieval_recall@5"] < 1


def test_no_caption_is_given_twice(peer: Any) -> None:
    labels = np.array([0, 0, 1, 0, 1])
    chosen, captions = peer.unique_captions(labels, ("cat", "dog"), [f"{number} {{}}" for number in range(5)], per_image=2)
    assert chosen == [0, 1, 2, 4] and captions == [["0 cat", "1 cat"], ["2 cat", "3 cat"], ["0 dog", "1 dog"], ["2 dog", "3 dog"]]


@pytest.mark.parametrize("name", ["colour", "digit"])
def test_the_page_says_what_was_measured(name: str) -> None:
    found = measured(ROOT / "docs" / "benchmarks" / f"clip_benchmark_peer_{name}.json")
    assert found["largest_difference"] < 1e-6 and found["images"] == 800 and found["retrieval_images"] == 160
    values = found["ours"]["zeroshot"] | found["ours"]["retrieval"]
    for who in ("ours", "CLIP_benchmark"):
        row = re.search(rf"\| {name}, {who} \|(.*)\|", PAGE)
        assert row and [cell.strip() for cell in row[1].split("|")] == [f"{value:.2%}" for value in values.values()]
