"""Token rows: the layout that the language model reads, and batches of it.

    pieces (lcl/layout.py) --pack (lcl/loader.py)--> rows of several pieces --collate--> Batch
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.nn import functional

from lcl.core.tokenizer import Tokenizer
from lcl.crops import Crop, Grid

IGNORED = -100  # PyTorch's own value for targets that do not count
PADDING = 0  # what stands in unused positions; nothing reads it: `document_ids` is 0 there
NO_CONTEXT = -1


@dataclass(frozen=True)
class Part:
    """Ids that attend to each other and to nothing else; with `predicted` their text is a target of the next-token loss."""

    ids: tuple[int, ...]
    predicted: bool = True


@dataclass(frozen=True)
class ImagePlace:
    """Where one image of a document stands in a piece; places are indices into the piece's ids.

    Its latents fill `num_slots` places from `first_slot`. Its context vector is read at `context`, or nowhere (NO_CONTEXT).
    The two identities are equal for equal pixels, and for equal ids and images before the context.
    """

    image: int
    first_slot: int
    num_slots: int
    context: int
    image_id: int
    context_id: int
    crop: Crop


@dataclass(frozen=True)
class Piece:
    """What stands together in a row: a document or a part of one that is longer than a row, in one or more parts."""

    parts: tuple[Part, ...]
    images: tuple[ImagePlace, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(token for part in self.parts for token in part.ids)

    def __len__(self) -> int:
        return sum(len(part.ids) for part in self.parts)


@dataclass(frozen=True)
class ImageInput:
    """What the vision encoder takes of one image: a square of pixels, or its patches one after another (NaFlex)."""

    values: UInt8[np.ndarray, "..."]
    grid: Grid  # patches from top to bottom and from left to right


@dataclass(frozen=True)
class Row:
    """Pieces side by side and their images, in order; `documents` are the places of their documents in the training sequence."""

    pieces: tuple[Piece, ...]
    images: tuple[ImageInput, ...]
    documents: tuple[int, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Rows of equal length. Flat places are row * length + column.

    `document_ids` counts what attends to itself in a row from 1 and is 0 at padding; `positions` restart at 0 in each.
    `targets` holds the id that each position predicts, or IGNORED, and `predictors` the flat places where it is one. Latent `latent_index[i]` of the flattened
    [images slots] goes to flat place `slots[i]`. `positives` are the images with a context, read at the flat places `contexts` (texts alone may have contexts too).
    """

    ids: Int[Tensor, "rows length"]
    document_ids: Int[Tensor, "rows length"]
    positions: Int[Tensor, "rows length"]
    targets: Int[Tensor, "rows length"]
    predictors: Int[Tensor, " targets"]
    images: UInt8[Tensor, "images ..."]  # [images 3 height width], or [images patches values] where grids differ (NaFlex)
    slots: Int[Tensor, " latents"]
    latent_index: Int[Tensor, " latents"]
    positives: Int[Tensor, " positives"]
    contexts: Int[Tensor, " contexts"]
    image_ids: Int[Tensor, " positives"]
    context_ids: Int[Tensor, " positives"]
    grids: tuple[Grid, ...]                          # beside the tensors, like the next one, so that no device is asked
    document_lengths: tuple[tuple[int, ...], ...]    # of each row

    @property
    def num_tokens(self) -> int:
        return sum(map(sum, self.document_lengths))

    @property
    def num_documents(self) -> int:
        """Pieces of documents; the two parts of one count twice."""
        return sum(map(len, self.document_lengths))

    def to(self, device: torch.device) -> "Batch":
        return self._with_each(lambda value: value.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        return self._with_each(Tensor.pin_memory)

    def _with_each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return replace(self, **{name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)})


@dataclass(frozen=True)
class SpecialIds:
    """The ids that are never predicted: an image slot, and the end of an image."""

    image: int
    eoi: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "SpecialIds":
        return cls(image=tokenizer.image, eoi=tokenizer.eoi)


def collate(rows: Sequence[Row], *, row_length: int, special: SpecialIds) -> Batch:
    """The batch of `rows`."""
    shape = (len(rows), row_length)
    ids, document_ids, positions, predicted = np.full(shape, PADDING), np.zeros(shape, int), np.zeros(shape, int), np.zeros(shape, bool)
    inputs = [image for row in rows for image in row.images]
    places: list[tuple[int, ImagePlace]] = []  # flat place of the piece's first id, and the image
    lengths: list[tuple[int, ...]] = []
    for index, row in enumerate(rows):
        column, number = 0, 0
        for piece in row.pieces:
            places += [(index * row_length + column, place) for place in piece.images]
            for part in piece.parts:
                number, end = number + 1, column + len(part.ids)
                assert end <= row_length
                ids[index, column:end] = part.ids
                document_ids[index, column:end] = number
                positions[index, column:end] = np.arange(len(part.ids))
                predicted[index, column:end] = part.predicted
                column = end
        lengths.append(tuple(len(part.ids) for piece in row.pieces for part in piece.parts))
    assert len(places) == len(inputs)
    most_slots = max((place.num_slots for _, place in places), default=0)
    positives = [(number, start, place) for number, (start, place) in enumerate(places) if place.context != NO_CONTEXT]
    tokens, documents = torch.from_numpy(ids), torch.from_numpy(document_ids)
    targets = next_token_targets(tokens, documents, special).where(torch.from_numpy(predicted), IGNORED)
    return Batch(
        ids=tokens,
        document_ids=documents,
        positions=torch.from_numpy(positions),
        targets=targets,
        predictors=(targets.flatten() != IGNORED).nonzero()[:, 0],  # here, where no device has to be asked how many
        images=torch.from_numpy(stack_inputs(inputs)),
        slots=_runs([(start + place.first_slot, place.num_slots) for start, place in places]),
        latent_index=_runs([(number * most_slots, place.num_slots) for number, (_, place) in enumerate(places)]),
        positives=torch.tensor([number for number, _, _ in positives], dtype=torch.int64),
        contexts=torch.tensor([start + place.context for _, start, place in positives], dtype=torch.int64),
        image_ids=torch.tensor([place.image_id for _, _, place in positives], dtype=torch.int64),
        context_ids=torch.tensor([place.context_id for _, _, place in positives], dtype=torch.int64),
        grids=tuple(image.grid for image in inputs),
        document_lengths=tuple(lengths),
    )


def _runs(runs: Sequence[tuple[int, int]]) -> Int[Tensor, " n"]:
    """The integers start, start + 1, ... of each (start, count), one run after another."""
    return torch.from_numpy(np.concatenate([np.arange(start, start + count) for start, count in runs] or [np.zeros(0, int)]))


def stack_inputs(inputs: Sequence[ImageInput]) -> UInt8[np.ndarray, "images ..."]:
    """[images 3 height width] of squares, or [images patches values] with zeros behind the patches of smaller images."""
    if not inputs:
        return np.zeros((0, 3, 1, 1), np.uint8)
    if inputs[0].values.ndim == 3:
        return np.ascontiguousarray(rearrange([image.values for image in inputs], "images height width channels -> images channels height width"))
    stacked = np.zeros((len(inputs), max(len(image.values) for image in inputs), inputs[0].values.shape[1]), np.uint8)
    for index, image in enumerate(inputs):
        stacked[index, : len(image.values)] = image.values
    return stacked


def next_token_targets(ids: Int[Tensor, "rows length"], document_ids: Int[Tensor, "rows length"], special: SpecialIds) -> Int[Tensor, "rows length"]:
    """For each position the id that follows in its document, or IGNORED.

    Ignored are image slots and `<eoi>` as targets, the last position of a document, and padding; `<soi>` is a target.
    """
    following = functional.pad(ids[:, 1:], (0, 1))
    same = functional.pad(document_ids[:, 1:], (0, 1)) == document_ids
    counted = same & (document_ids > 0) & (following != special.image) & (following != special.eoi)
    return following.where(counted, IGNORED)
