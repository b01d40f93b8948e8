"""A small crawl of an invented site, and labelled pictures of the same kind, made from what the dependencies ship.

    digits, photographs --split--> pages | labelled/train | labelled/test        (no digit and no photograph area is in two of them)
    pages: plan_site --> compose_page --> write_crawl     --> sample.warc.gz
    labelled:            render_picture --> write_labelled --> labelled/{train,test}/<class>/*.jpg, labelled/classes.json

A picture is one handwritten digit, in a named colour at a random place and size, on a random crop of a photograph. On a page the
paragraph before a picture says what is seen with probability `relevance`; around that stands what a real crawl holds: navigation,
adverts, lazy images, duplicates, missing and broken files, other charsets and encodings.

The same config gives the same bytes with the same versions of numpy, Pillow and zlib. Whoever passes the files on names the
photographers of scikit-learn's china.jpg and flower.jpg (CC BY 2.0, see `sklearn/datasets/images/README.txt`).
"""

import base64
import gzip
import hashlib
import html
import importlib.util
import io
import logging
import re
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Literal
from urllib.parse import urlsplit

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits, load_sample_images

from lcl.core.config import config, run_command, write_run_record
from lcl.core.files import open_aside, write_json
from lcl.core.logs import progress_bar, set_up_logging
from pipeline.sample_text import (
    ALTERNATIVE_TEXTS,
    DIGIT_WORDS,
    HEADINGS,
    PLAIN_CAPTIONS,
    TOPICS,
    ZERO_SHOT_TEMPLATES,
    Topic,
    write_filler,
    write_line,
    write_mention,
    write_title,
)

logger = logging.getLogger(__name__)

Split = Literal["pages", "train", "test"]
SPLITS: tuple[Split, ...] = ("pages", "train", "test")
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, as in Pillow

SITE = "https://sample.example"
CDN = "https://cdn.sample.example"

SPLIT_SEED = 20_240_607  # not the config's: the split is the same for every seed, so no crawl ever holds a labelled digit
DIGIT_SHARES = (0.70, 0.15, 0.15)
AREA_SHARES = (0.50, 0.25, 0.25)  # of a photograph's width; a labelled area must be wide enough to crop from

# Colour photographs in scikit-image's package folder. Left out: motorcycle_right.png (the same scene as the left picture, so that
# its test area would show what pages show), the grey pictures, and the drawings (color.png, logo.png).
SKIMAGE_PHOTOS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (215, 30, 35),
    "green": (35, 160, 60),
    "blue": (35, 75, 215),
    "yellow": (250, 220, 40),
    "white": (250, 250, 250),
    "black": (12, 12, 12),
    "orange": (250, 130, 20),
    "purple": (125, 40, 170),
    "pink": (250, 130, 190),
    "turquoise": (60, 205, 205),
}
LIGHTNESS_WEIGHT = 2.5  # eyes find strokes by lightness before hue: yellow on white reads worse than red on green
MIN_CONTRAST = 0.55  # see `contrast`; chosen by looking: below it some digits are hard to read on these photographs

PICTURE_SIDE_PX = (160, 240)
DIGIT_HEIGHT = (0.45, 0.75)  # of the picture's height
CROP_SHARE = (0.4, 1.0)  # of the largest crop of that shape which the area holds
LABELLED_RENDER_PX = 192
LABELLED_SIDE_PX = 96

MEDIA_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
MIN_NUM_PAGES = 16  # with two pictures each, more than the 25 after which every way to refer to a picture has come


@config
class SampleCrawlConfig:
    """What `sample_crawl` writes, and where."""

    output: Path
    """Folder for sample.warc.gz and labelled/; it is made if need be."""
    seed: int = 0
    """The same seed gives the same files, byte for byte."""
    num_pages: int = 320
    """Different pages; duplicates and second captures come on top."""
    images_per_page: tuple[int, int] = (5, 9)
    """Least and most pictures on a page that has pictures."""
    relevance: float = 0.6
    """Probability that the paragraph just before a picture says what is seen."""
    num_labelled_train: int = 1500
    """Labelled pictures for a linear probe, the same number for each of the ten classes."""
    num_labelled_test: int = 800
    """Labelled pictures to score with, from digits and photograph areas of their own."""


def check(settings: SampleCrawlConfig) -> None:
    """Raises ValueError, naming the key, for settings that make no crawl."""
    least, most = settings.images_per_page
    if settings.seed < 0:
        raise ValueError(f"seed is {settings.seed}; it must be 0 or more")
    if settings.num_pages < MIN_NUM_PAGES:
        raise ValueError(f"num_pages is {settings.num_pages}; fewer than {MIN_NUM_PAGES} cannot hold every kind of page")
    if not 2 <= least <= most:
        raise ValueError(f"images_per_page is {least} {most}; give the least and the most, from 2 up")
    if not 0 <= settings.relevance <= 1:
        raise ValueError(f"relevance is {settings.relevance}; it is a probability, from 0 to 1")
    for key, count in {"num_labelled_train": settings.num_labelled_train, "num_labelled_test": settings.num_labelled_test}.items():
        if count < 10 or count % 10:
            raise ValueError(f"{key} is {count}; give a multiple of 10, so that the ten classes get the same number")


# --- Material: digits and photographs, each split in three


@dataclass(frozen=True)
class Material:
    """Digits as uint8 of shape (digits, 8, 8) with values 0 to 16, their labels of shape (digits,), and RGB photographs by name."""

    intensities: np.ndarray
    labels: np.ndarray
    photos: Mapping[str, Image.Image]


def load_material() -> Material:
    """The digits that scikit-learn ships and the photographs that it and scikit-image ship; nothing is downloaded.

    Raises ValueError if scikit-image is not installed or no longer ships one of SKIMAGE_PHOTOS.
    """
    found = importlib.util.find_spec("skimage")
    if found is None or not found.submodule_search_locations:
        raise ValueError("scikit-image is not installed, and the sample crawl takes its photographs from there: pip install 'lcl[demo]'")
    folder = Path(found.submodule_search_locations[0]) / "data"
    photos = {}
    for name in SKIMAGE_PHOTOS:
        if not (folder / name).exists():
            raise ValueError(f"{folder / name} is missing: this scikit-image ships other photographs; install 0.25 or 0.26")
        with Image.open(folder / name) as file:
            photos[name] = file.convert("RGB")
    for name, pixels in zip(("china.jpg", "flower.jpg"), load_sample_images().images, strict=True):
        photos[name] = Image.fromarray(pixels)
    digits = load_digits()
    return Material(digits.images.astype(np.uint8), digits.target, photos)


def split_digits(labels: np.ndarray) -> dict[Split, np.ndarray]:
    """Disjoint indices into the digits for each split, DIGIT_SHARES of each class; `labels` has shape (digits,)."""
    rng = np.random.default_rng(SPLIT_SEED)
    parts: dict[Split, list[np.ndarray]] = {split: [] for split in SPLITS}
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(labels == digit))
        cuts = np.round(np.cumsum(DIGIT_SHARES[:-1]) * len(members)).astype(int)
        for split, part in zip(SPLITS, np.split(members, cuts), strict=True):
            parts[split].append(part)
    return {split: np.sort(np.concatenate(chunks)) for split, chunks in parts.items()}


def split_areas(photos: Mapping[str, Image.Image]) -> dict[Split, dict[str, Box]]:
    """For each split, one upright strip of each photograph: strips of one photograph do not overlap.

    The order of the strips turns from photograph to photograph, so that no split sees left edges only.
    """
    areas: dict[Split, dict[str, Box]] = {split: {} for split in SPLITS}
    for turn, (name, photo) in enumerate(sorted(photos.items())):
        left = 0
        order = [(turn + step) % len(SPLITS) for step in range(len(SPLITS))]
        for place, index in enumerate(order):
            right = photo.width if place == len(order) - 1 else left + round(AREA_SHARES[index] * photo.width)
            areas[SPLITS[index]][name] = (left, 0, right, photo.height)
            left = right
    return areas


@dataclass(frozen=True)
class Supply:
    """What one split may draw from: indices of its digits by class, and its area of each photograph."""

    material: Material
    digit_indices: tuple[np.ndarray, ...]
    areas: Mapping[str, Box]


def supply(material: Material, split: Split) -> Supply:
    """The digits and areas of `split`."""
    members = split_digits(material.labels)[split]
    by_class = tuple(members[material.labels[members] == digit] for digit in range(10))
    return Supply(material, by_class, split_areas(material.photos)[split])


# --- Pictures


@dataclass(frozen=True)
class Picture:
    """An RGB image and what it was made from; `crop` is the box of the photograph behind the digit."""

    image: Image.Image
    digit: int
    digit_index: int
    colour: str
    photo: str
    crop: Box


def draw_picture(rng: np.random.Generator, source: Supply, *, digit_index: int, width_px: int, height_px: int) -> Picture:
    """A picture of that digit at a random place, size and colour, on a random and perhaps mirrored crop of a random photograph."""
    photo = sorted(source.areas)[int(rng.integers(len(source.areas)))]
    crop = draw_crop(rng, source.areas[photo], aspect=width_px / height_px)
    background = source.material.photos[photo].resize((width_px, height_px), Image.Resampling.BICUBIC, box=crop)
    if rng.random() < 0.5:
        background = background.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mask = digit_mask(source.material.intensities[digit_index], height_px=round(rng.uniform(*DIGIT_HEIGHT) * height_px), most_px=width_px)
    left = int(rng.integers(width_px - mask.width + 1))
    top = int(rng.integers(height_px - mask.height + 1))
    behind = background.crop((left, top, left + mask.width, top + mask.height))
    colour = draw_colour(rng, behind, mask)
    image = render_picture(background, mask, left_px=left, top_px=top, colour=colour)
    return Picture(image, int(source.material.labels[digit_index]), digit_index, colour, photo, crop)


def draw_crop(rng: np.random.Generator, area: Box, *, aspect: float) -> Box:
    """A box inside `area` whose width is about `aspect` times its height, of a random size within CROP_SHARE and at a random place."""
    left, top, right, bottom = area
    height_most = min(bottom - top, (right - left) / aspect)
    height = rng.uniform(*CROP_SHARE) * height_most
    box_width, box_height = max(1, int(height * aspect)), max(1, int(height))
    x = left + int(rng.integers(right - left - box_width + 1))
    y = top + int(rng.integers(bottom - top - box_height + 1))
    return (x, y, x + box_width, y + box_height)


def digit_mask(intensities: np.ndarray, *, height_px: int, most_px: int) -> Image.Image:
    """The digit as a soft mask (mode L), cut to its strokes, `height_px` high and at most `most_px` wide.

    `intensities` has shape (8, 8) and values 0 to 16. The bicubic enlargement blurs strokes to a haze, so the middle of
    the range is stretched: opaque from 70 % of full ink on, transparent below 30 %.
    """
    rows, columns = np.flatnonzero(intensities.max(axis=1) >= 4), np.flatnonzero(intensities.max(axis=0) >= 4)
    inked = np.pad(intensities[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    scale = 16  # enlarged once to a fine grid, then cut, so that the height is met to the pixel
    fine = Image.fromarray((inked * 15).astype(np.uint8)).resize((inked.shape[1] * scale, inked.shape[0] * scale), Image.Resampling.BICUBIC)
    alpha = np.clip((np.asarray(fine) / 240 - 0.3) / 0.4, 0, 1)
    rows, columns = np.flatnonzero(alpha.max(axis=1) > 0.1), np.flatnonzero(alpha.max(axis=0) > 0.1)
    tight = Image.fromarray(np.round(alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] * 255).astype(np.uint8))
    width_px = min(most_px, max(1, round(height_px * tight.width / tight.height)))
    return tight.resize((width_px, height_px), Image.Resampling.BICUBIC)


def contrast(behind: Image.Image, mask: Image.Image, colour: str) -> float:
    """How well `colour` stands out: the 15th percentile, over the pixels the digit covers, of their distance to the colour.

    The distance is the Euclidean one in JPEG's YCbCr with channels in [0, 1] and lightness weighted LIGHTNESS_WEIGHT. A percentile,
    and not the distance to the mean colour, so that a busy background counts as such.
    """
    covered = np.asarray(behind.convert("YCbCr"))[np.asarray(mask) > 127] / 255
    paint = np.asarray(Image.new("RGB", (1, 1), COLOURS[colour]).convert("YCbCr"))[0, 0] / 255
    distance = np.linalg.norm((covered - paint) * (LIGHTNESS_WEIGHT, 1, 1), axis=1)
    return float(np.percentile(distance, 15))


def draw_colour(rng: np.random.Generator, behind: Image.Image, mask: Image.Image) -> str:
    """A random colour among those whose contrast is at least MIN_CONTRAST; the strongest one where none is."""
    contrasts = {name: contrast(behind, mask, name) for name in COLOURS}
    readable = [name for name, value in contrasts.items() if value >= MIN_CONTRAST]
    if not readable:
        return max(contrasts, key=contrasts.__getitem__)
    return readable[int(rng.integers(len(readable)))]


def render_picture(background: Image.Image, mask: Image.Image, *, left_px: int, top_px: int, colour: str) -> Image.Image:
    """A copy of `background` with the digit painted on it: the mask is the paint's opacity."""
    image = background.copy()
    image.paste(COLOURS[colour], (left_px, top_px), mask)
    return image


def encode_image(image: Image.Image, form: str, *, quality: int = 88) -> bytes:
    """The file's bytes; `form` is a key of MEDIA_TYPES. JPEG keeps full colour resolution from quality 95 on."""
    buffer = io.BytesIO()
    if form == "jpg":
        image.save(buffer, "JPEG", quality=quality, subsampling=0 if quality >= 95 else 2)
    elif form == "png":
        image.save(buffer, "PNG")
    elif form == "webp":
        image.save(buffer, "WEBP", quality=quality, method=2)
    else:
        raise ValueError(f"image form {form!r} is not known; there are: {', '.join(MEDIA_TYPES)}")
    return buffer.getvalue()


# --- The plan of the site: which page has what. Page content is drawn later, from a generator of each page's own.

# How a page refers to a picture, and how often among 25. Plain forms have exactly one URL.
PLAIN_REFERENCES = {
    "root_relative": 4,
    "absolute": 3,
    "page_relative": 4,
    "protocol_relative": 2,
    "cdn": 2,
    "lazy": 1,
    "noscript": 1,
    "comma": 1,
    "encoded_space": 1,
}
REFERENCES = PLAIN_REFERENCES | {"srcset_density": 2, "srcset_width": 2, "picture_source": 2}

State = Literal["present", "not_found", "absent", "truncated", "not_an_image"]


@dataclass(frozen=True)
class PicturePlan:
    """One picture to be: the way its page refers to it, its file form, and what the crawl got for its URL.

    `not_found` is a 404 record, `absent` no record at all, `truncated` a JPEG cut short, `not_an_image` HTML sent as image/jpeg.
    """

    number: int
    reference: str
    form: str
    state: State


@dataclass(frozen=True)
class PagePlan:
    """One page to be. `charset_in` says where the charset is declared; `duplicate_url` is where the same bytes are found again."""

    number: int
    url: str
    title: str
    topic: Topic
    pictures: tuple[PicturePlan, ...]
    charset: str
    charset_in: Literal["header", "meta"]
    base_href: str | None
    has_gzip: bool
    has_chunks: bool
    has_advert_inside: bool
    has_request: bool
    is_captured_twice: bool
    duplicate_url: str | None


def plan_site(rng: np.random.Generator, *, num_pages: int, images_per_page: tuple[int, int]) -> list[PagePlan]:
    """The pages of the site in crawl order. Every trait of a page, every reference and every state of a picture occurs.

    Shares of pages: 12 % without pictures, 8 % with <base href>, 6 % in another charset, 25 % gzipped, 15 % chunked,
    4 % with a duplicate, 4 % captured twice, 4 % with their request; of pictures: 1 % not found, 1 % absent, a few damaged.
    """

    def some(share: float, *, least: int = 1, apart_from: Collection[int] = ()) -> list[int]:
        others = [int(number) for number in rng.permutation(num_pages) if number not in apart_from]
        return others[: max(least, round(share * num_pages))]

    without = set(some(0.12))
    counts = [0 if page in without else int(rng.integers(images_per_page[0], images_per_page[1] + 1)) for page in range(num_pages)]
    pictures = _plan_pictures(rng, sum(counts))
    other_charset = some(0.06, least=2)
    charsets = {page: ("windows-1252", "header") if turn % 2 else ("iso-8859-1", "meta") for turn, page in enumerate(other_charset)}
    has_base = set(some(0.08, least=2, apart_from=without))
    has_gzip, has_chunks = set(some(0.25, least=2)), set(some(0.15, least=2))
    advert_inside, requested, twice, duplicated = set(some(0.3)), set(some(0.04)), set(some(0.04)), set(some(0.04))
    plans = []
    for page in range(num_pages):
        topic = TOPICS[int(rng.integers(len(TOPICS)))]
        charset, charset_in = charsets.get(page, ("utf-8", "header" if rng.random() < 0.7 else "meta"))
        first = sum(counts[:page])
        plans.append(
            PagePlan(
                number=page,
                url=f"{SITE}/{topic.slug}/page-{page:04d}.html",
                title=write_title(rng, topic),
                topic=topic,
                pictures=tuple(pictures[first : first + counts[page]]),
                charset=charset,
                charset_in=charset_in,
                base_href=f"{SITE}/archive/" if page in has_base else None,
                has_gzip=page in has_gzip,
                has_chunks=page in has_chunks,
                has_advert_inside=page in advert_inside,
                has_request=page in requested,
                is_captured_twice=page in twice,
                duplicate_url=f"{SITE}/syndicated/page-{page:04d}.html" if page in duplicated else None,
            )
        )
    return plans


def _plan_pictures(rng: np.random.Generator, num_pictures: int) -> list[PicturePlan]:
    deck = [name for name, count in REFERENCES.items() for _ in range(count)]
    references = [deck[card] for _ in range(0, num_pictures, len(deck)) for card in rng.permutation(len(deck))][:num_pictures]
    forms = rng.choice(["jpg", "webp", "png"], size=num_pictures, p=[0.84, 0.11, 0.05])
    plain = [number for number in rng.permutation(num_pictures) if references[number] in PLAIN_REFERENCES]
    shares: dict[State, float] = {"not_found": 0.01, "absent": 0.01, "truncated": 0.001, "not_an_image": 0.001}
    states: dict[int, State] = {}
    for state, share in shares.items():
        for _ in range(max(1, round(share * num_pictures))):
            states[int(plain.pop())] = state
    plans = []
    for number, reference in enumerate(references):
        state = states.get(number, "present")
        form = "jpg" if state in ("truncated", "not_an_image") or reference == "picture_source" else str(forms[number])
        plans.append(PicturePlan(number, reference, form, state))
    return plans


# --- Pages


@dataclass(frozen=True)
class SiteFile:
    """What a URL answers: the body before any transfer or content encoding."""

    url: str
    content_type: str
    body: bytes
    status: int = 200


@dataclass(frozen=True)
class PlacedPicture:
    """Ground truth of one picture on a page; `urls` are all that show it in full, the one in `src` or `data-src` first.

    `mention` says where the text names the digit: in the paragraph just before the picture, in its caption, or nowhere.
    """

    urls: tuple[str, ...]
    digit: int
    digit_index: int
    colour: str
    photo: str
    crop: Box
    mention: Literal["before", "caption", "none"]
    reference: str
    state: State


@dataclass(frozen=True)
class Page:
    """A page as it is sent, the files of its pictures, and its ground truth in the order of the document."""

    plan: PagePlan
    url: str
    html: str
    files: tuple[SiteFile, ...]
    pictures: tuple[PlacedPicture, ...]
    num_words: int


def compose_page(rng: np.random.Generator, plan: PagePlan, *, site: Sequence[PagePlan], source: Supply, relevance: float) -> Page:
    """The page that `plan` asks for, with pictures and texts drawn from `source` and the topic's vocabulary.

    Each picture follows a paragraph that, with probability `relevance`, ends by naming its digit; else, with probability 0.2
    (or what is left of 1), the caption names it; else nothing does. `site` gives the pages to link to.
    """
    blocks: list[str] = []
    files: list[SiteFile] = []
    placed: list[PlacedPicture] = []
    # With the lead paragraphs that makes 150 to 400 words a page.
    num_fillers = int(rng.integers(5, 8)) if not plan.pictures else int(rng.integers(3, 5)) - (len(plan.pictures) > 6)
    # Filler 0 opens the article; the others stand before the lead paragraph of a random picture, or after the last one.
    places = sorted(int(place) for place in rng.integers(len(plan.pictures) + 1, size=num_fillers - 1))
    advert_place = int(rng.integers(len(plan.pictures) + 1))
    blocks.append(_paragraph(_filler(rng, plan.topic, None)))
    for position in range(len(plan.pictures) + 1):
        for _ in range(places.count(position)):
            if rng.random() < 0.5:
                blocks.append(f"<h2>{html.escape(write_line(rng, plan.topic, HEADINGS))}</h2>")
            blocks.append(_paragraph(_filler(rng, plan.topic, None)))
        if plan.has_advert_inside and position == advert_place:
            blocks.append(_advert(rng))
        if position == len(plan.pictures):
            break
        picture_plan = plan.pictures[position]
        picture = _draw_for_page(rng, source)
        draw = rng.random()
        mention: Literal["before", "caption", "none"] = "before" if draw < relevance else "caption" if draw < relevance + 0.2 else "none"
        blocks.append(_paragraph(_lead(rng, plan.topic, picture, is_mentioned=mention == "before")))
        shown, urls, own_files = _show(rng, plan, picture_plan, picture)
        blocks.append(_frame(rng, plan.topic, picture, shown, mention))
        files += own_files
        placed.append(
            PlacedPicture(
                urls=urls,
                digit=picture.digit,
                digit_index=picture.digit_index,
                colour=picture.colour,
                photo=picture.photo,
                crop=picture.crop,
                mention=mention,
                reference=picture_plan.reference,
                state=picture_plan.state,
            )
        )
    text = "\n".join(blocks)
    num_words = len(re.sub(r"<[^>]*>", " ", text).split())
    return Page(plan, plan.url, _document(rng, plan, site, text), tuple(files), tuple(placed), num_words)


def _draw_for_page(rng: np.random.Generator, source: Supply) -> Picture:
    members = source.digit_indices[int(rng.integers(10))]
    width, height = (int(side) for side in rng.integers(PICTURE_SIDE_PX[0], PICTURE_SIDE_PX[1] + 1, size=2))
    return draw_picture(rng, source, digit_index=int(members[rng.integers(len(members))]), width_px=width, height_px=height)


def _filler(rng: np.random.Generator, topic: Topic, not_digit: int | None) -> str:
    return write_filler(rng, topic, num_sentences=int(rng.integers(3, 6)), not_digit=not_digit)


def _lead(rng: np.random.Generator, topic: Topic, picture: Picture, *, is_mentioned: bool) -> str:
    """The paragraph just before a picture; a mention is its last sentence."""
    if not is_mentioned:
        return write_filler(rng, topic, num_sentences=int(rng.integers(1, 3)), not_digit=picture.digit)
    mention = write_mention(rng, topic, digit=picture.digit, colour=picture.colour)
    if rng.random() < 0.5:
        return mention
    return write_filler(rng, topic, num_sentences=1, not_digit=picture.digit) + " " + mention


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text, quote=False)}</p>"


def _frame(rng: np.random.Generator, topic: Topic, picture: Picture, shown: str, mention: str) -> str:
    """The picture's element inside a figure, a div or a link."""
    if mention == "caption":
        caption = write_mention(rng, topic, digit=picture.digit, colour=picture.colour, as_caption=True)
        return f"<figure>{shown}<figcaption>{html.escape(caption)}</figcaption></figure>"
    draw = rng.random()
    if draw < 0.2:
        return f"<figure>{shown}<figcaption>{html.escape(write_line(rng, topic, PLAIN_CAPTIONS))}</figcaption></figure>"
    return f'<div class="photo">{shown}</div>' if draw < 0.8 else f"<p>{shown}</p>"


def _show(
    rng: np.random.Generator, plan: PagePlan, picture_plan: PicturePlan, picture: Picture
) -> tuple[str, tuple[str, ...], list[SiteFile]]:
    """The picture's element, its absolute URLs (the main one first) and its files."""
    token = hashlib.sha256(f"picture {picture_plan.number}".encode()).hexdigest()[:10]
    form, reference, image = picture_plan.form, picture_plan.reference, picture.image
    url = f"{SITE}/img/{token}.{form}"
    if reference == "cdn" or (reference == "protocol_relative" and picture_plan.number % 2):
        url = f"{CDN}/photos/{token}.{form}"
    elif plan.base_href and reference in ("root_relative", "page_relative", "lazy", "noscript"):
        url = f"{plan.base_href}img/{token}.{form}"
    elif reference == "comma":
        url = f"{SITE}/img/w_{image.width},h_{image.height}/{token}.{form}"
    elif reference == "encoded_space":
        url = f"{SITE}/img/day%20trip%20{token}.{form}"
    urls = [url]
    files = list(_main_file(url, picture_plan, image))
    alternative = html.escape(write_line(rng, plan.topic, ALTERNATIVE_TEXTS))
    size = f' width="{image.width}" height="{image.height}"' if rng.random() < 0.5 else ""
    src = _refer(url, plan, reference)
    shown = f'<img src="{src}" alt="{alternative}"{size}>'
    if reference in ("lazy", "noscript"):
        blank = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
        shown = f'<img class="lazyload" src="{blank}" data-src="{src}" alt="{alternative}"{size}>'
        if reference == "noscript":
            shown += f'<noscript><img src="{src}" alt="{alternative}"></noscript>'
    elif reference == "comma":
        shown = f'<img src="{src}" srcset="{src} {image.width}w" alt="{alternative}"{size}>'
    elif reference == "srcset_density":
        twice = url.removesuffix(f".{form}") + f"-2x.{form}"
        urls.append(twice)
        files.append(_image_file(twice, _resized(image, 2.0), form))
        shown = f'<img src="{src}" srcset="{src} 1x, {_refer(twice, plan, reference)} 2x" alt="{alternative}"{size}>'
    elif reference == "srcset_width":
        small_px = 80  # below any sensible least size: whoever takes the first candidate loses the picture
        small = url.removesuffix(f".{form}") + f"-{small_px}.{form}"
        files.append(_image_file(small, _resized(image, small_px / image.width), form))
        candidates = f"{_refer(small, plan, reference)} {small_px}w, {src} {image.width}w"
        shown = f'<img src="{src}" srcset="{candidates}" sizes="(max-width: 600px) 100vw, 600px" alt="{alternative}"{size}>'
    elif reference == "picture_source":
        modern = url.removesuffix(f".{form}") + ".webp"
        urls.append(modern)
        files.append(_image_file(modern, image, "webp"))
        shown = f'<picture><source type="image/webp" srcset="{_refer(modern, plan, reference)}">{shown}</picture>'
    return shown, tuple(urls), files


def _refer(url: str, plan: PagePlan, reference: str) -> str:
    """`url` as the page writes it: relative to its <base href> or to the root unless the kind of reference says otherwise."""
    if reference in ("absolute", "cdn", "picture_source"):
        return url
    if reference == "protocol_relative":
        return url.removeprefix("https:")
    if plan.base_href and url.startswith(plan.base_href):
        return url.removeprefix(plan.base_href)
    return (".." if reference == "page_relative" and not plan.base_href else "") + url.removeprefix(SITE)


def _main_file(url: str, picture_plan: PicturePlan, image: Image.Image) -> Iterator[SiteFile]:
    if picture_plan.state == "not_found":
        yield _not_found(url)
    elif picture_plan.state == "not_an_image":
        yield SiteFile(url, "image/jpeg", b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in first.</body></html>")
    elif picture_plan.state == "truncated":
        whole = encode_image(image, picture_plan.form)
        yield SiteFile(url, "image/jpeg", whole[: len(whole) * 2 // 5])
    elif picture_plan.state == "present":
        yield _image_file(url, image, picture_plan.form)


def _image_file(url: str, image: Image.Image, form: str) -> SiteFile:
    return SiteFile(url, MEDIA_TYPES[form], encode_image(image, form))


def _resized(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


# --- What stands around an article

ADVERT_NAMES = ("spring-sale", "holiday", "insurance", "shoes")
ICON_NAMES = ("logo", "search", "print")


def _advert(rng: np.random.Generator) -> str:
    name = ADVERT_NAMES[int(rng.integers(len(ADVERT_NAMES)))]
    picture = f'<img src="/ads/{name}.png" width="300" height="250" alt="Advertisement">'
    return f'<div class="advert"><span>Advertisement</span><a href="https://shop.sample.example/{name}">{picture}</a></div>'


def _document(rng: np.random.Generator, plan: PagePlan, site: Sequence[PagePlan], article: str) -> str:
    """The whole HTML document around the article's blocks."""
    title = html.escape(plan.title, quote=False)
    declared = plan.charset_in == "meta" or plan.charset == "utf-8"
    head = [
        f'<meta charset="{plan.charset}">' if declared else "",
        f"<title>{title} · Sample Walks</title>",
        f'<base href="{plan.base_href}">' if plan.base_href else "",
        '<link rel="stylesheet" href="/static/site.css">',
        f'<script>window.site = {{"page": {plan.number}, "theme": "light"}};</script>',
    ]
    topics = "".join(f'<li><a href="/{topic.slug}/">{topic.slug.capitalize()}</a></li>' for topic in TOPICS)
    others = [site[int(other)] for other in rng.integers(len(site), size=5)]
    related = "".join(f'<li><a href="{urlsplit(other.url).path}">{html.escape(other.title, quote=False)}</a></li>' for other in others)
    author = write_line(rng, plan.topic, ("{name}",))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
{chr(10).join(line for line in head if line)}
</head>
<body>
<div class="cookie-notice" role="dialog"><p>We use cookies to remember your settings. <button>Accept all</button> <a href="/privacy">Read more</a></p></div>
<header>
<a href="/"><img src="/static/logo.png" width="32" height="32" alt="Sample Walks"></a>
<nav><ul><li><a href="/">Home</a></li>{topics}<li><a href="/about">About us</a></li></ul></nav>
<form action="/search"><input name="q"><button><img src="/static/search.png" width="32" height="32" alt="Search"></button></form>
</header>
<main>
<article>
<h1>{title}</h1>
<div class="byline">By {html.escape(author)} <a href="#print"><img src="/static/print.png" width="32" height="32" alt="Print"></a></div>
{article}
</article>
</main>
<aside class="sidebar">
{_advert(rng)}
<div class="related"><h2>Related pages</h2><ul>{related}</ul></div>
</aside>
<footer>
<p>© Sample Walks, a site that does not exist. All rights reserved.</p>
<ul><li><a href="/privacy">Privacy</a></li><li><a href="/contact">Contact</a></li><li><a href="/terms">Terms of use</a></li></ul>
</footer>
</body>
</html>
"""


def site_furniture() -> list[SiteFile]:
    """The files that belong to no page: robots.txt, the style sheet, icons and adverts."""
    robots = b"User-agent: *\nAllow: /\nDisallow: /search\n"
    style = b"body { margin: auto; max-width: 50rem; }\n.advert { float: right; }\n.photo { margin: 1rem 0; }\n"
    files = [SiteFile(f"{SITE}/robots.txt", "text/plain", robots), SiteFile(f"{SITE}/static/site.css", "text/css", style)]
    files += [_image_file(f"{SITE}/static/{name}.png", _icon(turn), "png") for turn, name in enumerate(ICON_NAMES)]
    files += [_image_file(f"{SITE}/ads/{name}.png", _advert_picture(turn), "png") for turn, name in enumerate(ADVERT_NAMES)]
    return files


def _icon(turn: int) -> Image.Image:
    image = Image.new("RGB", (32, 32), "white")
    ImageDraw.Draw(image).regular_polygon((16, 16, 13), n_sides=3 + turn, fill=(40, 70 + 40 * turn, 120))
    return image


def _advert_picture(turn: int) -> Image.Image:
    across = np.linspace(0, 1, 300)[None, :, None]
    ends = np.array(list(COLOURS.values()))[[turn, turn + 3]]
    pixels = np.broadcast_to(ends[0] * (1 - across) + ends[1] * across, (250, 300, 3))
    image = Image.fromarray(np.round(pixels).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((40, 150, 260, 215), radius=20, fill="white")
    draw.regular_polygon((150, 80, 45), n_sides=5 + turn, fill=(30, 30, 30))
    return image


def _not_found(url: str) -> SiteFile:
    body = f"<!DOCTYPE html><html><head><title>Not found</title></head><body><h1>Not found</h1><p>There is no {urlsplit(url).path} here.</p></body></html>"
    return SiteFile(url, "text/html; charset=utf-8", body.encode(), status=404)


# --- WARC 1.1 (ISO 28500:2017)

START = datetime(2024, 6, 7, 8, 0, 0, tzinfo=UTC)
REASONS = {200: "OK", 301: "Moved Permanently", 404: "Not Found"}


class WarcWriter:
    """Appends WARC records, each a gzip member of its own; ids and dates follow from the seed and the record's number."""

    def __init__(self, file: BinaryIO, *, seed: int) -> None:
        self._file, self._seed, self.num_records = file, seed, 0

    def write(self, kind: str, block: bytes, *, content_type: str, url: str | None = None, concurrent_to: str | None = None) -> str:
        """Writes one record and returns its id."""
        record_id = f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{SITE}/records/{self._seed}/{self.num_records}')}>"
        date = START + timedelta(seconds=self.num_records)
        fields = {
            "WARC-Type": kind,
            "WARC-Record-ID": record_id,
            "WARC-Date": date.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "WARC-Target-URI": url,
            "WARC-Concurrent-To": concurrent_to,
            "WARC-Block-Digest": f"sha1:{base64.b32encode(hashlib.sha1(block).digest()).decode()}",
            "Content-Type": content_type,
            "Content-Length": str(len(block)),
        }
        head = "WARC/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
        self._file.write(gzip.compress(head.encode() + b"\r\n" + block + b"\r\n\r\n", compresslevel=6, mtime=0))
        self.num_records += 1
        return record_id

    def write_response(self, file: SiteFile, *, has_gzip: bool = False, has_chunks: bool = False, location: str | None = None) -> str:
        """Writes what the server answered for the file's URL, with the content and transfer encodings asked for."""
        body = gzip.compress(file.body, mtime=0) if has_gzip else file.body
        date = START + timedelta(seconds=self.num_records)
        headers = {
            "Date": date.strftime("%a, %d %b %Y %H:%M:%S GMT"),
            "Content-Type": file.content_type,
            "Location": location,
            "Content-Encoding": "gzip" if has_gzip else None,
            "Transfer-Encoding": "chunked" if has_chunks else None,
            "Content-Length": None if has_chunks else str(len(body)),
        }
        head = f"HTTP/1.1 {file.status} {REASONS[file.status]}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value)
        block = head.encode() + b"\r\n" + (_chunked(body) if has_chunks else body)
        return self.write("response", block, content_type="application/http; msgtype=response", url=file.url)

    def write_request(self, url: str, *, concurrent_to: str) -> None:
        """Writes the request that led to the response with that id."""
        parts = urlsplit(url)
        block = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: sample-crawl\r\nAccept: */*\r\n\r\n".encode()
        self.write("request", block, content_type="application/http; msgtype=request", url=url, concurrent_to=concurrent_to)


def _chunked(body: bytes, *, chunk_bytes: int = 1500) -> bytes:
    """The body in chunked transfer coding (RFC 9112, section 7.1)."""
    chunks = [body[start : start + chunk_bytes] for start in range(0, len(body), chunk_bytes)]
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def write_crawl(
    path: Path, *, seed: int, num_pages: int, images_per_page: tuple[int, int], relevance: float, material: Material | None = None
) -> list[Page]:
    """Writes the WARC file and returns its pages with their ground truth, duplicates as pages of their own, files left out.

    Equal arguments give equal bytes.
    """
    source = supply(material or load_material(), "pages")
    site = plan_site(np.random.default_rng([seed, 0]), num_pages=num_pages, images_per_page=images_per_page)
    pages: list[Page] = []
    with open_aside(path) as file, progress_bar("pages", total=num_pages) as bar:
        warc = WarcWriter(file, seed=seed)
        warc.write("warcinfo", b"software: lcl pipeline/sample_crawl.py\r\nformat: WARC File Format 1.1\r\n", content_type="application/warc-fields")
        for furniture in site_furniture():
            warc.write_response(furniture)
        redirect = SiteFile(f"{SITE}/latest", "text/html; charset=utf-8", b"<html><body>Moved.</body></html>", status=301)
        warc.write_response(redirect, location=site[-1].url)
        warc.write_response(_not_found(f"{SITE}/closed/old-page.html"))
        for plan in site:
            page = compose_page(np.random.default_rng([seed, 1, plan.number]), plan, site=site, source=source, relevance=relevance)
            content_type = f"text/html; charset={plan.charset}" if plan.charset_in == "header" else "text/html"
            body = SiteFile(page.url, content_type, page.html.encode(plan.charset))
            record_id = warc.write_response(body, has_gzip=plan.has_gzip, has_chunks=plan.has_chunks)
            if plan.has_request:
                warc.write_request(page.url, concurrent_to=record_id)
            for picture_file in page.files:
                warc.write_response(picture_file)
            pages.append(replace(page, files=()))
            if plan.duplicate_url:
                warc.write_response(replace(body, url=plan.duplicate_url))
                pages.append(replace(page, url=plan.duplicate_url, files=()))
            if plan.is_captured_twice:
                warc.write_response(body)
            bar.advance()
    return pages


# --- Labelled pictures


def write_labelled(folder: Path, *, seed: int, num_train: int, num_test: int, material: Material | None = None) -> dict[str, list[Picture]]:
    """Writes `train/<class>/*.jpg`, `test/<class>/*.jpg` and `classes.json`; returns the pictures of each split in file order.

    Classes are balanced, and a class takes each of its digits as often as any other, give or take once. Equal arguments give
    equal files. Raises ValueError, before it writes, if the folder holds pictures that this call would not write.
    """
    material = material or load_material()
    counts = {"train": num_train // 10, "test": num_test // 10}
    names = {split: {f"{word}/{number:04d}.jpg" for word in DIGIT_WORDS for number in range(count)} for split, count in counts.items()}
    for split in counts:
        strangers = {str(path.relative_to(folder / split)) for path in (folder / split).glob("*/*")} - names[split]
        if strangers:
            raise ValueError(f"{folder / split} holds files of another run ({min(strangers)}); remove the folder or choose another output")
    pictures: dict[str, list[Picture]] = {split: [] for split in counts}
    with progress_bar("labelled", total=10 * sum(counts.values())) as bar:
        for turn, (split, count) in enumerate(counts.items()):
            source = supply(material, split)
            for digit, word in enumerate(DIGIT_WORDS):
                (folder / split / word).mkdir(parents=True, exist_ok=True)
                rng = np.random.default_rng([seed, 2, turn, digit])
                order = rng.permutation(source.digit_indices[digit])
                for number in range(count):
                    index = int(order[number % len(order)])
                    drawn = draw_picture(rng, source, digit_index=index, width_px=LABELLED_RENDER_PX, height_px=LABELLED_RENDER_PX)
                    small = drawn.image.resize((LABELLED_SIDE_PX, LABELLED_SIDE_PX), Image.Resampling.LANCZOS)
                    with open_aside(folder / split / word / f"{number:04d}.jpg") as file:
                        file.write(encode_image(small, "jpg", quality=95))
                    pictures[split].append(replace(drawn, image=small))
                    bar.advance()
    write_json(folder / "classes.json", {"classes": list(DIGIT_WORDS), "templates": list(ZERO_SHOT_TEMPLATES)})
    return pictures


def main(settings: SampleCrawlConfig) -> None:
    """Writes sample.warc.gz, labelled/ and run.json into the output folder."""
    check(settings)
    set_up_logging()
    settings.output.mkdir(parents=True, exist_ok=True)
    write_run_record(settings.output, settings)
    material = load_material()
    warc = settings.output / "sample.warc.gz"
    pages = write_crawl(
        warc,
        seed=settings.seed,
        num_pages=settings.num_pages,
        images_per_page=settings.images_per_page,
        relevance=settings.relevance,
        material=material,
    )
    num_pictures = sum(len(page.plan.pictures) for page in pages if page.url == page.plan.url)
    logger.info("%s: %d pages with %d pictures, %.1f MB", warc, settings.num_pages, num_pictures, warc.stat().st_size / 1e6)
    labelled = settings.output / "labelled"
    pictures = write_labelled(
        labelled, seed=settings.seed, num_train=settings.num_labelled_train, num_test=settings.num_labelled_test, material=material
    )
    logger.info("%s: %s", labelled, ", ".join(f"{len(some)} {split}" for split, some in pictures.items()))


if __name__ == "__main__":
    run_command(SampleCrawlConfig, main, description=__doc__)
