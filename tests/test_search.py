"""`lcl search`: neighbours are those of a plain ranking, and its page shows them, with the texts next to them, and asks for nothing outside."""

import io
import re
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lcl.core.document import Document, TextSegment, sha256_hex
from lcl.core.images import decode_image, to_pixels
from lcl.evals.zero_shot import text_features
from lcl.features import load_encoder, load_model
from lcl.use.embedded import ROWS, find_features
from lcl.use.embedding import EmbedConfig, embed
from lcl.use.neighbours import find_neighbours
from lcl.use.search_page import SearchConfig, search
from tests.conftest import Run
from tests.made_encoders import toy_checkpoint
from tests.made_shards import made_document, made_image, made_set

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}"


def rows_of(hashes: list[str]) -> pa.Table:
    return pa.Table.from_pylist([{"id": f"{number}", "source": "made", "width": 1, "height": 1, "sha256": item} for number, item in enumerate(hashes)], schema=ROWS)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 9), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_neighbours_are_those_of_a_plain_ranking(number: int, num_queries: int, part: int, wanted: int, seed: int) -> None:
    """All pairs in float64, sorted; images with the same hash have the same features."""
    random = np.random.default_rng(seed)
    kinds = random.integers(0, max(1, number // 2), number)
    features = random.normal(size=(number, 5)).astype(np.float32)[kinds]
    hashes = [f"{kind:064x}" for kind in kinds]
    queries = random.normal(size=(num_queries, 5)).astype(np.float32)
    without = [hashes[random.integers(number)] if random.random() < 0.5 else "" for _ in range(num_queries)]
    table = rows_of(hashes)
    parts = [(table.slice(at, part), features[at : at + part]) for at in range(0, number, part)]
    found = find_neighbours(queries, parts, num_neighbours=wanted, without=without)
    for query, own, result in zip(queries.astype(np.float64), without, found, strict=True):
        similarity = [float(query @ item / np.sqrt((query @ query) * (item @ item))) for item in features.astype(np.float64)]
        counted = [place for place in range(number) if hashes[place] != own]
        by_hash = {hashes[place]: similarity[place] for place in counted}
        ranking = sorted(by_hash, key=lambda item: -by_hash[item])[:wanted]
        assert [item.row["sha256"] for item in result.nearest] == ranking
        assert [item.similarity for item in result.nearest] == pytest.approx([by_hash[item] for item in ranking], abs=1e-12)
        assert result.mean == pytest.approx(np.mean([similarity[place] for place in counted]) if counted else 0, abs=1e-12)


def test_of_equal_images_each_is_once_and_equal_similarities_keep_their_order() -> None:
    features = np.array([[1, 0], [2, 0], [0, 1], [1, 0], [-1, 0]], np.float32)
    (found,) = find_neighbours(np.array([[3, 0]], np.float32), [(rows_of(["a", "b", "c", "a", "d"]), features)], num_neighbours=9, without=["c"])
    assert [(item.row["id"], item.similarity) for item in found.nearest] == [("0", 1.0), ("1", 1.0), ("4", -1.0)] and found.mean == 0.5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_checkpoint(tmp_path_factory.mktemp("model") / "toy")


def documents() -> list[Document]:
    """Six with pictures; the last shows the picture of the second again, its text is hostile."""
    found = [made_document(number, num_images=2) for number in range(5)]
    again = made_document(9, num_images=0, text=EVIL, url=f"https://x.example/{EVIL}")
    return [*found, replace(again, segments=(TextSegment("First paragraph.\n\nThe last before it."), found[1].images[0], TextSegment(EVIL)))]


@pytest.fixture(scope="module")
def features(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of shards with eleven images, ten of them different."""
    folder = tmp_path_factory.mktemp("features")
    embed(EmbedConfig(encoder=str(checkpoint), input=(str(made_set(folder / "shards", documents(), per_shard=3)),), output=str(folder / "f")))
    return folder / "f"


def page_of(features: Path, output: Path, **options: Any) -> str:
    return search(SearchConfig(features=str(features), output=str(output), **options)).read_text("utf-8")


def shown(page: str) -> list[tuple[str, list[tuple[float, str]]]]:
    """Title of each query, and similarity and id of its neighbours."""
    found = []
    for part in page.split('<section class="box query">')[1:]:
        title = re.search(r"<figcaption>(.*?)<br>|<blockquote[^>]*>“(.*?)”", part)
        nearest = re.findall(r'<figure title="(.*?)">.*?<figcaption><b>(.*?)</b>', part, re.DOTALL)
        found.append((unescape(title[1] or title[2]), [(float(value), name) for name, value in nearest]))
    return found


def everything(features: Path) -> tuple[list[dict[str, Any]], np.ndarray]:
    tables, pooled = zip(*find_features(features), strict=True)
    return [row for table in tables for row in table.to_pylist()], np.concatenate(pooled).astype(np.float64)


def ranking(vector: np.ndarray, features: Path, *, without: str) -> list[tuple[float, str]]:
    rows, pooled = everything(features)
    similarity = pooled @ vector / np.linalg.norm(pooled, axis=1) / np.linalg.norm(vector)
    found: dict[str, tuple[float, str]] = {}
    for place in np.argsort(-similarity, kind="stable"):
        if rows[place]["sha256"] != without:
            found.setdefault(rows[place]["sha256"], (round(float(similarity[place]), 3), rows[place]["id"]))
    return list(found.values())


def test_the_page_of_ids_shows_the_plain_ranking_without_the_query_and_its_copies(features: Path, tmp_path: Path) -> None:
    rows, pooled = everything(features)
    query = rows[2]
    assert sum(row["sha256"] == query["sha256"] for row in rows) == 2
    ((title, nearest),) = shown(page_of(features, tmp_path / "page.html", queries=(query["id"],), num_neighbours=20))
    assert title == query["id"] and len(nearest) == 9
    assert nearest == ranking(pooled[2], features, without=query["sha256"])


def test_a_sample_is_drawn_by_its_seed(features: Path, tmp_path: Path) -> None:
    first, again, other = (page_of(features, tmp_path / name, num_queries=4, seed=seed) for name, seed in (("a", 0), ("b.html", 0), ("c.html", 1)))
    assert first == again != other and (tmp_path / "a" / "index.html").exists()
    assert len(shown(first)) == 4 and all(len(nearest) == 8 for _, nearest in shown(first)) and "drawn at random (seed 0)" in first
    assert len(shown(page_of(features, tmp_path / "d.html", num_queries=50))) == 11


def test_texts_find_images_by_the_features_of_zero_shot(features: Path, checkpoint: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(checkpoint)
    texts = ("a red boot", "the last sentence")
    found = shown(page_of(features, tmp_path / "page.html", text=texts, num_neighbours=20))
    vectors = text_features(model, tokenizer, texts).numpy().astype(np.float64)
    for (title, nearest), text, vector in zip(found, texts, vectors, strict=True):
        assert title == text and [value for value, _ in nearest] == pytest.approx([value for value, _ in ranking(vector, features, without="")], abs=0.0011)
        assert len(nearest) == 10


def test_a_file_finds_its_near_copy_first_and_its_exact_copy_not_at_all(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        picture = decode_image(made_image(number, size=(32, 32)).data)
        picture.save(folder / f"{number}.png")
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=95)
    (folder / "near.webp").write_bytes(buffer.getvalue())
    shutil.copy(folder / "5.png", tmp_path / "asked.png")
    embed(EmbedConfig(encoder=str(checkpoint), input=(str(folder),), output=str(tmp_path / "f")))
    ((title, nearest),) = shown(page_of(tmp_path / "f", tmp_path / "page.html", queries=(str(tmp_path / "asked.png"),), num_neighbours=20))
    assert title.endswith("asked.png") and nearest[0][1] == "near.webp" and nearest[0][0] > nearest[1][0]
    assert sorted(name for _, name in nearest) == ["0.png", "1.png", "2.png", "3.png", "4.png", "near.webp"]
    encoder = load_encoder(checkpoint)
    assert encoder.image_px == 32 == picture.width  # so nothing is cut or resized
    vector = encoder(torch.from_numpy(to_pixels(picture).copy()).permute(2, 0, 1)[None].float() / 255).pooled[0].numpy().astype(np.float64)
    assert nearest == ranking(vector, tmp_path / "f", without=sha256_hex((folder / "5.png").read_bytes()))
    # moved: said, and found where --input says
    folder.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="--input .*photos: no such folder"):
        page_of(tmp_path / "f", tmp_path / "page.html")
    page_of(tmp_path / "f", tmp_path / "page.html", input=(str(tmp_path / "moved"),), num_queries=1)
    data = (tmp_path / "moved" / "0.png").read_bytes()
    (tmp_path / "moved" / "0.png").write_bytes(data[:-1] + b"x")
    with pytest.raises(ValueError, match="photos/0.png has changed since it was embedded"):
        page_of(tmp_path / "f", tmp_path / "page.html", input=(str(tmp_path / "moved"),), queries=("0.png",))
    (tmp_path / "moved" / "0.png").unlink()
    with pytest.raises(ValueError, match="holds other images than"):
        page_of(tmp_path / "f", tmp_path / "page.html", input=(str(tmp_path / "moved"),), num_queries=1)


def test_the_texts_stand_next_to_images_of_pages_and_hostile_ones_stay_text(features: Path, tmp_path: Path) -> None:
    rows, _ = everything(features)
    page = page_of(features, tmp_path / "page.html", queries=tuple(row["id"] for row in rows), text=(EVIL,))
    assert 'Document 0 begins. <b title="the image">▣</b> After picture 0 of 0.' in page and "First paragraph." not in page
    assert "The last before it. <b" in page and "{{ 7 * 7 }}" in page and "alert(1)" in page
    tags = re.findall(r"<([a-zA-Z][a-zA-Z0-9]*)((?:\s+[a-zA-Z-]+(?:=\"[^\"]*\")?)*)", page)
    assert {name for name, _ in tags} <= {"html", "head", "meta", "title", "style", "body", "main", "h1", "p", "section", "div", "figure", "img", "figcaption", "br", "a", "bdi", "b", "blockquote"}
    sources = re.findall(r'<img src="([^"]*)"', page)
    assert sources and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert all(link.startswith("https://") for link in re.findall(r'href="([^"]*)"', page)) and "default-src 'none'" in page


def test_mistakes_are_refused(features: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    other = toy_checkpoint(tmp_path / "other", seed=1)
    for options, message in (
        ({"queries": ("none",)}, "--queries none: no image of .* has this id, and there is no such file"),
        ({"queries": (str(tmp_path / "text.png"),)}, "text.png cannot be read as an image"),
        ({"text": ("a boot",), "encoder": str(other)}, "other did not make the features of"),
        ({"text": ("a boot",), "encoder": str(tmp_path / "none")}, "no such run or checkpoint folder"),
    ):
        with pytest.raises(ValueError, match=message):
            page_of(features, tmp_path / "page.html", **options)
    (tmp_path / "mine.html").write_text("mine")
    with pytest.raises(ValueError, match="mine.html is there and is no page of lcl"):
        page_of(features, tmp_path / "mine.html")
    with pytest.raises(ValueError, match="holds no features"):
        page_of(tmp_path, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_as_a_command(run: Run, features: Path, tmp_path: Path) -> None:
    result = run("python", "-m", "lcl.cli", "search", "--features", features, "--text", "a red boot", "a dog", "--output", tmp_path / "page.html")
    assert result.returncode == 0 and f"nearest images: {tmp_path / 'page.html'}" in result.stdout, result.stderr
    assert [title for title, _ in shown((tmp_path / "page.html").read_text())] == ["a red boot", "a dog"]
