"""Pictures of the sample crawl: one handwritten digit, in a named colour, on a crop of a photograph.

    digits, photographs --split--> pages | train | test      (no digit and no strip of a photograph is in two of them)
    glyph --> mask ---------------------+
    strip --> dimmed as at dusk, crop --+--> painted in a bright colour --> picture

All of it is what scikit-learn and scikit-image ship; nothing is downloaded. Whoever passes pictures on names the photographers of
china.jpg and flower.jpg (CC BY 2.0, see `sklearn/datasets/images/README.txt`).
"""

import importlib.util
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageEnhance

Split = Literal["pages", "train", "test"]
SPLITS: tuple[Split, ...] = ("pages", "train", "test")
SPLIT_SEED = 20_240_607  # not the config's: the split is the same for every seed, so no crawl ever holds a labelled digit
DIGIT_SHARES = (0.70, 0.15, 0.15)
STRIP_SHARES = (0.50, 0.25, 0.25)  # of a photograph's width; a labelled strip must be wide enough to crop from

DIGITS_FILE = "sklearn/datasets/data/digits.csv.gz"  # a line holds 64 intensities and the label (UCI, doi 10.24432/C50P49)
# Colour photographs. Left out of scikit-image's: motorcycle_right.png (the same scene as the left picture, so that its test strip
# would show what pages show), the grey pictures, and the drawings (color.png, logo.png).
PHOTO_FILES = (
    "skimage/data/astronaut.png",
    "skimage/data/chelsea.png",
    "sklearn/datasets/images/china.jpg",
    "skimage/data/coffee.png",
    "sklearn/datasets/images/flower.jpg",
    "skimage/data/hubble_deep_field.jpg",
    "skimage/data/ihc.png",
    "skimage/data/motorcycle_left.png",
    "skimage/data/retina.jpg",
    "skimage/data/rocket.jpg",
)

COLOURS: Mapping[str, tuple[int, int, int]] = {  # bright ones, which stand out on most of a dimmed photograph
    "red": (255, 70, 70),
    "green": (90, 220, 100),
    "yellow": (250, 220, 40),
    "white": (250, 250, 250),
    "orange": (250, 130, 20),
    "purple": (190, 130, 255),
    "pink": (250, 130, 190),
    "turquoise": (60, 205, 205),
}
DUSK_CONTRAST, DUSK_BRIGHTNESS = 0.7, 0.6
DIGIT_HEIGHT = (0.4, 0.65)  # of the picture's height; docs/demo.md says what smaller and larger digits on other photographs gave
CROP_SHARE = (0.4, 1.0)  # of the largest crop of that shape which the strip holds

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


@dataclass(frozen=True)
class Supply:
    """What one split may draw from: for each class 0 to 9 its glyphs (uint8, glyphs x 8 x 8, values 0 to 16), and photographs."""

    glyphs: tuple[UInt8[np.ndarray, "glyphs 8 8"], ...]
    strips: tuple[Image.Image, ...]


def load_supplies() -> dict[Split, Supply]:
    """The digits and the strips of each split. Raises ValueError if a package is missing or ships other files."""
    table = np.loadtxt(_shipped(DIGITS_FILE), delimiter=",", dtype=np.uint8)
    glyphs, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(int)
    strips = []
    for turn, name in enumerate(PHOTO_FILES):
        with Image.open(_shipped(name)) as file:
            strips.append(split_photo(dim(file.convert("RGB")), turn=turn))
    return {
        split: Supply(tuple(glyphs[part][labels[part] == digit] for digit in range(10)), tuple(photo[split] for photo in strips))
        for split, part in split_digits(labels).items()
    }


def dim(photo: Image.Image) -> Image.Image:
    """The photograph as at dusk: less contrast, less light."""
    return ImageEnhance.Brightness(ImageEnhance.Contrast(photo).enhance(DUSK_CONTRAST)).enhance(DUSK_BRIGHTNESS)


def _shipped(name: str) -> Path:
    package, _, rest = name.partition("/")
    found = importlib.util.find_spec(package)  # not imported: that takes seconds
    if found is None or found.origin is None:
        raise ValueError(f"{package} is not installed, and the sample crawl takes its pictures from there: pip install 'lcl[demo]'")
    path = Path(found.origin).parent / rest
    if not path.exists():
        raise ValueError(f"{path} is missing: this version of {package} ships other files; install scikit-image 0.25 or 0.26 and scikit-learn 1.5 or later")
    return path


def split_digits(labels: Int[np.ndarray, " digits"]) -> dict[Split, Int[np.ndarray, " some"]]:
    """Disjoint sorted indices into the digits for each split, DIGIT_SHARES of each class."""
    rng = np.random.default_rng(SPLIT_SEED)
    parts: dict[Split, list[np.ndarray]] = {split: [] for split in SPLITS}
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(labels == digit))
        cuts = np.round(np.cumsum(DIGIT_SHARES[:-1]) * len(members)).astype(int)
        for split, part in zip(SPLITS, np.split(members, cuts), strict=True):
            parts[split].append(part)
    return {split: np.sort(np.concatenate(chunks)) for split, chunks in parts.items()}


def split_photo(photo: Image.Image, *, turn: int) -> dict[Split, Image.Image]:
    """The photograph cut into one upright strip for each split, from left to right, STRIP_SHARES of its width.

    The order of the splits changes with `turn`, so that no split sees left edges only.
    """
    order = [(turn + step) % len(SPLITS) for step in range(len(SPLITS))]
    cuts = [0]
    for index in order[:-1]:
        cuts.append(cuts[-1] + round(STRIP_SHARES[index] * photo.width))
    cuts.append(photo.width)
    boxes = [(left, 0, right, photo.height) for left, right in zip(cuts[:-1], cuts[1:], strict=True)]
    return {SPLITS[index]: photo.crop(box) for index, box in zip(order, boxes, strict=True)}


def draw_picture(
    rng: np.random.Generator, source: Supply, glyph: UInt8[np.ndarray, "8 8"], *, width_px: int, height_px: int
) -> tuple[Image.Image, str]:
    """An RGB picture of the glyph at a random place and size, on a random and perhaps mirrored crop, and its colour's name."""
    strip = source.strips[int(rng.integers(len(source.strips)))]
    crop = draw_crop(rng, strip.size, aspect=width_px / height_px)
    picture = strip.crop(crop).resize((width_px, height_px), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mask = digit_mask(glyph, height_px=round(rng.uniform(*DIGIT_HEIGHT) * height_px), most_px=width_px)
    left, top = int(rng.integers(width_px - mask.width + 1)), int(rng.integers(height_px - mask.height + 1))
    colour = list(COLOURS)[int(rng.integers(len(COLOURS)))]
    picture.paste(COLOURS[colour], (left, top), mask)
    return picture, colour


def draw_crop(rng: np.random.Generator, size: tuple[int, int], *, aspect: float) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a box in an image of that width and height, about `aspect` times as wide as high.

    Its size is random within CROP_SHARE, and so is its place.
    """
    width, height = size
    share = rng.uniform(*CROP_SHARE)
    box_height = share * min(height, width / aspect)
    box_width, box_height = max(1, int(box_height * aspect)), max(1, int(box_height))
    left, top = int(rng.integers(width - box_width + 1)), int(rng.integers(height - box_height + 1))
    return (left, top, left + box_width, top + box_height)


def digit_mask(glyph: UInt8[np.ndarray, "8 8"], *, height_px: int, most_px: int) -> Image.Image:
    """The digit as a soft mask (mode L), cut to its strokes, `height_px` high and at most `most_px` wide.

    The bicubic enlargement blurs strokes to a haze, so the middle of the range is stretched: opaque from 70 % of full ink
    (16) on, transparent below 30 %.
    """
    inked = np.pad(_cut_to(glyph, glyph >= 4), 1)
    scale = 16  # enlarged once to a fine grid, then cut, so that the height is met to the pixel
    fine = Image.fromarray((inked * 15).astype(np.uint8)).resize((inked.shape[1] * scale, inked.shape[0] * scale), Image.Resampling.BICUBIC)
    alpha = np.clip((np.asarray(fine) / 240 - 0.3) / 0.4, 0, 1)
    tight = Image.fromarray(np.round(_cut_to(alpha, alpha > 0.1) * 255).astype(np.uint8))
    width_px = min(most_px, max(1, round(height_px * tight.width / tight.height)))
    return tight.resize((width_px, height_px), Image.Resampling.BICUBIC)


def _cut_to(values: np.ndarray, is_inside: np.ndarray) -> np.ndarray:
    """The smallest rectangle of `values` that holds all places where `is_inside` is true."""
    rows, columns = np.flatnonzero(is_inside.any(axis=1)), np.flatnonzero(is_inside.any(axis=0))
    return values[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def encode_image(image: Image.Image, form: str, *, quality: int = 88) -> bytes:
    """The file's bytes; `form` is a key of FORMATS. JPEG keeps full colour resolution from quality 95 on."""
    buffer = io.BytesIO()
    image.save(buffer, FORMATS[form], quality=quality, subsampling=0 if quality >= 95 else 2, method=2)  # a format takes what it knows
    return buffer.getvalue()
