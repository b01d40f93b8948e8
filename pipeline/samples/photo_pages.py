"""Pages of an invented site around labelled photographs: how much their text says of the pictures is set, and known.

    photographs --appear several times--> dealt to pages by theme --> paragraphs, pictures, captions --> HTML

A page has a theme: some classes that its photographs are of more often than by chance. With probability `relevance` the sentence before a photograph
names its class, and likewise the caption behind it; half of those name its main colour too. All else is filler, which now and then names a class at random.
"""

import colorsys
import html
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pipeline.samples.sample_text import HEADINGS, PLAIN_CAPTIONS, TOPICS, draw
from pipeline.samples.write_crawl import Capture

SITE = "https://wardrobe.example"
THEME_CLASSES = 3
THEME_WEIGHT = 4.0  # how much more often a page shows a class of its theme than another
COLOUR_SHARE = 0.5  # of the mentions that name the colour too
NOISE_SHARE = 0.03  # of the filler sentences name a class at random

LEADS = (
    "The next photograph shows {thing}.",
    "Here you can see {thing}.",
    "On the table we had laid out {thing}.",
    "She took {thing} from the bag.",
    "What we found then was {thing}.",
    "Somebody had left {thing} behind.",
    "At the end of the row stood {thing}.",
    "A friend asked us about {thing}.",
)
CAPTIONS = (
    "{Thing}, as we found it.",
    "This is {thing}.",
    "Seen from above: {thing}.",
    "{Thing} in the light of the window.",
    "Our picture of {thing}.",
    "{Thing}, taken the same day.",
)
NOISE = ("There is a shop with {name} on its sign round the corner.", "The word {name} was written on the door.", "Nobody had asked about {name} that day.")


@dataclass(frozen=True)
class Photo:
    name: str
    label: str
    data: bytes
    """A JPEG or PNG file."""


@dataclass(frozen=True)
class Mix:
    """What pages are made of; shares and probabilities lie in [0, 1]."""

    relevance: float
    images_per_page: tuple[int, int]
    pair_share: float
    """Photographs that stand alone on a page of one picture and one sentence."""
    appearances: int


def compose_pages(photos: Sequence[Photo], mix: Mix, *, seed: int) -> Iterator[Capture]:
    """Each photograph's file once, then the pages in an order drawn by the seed, each photograph on `appearances` of them. Equal arguments give equal captures."""
    rng = np.random.default_rng([seed, 0])
    labels = sorted({photo.label for photo in photos})
    colours = [colour_of(photo.data) for photo in photos]
    for number, photo in enumerate(photos):
        kind = Image.open(io.BytesIO(photo.data)).format
        yield Capture(_address(number), f"image/{str(kind).lower()}", photo.data)
    pages = [page for _ in range(mix.appearances) for page in _deal(photos, labels, mix, rng)]
    for turn, place in enumerate(rng.permutation(len(pages)).tolist()):
        body = _page(np.random.default_rng([seed, 1, turn]), turn, pages[place], photos, colours, labels, mix.relevance)
        yield Capture(f"{SITE}/pages/{turn:06d}.html", "text/html; charset=utf-8", body.encode())


def _deal(photos: Sequence[Photo], labels: Sequence[str], mix: Mix, rng: np.random.Generator) -> list[list[int]]:
    """Every photograph once: numbers of those on each page. What is left over makes a last, smaller page."""
    order = rng.permutation(len(photos)).tolist()
    num_alone = round(mix.pair_share * len(photos))
    pages = [[number] for number in order[:num_alone]]
    left: dict[str, list[int]] = {label: [] for label in labels}
    for number in order[num_alone:]:
        left[photos[number].label].append(number)
    while any(left.values()):
        theme = set(rng.permutation(labels)[:THEME_CLASSES].tolist())
        page: list[int] = []
        for _ in range(int(rng.integers(mix.images_per_page[0], mix.images_per_page[1] + 1))):
            weights = np.array([len(left[label]) * (THEME_WEIGHT if label in theme else 1.0) for label in labels])
            if not weights.any():
                break
            page.append(left[labels[int(rng.choice(len(labels), p=weights / weights.sum()))]].pop())
        pages.append(page)
    return pages


def _page(
    rng: np.random.Generator, turn: int, numbers: Sequence[int], photos: Sequence[Photo], colours: Sequence[str], labels: Sequence[str], relevance: float
) -> str:
    topic = TOPICS[int(rng.integers(len(TOPICS)))]
    blocks = [] if len(numbers) == 1 else [_paragraph(_filler(rng, topic.filler, labels, 2))]
    for number in numbers:
        places = ("before", "behind") if len(numbers) > 1 else (("before", "behind")[int(rng.integers(2))],)  # a pair has one sentence
        if len(numbers) > 1 and rng.random() < 0.1:
            blocks.append(f"<h2>{draw(rng, HEADINGS)}</h2>")
        if "before" in places:
            blocks.append(_paragraph(_mention(rng, LEADS, photos[number].label, colours[number], relevance) or _filler(rng, topic.filler, labels, 1)))
        caption = _mention(rng, CAPTIONS, photos[number].label, colours[number], relevance) if "behind" in places else ""
        if "behind" in places and not caption and (len(numbers) == 1 or rng.random() < 0.2):
            caption = draw(rng, PLAIN_CAPTIONS)
        element = f'<img src="{_address(number)}" alt="">'
        blocks.append(f"<figure>{element}<figcaption>{html.escape(caption)}</figcaption></figure>" if caption else f'<div class="photo">{element}</div>')
    if len(numbers) > 1:
        blocks.append(_paragraph(_filler(rng, topic.filler, labels, 2)))
    return _document(topic.title, turn, "\n".join(blocks))


def _mention(rng: np.random.Generator, sentences: Sequence[str], label: str, colour: str, relevance: float) -> str:
    """With probability `relevance` a sentence that names the class, half of the time with the colour; else nothing."""
    if rng.random() >= relevance:
        return ""
    return _fill(draw(rng, sentences), with_article(f"{colour} {label}" if rng.random() < COLOUR_SHARE else label))


def with_article(words: str) -> str:
    """`a boot`, `an orange boot`, `some shoes`."""
    plural = words.endswith("s") and not words.endswith("ss")
    return f"{'some' if plural else 'an' if words[0] in 'aeiou' else 'a'} {words}"


def zero_shot_spec(labels: Iterable[str]) -> dict[str, Any]:
    """Class names and templates for zero-shot evaluation (classes.json): the sentences that name a class, without colours."""
    return {"classes": {label: with_article(label) for label in labels}, "templates": [template.replace("{thing}", "{}") for template in LEADS]}


def _fill(template: str, thing: str) -> str:
    return template.replace("{thing}", thing).replace("{Thing}", thing[0].upper() + thing[1:])


def _filler(rng: np.random.Generator, sentences: Sequence[str], labels: Sequence[str], num: int) -> str:
    chosen = rng.permutation(sentences)[:num].tolist()
    return " ".join(draw(rng, NOISE).replace("{name}", draw(rng, labels)) if rng.random() < NOISE_SHARE else sentence for sentence in chosen)


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text, quote=False)}</p>"


def _address(number: int) -> str:
    return f"{SITE}/photos/{number:06d}.jpg"


def _document(title: str, turn: int, article: str) -> str:
    title = html.escape(title, quote=False)
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{title} · {turn}</title></head>
<body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/pages/">All pages</a></li></ul></nav>
<main><article>
<h1>{title}</h1>
{article}
</article></main>
<footer><p>A site that does not exist.</p></footer>
</body>
</html>
"""


# --- The main colour of a photograph, in a word

GREYS = (("black", 0.25), ("grey", 0.7), ("white", 1.01))  # up to this value (HSV) where there is little colour
HUES = (("red", 0.04), ("orange", 0.11), ("yellow", 0.18), ("green", 0.45), ("blue", 0.70), ("purple", 0.83), ("pink", 0.95), ("red", 1.01))  # up to this hue
LEAST_SATURATION, DARK = 0.22, 0.16


def colour_of(data: bytes) -> str:
    """A word for the mean colour of the middle of a picture, where its subject most often is."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    middle = image.crop((image.width // 3, image.height // 3, 2 * image.width // 3 + 1, 2 * image.height // 3 + 1)).resize((1, 1), Image.Resampling.BOX)
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in middle.getpixel((0, 0))))
    bounds, number = (GREYS, value) if saturation < LEAST_SATURATION or value < DARK else (HUES, hue)
    return next(name for name, bound in bounds if number < bound)
