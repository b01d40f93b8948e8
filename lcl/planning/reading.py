"""What a model reads, for a plan: of shards a sample as the loader lays it out, else a document of given numbers.

    shards --pieces of the first documents of the training sequence--> Typical
"""

import time
from dataclasses import dataclass
from itertools import islice

from lcl.core.shard_mirror import fetch_sets
from lcl.core.tokenizer import Tokenizer
from lcl.estimate import FILL, Reading, read_document
from lcl.loader import RowLoader, RowSource
from lcl.rows import NO_CONTEXT, SpecialIds, collate
from lcl.train_config import TrainConfig

SAMPLE_DOCUMENTS = 256


@dataclass(frozen=True)
class Typical:
    """A reading that stands for `documents` documents of the data, the grid of their images, and how full of them rows are."""

    reading: Reading
    documents: int
    grid: tuple[int, int]
    fill: float
    in_all: int
    """Documents of the shards; 0 where none are given."""

    def readings_in(self, rows: float, row_length: int) -> float:
        """How many such readings so many rows hold."""
        return self.fill * rows * row_length / self.reading.tokens


def typical_of_numbers(config: TrainConfig, *, tokens: int, images: int) -> Typical:
    """One document of so many text tokens and images, each as large as an image may be."""
    vision = config.model.vision
    side = vision.tower().image_px // vision.tower().patch_px if vision.kind == "vit" else 0
    return Typical(read_document(config, tokens=tokens, images=images), 1, (side, side) if side else (1, vision.most_patches), FILL, 0)


def source_of(config: TrainConfig, tokenizer: Tokenizer) -> RowSource:
    """The training data of the config, fetched where it is at an address. Raises ValueError as the trainer does."""
    fetch_sets(config.data.shards, config.data.cache)
    return RowSource(config.data, config.model, config.row_length, config.seed, tokenizer=tokenizer, layout=config.loss.layout)


def typical_of_shards(config: TrainConfig, source: RowSource, tokenizer: Tokenizer) -> Typical:
    """The first documents of the training sequence, and the fill of rows of them. Raises ValueError if none of them gives a piece."""
    number = min(SAMPLE_DOCUMENTS, len(source))
    pieces = [item.piece for position in range(number) for item in source.pieces(position)]
    if not pieces:
        raise ValueError(f"none of the first {number} documents in {', '.join(config.data.shards)} gives a piece; give others, or --document-tokens and --document-images")
    places = [place for piece in pieces for place in piece.images]
    slots = 0 if config.loss.layout == "pairs" else sum(place.num_slots for place in places)
    lengths = tuple(len(part.ids) for piece in pieces for part in piece.parts)
    predicted = sum(len(part.ids) - 1 for piece in pieces for part in piece.parts if part.predicted)
    reading = Reading(lengths, sum(place.context != NO_CONTEXT for place in places) or len(places), slots=slots, targets=max(0, predicted - slots - (len(places) if slots else 0)))
    grids = sorted(place.crop.grid for place in places) or [(1, 1)]
    loader = RowLoader(source, rank=0, world_size=1, batch_rows=config.data.num_lanes)
    rows = loader.take(min(config.data.num_lanes, 4 * config.micro_rows))
    fill = sum(len(piece) for row in rows for piece in row.pieces) / (len(rows) * config.row_length)
    return Typical(reading, number, grids[len(grids) // 2], fill, len(source))


def loading_seconds(config: TrainConfig, source: RowSource, tokenizer: Tokenizer, *, rows: int) -> float:
    """Processor seconds of reading, decoding, packing and collating a row, over `rows` of them behind the first round of the lanes, which fills their windows."""
    loader, lanes = RowLoader(source, rank=0, world_size=1, batch_rows=config.data.num_lanes), config.data.num_lanes
    loader.take(lanes)
    started = time.process_time()
    for _ in islice(range(rows), 0, None, config.micro_rows):
        collate(loader.take(config.micro_rows), row_length=config.row_length, special=SpecialIds.of(tokenizer))
    return (time.process_time() - started) / (-(-rows // config.micro_rows) * config.micro_rows)
