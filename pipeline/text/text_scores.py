"""Scores of texts by their characters and words: the formulas of OBELICS, Gopher and C4, one function each.

    Texts --> one number per text, NaN where a score is not defined for it (rules leave such a text alone)

OBELICS: https://github.com/huggingface/OBELICS, obelics/processors/web_document_filtering.py at 0fca7ba. Gopher: arXiv:2112.11446, appendix A,
as https://github.com/huggingface/datatrove implements it (pipeline/filters at a649de7). The white space between two texts belongs to neither.
"""

import numpy as np

from pipeline.text.line_scores import ends_a_sentence, split_lines
from pipeline.text.text_arrays import (
    BASE,
    CLOSER,
    FULL_WIDTH_END,
    LETTER,
    PUNCTUATION,
    SENTENCE_END,
    SPACE,
    UNSPACED,
    WORD_PART,
    Array,
    Texts,
    group_sizes,
    is_in,
    ngrams,
    ngrams_within,
)  # fmt: skip


def words(texts: Texts) -> Array:
    """Words of each text (`text_arrays`: numbers are none, as in OBELICS; a letter of a script without spaces is one)."""
    return texts.num_words.astype(np.float64)


def mean_word_length(texts: Texts) -> Array:
    """Characters per word; not defined without words, nor where most of them are letters of scripts without spaces. Gopher keeps 3 to 10."""
    spaced = (texts.kinds[texts.word_spans[0]] & UNSPACED) == 0
    num_spaced = texts.count_words(spaced)
    characters = np.bincount(texts.word_texts[spaced], weights=texts.word_lengths[spaced], minlength=len(texts))
    return np.where(2 * num_spaced >= np.maximum(texts.num_words, 1), characters / np.maximum(num_spaced, 1), np.nan)


def longest_run(texts: Texts) -> Array:
    """Characters of the longest run without white space. C4 leaves out lines with one of more than 1000."""
    breaks = np.flatnonzero(texts.run_starts | texts.of_kind(SPACE))
    runs = texts.run_starts[breaks]
    lengths, num_runs = np.diff(breaks, append=len(texts.codes))[runs], texts.count(texts.run_starts)
    filled = num_runs > 0
    longest = np.zeros(len(texts))
    longest[filled] = np.maximum.reduceat(lengths, (np.cumsum(num_runs) - num_runs)[filled]) if filled.any() else 0
    return longest


def character_repetition(texts: Texts, *, n: int) -> Array:
    """OBELICS' share of the most frequent character n-grams, in [0, 1]; 0 for a text of fewer than n characters.

    Of the d distinct n-grams of a text, u occur once; the k = min(floor(sqrt(d)), d - u) most frequent ones' occurrences over all occurrences.
    """
    sizes, owners = group_sizes(*ngrams_within(*texts.characters, n), len(texts))
    distinct = np.bincount(owners, minlength=len(texts))
    total = np.bincount(owners, weights=sizes, minlength=len(texts))
    repeated = sizes > 1
    sizes, owners = sizes[repeated], owners[repeated]
    num_repeated = np.bincount(owners, minlength=len(texts))
    order = np.lexsort((-sizes, owners))  # the largest first in each text: equal sizes make no difference to a sum
    sizes, owners = sizes[order], owners[order]
    rank = np.arange(len(owners)) - (np.cumsum(num_repeated) - num_repeated)[owners]
    taken = rank < np.minimum(np.sqrt(distinct).astype(np.int64), num_repeated)[owners]
    return _ratio(np.bincount(owners[taken], weights=sizes[taken], minlength=len(texts)), total)


def word_repetition(texts: Texts, *, n: int) -> Array:
    """OBELICS' share of word n-grams that occur more than once, in [0, 1]: their occurrences over all occurrences."""
    sizes, owners = group_sizes(*ngrams_within(texts.words, texts.word_texts, n), len(texts))
    total = np.bincount(owners, weights=sizes, minlength=len(texts))
    return _ratio(np.bincount(owners, weights=sizes * (sizes > 1), minlength=len(texts)), total)


def special_characters(texts: Texts) -> Array:
    """Share of characters that are neither letters nor marks (white space, digits, punctuation, symbols, emoji), in [0, 1].

    OBELICS counts those on a list of some 1,500, white space and digits among them; this is the rule behind that list, for all scripts.
    """
    return _ratio(texts.lengths - texts.count(texts.of_kind(LETTER)), texts.lengths)


def punctuation(texts: Texts, *, min_parts: int = 0) -> Array:
    """OBELICS' share of , ; : ? ! . among these marks and the runs of letters, digits, _ and ' (its parts), in [0, 1].

    Not defined for a text with fewer than `min_parts` parts.
    """
    inside = texts.of_kind(WORD_PART)
    starts = inside.copy()
    starts[1:] &= ~inside[:-1]
    marks = texts.count(texts.of_kind(PUNCTUATION))
    parts = marks + texts.count(starts)
    return np.where(parts >= min_parts, _ratio(marks, parts), np.nan)


def listed_words(texts: Texts, known: Array | None) -> Array:
    """Share of words that are on a list, in [0, 1]; not defined without a list. OBELICS' stop, flagged and common words."""
    if known is None:
        return np.full(len(texts), np.nan)
    return _ratio(texts.count_words(is_in(texts.words, known)), texts.num_words)


def distinct_listed_words(texts: Texts, known: Array | None) -> Array:
    """How many different words of a list occur; not defined without a list. Gopher asks for 2 of 8."""
    if known is None:
        return np.full(len(texts), np.nan)
    found = is_in(texts.words, known)
    _, owners = group_sizes(texts.words[found], texts.word_texts[found], len(texts))
    return np.bincount(owners, minlength=len(texts)).astype(np.float64)


def alphabetic_words(texts: Texts) -> Array:
    """Share of tokens with a letter, in [0, 1]; a punctuation mark is a token, as in datatrove. Gopher keeps 0.8 and more."""
    letters = np.concatenate([[0], np.cumsum(texts.of_kind(LETTER))])
    firsts, ends = texts.token_spans
    owners = np.searchsorted(texts.ends, firsts[letters[ends] > letters[firsts]], side="right")
    return _ratio(np.bincount(owners, minlength=len(texts)), texts.num_tokens)


def symbols(texts: Texts) -> Array:
    """Hash signs, or ellipses, per token: the larger of both. Gopher keeps 0.1 and less."""
    hashes = np.array([text.count("#") for text in texts.texts])
    ellipses = np.array([text.count("...") + text.count("…") for text in texts.texts])
    return _ratio(np.maximum(hashes, ellipses), texts.num_tokens)


def top_ngram(texts: Texts, *, n: int) -> Array:
    """Share of a text's characters in the most frequent n tokens in a row, the first of equally frequent ones (Gopher, datatrove).

    Its occurrences times its length with one space between words, over the length of the text; above 1 where occurrences overlap.
    """
    return np.array([_top_ngram(*part, n) for part in texts.tokens_by_text]) / np.maximum(texts.lengths, 1)


def _top_ngram(hashes: Array, ends: Array, n: int) -> float:
    grams = ngrams(hashes, n)
    if not len(grams):
        return 0.0
    ordered = np.sort(grams)
    edges = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1], [True]]))
    sizes = np.diff(edges)
    most = int(sizes.max())
    first = 0 if most == 1 else int(np.flatnonzero(is_in(grams, ordered[edges[:-1][sizes == most]]))[0])
    return most * float(ends[first + n] - ends[first] + n - 1)


def duplicate_ngrams(texts: Texts, *, smallest: int, largest: int) -> list[Array]:
    """For each n, share of a text's characters in n tokens in a row that stood in it before, none counted twice (Gopher, datatrove), in [0, 1].

    From the left: an n-gram that was passed before counts with its characters, and the search goes on behind it; any other is remembered, and
    the search goes on one token further.
    """
    by_text = [_duplicate_ngrams(*part, smallest, largest) for part in texts.tokens_by_text]
    totals = np.array(by_text, np.float64).reshape(len(texts), largest - smallest + 1)
    return list((totals / np.maximum(texts.lengths, 1)[:, None]).T)


def _duplicate_ngrams(hashes: Array, ends: Array, smallest: int, largest: int) -> list[int]:
    grams = ngrams(hashes, smallest)
    places = np.arange(len(grams))
    totals = []
    for n in range(smallest, largest + 1):
        if n > smallest:  # one token more
            inside = places + n <= len(hashes)
            places = places[inside]
            grams = grams[inside] * BASE + hashes[places + n - 1]
        ordered = np.sort(grams)
        repeated = is_in(grams, ordered[1:][ordered[1:] == ordered[:-1]])
        places, grams = places[repeated], grams[repeated]  # the others are passed one by one, and where n tokens do not occur again, n + 1 do not
        totals.append(_passed_before(places, grams, ends, n))
    return totals


def _passed_before(places: Array, grams: Array, ends: Array, n: int) -> int:
    seen: set[int] = set()
    total, following = 0, 0
    for place, gram in zip(places.tolist(), grams.tolist(), strict=True):
        if place < following:
            continue
        if gram in seen:
            total += int(ends[place + n] - ends[place])
            following = place + n
        else:
            seen.add(gram)
    return total


def sentences(texts: Texts) -> Array:
    """Sentences: marks that end one at the end of a run (。！？ anywhere), closing quotes and brackets behind them, and what a line holds behind the last.

    An abbreviation's full stop counts. C4 keeps 3 and more (with nltk's splitter), datatrove 5 (with spaCy's), MMC4's core set 4 to 40.
    """
    places = np.flatnonzero(~texts.of_kind(CLOSER))
    kinds = texts.kinds[places]
    following = np.append(kinds[1:], SPACE)
    ends = (kinds & SENTENCE_END != 0) & ((following & SPACE != 0) | ((kinds & FULL_WIDTH_END != 0) & (following & SENTENCE_END == 0)))
    marks = np.bincount(np.searchsorted(texts.ends, places[ends], side="right"), minlength=len(texts))
    return marks + np.array([sum(not ends_a_sentence(line) for line in split_lines(text)) for text in texts.texts])


def _ratio(part: Array, whole: Array) -> Array:
    """part / whole, and 0 where there is nothing."""
    return part / np.maximum(whole, 1)
