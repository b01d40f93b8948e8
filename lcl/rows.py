"""Documents to token rows: the layout that the language model reads, and batches of it.

    document --tokenize--> <sot> text <soi> [image] <eoi> text ... <eot> --split where too long--> pieces
    pieces --pack--> rows of several pieces --collate--> Batch
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Int, UInt8
from torch import Tensor
from torch.nn import functional

from lcl.core.document import Document
from lcl.core.tokenizer import Tokenizer

IGNORED = -100  # PyTorch's own value for targets that do not count
PADDING = 0  # what stands in unused positions; nothing reads it: `document_ids` is 0 there


@dataclass(frozen=True)
class Piece:
    """A document, or a part of one that is longer than a row.

    `ids` holds the image id at every image slot; `image_starts` are the indices of the `<soi>` of each image and
    `images` which image of the document (by index) it is.
    """

    ids: tuple[int, ...]
    image_starts: tuple[int, ...]
    images: tuple[int, ...]


def check_row_length(row_length: int, image_tokens: int) -> None:
    """Raises ValueError if a row cannot hold one image."""
    if image_tokens + 4 > row_length:
        raise ValueError(f"row_length {row_length} cannot hold an image of {image_tokens} tokens with its four markers")


def to_pieces(document: Document, tokenizer: Tokenizer, *, image_tokens: int, row_length: int) -> list[Piece]:
    """The document's pieces, each at most `row_length` ids: one piece unless the document is longer.

    Text is cut between tokens, never inside an image's `<soi> slots <eoi>`. Every piece starts with `<sot>` and the
    last ends with `<eot>`. Raises ValueError if a row cannot hold one image.
    """
    check_row_length(row_length, image_tokens)
    blocks: list[tuple[list[int], int | None]] = []  # ids that must stay together, and the image among them
    num_images = 0
    for segment in document.segments:
        if segment.kind == "text":
            blocks += [([token], None) for token in tokenizer.encode(segment.text)]
        else:
            blocks.append(([tokenizer.soi, *[tokenizer.image] * image_tokens, tokenizer.eoi], num_images))
            num_images += 1
    pieces: list[Piece] = []
    ids, starts, images = [tokenizer.sot], [], []
    for block, image in blocks:
        if len(ids) + len(block) + 1 > row_length:  # one place is kept for <eot>
            pieces.append(Piece(tuple(ids), tuple(starts), tuple(images)))
            ids, starts, images = [tokenizer.sot], [], []
        if image is not None:
            starts.append(len(ids))
            images.append(image)
        ids += block
    pieces.append(Piece((*ids, tokenizer.eot), tuple(starts), tuple(images)))
    return pieces


@dataclass(frozen=True)
class Row:
    """Pieces side by side and the pixels of their images, in order."""

    pieces: tuple[Piece, ...]
    pixels: UInt8[np.ndarray, "images height width 3"] = field(repr=False)


@dataclass(frozen=True)
class Batch:
    """Rows of equal length. `document_ids` counts the documents of a row from 1 and is 0 at padding;
    `positions` restart at 0 in each document; `image_starts` are flat indices (row * length + column) of each `<soi>`.
    """

    ids: Int[Tensor, "rows length"]
    document_ids: Int[Tensor, "rows length"]
    positions: Int[Tensor, "rows length"]
    pixels: UInt8[Tensor, "images 3 height width"]
    image_starts: Int[Tensor, " images"]
    has_context: Bool[Tensor, " images"]
    document_lengths: tuple[tuple[int, ...], ...]  # of each row, kept beside the tensors so that no device is asked

    @property
    def num_tokens(self) -> int:
        return sum(map(sum, self.document_lengths))

    def to(self, device: torch.device) -> "Batch":
        tensors = {name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Batch(**tensors, document_lengths=self.document_lengths)


def collate(rows: Sequence[Row], *, row_length: int) -> Batch:
    """The batch of `rows`. An image has a context if anything but `<sot>` comes before it in its piece."""
    shape = (len(rows), row_length)
    ids, document_ids, positions = np.full(shape, PADDING), np.zeros(shape, int), np.zeros(shape, int)
    image_starts: list[int] = []
    has_context: list[bool] = []
    for index, row in enumerate(rows):
        column = 0
        for number, piece in enumerate(row.pieces, start=1):
            end = column + len(piece.ids)
            ids[index, column:end] = piece.ids
            document_ids[index, column:end] = number
            positions[index, column:end] = np.arange(len(piece.ids))
            image_starts += [index * row_length + column + start for start in piece.image_starts]
            has_context += [start > 1 for start in piece.image_starts]
            column = end
        assert column <= row_length
    pixels = rearrange(np.concatenate([row.pixels for row in rows]), "images height width channels -> images channels height width")
    return Batch(
        ids=torch.from_numpy(ids),
        document_ids=torch.from_numpy(document_ids),
        positions=torch.from_numpy(positions),
        pixels=torch.from_numpy(np.ascontiguousarray(pixels)),
        image_starts=torch.tensor(image_starts, dtype=torch.int64),
        has_context=torch.tensor(has_context, dtype=torch.bool),
        document_lengths=tuple(tuple(len(piece.ids) for piece in row.pieces) for row in rows),
    )


@dataclass(frozen=True)
class SpecialIds:
    """The ids that are never predicted: an image slot, and the end of an image."""

    image: int
    eoi: int


def next_token_targets(batch: Batch, special: SpecialIds) -> Int[Tensor, "rows length"]:
    """For each position the id that follows in its document, or IGNORED.

    Ignored are image slots and `<eoi>` as targets, the last position of a document, and padding; `<soi>` is a target.
    """
    ids, documents = batch.ids, batch.document_ids
    following = functional.pad(ids[:, 1:], (0, 1))
    same = functional.pad(documents[:, 1:], (0, 1)) == documents
    counted = same & (documents > 0) & (following != special.image) & (following != special.eoi)
    return torch.where(counted, following, IGNORED)
