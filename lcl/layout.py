"""A document as pieces of token rows, one layout for each kind of objective.

    document:   <sot> text <soi> [image] <eoi> text ... <eot>              split where longer than a row
    pairs:      <sot> text <soi>                                           an image's own text; its latents stay outside (CLIP)
    pairs_read: <sot> text <soi>  and  <sot> <soi> [image] <eoi> text <eot>     (CoCa: one part to match, one to caption)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import xxhash
from pydantic import Field

from lcl.core.config import config
from lcl.core.document import PARAGRAPH_BREAK, Document
from lcl.core.tokenizer import Tokenizer
from lcl.crops import Crop
from lcl.model import ModelConfig
from lcl.rows import NO_CONTEXT, ImagePlace, Part, Piece

Layout = Literal["document", "pairs", "pairs_read"]
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
    pair_tokens: Annotated[int, Field(ge=1)] = 75
    """Tokens of an image's own text for the objectives clip and coca (CLIP's 77 with its two markers)."""
    crop_scale: tuple[Fraction, Fraction] = (0.9, 1.0)
    """Area of the random crop of a training image, as a fraction (open_clip: 0.9 to 1)."""
    flip: Probability = 0.0
    """How often a training image is mirrored. Pages show writing, so never by default."""


@dataclass(frozen=True)
class Setting:
    """What a layout needs besides the document; `length` is the most ids of a piece. For evaluation nothing is random but the order of pairs."""

    tokenizer: Tokenizer
    rules: LayoutConfig
    length: int
    model: ModelConfig
    evaluation: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError if a piece cannot hold one image."""
        if self.model.most_slots + 4 > self.length:
            raise ValueError(
                f"row_length and model.text.context_length (the smaller is {self.length}) cannot hold an image of {self.model.most_slots} tokens with its four markers"
            )

    def crop(self, width: int, height: int, random: np.random.Generator) -> Crop:
        if self.evaluation:
            return self.model.vision.evaluation_crop(width, height)
        return self.model.vision.training_crop(width, height, scale=self.rules.crop_scale, flip=self.rules.flip, random=random)

    def slots(self, crop: Crop) -> int:
        return self.model.slots_of(crop.grid)


def lay_out(document: Document, layout: Layout, setting: Setting, random: np.random.Generator) -> list[Piece]:
    """The document's pieces, each at most `length` ids. The same document, setting and randomness give the same pieces."""
    items = arrange(document, setting.rules, random)
    images = document.images
    crops = {index: setting.crop(images[index].metadata.width, images[index].metadata.height, random) for index in items if isinstance(index, int)}
    identities = {index: image_id(images[index].data) for index in crops}
    if layout == "document":
        return _documents(items, crops, identities, setting)
    return _pairs(items, crops, identities, setting, read=layout == "pairs_read")


def arrange(document: Document, rules: LayoutConfig, random: np.random.Generator) -> list[str | int]:
    """Texts and image numbers in the order to train on: the page's, or else each image before or after its sentence by chance.

    Where a matching gave the order, an image's sentence is the text behind it; in a pair it is the other half.
    """
    items: list[str | int] = []
    for segment in document.segments:
        if segment.kind == "text":
            items.append(segment.text)
        else:
            number = sum(isinstance(item, int) for item in items)
            if not rules.max_images or number < rules.max_images:
                items.append(number)
    if document.order == "page":
        return items
    at = 0
    while at + 1 < len(items):
        one, two = items[at : at + 2]
        if isinstance(one, int) and isinstance(two, str) or (document.order == "none" and isinstance(one, str) and isinstance(two, int)):
            image, text = (one, two) if isinstance(one, int) else (two, one)
            items[at : at + 2] = [image, text] if random.random() < rules.image_first else [text, image]
            at += 2
        else:
            at += 1
    return items


def _documents(items: Sequence[str | int], crops: dict[int, Crop], identities: dict[int, int], setting: Setting) -> list[Piece]:
    """Text is cut between tokens, never inside an image; every piece starts with `<sot>` and the last ends with `<eot>`."""
    tokenizer = setting.tokenizer
    pieces: list[Piece] = []
    ids: list[int] = [tokenizer.sot]
    places: list[ImagePlace] = []

    def close() -> None:
        pieces.append(Piece((Part(tuple(ids)),), tuple(places)))
        ids[:] = [tokenizer.sot]
        places.clear()

    for item in items:
        if isinstance(item, str):
            tokens = tokenizer.encode(item)
            while tokens:
                room = setting.length - len(ids) - 1  # one place is kept for <eot>
                ids += tokens[:room]
                tokens = tokens[room:]
                if tokens:
                    close()
            continue
        slots = setting.slots(crops[item])
        if len(ids) + slots + 3 > setting.length:
            close()
        has_context = len(ids) > (1 if setting.rules.positives == "with_context" else 0)
        places.append(
            ImagePlace(
                image=item, first_slot=len(ids) + 1, num_slots=slots, context=len(ids) if has_context else NO_CONTEXT,
                image_id=identities[item], context_id=_context_id(ids, [place.image_id for place in places]), crop=crops[item],
            )
        )
        ids += [tokenizer.soi, *[tokenizer.image] * slots, tokenizer.eoi]
    ids.append(tokenizer.eot)
    close()
    return pieces


def _pairs(items: Sequence[str | int], crops: dict[int, Crop], identities: dict[int, int], setting: Setting, *, read: bool) -> list[Piece]:
    """One piece for each image that has a text next to it: the last paragraph before it, or else the first behind it."""
    tokenizer, pieces = setting.tokenizer, []
    for at, item in enumerate(items):
        if isinstance(item, str):
            continue
        before = next((text for text in reversed(items[:at]) if isinstance(text, str)), None)
        after = next((text for text in items[at + 1 :] if isinstance(text, str)), None)
        own = before.split(PARAGRAPH_BREAK)[-1] if before is not None else after.split(PARAGRAPH_BREAK)[0] if after is not None else ""
        slots = setting.slots(crops[item]) if read else 0
        room = (setting.length - slots - 6) // 2 if read else setting.length - 2
        text = tokenizer.encode(own)[: min(setting.rules.pair_tokens, room)]
        if not text:
            continue
        matched = Part((tokenizer.sot, *text, tokenizer.soi), predicted=False)
        place = ImagePlace(
            image=item, first_slot=0, num_slots=slots, context=len(matched.ids) - 1,
            image_id=identities[item], context_id=_context_id(matched.ids, []), crop=crops[item],
        )
        if not read:
            pieces.append(Piece((matched,), (place,)))
            continue
        caption = Part((tokenizer.sot, tokenizer.soi, *[tokenizer.image] * slots, tokenizer.eoi, *text, tokenizer.eot))
        pieces.append(Piece((matched, caption), (replace(place, first_slot=len(matched.ids) + 2),)))
    return pieces


def without_image(piece: Piece, number: int) -> Piece | None:
    """The piece without its image `number` (counted in the piece), for one that cannot be decoded; None if that leaves a pair without one."""
    place = piece.images[number]
    if len(piece.parts) > 1 or not place.num_slots:
        return None
    start, end = place.first_slot - 1, place.first_slot + place.num_slots + 1
    (part,) = piece.parts
    gone = end - start
    moved = [
        replace(other, first_slot=other.first_slot - gone, context=other.context - gone if other.context != NO_CONTEXT else NO_CONTEXT)
        for other in piece.images[number + 1 :]
    ]
    return Piece((replace(part, ids=part.ids[:start] + part.ids[end:]),), (*piece.images[:number], *moved))


def image_id(data: bytes) -> int:
    return _signed(xxhash.xxh64_intdigest(data))


def _context_id(ids: Sequence[int], image_ids: Sequence[int]) -> int:
    return _signed(xxhash.xxh64_intdigest(np.array([*ids, *image_ids], np.int64).tobytes()))


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
