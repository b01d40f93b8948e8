"""Shards to rows in an order that depends on nothing but the seed: lanes, packing, and state to continue from.

    global document sequence g = 0, 1, 2, ...  (epoch after epoch, each a permutation)
      --> lane l takes g = l, l + L, l + 2L, ... and packs its own pieces into rows
      --> global row k is the next row of lane k mod L
      --> rank r of W (W divides L) makes the rows with k mod W = r, worker by worker

So the rows and their order depend neither on the number of ranks nor on that of workers, and the state of a
lane (where it is, which pieces wait) is all there is to continue from.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lcl.core.config import config
from lcl.core.document import Document
from lcl.core.images import decode_image, to_pixels
from lcl.core.rejected import Rejected
from lcl.core.shards import ShardSet
from lcl.core.tokenizer import Tokenizer
from lcl.crops import random_crop
from lcl.model import ModelConfig
from lcl.rows import Piece, Row, to_pieces

LaneState = dict[str, Any]
Fraction = Annotated[float, Field(gt=0, le=1)]


@config
class DataConfig:
    shards: Annotated[tuple[str, ...], Field(min_length=1)] = ("shards",)
    """Folders of shards."""
    num_lanes: Annotated[int, Field(ge=1)] = 64
    """Lanes that pack documents side by side. The number of ranks must divide it."""
    pack_window: Annotated[int, Field(ge=1)] = 32
    """Pieces that wait in a lane for a row that they fit; more fill rows better."""
    crop_scale: tuple[Fraction, Fraction] = (0.9, 1.0)
    """Area of the random crop of a training image, as a fraction (open_clip: 0.9 to 1)."""
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Processes per rank that read and decode; 0 does it in the rank itself."""


@dataclass
class Lane:
    """One lane: an endless packer with state."""

    number: int
    next_document: int
    waiting: list[tuple[int, int, Piece]] = field(default_factory=list)  # (global document, piece number, piece), oldest first
    rows: int = 0

    def state(self) -> LaneState:
        return {"next_document": self.next_document, "waiting": [[document, number] for document, number, _ in self.waiting], "rows": self.rows}


class RowSource:
    """Makes the rows of single lanes. It has no state of its own: a lane holds all of it."""

    def __init__(self, settings: DataConfig, model: ModelConfig, row_length: int, seed: int) -> None:
        self.settings, self.row_length, self.seed = settings, row_length, seed
        self.tokenizer = Tokenizer(model.tokenizer)
        self.shards = ShardSet([Path(folder) for folder in settings.shards])
        if len(self.shards) == 0:
            raise ValueError(f"the shards in {', '.join(settings.shards)} hold no document; see their report.json")
        self.image_px, self.image_tokens = model.vision.image_px, model.vision.num_patches

    def document(self, position: int) -> Document:
        """Document `position` of the global sequence."""
        epoch, index = divmod(position, len(self.shards))
        return self.shards.read(int(_permutation(len(self.shards), self.seed, epoch)[index]))

    def pieces(self, position: int) -> list[Piece]:
        return to_pieces(self.document(position), self.tokenizer, image_tokens=self.image_tokens, row_length=self.row_length)

    def open_lane(self, number: int, state: LaneState | None) -> Lane:
        """The lane as `state` left it, or at its start."""
        if state is None:
            return Lane(number, next_document=number)
        waiting = [(document, piece, self.pieces(document)[piece]) for document, piece in state["waiting"]]
        return Lane(number, state["next_document"], waiting, state["rows"])

    def next_row(self, lane: Lane) -> Row:
        """The lane's next row: its oldest piece, then again and again the largest waiting one that fits (the oldest of equals)."""
        while len(lane.waiting) < self.settings.pack_window:
            lane.waiting += [(lane.next_document, number, piece) for number, piece in enumerate(self.pieces(lane.next_document))]
            lane.next_document += self.settings.num_lanes
        chosen = [lane.waiting.pop(0)]
        room = self.row_length - len(chosen[0][2].ids)
        while fitting := [index for index, item in enumerate(lane.waiting) if len(item[2].ids) <= room]:
            best = max(fitting, key=lambda index: len(lane.waiting[index][2].ids))
            chosen.append(lane.waiting.pop(best))
            room -= len(chosen[-1][2].ids)
        random = np.random.default_rng([self.seed, lane.number, lane.rows])
        lane.rows += 1
        return Row(tuple(piece for _, _, piece in chosen), self._pixels(chosen, random))

    def _pixels(self, chosen: Sequence[tuple[int, int, Piece]], random: np.random.Generator) -> np.ndarray:
        pixels = []
        for position, _, piece in chosen:
            if not piece.images:
                continue
            segments = self.document(position).images
            for index in piece.images:
                try:
                    image = decode_image(segments[index].data, draft_px=self.image_px)
                except Rejected as rejected:
                    raise ValueError(f"an image of {self.document(position).key} in the shards is damaged ({rejected}); run the build again") from rejected
                pixels.append(to_pixels(random_crop(image, self.image_px, self.settings.crop_scale, random)))
        return np.stack(pixels) if pixels else np.zeros((0, self.image_px, self.image_px, 3), np.uint8)


@lru_cache(maxsize=2)
def _permutation(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(length)


class _LaneRows(IterableDataset):
    """Rows of this worker's share of a rank's lanes, for ever: (lane number, row, the lane's state after it)."""

    def __init__(self, source: RowSource, lanes: Sequence[int], states: Mapping[int, LaneState]) -> None:
        self.source, self.lanes, self.states = source, lanes, states

    def __iter__(self) -> Iterator[tuple[int, Row, LaneState]]:
        worker = get_worker_info()
        mine = self.lanes[worker.id :: worker.num_workers] if worker else self.lanes
        if worker:
            torch.set_num_threads(1)
        lanes = [self.source.open_lane(number, self.states.get(number)) for number in mine]
        for lane in itertools.cycle(lanes):
            row = self.source.next_row(lane)
            yield lane.number, row, lane.state()


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
        loader = DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context="forkserver" if workers else None)
        self._rows = iter(loader)

    def take(self, num_rows: int) -> list[Row]:
        """The next `num_rows` rows of this rank; all ranks take as many."""
        rows = []
        for _ in range(num_rows):
            lane, row, state = next(self._rows)
            self.lane_states[lane] = state
            rows.append(row)
        self.rows_taken += num_rows * self._world_size
        return rows

    def state(self) -> dict[str, Any]:
        return {"rows_taken": self.rows_taken, "lanes": {str(lane): value for lane, value in self.lane_states.items()}}

    @staticmethod
    def merge_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The state of all ranks as one, which any number of ranks can continue from."""
        lanes: dict[str, LaneState] = {}
        for state in states:
            lanes |= state["lanes"]
        return {"rows_taken": states[0]["rows_taken"], "lanes": dict(sorted(lanes.items(), key=lambda item: int(item[0])))}
