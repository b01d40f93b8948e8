"""Scores of texts by their lines: the formulas of Gopher, C4 and FineWeb, one function each.

    text --split at line breaks, blank lines left out--> lines --> one number

Sources as in `text_scores`; FineWeb: arXiv:2406.17557, section 3.4; C4: arXiv:1910.10683 and its code, tensorflow_datasets/text/c4_utils.py.
Those count lines of texts with one line break between paragraphs and count blank lines in places; here a blank line is no line anywhere.
"""

import functools
from collections.abc import Sequence

import numpy as np

from lcl.core.document import PARAGRAPH_BREAK
from pipeline.text.text_arrays import CLOSER, SENTENCE_END, kinds_of_characters

BULLETS = ("•", "-")
ELLIPSES = ("...", "…")
POLICY_PHRASES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")  # c4_utils.py


def split_lines(text: str) -> list[str]:
    """The lines of a text that hold more than white space."""
    return [line for line in text.split("\n") if line.strip()]


def split_paragraphs(text: str) -> list[str]:
    """The paragraphs of a text that hold more than white space."""
    return [paragraph for paragraph in text.split(PARAGRAPH_BREAK) if paragraph.strip()]


def bullets(lines: Sequence[str]) -> float:
    """Share of lines that begin with a bullet or a hyphen, in [0, 1]. Gopher keeps 0.9 and less."""
    return _share([line.lstrip().startswith(BULLETS) for line in lines])


def ellipsis_lines(lines: Sequence[str]) -> float:
    """Share of lines that end in an ellipsis, in [0, 1]. Gopher keeps 0.3 and less."""
    return _share([line.rstrip().endswith(ELLIPSES) for line in lines])


def line_punctuation(lines: Sequence[str]) -> float:
    """Share of lines that end in a mark that ends sentences, closing quotes and brackets behind it, in [0, 1].

    FineWeb keeps 0.12 and more of all lines, C4 the lines that do.
    """
    return _share([ends_a_sentence(line) for line in lines])


def ends_a_sentence(line: str) -> bool:
    """Whether the last character but closing quotes and brackets is a mark that ends sentences."""
    ends, closers = _sentence_ends_and_closers()
    return line.rstrip().rstrip(closers)[-1:] in ends


def short_lines(lines: Sequence[str], *, max_characters: int) -> float:
    """Share of lines of at most `max_characters` characters, in [0, 1]. FineWeb keeps 0.67 and less, with 30."""
    return _share([len(line) <= max_characters for line in lines])


def duplicates(lines: Sequence[str]) -> float:
    """Share of lines, or of paragraphs, that stood in the text before, in [0, 1]. Gopher keeps 0.3 and less."""
    return _share([not first for first in _first_time(lines)])


def duplicate_characters(lines: Sequence[str]) -> float:
    """Share of the characters of lines, or of paragraphs, that are in `duplicates`, in [0, 1]. Gopher keeps 0.2 and less, FineWeb 0.01 of lines."""
    total = sum(map(len, lines))
    return sum(len(line) for line, first in zip(lines, _first_time(lines), strict=True) if not first) / max(total, 1)


def newlines(lines: Sequence[str], *, num_tokens: float) -> float:
    """Line breaks per token. FineWeb keeps 0.3 and less."""
    return max(0, len(lines) - 1) / max(num_tokens, 1)


def lorem_ipsum(text: str) -> float:
    """Occurrences of the placeholder text's first words. C4 leaves out texts with one."""
    return float(text.lower().count("lorem ipsum"))


def curly_brackets(text: str) -> float:
    """Opening curly brackets: program code. C4 leaves out texts with one."""
    return float(text.count("{"))


def javascript(text: str) -> float:
    """Occurrences of the word. C4 leaves out lines with one: most ask to turn it on."""
    return float(text.lower().count("javascript"))


def policy_phrases(text: str) -> float:
    """Occurrences of POLICY_PHRASES. C4 leaves out lines with one."""
    lower = text.lower()
    return float(sum(map(lower.count, POLICY_PHRASES)))


def _share(which: Sequence[bool]) -> float:
    return sum(which) / max(len(which), 1)


def _first_time(lines: Sequence[str]) -> list[bool]:
    seen: set[str] = set()
    return [not (line in seen or seen.add(line)) for line in lines]


@functools.cache
def _sentence_ends_and_closers() -> tuple[frozenset[str], str]:
    kinds = kinds_of_characters()
    ends, closers = (frozenset(map(chr, np.flatnonzero(kinds & kind).tolist())) for kind in (SENTENCE_END, CLOSER))
    return ends, "".join(sorted(closers))
