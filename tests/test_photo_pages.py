"""Composed pages: what they promise of photographs, mentions, themes and pairs holds in the captures, and again in the shards."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lcl.core.files import read_json
from lcl.core.images import encode_jpeg
from lcl.core.shards import ShardSet
from pipeline.samples import photo_pages
from pipeline.samples.compose_pages import ComposePagesConfig, choose, main, read_photos
from pipeline.samples.photo_pages import COLOUR_SHARE, Mix, Photo, colour_of, compose_pages
from tests.builds import build_here
from tests.conftest import Run, assert_one_line_error

LABELS = ("boot", "shoes", "umbrella", "dress")
COLOURS = {"red": (200, 20, 20), "orange": (240, 120, 20), "yellow": (240, 220, 30), "green": (30, 160, 40), "blue": (30, 60, 200), "black": (10, 10, 12), "white": (250, 250, 250)}


def photo(number: int, label: str, colour: tuple[int, int, int]) -> Photo:
    pixels = np.random.default_rng(number).integers(0, 40, (90, 80, 3), dtype=np.uint8) // 4 + np.array(colour, dtype=np.uint8) // 8 * 7
    return Photo(f"{number:03d}.jpg", label, encode_jpeg(Image.fromarray(pixels.astype(np.uint8)), quality=95))


@pytest.fixture(scope="module")
def photos() -> list[Photo]:
    colours = list(COLOURS.values())
    return [photo(number, LABELS[number % 4], colours[number % len(colours)]) for number in range(80)]


def pages_of(photos: list[Photo], seed: int = 0, **changed: object) -> list[str]:
    mix = Mix(**({"relevance": 0.5, "images_per_page": (3, 6), "pair_share": 0.0, "appearances": 3} | changed))
    return [capture.body.decode() for capture in compose_pages(photos, mix, seed=seed) if capture.content_type.startswith("text/html")]


def shown(page: str) -> list[int]:
    return [int(number) for number in re.findall(r"/photos/(\d+)\.jpg", page)]


def test_equal_seeds_give_equal_pages_and_others_do_not(photos: list[Photo]) -> None:
    assert pages_of(photos) == pages_of(photos) != pages_of(photos, seed=1)


@pytest.mark.parametrize("pair_share", [0.0, 0.25, 1.0])
def test_every_photograph_appears_as_often_as_any_other(photos: list[Photo], pair_share: float) -> None:
    pages = pages_of(photos, pair_share=pair_share)
    assert Counter(number for page in pages for number in shown(page)) == dict.fromkeys(range(80), 3)
    sizes = Counter(len(shown(page)) for page in pages)
    assert sizes[1] >= round(pair_share * 80) * 3 and max(sizes) <= 6


@pytest.mark.parametrize("relevance", [0.0, 0.3, 1.0])
def test_as_many_pictures_are_named_as_asked_for(photos: list[Photo], relevance: float) -> None:
    """Each with its own class, before it and in its caption, independently; half of the mentions with a colour."""
    named, coloured, both, total = Counter(), 0, 0, 0
    for page in pages_of(photos, relevance=relevance, appearances=10):
        blocks = re.findall(r"<p>.*?</p>|<figure>.*?</figure>|<div.*?</div>", page)
        for place, block in enumerate(blocks):
            if numbers := shown(block):
                total += 1
                label = photos[numbers[0]].label
                beside = {where: text for where, text in (("before", blocks[place - 1]), ("behind", block)) if re.search(rf"\b(an?|some)( \w+)? {label}\b", text, re.IGNORECASE)}
                named.update(beside.keys())
                both += len(beside) == 2
                coloured += sum(bool(re.search(rf"\b(red|orange|yellow|green|blue|purple|pink|black|grey|white) {label}\b", text, re.IGNORECASE)) for text in beside.values())
    assert total == 800
    assert all(abs(named[where] / total - relevance) < 0.06 for where in ("before", "behind")) and abs(both / total - relevance**2) < 0.06
    assert abs(coloured - COLOUR_SHARE * named.total()) <= 0.1 * total


def test_a_page_shows_its_theme_more_often(photos: list[Photo], monkeypatch: pytest.MonkeyPatch) -> None:
    """The most frequent class of a page has more of its photographs than where classes of the theme weigh no more than others."""
    many = [replace(one, label=f"class{number % 8}") for number, one in enumerate(photos)]

    def largest_share() -> float:
        pages = map(shown, pages_of(many, appearances=40, images_per_page=(6, 6)))
        return float(np.mean([max(Counter(many[number].label for number in page).values()) / len(page) for page in pages]))

    themed = largest_share()
    monkeypatch.setattr(photo_pages, "THEME_WEIGHT", 1.0)
    assert themed > largest_share() + 0.02


@pytest.mark.parametrize("word", sorted(COLOURS))
def test_the_main_colour_has_its_word(word: str) -> None:
    assert colour_of(photo(1, "boot", COLOURS[word]).data) == word


def test_more_photographs_hold_all_of_fewer(photos: list[Photo]) -> None:
    few, more = ({one.name for one in choose(photos, num, seed=3)} for num in (10, 40))
    assert len(few) == 10 and few < more
    with pytest.raises(ValueError, match="--max-photos 81"):
        choose(photos, 81, seed=0)


def test_one_split_becomes_shards(photos: list[Photo], tmp_path: Path) -> None:
    for one in photos:
        folder = tmp_path / "set" / ("test" if int(one.name[:3]) >= 60 else "train") / one.label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / one.name).write_bytes(one.data)
    assert len(read_photos(tmp_path / "set", split="train")) == 60
    main(ComposePagesConfig(photos=str(tmp_path / "set"), output=str(tmp_path / "pages"), relevance=1.0, appearances=2))
    spec = read_json(tmp_path / "pages" / "classes.json")
    assert spec["classes"] == {"boot": "a boot", "dress": "a dress", "shoes": "some shoes", "umbrella": "an umbrella"} and all("{}" in one for one in spec["templates"])
    (record,) = build_here([tmp_path / "pages" / "pages.warc.gz"], tmp_path / "shards", images__min_side_px=64)
    assert record["images"]["out"] == 120
    texts = [segment.text for document in ShardSet([tmp_path / "shards"]) for segment in document.segments if segment.kind == "text"]
    assert sum(any(label in text for label in LABELS) for text in texts) > 60


def test_what_is_no_set_of_photographs(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "empty", "holds no train/CLASS"), (tmp_path / "none", "neither a folder nor a tar file")):
        assert_one_line_error(run("python", "pipeline/samples/compose_pages.py", "--photos", path, "--output", tmp_path / "out"), message)
