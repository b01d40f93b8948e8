"""Texts as arrays of characters and words, so that a score of many paragraphs costs a few passes over memory.

    texts --joined--> code points --table--> kinds of character --> words, tokens --hashed--> n-grams --sorted--> how often each occurs

A *run* has no white space in it. A *word* is a run in lower case without what is no letter at its ends (OBELICS strips words so); a run without
a letter is no word. A *token* is a run from its first letter, digit, _ or ' to its last, in lower case, or one of the signs before and behind that
(spaCy, which datatrove asks, splits mostly so).
In scripts without spaces (UNSPACED_SCRIPTS) every letter is a run, a word and a token.
Everything is linear in the length of the texts but for sorting, and takes 220 bytes per character at most.
"""

import functools
from collections.abc import Iterable, Sequence

import numpy as np
import regex

MAX_CODE_POINT = 0x110000
UNSPACED_SCRIPTS = ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")

LETTER = 1          # Unicode letters and the marks that combine with them
SPACE = 2           # what str.isspace says
WORD_PART = 4       # \w of Python's re, and the apostrophe: the words of OBELICS' punctuation ratio
PUNCTUATION = 8     # the six marks that OBELICS counts
UNSPACED = 16       # letter of a script without spaces
TAIL = 32           # mark that belongs to the letter before it, whatever that is
SENTENCE_END = 64   # Unicode's Sentence_Terminal, as datatrove's TERMINAL_PUNCTUATION
FULL_WIDTH_END = 128  # ends a sentence without a space behind it
CLOSER = 256        # quote or bracket that may stand behind the mark that ends a sentence

# Odd multipliers of 64 bits without a pattern (splitmix64 and xxHash use them): products modulo 2^64 mix well and can be undone.
BASE = np.uint64(0x9E3779B97F4A7C15)
BASE_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
STEP = np.uint64(0xC2B2AE3D27D4EB4F)
KEPT_POWERS = 1 << 16

Array = np.ndarray


class Texts:
    """Texts side by side. Arrays have one entry per character or per word of all of them, or one per text."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Joins `texts` with one line break between them, so that no word spans two."""
        self.texts = texts
        self.lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        self.ends = np.cumsum(self.lengths + 1) - 1
        self.starts = self.ends - self.lengths
        joined = "\n".join(texts).encode("utf-32-le", "surrogatepass")
        self.codes = np.frombuffer(joined, np.uint32)
        self.kinds = kinds_of_characters()[self.codes]

    def __len__(self) -> int:
        return len(self.texts)

    def count(self, where: Array) -> Array:
        """How many of each text's characters are marked in `where`; the line breaks between texts count nowhere."""
        if len(self) == 1:
            return np.array([np.count_nonzero(where)])
        before = np.zeros(len(where) + 1, np.int64)
        np.cumsum(where, out=before[1:])
        return before[self.ends] - before[self.starts]

    def of_kind(self, kind: int) -> Array:
        return (self.kinds & kind) != 0

    @functools.cached_property
    def characters(self) -> tuple[Array, Array]:
        """64-bit values of all characters that are in a text, and the number of that text."""
        inside = np.ones(len(self.codes), bool)
        inside[self.ends[:-1]] = False
        return self.codes[inside].astype(np.uint64), np.repeat(np.arange(len(self)), self.lengths)

    @functools.cached_property
    def run_starts(self) -> Array:
        """Which characters begin a run: behind white space, letters of scripts without spaces, and what follows those and belongs to another word."""
        filled, starts = ~self.of_kind(SPACE), self.of_kind(UNSPACED)
        bearers = np.maximum.accumulate(np.where(self.of_kind(TAIL), 0, np.arange(len(self.codes))))  # of each mark the character that it belongs to
        inner = starts[bearers]
        starts[:1] |= filled[:1]
        starts[1:] |= filled[1:] & (~filled[:-1] | (inner[:-1] & ~inner[1:]))
        return starts

    @functools.cached_property
    def token_spans(self) -> tuple[Array, Array]:
        """Places of each token's first character and of the one behind its last."""
        firsts, ends = self._cores(LETTER | WORD_PART)
        edges = np.zeros(len(self.codes) + 1, np.int8)
        edges[firsts] = 1
        edges[ends] -= 1
        signs = (edges[:-1].cumsum() == 0) & ~self.of_kind(SPACE)
        starts = signs.copy()
        starts[firsts] = True
        lasts = signs
        lasts[ends - 1] = True
        return np.flatnonzero(starts), np.flatnonzero(lasts) + 1

    @functools.cached_property
    def num_tokens(self) -> Array:
        return np.bincount(np.searchsorted(self.ends, self.token_spans[0], side="right"), minlength=len(self))

    @functools.cached_property
    def tokens_by_text(self) -> list[tuple[Array, Array]]:
        """For each text its tokens' hashes, and the characters in the tokens before each of them (one entry more)."""
        firsts, ends = self.token_spans
        edges = np.concatenate([[0], np.cumsum(self.num_tokens)]).tolist()
        before = np.concatenate([[0], np.cumsum(ends - firsts)])
        hashes = self._hash(firsts, ends)
        return [(hashes[start:end], before[start : end + 1]) for start, end in zip(edges[:-1], edges[1:], strict=True)]

    @functools.cached_property
    def word_spans(self) -> tuple[Array, Array]:
        """Places of each word's first character and of the one behind its last."""
        return self._cores(LETTER)

    def _cores(self, kinds: int) -> tuple[Array, Array]:
        """Of each run that has characters of `kinds` the place of the first, and the one behind the last."""
        places = np.flatnonzero(self.of_kind(kinds))
        if not len(places):
            return places, places
        run = np.cumsum(self.run_starts)[places]
        changes = np.flatnonzero(run[1:] != run[:-1]) + 1
        return places[np.concatenate([[0], changes])], places[np.concatenate([changes - 1, [len(places) - 1]])] + 1

    @functools.cached_property
    def word_texts(self) -> Array:
        """For each word the number of its text."""
        return np.searchsorted(self.ends, self.word_spans[0], side="right")

    @functools.cached_property
    def num_words(self) -> Array:
        return np.bincount(self.word_texts, minlength=len(self))

    @functools.cached_property
    def word_lengths(self) -> Array:
        """Characters of each word."""
        return self.word_spans[1] - self.word_spans[0]

    @functools.cached_property
    def words(self) -> Array:
        """A 64-bit hash of each word, the same wherever the word stands."""
        return self._hash(*self.word_spans)

    @functools.cached_property
    def _sums_before(self) -> Array:
        before = np.zeros(len(self.codes) + 1, np.uint64)
        np.cumsum(_lower()[self.codes] * _powers(len(self.codes))[0], out=before[1:])
        return before

    def _hash(self, firsts: Array, ends: Array) -> Array:
        """Of the lower-case characters between `firsts` and `ends`: the sum of code * BASE^place, modulo 2^64, mixed."""
        hashes = (self._sums_before[ends] - self._sums_before[firsts]) * _powers(len(self.codes))[1][firsts]
        return (hashes ^ (hashes >> np.uint64(29))) * STEP

    def count_words(self, where: Array) -> Array:
        """How many of each text's words are marked in `where`."""
        return np.bincount(self.word_texts[where], minlength=len(self))


def ngrams(values: Array, n: int) -> Array:
    """Hashes of the runs of `n` consecutive `values`, in order: sum over k of value_k * BASE^(n-1-k) modulo 2^64.

    Two different runs get one hash with a probability near 2^-64, so among the 4 million n-grams of the longest page some two do with a
    probability of some 10^-6; a count is then off by one.
    """
    size = max(0, len(values) - n + 1)
    hashes = values[:size].copy()
    for k in range(1, n):
        hashes *= BASE
        hashes += values[k : k + size]
    return hashes


def ngrams_within(values: Array, texts: Array, n: int) -> tuple[Array, Array]:
    """The `ngrams` whose values lie in one text, and the number of that text; `texts` has the number of each value's."""
    hashes = ngrams(values, n)
    if not len(texts) or texts[-1] == texts[0]:
        return hashes, texts[: len(hashes)]
    texts, lasts = texts[: len(hashes)], texts[n - 1 : n - 1 + len(hashes)]
    whole = texts == lasts
    return hashes[whole], texts[whole]


def group_sizes(hashes: Array, texts: Array, num_texts: int) -> tuple[Array, Array]:
    """For each distinct hash of each text, how often it occurs there, and the number of the text; by text, in no order within one."""
    bits = (num_texts - 1).bit_length()
    if bits:  # the text's number goes above a shorter hash: one sort groups by text
        mixed = (hashes ^ (hashes >> np.uint64(32))) * STEP
        hashes = (mixed >> np.uint64(bits)) | (texts.astype(np.uint64) << np.uint64(64 - bits))
    ordered = np.sort(hashes)
    edges = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1], [True]])) if len(ordered) else np.zeros(1, np.int64)
    owners = ordered[edges[:-1]] >> np.uint64(64 - bits) if bits else np.zeros(len(edges) - 1, np.uint64)
    return np.diff(edges), owners.astype(np.int64)


def hash_words(words: Iterable[str]) -> Array:
    """The hashes of `Texts.words` of a list of words, sorted, for `is_in`."""
    return np.unique(Texts(sorted(set(words)) or [""]).words)


def is_in(hashes: Array, known: Array) -> Array:
    """Whether each hash is among `known`, which is sorted."""
    if not len(known):
        return np.zeros(len(hashes), bool)
    return known[np.minimum(np.searchsorted(known, hashes), len(known) - 1)] == hashes


@functools.cache
def _all_characters() -> str:
    return "".join(map(chr, range(MAX_CODE_POINT)))


@functools.cache
def kinds_of_characters() -> Array:
    """The kinds of every code point: one lookup per character of a text."""
    scripts = "".join(rf"\p{{Script={name}}}" for name in UNSPACED_SCRIPTS)
    patterns = {
        LETTER: r"[\p{L}\p{M}]+",
        WORD_PART: r"[\p{L}\p{N}_']+",  # str.isalnum, which \w of re asks, is letters and numbers
        PUNCTUATION: r"[,;:?!.]",
        UNSPACED: rf"(?V1)[[{scripts}]&&\p{{L}}]+",
        SENTENCE_END: r"\p{Sentence_Terminal}",
        FULL_WIDTH_END: "[。！？｡]",
        CLOSER: "[\"'”’»)\\]」』]",
        TAIL: r"[\p{M}\u30fc\uff70]+",  # the long-vowel marks of kana are letters
    }
    kinds = np.zeros(MAX_CODE_POINT, np.uint16)
    for kind, pattern in patterns.items():
        for match in regex.finditer(pattern, _all_characters()):
            kinds[match.start() : match.end()] |= kind
    for code in (code for code, character in enumerate(_all_characters()) if character.isspace()):
        kinds[code] |= SPACE
    return kinds


@functools.cache
def _lower() -> Array:
    """The lower case of every code point, one for one, and the plain apostrophe for the curly one."""
    lower = _all_characters().replace("\u0130", "i").lower()  # the one capital whose lower case is two characters
    table = np.frombuffer(lower.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    table[0x03A3] = 0x03C3  # a sigma at a word's end would become another letter
    table[0x2019] = ord("'")
    return table


def _powers(size: int) -> tuple[Array, Array]:
    """BASE^0 ... BASE^(size-1) and their inverses, modulo 2^64."""
    if size <= KEPT_POWERS:
        powers, inverses = _kept_powers()
        return powers[:size], inverses[:size]
    return _powers_of(BASE, size), _powers_of(BASE_INVERSE, size)


@functools.cache
def _kept_powers() -> tuple[Array, Array]:
    return _powers_of(BASE, KEPT_POWERS), _powers_of(BASE_INVERSE, KEPT_POWERS)


def _powers_of(base: np.uint64, size: int) -> Array:
    factors = np.full(size, base, np.uint64)
    factors[:1] = 1
    return np.cumprod(factors)
