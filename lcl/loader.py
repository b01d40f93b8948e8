"""Shards to rows in an order that depends on nothing but the seed: lanes, packing, and state to continue from.

    global document sequence g = 0, 1, 2, ...  (lcl/mixture.py)
      --> lane l takes g = l, l + L, l + 2L, ... and packs its own pieces into rows
      --> global row k is the next row of lane k mod L
      --> rank r of W (W divides L) makes the rows with k mod W = r, worker by worker

So the rows and their order depend neither on the number of ranks nor on that of workers, and the state of a
lane (where it is, which pieces wait) is all there is to continue from.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lcl.core.config import config
from lcl.core.document import Document
from lcl.core.images import decode_image
from lcl.core.rejected import Rejected
from lcl.core.shards import ShardSet
from lcl.core.tokenizer import Tokenizer
from lcl.layout import Layout, LayoutConfig, Setting, lay_out, without_image
from lcl.mixture import Mixture
from lcl.model import ModelConfig
from lcl.rows import ImageInput, Piece, Row

LaneState = dict[str, Any]
Waiting = tuple[int, int, Piece]  # global document, piece number, piece


@config
class DataConfig:
    shards: Annotated[tuple[str, ...], Field(min_length=1)] = ("shards",)
    """Folders of shards."""
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


@dataclass
class Lane:
    """One lane: an endless packer with state."""

    number: int
    next_document: int
    waiting: list[Waiting] = field(default_factory=list)  # oldest first
    images: int = 0
    damaged: int = 0

    def state(self) -> LaneState:
        waiting = [[document, number] for document, number, _ in self.waiting]
        return {"next_document": self.next_document, "waiting": waiting, "images": self.images, "damaged": self.damaged}


def held_out(keys: Sequence[str], fraction: float) -> Int[np.ndarray, " documents"]:
    """Which documents (1 or 0) are kept for validation: by the first 52 bits of their keys, so the choice stays when shards are added."""
    return np.array([int(key[:13], 16) < fraction * (1 << 52) for key in keys], dtype=int)


class RowSource:
    """Makes the rows of single lanes. It has no state of its own: a lane holds all of it."""

    def __init__(
        self, settings: DataConfig, model: ModelConfig, row_length: int, seed: int, *, tokenizer: Tokenizer, layout: Layout = "document", validation: bool = False
    ) -> None:
        """With `validation`, the documents that are held out, with the crops of evaluation.

        Raises ValueError if there is no document, for weights that do not fit, and if an image does not fit a row.
        """
        self.settings, self.row_length, self.seed, self.layout, self.vision = settings, row_length, seed, layout, model.vision
        self.tokenizer = tokenizer
        self.sets = [ShardSet([Path(folder)]) for folder in settings.shards]
        held = [held_out(shards.catalogue["key"].to_pylist(), settings.validation_fraction) for shards in self.sets]
        self.documents = [np.flatnonzero(marks == int(validation)) for marks in held]
        if sum(map(len, self.documents)) == 0 or (settings.weights and min(map(len, self.documents)) == 0):
            which = "no document is held out: raise data.validation_fraction" if validation else "hold no document to train on; see their report.json"
            raise ValueError(f"the shards in {', '.join(settings.shards)}: {which}")
        self.mixture = Mixture([len(chosen) for chosen in self.documents], settings.weights, seed=seed)
        self.setting = Setting(tokenizer, settings.layout, min(row_length, model.text.context_length), model, evaluation=validation)

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

    def pieces(self, position: int) -> list[Piece]:
        return lay_out(self.document(position), self.layout, self.setting, np.random.default_rng([self.seed, position]))

    def open_lane(self, number: int, state: LaneState | None) -> Lane:
        """The lane as `state` left it, or at its start."""
        if state is None:
            return Lane(number, next_document=number)
        waiting = [(document, piece, self.pieces(document)[piece]) for document, piece in state["waiting"]]
        return Lane(number, state["next_document"], waiting, state["images"], state["damaged"])

    def next_row(self, lane: Lane) -> Row:
        """The lane's next row: its oldest piece, then again and again the largest waiting one that fits (the oldest of equals)."""
        looked_at = 0
        while len(lane.waiting) < self.settings.pack_window:
            if looked_at > len(self) and not lane.waiting:
                raise ValueError(f"no document of {', '.join(self.settings.shards)} gives a pair of image and text; take another --loss.objective")
            looked_at += 1
            lane.waiting += [(lane.next_document, number, piece) for number, piece in enumerate(self.pieces(lane.next_document))]
            lane.next_document += self.settings.num_lanes
        chosen = [lane.waiting.pop(0)]
        room = self.row_length - len(chosen[0][2])
        while fitting := [index for index, item in enumerate(lane.waiting) if len(item[2]) <= room]:
            best = max(fitting, key=lambda index: len(lane.waiting[index][2]))
            chosen.append(lane.waiting.pop(best))
            room -= len(chosen[-1][2])
        return self._decoded(chosen, lane)

    def _decoded(self, chosen: Sequence[Waiting], lane: Lane) -> Row:
        """The row with its images; a damaged one is counted and its place closed up."""
        pieces: list[Piece] = []
        inputs: list[ImageInput] = []
        for position, _, piece in chosen:
            segments = self.document(position).images if piece.images else []
            kept: Piece | None = piece
            good: list[ImageInput] = []
            for place in piece.images:
                lane.images += 1
                try:
                    image = decode_image(segments[place.image].data, draft_px=self.vision.draft_px(place.crop))
                except Rejected:
                    lane.damaged += 1
                    kept = without_image(kept, len(good)) if kept is not None else None
                else:
                    good.append(self.vision.input_of(image, place.crop))
            if kept is not None:
                pieces.append(kept)
                inputs += good
        return Row(tuple(pieces), tuple(inputs))


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
