"""Symbols to bytes and back: constriction's range coder over integer tables, with escapes for distances that no table holds.

    push(distances, tables) ... --> bytes --> pop(number, tables) ...     in the same order

An escape is followed, at the end of its push, by the distance as an Exp-Golomb code of fair bits: any whole number of up to 31 bits can be coded.
"""

from collections.abc import Sequence

import constriction
import numpy as np
from jaxtyping import Int

from downstream.codec.tables import Table

LARGEST = 1 << 31  # a distance lies below it, either way
FAIR = 16          # bits that are coded at one time


class Encoder:
    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()

    def push(self, distances: Int[np.ndarray, " n"], which: Int[np.ndarray, " n"], models: "Models") -> None:
        """Codes each distance by the table `which` says. Raises ValueError for one that is not below LARGEST."""
        if len(distances) and int(np.abs(distances).max()) >= LARGEST:
            raise ValueError(f"a latent lies {int(np.abs(distances).max())} steps from its prediction, more than can be coded: the model has diverged")
        outside = []
        for table, places in _by_table(which):
            model, symbols = models.tables[table], distances[places] - models.tables[table].least
            escaped = (symbols < 0) | (symbols >= model.escape)
            self._coder.encode(np.where(escaped, model.escape, symbols).astype(np.int32), models.coders[table])
            outside.append(distances[places][escaped])
        for distance in np.concatenate(outside).tolist() if outside else ():
            self._push_number(distance)

    def _push_number(self, distance: int) -> None:
        value = 2 * distance - 1 if distance > 0 else -2 * distance  # 0, 1, -1, 2, ... become 0, 1, 2, 3, ...
        bits = (value + 1).bit_length()
        self._push_bits(bits - 1, 6)
        self._push_bits(value + 1 - (1 << (bits - 1)), bits - 1)

    def _push_bits(self, value: int, bits: int) -> None:
        for start in range(0, bits, FAIR):
            num = min(FAIR, bits - start)
            self._coder.encode(np.array([(value >> start) & ((1 << num) - 1)], dtype=np.int32), constriction.stream.model.Uniform(1 << num))

    def bytes(self) -> bytes:
        return self._coder.get_compressed().astype("<u4").tobytes()


class Decoder:
    def __init__(self, data: bytes) -> None:
        """Raises ValueError if the bytes are no whole words."""
        if len(data) % 4:
            raise ValueError(f"the payload has {len(data)} bytes, no multiple of 4")
        self._coder = constriction.stream.queue.RangeDecoder(np.frombuffer(data, dtype="<u4").astype(np.uint32))

    def pop(self, which: Int[np.ndarray, " n"], models: "Models") -> Int[np.ndarray, " n"]:
        """The distances that were pushed with these tables. Raises ValueError where the bytes cannot be of that."""
        distances = np.zeros(len(which), dtype=np.int64)
        escaped = []
        try:
            for table, places in _by_table(which):
                model = models.tables[table]
                symbols = self._coder.decode(models.coders[table], len(places))
                distances[places] = symbols + model.least
                escaped.append(places[symbols == model.escape])
            for place in np.concatenate(escaped).tolist() if escaped else ():
                distances[place] = self._pop_number()
        except AssertionError as error:  # constriction's word for bytes that no encoder wrote
            raise ValueError(f"the payload is damaged ({error})") from error
        return distances

    def _pop_number(self) -> int:
        bits = self._pop_bits(6)
        if bits > 32:
            raise ValueError("the payload is damaged (an escape of more than 32 bits)")
        value = self._pop_bits(bits) + (1 << bits) - 1
        return (value + 1) // 2 if value % 2 else -(value // 2)

    def _pop_bits(self, bits: int) -> int:
        value = 0
        for start in range(0, bits, FAIR):
            num = min(FAIR, bits - start)
            value |= int(self._coder.decode(constriction.stream.model.Uniform(1 << num), 1)[0]) << start
        return value


class Models:
    """Tables, and the range coder's form of each."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self.tables = tuple(tables)
        self.coders = tuple(constriction.stream.model.Categorical(table.probabilities, perfect=False) for table in self.tables)


def _by_table(which: Int[np.ndarray, " n"]) -> list[tuple[int, Int[np.ndarray, " places"]]]:
    """Each table that occurs, with the places that it codes, ascending."""
    order = np.argsort(which, kind="stable")
    tables, starts = np.unique(which[order], return_index=True)
    return list(zip(tables.tolist(), np.split(order, starts[1:]), strict=True)) if len(which) else []
