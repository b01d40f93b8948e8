"""A stack of bits under models: push writes symbols, pop reads them back, and pop of what was never pushed draws symbols and takes their bits (bits-back coding).

    push(values, means, scales) <-> pop(means, scales)        exact inverses of each other on any stack

constriction's asymmetric numeral system. A normal is cut into whole numbers and to a window of eight deviations around its mean, so that no rare symbol costs the others much
and none that is drawn lies far out; beyond the window follows the distance in fair bits, of which a draw makes small distances. An encoder's stack that runs low is filled from below with words of a fixed generator, which the decoder finds again.
"""

from collections.abc import Iterator
from functools import lru_cache

import constriction
import numpy as np
from jaxtyping import Float, Int, UInt32

MEAN_PARTS = 64          # places of a mean between two whole numbers
SCALES_PER_OCTAVE = 64
MEAN_BOUND = 2.0**52     # whole numbers below it are exact
SCALE_EXPONENTS = (-2, 14)  # of two: the least and the largest scale, in whole numbers
DEVIATIONS = 8           # of the window, each way
LEAST_WINDOW = 4         # exponent of two
PRECISION_BITS = 24      # constriction's: a symbol takes no more
PROBABILITY_BITS = 16    # of yes and no
MOST_DIGITS = 48         # of a distance beyond the window
SLICE = 16               # symbols that are popped at one time from a stack that runs low
SPARE_WORDS = 4          # that stay below what is popped

_stream = constriction.stream
_CODERS = {exponent: _stream.model.QuantizedGaussian(-(1 << exponent), 1 << exponent) for exponent in range(LEAST_WINDOW, SCALE_EXPONENTS[1] + 4)}


class BitStack:
    def __init__(self, words: UInt32[np.ndarray, " words"] | None = None) -> None:
        """An encoder's stack, which grows from below; or, of these words, a decoder's. Raises ValueError for words that no stack leaves behind."""
        self._grows, self.seed_words = words is None, 0
        if words is None:
            words = self._more(SPARE_WORDS)
        try:
            self._coder = _stream.stack.AnsCoder(words)
        except ValueError as error:
            raise ValueError(f"the bits are damaged ({error})") from error

    @property
    def num_bits(self) -> int:
        return self._coder.num_bits()

    def words(self) -> UInt32[np.ndarray, " words"]:
        return self._coder.get_compressed()

    def push(self, values: Int[np.ndarray, " n"], means: Float[np.ndarray, " n"], scales: Float[np.ndarray, " n"]) -> None:
        """Writes whole numbers under normals of these means and deviations, in whole numbers."""
        base, fraction, rounded, windows = _prepare(means, scales)
        symbols, reach = values - base, (1 << windows)
        outside = np.abs(symbols) >= reach
        for place in np.flatnonzero(outside)[::-1].tolist():
            self._push_number(abs(int(symbols[place])) - int(reach[place]))
        clipped = np.clip(symbols, -reach, reach).astype(np.int32)
        for window, places in reversed(_by_window(windows)):
            self._coder.encode_reverse(clipped[places], _CODERS[window], fraction[places], rounded[places])

    def pop(self, means: Float[np.ndarray, " n"], scales: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Whole numbers under the same normals: those pushed last, or a draw."""
        base, fraction, rounded, windows = _prepare(means, scales)
        symbols, reach = np.zeros(len(means), dtype=np.int64), (1 << windows)
        for window, places in _by_window(windows):
            for part in self._parts(places):
                symbols[part] = self._coder.decode(_CODERS[window], fraction[part], rounded[part])
        for place in np.flatnonzero(np.abs(symbols) >= reach).tolist():
            symbols[place] += self._pop_number() * (1 if symbols[place] > 0 else -1)
        return symbols + base

    def push_choices(self, values: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, "n choices"]) -> None:
        """Writes a choice of each row of probabilities."""
        self._coder.encode_reverse(values.astype(np.int32), _stream.model.Categorical(perfect=False), _rounded(probabilities))

    def pop_choices(self, probabilities: Float[np.ndarray, "n choices"]) -> Int[np.ndarray, " n"]:
        rounded = _rounded(probabilities)
        parts = [self._coder.decode(_stream.model.Categorical(perfect=False), rounded[part]) for part in self._parts(np.arange(len(rounded)))]
        return np.concatenate(parts).astype(np.int64)

    def push_bit(self, value: bool, probability: float) -> None:
        """Writes yes or no; what is certain is not written."""
        if 0 < probability < 1:
            self._coder.encode_reverse(int(value), _stream.model.Bernoulli(_certainly_not_quite(probability), perfect=False))

    def pop_bit(self, probability: float) -> bool:
        if not 0 < probability < 1:
            return probability == 1
        self._ensure(1)
        return bool(self._coder.decode(_stream.model.Bernoulli(_certainly_not_quite(probability), perfect=False)))

    def left_as_seeded(self, num_words: int) -> bool:
        """Whether nothing but the words that the encoder's stack grew by is left."""
        return bool(np.array_equal(self.words(), _seeds(num_words)[::-1]))

    def _push_number(self, value: int) -> None:
        """An Exp-Golomb code of fair bits, topmost the number of digits in unary: a draw is 2^k or more with probability 2^-k, about."""
        digits = (value + 1).bit_length() - 1
        for shift in range(digits - 1, -1, -1):
            self.push_bit(bool(value + 1 >> shift & 1), 0.5)
        self.push_bit(False, 0.5)
        for _ in range(digits):
            self.push_bit(True, 0.5)

    def _pop_number(self) -> int:
        digits = 0
        while self.pop_bit(0.5):
            digits += 1
            if digits > MOST_DIGITS:
                raise ValueError(f"the bits are damaged (a number of more than {MOST_DIGITS} digits)")
        return (1 << digits) - 1 + sum(int(self.pop_bit(0.5)) << shift for shift in range(digits))

    def _parts(self, places: Int[np.ndarray, " n"]) -> Iterator[Int[np.ndarray, " part"]]:
        """The places in parts, before each of which the stack is filled as far as it can need; all at once where it holds enough or cannot grow.

        Raises ValueError where nothing is left of one that cannot grow: an encoder's is never empty, and zeros without end would come.
        """
        if not self._grows and self._coder.is_empty():
            raise ValueError("the bits are damaged (they end before the last tile)")
        if not self._grows or self._coder.num_words() >= _words(len(places)):
            yield places
            return
        for start in range(0, len(places), SLICE):
            part = places[start : start + SLICE]
            self._ensure(len(part))
            yield part

    def _ensure(self, symbols: int) -> None:
        wanted = _words(symbols) - self._coder.num_words()
        if self._grows and wanted > 0:
            self._coder = _stream.stack.AnsCoder(np.concatenate([self._more(wanted), self.words()]))

    def _more(self, num: int) -> UInt32[np.ndarray, " words"]:
        """The next words of the seed, the first of them last, for it is popped first."""
        self.seed_words += num
        return _seeds(self.seed_words)[self.seed_words - num :][::-1]


def _prepare(
    means: Float[np.ndarray, " n"], scales: Float[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"], Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Whole part and rest of the means, scales on their grid, and exponents of the windows: what encoder and decoder must agree on to the bit.

    Raises ValueError for means that are no numbers or beyond all bounds, which damaged bits lead to.
    """
    if not (np.abs(means) < MEAN_BOUND).all() or not np.isfinite(scales).all():
        raise ValueError("the bits are damaged (a latent without bounds)")
    base = np.floor(means + 0.5)
    fraction = np.round((means - base) * MEAN_PARTS) / MEAN_PARTS
    least, largest = SCALE_EXPONENTS
    steps = np.clip(np.round(np.log2(scales) * SCALES_PER_OCTAVE), least * SCALES_PER_OCTAVE, largest * SCALES_PER_OCTAVE).astype(np.int64)
    windows = np.maximum(LEAST_WINDOW, -(-steps // SCALES_PER_OCTAVE) + int(np.log2(DEVIATIONS)))
    return base.astype(np.int64), fraction, _SCALES[steps - least * SCALES_PER_OCTAVE], windows


_SCALES = np.array([2.0 ** (step / SCALES_PER_OCTAVE) for step in range(SCALE_EXPONENTS[0] * SCALES_PER_OCTAVE, SCALE_EXPONENTS[1] * SCALES_PER_OCTAVE + 1)])


def _by_window(windows: Int[np.ndarray, " n"]) -> list[tuple[int, Int[np.ndarray, " places"]]]:
    """Each window that occurs, with its places, ascending."""
    return [(int(window), np.flatnonzero(windows == window)) for window in np.unique(windows)]


def _rounded(probabilities: Float[np.ndarray, "n choices"]) -> np.ndarray:
    """On a grid, so that the last digits of an exponential do not matter; none is zero."""
    return ((np.round(probabilities * (1 << PROBABILITY_BITS)) + 2.0**-6) / (1 << PROBABILITY_BITS)).astype(np.float32)


def _certainly_not_quite(probability: float) -> float:
    whole = 1 << PROBABILITY_BITS
    return min(max(round(probability * whole), 1), whole - 1) / whole


def _words(symbols: int) -> int:
    """Words that so many symbols can take, at the most, and the spare ones."""
    return -(-symbols * PRECISION_BITS // 32) + SPARE_WORDS


@lru_cache(maxsize=4)
def _seeds(num: int) -> UInt32[np.ndarray, " words"]:
    """The first words of the seed; none is zero, which a stack may not end in."""
    return (np.random.PCG64(0).random_raw(num) >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
