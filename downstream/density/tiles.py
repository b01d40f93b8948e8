"""Planes to bits and back, tile after tile in one stream, so that the bits to begin with are needed once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from einops import rearrange
from jaxtyping import Int, UInt8, UInt32

from downstream.density.bit_stack import BitStack
from downstream.density.chain import Chain

Plane = UInt8[np.ndarray, "_ _ _"]  # height, width, channels
Shape = tuple[int, int, int]

MAX_TILES = 1 << 20  # of a plane, whose places are a list


@dataclass(frozen=True)
class Coded:
    words: UInt32[np.ndarray, " words"]
    seed_words: int
    """Of them, those that the stack began with: the initial bits."""


@dataclass(frozen=True)
class TileCoder:
    chain: Chain
    tile_px: int
    at_once: int
    """Tiles of one call of the network: faster, and as many times the initial bits."""

    def encode(self, planes: Sequence[Plane], advance: Callable[[int], None]) -> Coded:
        """`advance` counts pixels. Raises ValueError for a value that the model does not have."""
        stack = BitStack()
        for plane in planes:
            for batch in self._batches(plane.shape):
                u = np.stack([_tile(plane, place) for place in batch])
                self.chain.encode(stack, u)
                advance(u.shape[0] * u.shape[2] * u.shape[3])
        return Coded(stack.words(), stack.seed_words)

    def decode(self, coded: Coded, shapes: Sequence[Shape], advance: Callable[[int], None]) -> list[Plane]:
        """The inverse. Raises ValueError if the stream does not end as it began, and for planes of more than MAX_TILES."""
        if max(map(self.num_tiles, shapes)) > MAX_TILES:
            raise ValueError(f"a plane of more than {MAX_TILES} tiles")
        stack = BitStack(coded.words)
        planes = []
        for height, width, channels in reversed(shapes):
            plane = np.zeros((height, width, channels), dtype=np.uint8)
            for batch in reversed(list(self._batches(plane.shape))):
                u = self.chain.decode(stack, (len(batch), channels, batch[0].height, batch[0].width))
                for place, tile in zip(batch, u, strict=True):
                    plane[place.top : place.top + place.height, place.left : place.left + place.width] = rearrange(tile, "channels height width -> height width channels")
                advance(u.shape[0] * u.shape[2] * u.shape[3])
            planes.append(plane)
        if not stack.left_as_seeded(coded.seed_words):
            raise ValueError("the stream does not end as it began")
        return planes[::-1]

    def probe(self, planes: Sequence[Plane], num: int) -> float:
        """Bits of a pixel, about, without the initial ones: of so many tiles at even distances."""
        places = [(plane, place) for plane in planes for batch in self._batches(plane.shape) for place in batch]
        stack, pixels = BitStack(), 0
        for plane, place in places[:: max(1, len(places) // num)]:
            self.chain.encode(stack, _tile(plane, place)[None])
            pixels += place.height * place.width
        return (stack.num_bits - 32 * stack.seed_words) / pixels

    def num_tiles(self, shape: Shape) -> int:
        return -(-shape[0] // self.tile_px) * -(-shape[1] // self.tile_px)

    def _batches(self, shape: Shape) -> Iterator[list["Place"]]:
        """Tiles row by row, as many at once as have one size."""
        batch: list[Place] = []
        for top in range(0, shape[0], self.tile_px):
            for left in range(0, shape[1], self.tile_px):
                place = Place(top, left, min(self.tile_px, shape[0] - top), min(self.tile_px, shape[1] - left))
                if batch and (len(batch) == self.at_once or (batch[0].height, batch[0].width) != (place.height, place.width)):
                    yield batch
                    batch = []
                batch.append(place)
        yield batch


@dataclass(frozen=True)
class Place:
    top: int
    left: int
    height: int
    width: int


def _tile(plane: Plane, place: Place) -> Int[np.ndarray, "channels rows columns"]:
    cut = plane[place.top : place.top + place.height, place.left : place.left + place.width]
    return rearrange(cut.astype(np.int64), "height width channels -> channels height width")
