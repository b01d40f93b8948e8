"""Shards to rows in an order that depends on nothing but the seed: lanes, packing, and state to continue from.

    global document sequence g = 0, 1, 2, ...  (lcl/mixture.py)
      --> lane l takes g = l, l + L, l + 2L, ... and packs its own pieces into rows
      --> global row k is the next row of lane k mod L
      --> rank r of W (W divides L) makes the rows with k mod W = r, worker by worker

So the rows and their order depend neither on the number of ranks nor on that of workers, and the state of a
lane (where it is, which pieces wait) is all there is to continue from.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool
from pydantic import Field
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lcl.core.config import config
from lcl.core.document import Document
from lcl.core.images import decode_image
from lcl.core.rejected import Rejected
from lcl.core.shard_mirror import folders_of
from lcl.core.shards import ShardSet
from lcl.core.tokenizer import Tokenizer
from lcl.layout import Layout, LayoutConfig, Setting, lay_out, without_image
from lcl.mixture import Mixture
from lcl.model import ModelConfig
from lcl.rows import ImageInput, Piece, Row

ENOUGH_DRAWS = 30  # a lane draws about at random, so after as many per document it has missed one with probability e^-30
LaneState = dict[str, Any]
LaneRow = tuple[int, Row, LaneState]
Failure = ValueError | OSError  # what a user can mend


@config
class DataConfig:
    shards: Annotated[tuple[str, ...], Field(min_length=1)] = ("shards",)
    """Folders of shards, or addresses of an object store (s3://bucket/shards), which are fetched first."""
    cache: str = ""
    """Folder on each machine where shards of addresses are kept."""
    weights: tuple[float, ...] = ()
    """How often each folder's documents come, one number for each; none: as often as there are documents."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of the documents, chosen by their keys, that is kept for validation and never trained on."""
    layout: LayoutConfig = LayoutConfig()
    num_lanes: Annotated[int, Field(ge=1)] = 64
    """Lanes that pack documents side by side. The number of ranks must divide it."""
    pack_window: Annotated[int, Field(ge=1)] = 32
    """Pieces that wait in a lane for a row that they fit; more fill rows better."""
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Processes per rank that read and decode; 0 does it in the rank itself."""
    max_damaged: Annotated[float, Field(ge=0, le=1)] = 0.001
    """Part of the images that may turn out damaged; more stops the run."""


@dataclass(frozen=True)
class Waiting:
    """A piece that waits for its row, with the stored bytes of its images: a document is read once, not again when it is decoded."""

    document: int  # its place in the global sequence
    number: int    # of the piece in the document
    piece: Piece
    images: tuple[bytes, ...] = field(repr=False)
    length: int            # ids of the piece


@dataclass
class Lane:
    """One lane: an endless packer with state."""

    number: int
    next_document: int
    waiting: list[Waiting] = field(default_factory=list)  # oldest first
    images: int = 0
    damaged: int = 0

    def state(self) -> LaneState:
        waiting = [[item.document, item.number] for item in self.waiting]
        return {"next_document": self.next_document, "waiting": waiting, "images": self.images, "damaged": self.damaged}


def held_out(keys: pa.ChunkedArray, fraction: float) -> Bool[np.ndarray, " documents"]:
    """Which documents are kept for validation: by the first 52 bits of their keys, so the choice stays when shards are added."""
    bound = min(math.ceil(fraction * (1 << 52)), (1 << 52) - 1)
    return pc.less(keys, f"{bound:013x}").to_numpy().astype(bool)  # hex digits of one length are ordered like their numbers


class RowSource:
    """Makes the rows of single lanes. It has no state of its own: a lane holds all of it."""

    def __init__(
        self, settings: DataConfig, model: ModelConfig, row_length: int, seed: int, *, tokenizer: Tokenizer, layout: Layout = "document", validation: bool = False
    ) -> None:
        """With `validation`, the documents that are held out, with the crops of evaluation.

        Sets at addresses must have been fetched (`fetch_sets`). Raises ValueError if there is no document, for weights that do not fit, and if an image does not fit a row.
        """
        self.settings, self.row_length, self.seed, self.layout, self.vision = settings, row_length, seed, layout, model.vision
        self.tokenizer = tokenizer
        self.sets = [ShardSet(folders_of(location, settings.cache)) for location in settings.shards]
        self.documents = [np.flatnonzero(self._used(shards, validation)) for shards in self.sets]
        if sum(map(len, self.documents)) == 0 or (settings.weights and min(map(len, self.documents)) == 0):
            what = "no document" if layout == "document" else "no document with an image and text"
            cure = "held out: raise data.validation_fraction" if validation else "to train on; see their report.json"
            raise ValueError(f"the shards in {' or '.join(settings.shards)} hold {what} {cure}")
        self.mixture = Mixture([len(chosen) for chosen in self.documents], settings.weights, seed=seed)
        self.setting = Setting(tokenizer, layout, settings.layout, min(row_length, model.text.context_length), model, evaluation=validation)

    def _used(self, shards: ShardSet, validation: bool) -> Bool[np.ndarray, " documents"]:
        """Documents of the wanted part; for layouts of pairs, those with an image and text."""
        used = held_out(shards.catalogue["key"], self.settings.validation_fraction) == validation
        if self.layout != "document":
            used &= (shards.catalogue["num_images"].to_numpy() > 0) & (shards.catalogue["num_characters"].to_numpy() > 0)
        return used

    @property
    def fingerprint(self) -> str:
        """Changes when any document does."""
        return "-".join(shards.fingerprint for shards in self.sets)

    def __len__(self) -> int:
        return sum(map(len, self.documents))

    def document(self, position: int) -> Document:
        """Document `position` of the global sequence."""
        which, index = self.mixture.locate(position)
        return self.sets[which].read(int(self.documents[which][index]))

    def pieces(self, position: int) -> list[Waiting]:
        """The pieces of document `position` of the global sequence."""
        document = self.document(position)
        images = document.images
        laid_out = lay_out(document, self.setting, np.random.default_rng([self.seed, position]))
        return [
            Waiting(position, number, piece, tuple(images[place.image].data for place in piece.images), len(piece)) for number, piece in enumerate(laid_out)
        ]

    def open_lane(self, number: int, state: LaneState | None) -> Lane:
        """The lane as `state` left it, or at its start."""
        if state is None:
            return Lane(number, next_document=number)
        pieces = {document: self.pieces(document) for document in {document for document, _ in state["waiting"]}}
        waiting = [pieces[document][piece] for document, piece in state["waiting"]]
        return Lane(number, state["next_document"], waiting, state["images"], state["damaged"])

    def next_row(self, lane: Lane) -> Row:
        """The lane's next row: its oldest piece, then again and again the largest waiting one that fits (the oldest of equals)."""
        chosen: list[Waiting] = []
        room = self.row_length
        while True:
            self._refill(lane)
            fitting = [index for index, item in enumerate(lane.waiting) if item.length <= room]
            if not fitting:
                return self._decoded(chosen, lane)
            best = max(fitting, key=lambda index: lane.waiting[index].length) if chosen else 0
            chosen.append(lane.waiting.pop(best))
            room -= chosen[-1].length

    def _refill(self, lane: Lane) -> None:
        """Lets the lane's next documents wait until `pack_window` pieces do. Raises ValueError if no document gives a piece."""
        looked_at = 0
        while len(lane.waiting) < self.settings.pack_window:
            if looked_at > ENOUGH_DRAWS * len(self) and not lane.waiting:
                raise ValueError(f"no document of {', '.join(self.settings.shards)} gives a pair of image and text; take another --loss.objective")
            looked_at += 1
            lane.waiting += self.pieces(lane.next_document)
            lane.next_document += self.settings.num_lanes

    def _decoded(self, chosen: Sequence[Waiting], lane: Lane) -> Row:
        """The row with its images; a damaged one is counted and its place closed up."""
        pieces: list[Piece] = []
        inputs: list[ImageInput] = []
        documents: list[int] = []
        for item in chosen:
            kept: Piece | None = item.piece
            good: list[ImageInput] = []
            for place, data in zip(item.piece.images, item.images, strict=True):
                lane.images += 1
                try:
                    image = decode_image(data, draft_px=self.vision.draft_px(place.crop))
                except Rejected:
                    lane.damaged += 1
                    kept = without_image(kept, len(good), self.settings.layout) if kept is not None else None
                else:
                    good.append(self.vision.input_of(image, place.crop))
            if kept is not None:
                pieces.append(kept)
                inputs += good
                documents.append(item.document)
        return Row(tuple(pieces), tuple(inputs), tuple(documents))


class _LaneRows(IterableDataset):
    """Rows of this worker's share of a rank's lanes, for ever: (lane number, row, the lane's state after it), or the error that ends them."""

    def __init__(self, source: RowSource, lanes: Sequence[int], states: Mapping[int, LaneState]) -> None:
        self.source, self.lanes, self.states = source, lanes, states

    def __iter__(self) -> Iterator[LaneRow | Failure]:
        worker = get_worker_info()
        mine = self.lanes[worker.id :: worker.num_workers] if worker else self.lanes
        if worker:
            torch.set_num_threads(1)
        try:
            lanes = [self.source.open_lane(number, self.states.get(number)) for number in mine]
            for lane in itertools.cycle(lanes):
                row = self.source.next_row(lane)
                yield lane.number, row, lane.state()
        except (ValueError, OSError) as error:  # raised by `take`: a worker would wrap it in its traceback
            yield error


def _worker_context() -> BaseContext:
    """Workers are forked from a process that has imported this module and nothing else happened in."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _unchanged(item: LaneRow | Failure) -> LaneRow | Failure:
    return item  # the loader's own conversion would look through every number of it


def check_lanes(settings: DataConfig, *, rank_count: int, batch_rows: int) -> None:
    """Raises ValueError naming the numbers that do not divide."""
    lanes, workers = settings.num_lanes, max(1, settings.num_workers)
    if lanes % rank_count or (lanes // rank_count) % workers:
        raise ValueError(f"data.num_lanes ({lanes}) must be a multiple of ranks x data.num_workers ({rank_count} x {workers})")
    if batch_rows % rank_count:
        raise ValueError(f"batch_rows ({batch_rows}) must be a multiple of the number of ranks ({rank_count})")


class RowLoader:
    """This rank's rows, in order, and the state of its lanes after the last row that was taken."""

    def __init__(self, source: RowSource, *, rank: int, world_size: int, batch_rows: int, state: Mapping[str, Any] | None = None) -> None:
        """`state` is what `RowLoader.merge_states` made, at any number of ranks and workers. Raises ValueError if numbers do not divide."""
        settings = source.settings
        check_lanes(settings, rank_count=world_size, batch_rows=batch_rows)
        lanes = settings.num_lanes
        self.lane_states: dict[int, LaneState] = {int(number): value for number, value in state["lanes"].items()} if state else {}
        self.rows_taken = state["rows_taken"] if state else 0  # of the global sequence
        self._world_size = world_size
        first = self.rows_taken % lanes  # the sequence may stop inside a round over the lanes
        order = [(first + offset) % lanes for offset in range(lanes)]
        mine = [lane for lane in order if lane % world_size == rank]
        self.lane_states = {lane: value for lane, value in self.lane_states.items() if lane % world_size == rank}
        dataset = _LaneRows(source, mine, dict(self.lane_states))
        workers = settings.num_workers
        self._rows = iter(dataset)
        if workers:
            self._rows = iter(DataLoader(dataset, batch_size=None, num_workers=workers, collate_fn=_unchanged, multiprocessing_context=_worker_context()))

    def take(self, num_rows: int) -> list[Row]:
        """The next `num_rows` rows of this rank; all ranks take as many. Raises ValueError as `ShardSet.read` does, and if no document gives a piece."""
        rows = []
        for _ in range(num_rows):
            item = next(self._rows)
            if isinstance(item, Failure):
                raise item
            lane, row, state = item
            self.lane_states[lane] = state
            rows.append(row)
        self.rows_taken += num_rows * self._world_size
        return rows

    def damage(self) -> tuple[int, int]:
        """Images of this rank's lanes so far, and how many of them were damaged."""
        return sum(state["images"] for state in self.lane_states.values()), sum(state["damaged"] for state in self.lane_states.values())

    def state(self) -> dict[str, Any]:
        return {"rows_taken": self.rows_taken, "lanes": {str(lane): value for lane, value in self.lane_states.items()}}

    @staticmethod
    def merge_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The state of all ranks as one, which any number of ranks can continue from."""
        lanes: dict[str, LaneState] = {}
        for state in states:
            lanes |= state["lanes"]
        return {"rows_taken": states[0]["rows_taken"], "lanes": dict(sorted(lanes.items(), key=lambda item: int(item[0])))}
