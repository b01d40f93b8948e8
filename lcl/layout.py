"""A document as pieces of token rows, one layout for each kind of objective.

    document:   <sot> text <soi> [image] <eoi> text ... <eot>              split where longer than a row
    pairs:      <sot> text <soi>                                           an image's own text; its latents stay outside (CLIP)
    pairs_read: <sot> text <soi>  and  <sot> <soi> [image] <eoi> text <eot>     (CoCa: one part to match, one to caption)
"""

import itertools
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import xxhash
from pydantic import Field

from lcl.core.config import config
from lcl.core.document import PARAGRAPH_BREAK, Document, Order
from lcl.core.tokenizer import Tokenizer
from lcl.crops import Crop
from lcl.model import ModelConfig
from lcl.rows import NO_CONTEXT, ImagePlace, Part, Piece

Layout = Literal["document", "pairs", "pairs_read"]
Item = str | int  # a text, or the number of an image in its document
Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]


@config
class LayoutConfig:
    max_images: Annotated[int, Field(ge=0)] = 0
    """Images of a document that are used, the first ones (MMC4 in the published code: 6); 0 for all."""
    image_first: Probability = 0.5
    """How often an image stands before its sentence, in pairs and in sources without page order (published: 0.5)."""
    positives: Literal["with_context", "published"] = "with_context"
    """Images that take part in the contrastive loss: those with anything but <sot> before them, or all but one at index 0 of a row."""
    near_tokens: Annotated[int, Field(ge=0)] = 0
    """In the layout of documents: most tokens of text before an image, the nearest ones, and as many behind the last; 0: all. For pages with much text to an image."""
    pair_tokens: Annotated[int, Field(ge=1)] = 75
    """Tokens of an image's own text for the objectives clip and coca (CLIP's 77 with its two markers)."""
    crop_scale: tuple[Fraction, Fraction] = (0.9, 1.0)
    """Area of the random crop of a training image, as a fraction (open_clip: 0.9 to 1)."""
    flip: Probability = 0.0
    """How often a training image is mirrored. Pages show writing, so never by default."""


@dataclass(frozen=True)
class Setting:
    """What pieces are made with, besides the document; `length` is the most ids of one. For evaluation nothing is random but the order of pairs."""

    tokenizer: Tokenizer
    layout: Layout
    rules: LayoutConfig
    length: int
    model: ModelConfig
    evaluation: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError if a piece cannot hold one image with its markers and, in pairs, a token of text in each part."""
        low, high = self.rules.crop_scale
        if low > high:
            raise ValueError(f"data.layout.crop_scale goes from {low} to {high}; give the smaller area first")
        slots = 0 if self.layout == "pairs" else self.model.most_slots
        least = slots + {"document": 4, "pairs": 3, "pairs_read": 8}[self.layout]
        if self.length < least:
            raise ValueError(
                f"row_length and model.text.context_length (the smaller is {self.length}) cannot hold an image of {slots} tokens with its markers; "
                f"raise them to {least} or more"
            )

    def crop(self, width: int, height: int, random: np.random.Generator) -> Crop:
        if self.evaluation:
            return self.model.vision.evaluation_crop(width, height)
        return self.model.vision.training_crop(width, height, scale=self.rules.crop_scale, flip=self.rules.flip, random=random)

    def slots(self, crop: Crop) -> int:
        """Places that the image takes in a piece."""
        return 0 if self.layout == "pairs" else self.model.slots_of(crop.grid)


def lay_out(document: Document, setting: Setting, random: np.random.Generator) -> list[Piece]:
    """The document's pieces, each at most `length` ids. The same document, setting and randomness give the same pieces."""
    items, images = _items(document, setting.rules.max_images), document.images
    sentences = _sentences(items, document.order)
    if setting.layout == "document":
        items = _by_chance(items, sentences, setting.rules.image_first, random)
    places: dict[int, ImagePlace] = {}
    for number in (item for item in items if isinstance(item, int)):
        crop = setting.crop(images[number].metadata.width, images[number].metadata.height, random)
        identity = image_id(images[number].data)
        places[number] = ImagePlace(number, first_slot=0, num_slots=setting.slots(crop), context=NO_CONTEXT, image_id=identity, context_id=0, crop=crop)
    return _documents(items, places, setting) if setting.layout == "document" else _pairs(items, sentences, places, setting)


def _items(document: Document, max_images: int) -> list[Item]:
    """Texts and image numbers in order, without the images that are too many."""
    numbers = itertools.count()
    items = [segment.text if segment.kind == "text" else next(numbers) for segment in document.segments]
    return [item for item in items if isinstance(item, str) or not max_images or item < max_images]


def _sentences(items: Sequence[Item], order: Order) -> dict[int, int]:
    """Where the order is not a page's: places of images in `items`, and of the text that belongs to each.

    After a matching (MMC4) that is the text right behind the image; in pairs it is the other half, from the left.
    """
    found: dict[int, int] = {}
    at = 0
    while order != "page" and at + 1 < len(items):
        kinds = isinstance(items[at], int), isinstance(items[at + 1], int)
        if kinds == (True, False) or (order == "none" and kinds == (False, True)):
            found |= {at: at + 1} if kinds[0] else {at + 1: at}
            at += 1
        at += 1
    return found


def _by_chance(items: Sequence[Item], sentences: Mapping[int, int], image_first: float, random: np.random.Generator) -> list[Item]:
    """The items with each image that has a sentence before it, with probability `image_first`, or behind it."""
    arranged = list(items)
    for image, text in sentences.items():
        first, second = (image, text) if random.random() < image_first else (text, image)
        at = min(image, text)
        arranged[at : at + 2] = [items[first], items[second]]
    return arranged


def _documents(items: Sequence[Item], places: Mapping[int, ImagePlace], setting: Setting) -> list[Piece]:
    """Text is cut between tokens, never inside an image; every piece starts with `<sot>` and the last ends with `<eot>`."""
    tokenizer = setting.tokenizer
    pieces: list[Piece] = []
    ids: list[int] = [tokenizer.sot]
    placed: list[ImagePlace] = []

    def close() -> None:
        pieces.append(Piece((Part(tuple(ids)),), tuple(placed)))
        ids[:] = [tokenizer.sot]
        placed.clear()

    for item in _near_images([tokenizer.encode(item) if isinstance(item, str) else item for item in items], setting.rules.near_tokens):
        if isinstance(item, list):
            tokens = item
            while tokens:
                room = setting.length - len(ids) - 1  # one place is kept for <eot>
                ids += tokens[:room]
                tokens = tokens[room:]
                if tokens:
                    close()
            continue
        slots = places[item].num_slots
        if len(ids) + slots + 3 > setting.length:
            close()
        placed.append(_with_context(replace(places[item], first_slot=len(ids) + 1), ids, placed, setting.rules))
        ids += [tokenizer.soi, *[tokenizer.image] * slots, tokenizer.eoi]
    ids.append(tokenizer.eot)
    close()
    return pieces


def _near_images(items: Sequence[list[int] | int], most: int) -> list[list[int] | int]:
    """Tokens of texts and image numbers in order, with the last `most` tokens before each image and the first behind the last; 0: all."""
    if not most:
        return list(items)
    kept: list[list[int] | int] = []
    run: list[int] = []
    for item in items:
        if isinstance(item, list):
            run = run + item
        else:
            kept += [run[-most:], item]
            run = []
    return [*kept, run[:most]]


def _with_context(place: ImagePlace, ids: Sequence[int], before: Sequence[ImagePlace], rules: LayoutConfig) -> ImagePlace:
    """The place with what its context is: the piece's ids up to its `<soi>`, and the images `before` it."""
    at = place.first_slot - 1
    has_context = at > (1 if rules.positives == "with_context" else 0)
    return replace(place, context=at if has_context else NO_CONTEXT, context_id=_context_id(ids[:at], [other.image_id for other in before]))


def _pairs(items: Sequence[Item], sentences: Mapping[int, int], places: Mapping[int, ImagePlace], setting: Setting) -> list[Piece]:
    """One piece for each image with a text of its own, or else near it: the last paragraph before the image, or the first behind it."""
    tokenizer, read = setting.tokenizer, setting.layout == "pairs_read"
    pieces: list[Piece] = []
    for at, item in enumerate(items):
        if isinstance(item, str):
            continue
        place = places[item]
        room = (setting.length - place.num_slots - 6) // 2 if read else setting.length - 2
        own = items[sentences[at]] if at in sentences else _paragraph_near(items, at)
        text = tokenizer.encode(own)[: min(setting.rules.pair_tokens, room)]
        if not text:
            continue
        matched = Part((tokenizer.sot, *text, tokenizer.soi), predicted=False)
        place = replace(place, context=len(matched.ids) - 1, context_id=_context_id(matched.ids, []))
        if not read:
            pieces.append(Piece((matched,), (place,)))
            continue
        caption = Part((tokenizer.sot, tokenizer.soi, *[tokenizer.image] * place.num_slots, tokenizer.eoi, *text, tokenizer.eot))
        pieces.append(Piece((matched, caption), (replace(place, first_slot=len(matched.ids) + 2),)))
    return pieces


def _paragraph_near(items: Sequence[Item], at: int) -> str:
    """The last paragraph before place `at`, or the first behind it, or nothing."""
    before, after = (
        [paragraph for text in part if isinstance(text, str) for paragraph in text.split(PARAGRAPH_BREAK) if paragraph.strip()] for part in (items[:at], items[at:])
    )
    return before[-1] if before else after[0] if after else ""


def without_image(piece: Piece, number: int, rules: LayoutConfig) -> Piece | None:
    """The piece laid out without its image `number` (counted in the piece), for one that cannot be decoded; None for the piece of a pair."""
    gone = piece.images[number]
    if len(piece.parts) > 1 or not gone.num_slots:
        return None
    start, end = gone.first_slot - 1, gone.first_slot + gone.num_slots + 1
    (part,) = piece.parts
    ids, places = part.ids[:start] + part.ids[end:], list(piece.images[:number])
    for place in piece.images[number + 1 :]:
        places.append(_with_context(replace(place, first_slot=place.first_slot - (end - start)), ids, places, rules))
    return Piece((replace(part, ids=ids),), tuple(places))


def image_id(data: bytes) -> int:
    """A hash of the stored bytes as a signed integer of 64 bits."""
    return _signed(xxhash.xxh64_intdigest(data))


def _context_id(ids: Sequence[int], image_ids: Sequence[int]) -> int:
    return _signed(xxhash.xxh64_intdigest(array("q", [*ids, *image_ids]).tobytes()))


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
