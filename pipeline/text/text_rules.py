"""Which paragraphs of a page are kept, and which pages: bounds on scores, and the published sets of them by name.

    pieces --> language --> paragraphs scored, those that break a bound left out --> what is left scored, bounds --> personal data redacted
                   |                                                                          |
                   +--> Rejected                                                              +--> Rejected (NO_TEXT, or the bound that is broken)

A bound `min_X` or `max_X` holds the score X of SCORES, of a paragraph or of the document alike. A score that is not defined for a text (no list for
its language, no list given) is absent, and bounds on it are not applied.
"""

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from lcl.core.config import config
from lcl.core.document import PARAGRAPH_BREAK
from lcl.core.rejected import Reason, Rejected
from pipeline.raw import Piece
from pipeline.text import line_scores, text_scores
from pipeline.text.language import LanguageRules, check_language, identify_language
from pipeline.text.line_scores import split_lines, split_paragraphs
from pipeline.text.personal_data import PersonalDataRules, redact
from pipeline.text.text_arrays import Array, Texts
from pipeline.text.word_lists import file_hash, gopher_stop_words, read_word_list, read_words, stop_words

Count = Annotated[int, Field(ge=0)] | None
Ratio = Annotated[float, Field(ge=0)] | None
Share = Annotated[float, Field(ge=0, le=1)] | None
Positive = Annotated[int, Field(ge=1)]


@config
class TextBounds:
    """Bounds on the scores of a text, None where there is none. They are judged in this order."""

    min_words: Count = None
    """Words (numbers and signs are none; in Chinese, Japanese, Thai, Lao, Khmer and Burmese each letter is one)."""
    max_words: Count = None
    """Words, at most."""
    max_longest_run: Count = None
    """Characters without white space in a row, at most (C4: 1000)."""
    max_lorem_ipsum: Count = None
    """Occurrences of 'lorem ipsum', at most (C4: 0)."""
    max_curly_brackets: Count = None
    """Occurrences of {, at most (C4: 0)."""
    max_javascript: Count = None
    """Occurrences of 'javascript', at most (C4: 0 in a line)."""
    max_policy_phrases: Count = None
    """Phrases such as 'cookie policy', at most (C4: 0 in a line)."""
    min_mean_word_length: Ratio = None
    """Characters per word (Gopher: 3)."""
    max_mean_word_length: Ratio = None
    """Characters per word, at most (Gopher: 10)."""
    max_character_repetition: Share = None
    """Share of the most frequent character n-grams (OBELICS: 0.1)."""
    max_word_repetition: Share = None
    """Share of word n-grams that occur again (OBELICS: 0.1 in a paragraph, 0.2 in a document)."""
    max_special_characters: Share = None
    """Share of characters that are no letters, white space included (OBELICS: 0.3 in a paragraph, 0.275 in a document)."""
    min_stop_words: Share = None
    """Share of words that are stop words (OBELICS: 0.3 in a paragraph, 0.35 in a document; English)."""
    min_gopher_stop_words: Count = None
    """How many of Gopher's eight stop words occur (Gopher: 2; English)."""
    max_flagged_words: Share = None
    """Share of words on the list of --text.flagged-words (OBELICS: 0.01)."""
    min_punctuation: Share = None
    """Share of punctuation marks among words and marks (OBELICS: 0.001 in a paragraph, 0.03 in a document)."""
    min_common_words: Share = None
    """Share of words on the list of --text.common-words (OBELICS: 0.8 in a paragraph, 0.9 in a document)."""
    max_symbols: Ratio = None
    """Hash signs, or ellipses, per token (Gopher: 0.1)."""
    max_bullets: Share = None
    """Share of lines that begin with a bullet (Gopher: 0.9)."""
    max_ellipsis_lines: Share = None
    """Share of lines that end in an ellipsis (Gopher: 0.3)."""
    min_alphabetic_words: Share = None
    """Share of tokens (words, numbers, marks) with a letter (Gopher: 0.8)."""
    max_duplicate_lines: Share = None
    """Share of lines that occurred before (Gopher: 0.3)."""
    max_duplicate_line_characters: Share = None
    """Share of characters in such lines (Gopher: 0.2, FineWeb: 0.01)."""
    max_duplicate_paragraphs: Share = None
    """Share of paragraphs that occurred before (Gopher: 0.3)."""
    max_duplicate_paragraph_characters: Share = None
    """Share of characters in such paragraphs (Gopher: 0.2)."""
    max_top_2_gram: Ratio = None
    """Share of characters in the most frequent two tokens in a row (Gopher: 0.2)."""
    max_top_3_gram: Ratio = None
    """Of three tokens (Gopher: 0.18)."""
    max_top_4_gram: Ratio = None
    """Of four tokens (Gopher: 0.16)."""
    max_duplicate_5_gram: Share = None
    """Share of characters in five tokens that occurred before (Gopher: 0.15)."""
    max_duplicate_6_gram: Share = None
    """Of six tokens (Gopher: 0.14)."""
    max_duplicate_7_gram: Share = None
    """Of seven tokens (Gopher: 0.13)."""
    max_duplicate_8_gram: Share = None
    """Of eight tokens (Gopher: 0.12)."""
    max_duplicate_9_gram: Share = None
    """Of nine tokens (Gopher: 0.11)."""
    max_duplicate_10_gram: Share = None
    """Of ten tokens (Gopher: 0.1)."""
    min_sentences: Count = None
    """Sentences (C4: 3, datatrove's C4: 5)."""
    max_sentences: Count = None
    """Sentences, at most (MMC4's core set: 40)."""
    min_line_punctuation: Share = None
    """Share of lines that end in a mark that ends sentences (FineWeb: 0.12; 1 for a paragraph is C4's rule)."""
    max_short_lines: Share = None
    """Share of short lines (FineWeb: 0.67)."""
    max_newlines: Ratio = None
    """Line breaks per token (FineWeb: 0.3)."""
    character_ngram: Positive = 10
    """Characters of the n-grams of character_repetition (OBELICS: 10)."""
    word_ngram: Positive = 5
    """Words of the n-grams of word_repetition (OBELICS: 5)."""
    punctuation_min_parts: Annotated[int, Field(ge=0)] = 0
    """Words and marks that a text needs for its punctuation to be judged (OBELICS: 12 in a paragraph)."""
    short_line_characters: Annotated[int, Field(ge=0)] = 30
    """Characters of a short line, at most (FineWeb: 30)."""


@config
class TextRules:
    language: LanguageRules = LanguageRules()
    paragraph: TextBounds = TextBounds()
    """A paragraph that breaks one is left out."""
    document: TextBounds = TextBounds(min_words=10)
    """A page that breaks one, by what is left of it, is left out."""
    flagged_words: str = ""
    """File with flagged words, one per line; none ships, and without it bounds on flagged words are not applied."""
    common_words: str = ""
    """File with common words, one per line; as above."""
    url_words: str = ""
    """File with words that a page's address may not hold, one per line."""
    max_url_words: Annotated[int, Field(ge=0)] = 0
    """How many different ones of them it may hold all the same."""
    personal_data: PersonalDataRules = PersonalDataRules()
    all_scores: bool = True
    """Keep every score that is defined, so that other bounds can be tried without a rebuild; False: those of the document's bounds only (a quarter less time)."""


DUPLICATE_NGRAMS = range(5, 11)  # tokens of Gopher's n-grams

REASONS: dict[str, Reason] = {
    "min_words": Reason.TOO_FEW_WORDS, "max_words": Reason.TOO_MANY_WORDS, "longest_run": Reason.WORD_LENGTH, "lorem_ipsum": Reason.LOREM_IPSUM,
    "curly_brackets": Reason.CURLY_BRACKETS, "javascript": Reason.JAVASCRIPT, "policy_phrases": Reason.POLICY_PHRASES,
    "mean_word_length": Reason.WORD_LENGTH, "character_repetition": Reason.CHARACTER_REPETITION, "word_repetition": Reason.WORD_REPETITION,
    "special_characters": Reason.SPECIAL_CHARACTERS, "stop_words": Reason.STOP_WORDS, "gopher_stop_words": Reason.STOP_WORDS,
    "flagged_words": Reason.FLAGGED_WORDS, "punctuation": Reason.PUNCTUATION, "common_words": Reason.COMMON_WORDS, "symbols": Reason.SYMBOLS,
    "bullets": Reason.BULLETS, "ellipsis_lines": Reason.ELLIPSIS_LINES, "alphabetic_words": Reason.ALPHABETIC_WORDS,
    "duplicate_lines": Reason.DUPLICATE_LINES, "duplicate_line_characters": Reason.DUPLICATE_LINES, "duplicate_paragraphs": Reason.DUPLICATE_LINES,
    "duplicate_paragraph_characters": Reason.DUPLICATE_LINES, **{f"top_{n}_gram": Reason.TOP_NGRAM for n in (2, 3, 4)},
    **{f"duplicate_{n}_gram": Reason.DUPLICATE_NGRAMS for n in DUPLICATE_NGRAMS}, "sentences": Reason.SENTENCES,
    "line_punctuation": Reason.LINE_PUNCTUATION, "short_lines": Reason.SHORT_LINES, "newlines": Reason.NEWLINES,
}  # fmt: skip
"""Why a text is left out, by the name of a bound or else of its score."""


@dataclass(frozen=True)
class WordLists:
    """Words as sorted hashes, None where there is no list."""

    stop: Array | None = None
    gopher: Array | None = None
    flagged: Array | None = None
    common: Array | None = None


@dataclass(frozen=True)
class Scorer:
    """Scores of some texts, each computed once: it asks the texts, the sizes of n-grams and the like, and the lists."""

    texts: Texts
    sizes: TextBounds
    lists: WordLists
    values: dict[str, Array] = field(default_factory=dict)

    def score(self, name: str) -> Array:
        """The score `name` of each text, NaN where it is not defined."""
        if name not in self.values:
            self.values[name] = SCORES[name](self)
        return self.values[name]

    @functools.cached_property
    def lines(self) -> list[list[str]]:
        return [split_lines(text) for text in self.texts.texts]

    @functools.cached_property
    def paragraphs(self) -> list[list[str]]:
        return [split_paragraphs(text) for text in self.texts.texts]

    @functools.cached_property
    def duplicate_ngrams(self) -> list[Array]:
        return text_scores.duplicate_ngrams(self.texts, smallest=DUPLICATE_NGRAMS.start, largest=DUPLICATE_NGRAMS.stop - 1)

    def by_line(self, score: Callable[[list[str]], float]) -> Array:
        return np.array([score(lines) for lines in self.lines])

    def by_paragraph(self, score: Callable[[list[str]], float]) -> Array:
        return np.array([score(paragraphs) for paragraphs in self.paragraphs])

    def by_text(self, score: Callable[[str], float]) -> Array:
        return np.array([score(text) for text in self.texts.texts])


def _newlines(scorer: Scorer) -> Array:
    counts = zip(scorer.lines, scorer.texts.num_tokens.tolist(), strict=True)
    return np.array([line_scores.newlines(lines, num_tokens=num_tokens) for lines, num_tokens in counts])


def _top_ngram(n: int) -> Callable[[Scorer], Array]:
    return lambda scorer: text_scores.top_ngram(scorer.texts, n=n)


def _duplicate_ngram(n: int) -> Callable[[Scorer], Array]:
    return lambda scorer: scorer.duplicate_ngrams[n - DUPLICATE_NGRAMS.start]


SCORES: dict[str, Callable[[Scorer], Array]] = {
    "words": lambda scorer: text_scores.words(scorer.texts),
    "longest_run": lambda scorer: text_scores.longest_run(scorer.texts),
    "lorem_ipsum": lambda scorer: scorer.by_text(line_scores.lorem_ipsum),
    "curly_brackets": lambda scorer: scorer.by_text(line_scores.curly_brackets),
    "javascript": lambda scorer: scorer.by_text(line_scores.javascript),
    "policy_phrases": lambda scorer: scorer.by_text(line_scores.policy_phrases),
    "mean_word_length": lambda scorer: text_scores.mean_word_length(scorer.texts),
    "character_repetition": lambda scorer: text_scores.character_repetition(scorer.texts, n=scorer.sizes.character_ngram),
    "word_repetition": lambda scorer: text_scores.word_repetition(scorer.texts, n=scorer.sizes.word_ngram),
    "special_characters": lambda scorer: text_scores.special_characters(scorer.texts),
    "stop_words": lambda scorer: text_scores.listed_words(scorer.texts, scorer.lists.stop),
    "gopher_stop_words": lambda scorer: text_scores.distinct_listed_words(scorer.texts, scorer.lists.gopher),
    "flagged_words": lambda scorer: text_scores.listed_words(scorer.texts, scorer.lists.flagged),
    "punctuation": lambda scorer: text_scores.punctuation(scorer.texts, min_parts=scorer.sizes.punctuation_min_parts),
    "common_words": lambda scorer: text_scores.listed_words(scorer.texts, scorer.lists.common),
    "symbols": lambda scorer: text_scores.symbols(scorer.texts),
    "bullets": lambda scorer: scorer.by_line(line_scores.bullets),
    "ellipsis_lines": lambda scorer: scorer.by_line(line_scores.ellipsis_lines),
    "alphabetic_words": lambda scorer: text_scores.alphabetic_words(scorer.texts),
    "duplicate_lines": lambda scorer: scorer.by_line(line_scores.duplicates),
    "duplicate_line_characters": lambda scorer: scorer.by_line(line_scores.duplicate_characters),
    "duplicate_paragraphs": lambda scorer: scorer.by_paragraph(line_scores.duplicates),
    "duplicate_paragraph_characters": lambda scorer: scorer.by_paragraph(line_scores.duplicate_characters),
    **{f"top_{n}_gram": _top_ngram(n) for n in (2, 3, 4)},
    **{f"duplicate_{n}_gram": _duplicate_ngram(n) for n in DUPLICATE_NGRAMS},
    "sentences": lambda scorer: text_scores.sentences(scorer.texts),
    "line_punctuation": lambda scorer: scorer.by_line(line_scores.line_punctuation),
    "short_lines": lambda scorer: scorer.by_line(lambda lines: line_scores.short_lines(lines, max_characters=scorer.sizes.short_line_characters)),
    "newlines": _newlines,
}
"""Every score by its name, for each of several texts; NaN where it is not defined."""


@dataclass(frozen=True, kw_only=True)
class FilteredText:
    """What is left of a document, its language code, its scores by name, and how many paragraphs were left out, by reason."""

    pieces: tuple[Piece, ...]
    language: str
    scores: Mapping[str, float]
    dropped_paragraphs: Mapping[str, int]


def filter_text(pieces: Sequence[Piece], rules: TextRules, *, page_url: str = "") -> FilteredText:
    """The pieces that the rules leave, never two texts in a row; every image stays, in its place.

    The language is that of the whole text, as it came. Scores are those of the text that is left, before personal data is redacted: all of SCORES
    that are defined (or those of bounds, `all_scores`), the language's rank or probability, and redacted_KIND for each kind of personal data that is to be redacted.
    Raises Rejected with the first rule that the document breaks: words of its address, language, NO_TEXT, then the bounds in their order.
    Raises ValueError if a list or a model that the rules name cannot be read.
    """
    url_words = _count_url_words(page_url, rules)
    if url_words > rules.max_url_words:
        raise Rejected(Reason.URL_WORDS, page_url)
    language = identify_language(_join(pieces), rules.language)
    check_language(language, rules.language)
    lists = _word_lists(language.code, rules)
    kept, dropped = _filter_paragraphs(pieces, rules.paragraph, lists)
    text = _join(kept)
    if not text:
        raise Rejected(Reason.NO_TEXT, page_url)
    scores = language.scores | _document_scores(text, rules, lists) | ({"url_words": float(url_words)} if rules.url_words else {})
    kept, num_redacted = _redact_pieces(kept, rules.personal_data)
    scores |= {f"redacted_{kind}": float(count) for kind, count in num_redacted.items()}
    return FilteredText(pieces=tuple(kept), language=language.code, scores=scores, dropped_paragraphs=dropped)


def resource_hashes(rules: TextRules) -> dict[str, str]:
    """SHA-256 of each file that the rules name, by its path: what decides a build's bytes and is not in its config. Raises ValueError for one that is missing."""
    named = {"flagged-words": rules.flagged_words, "common-words": rules.common_words, "url-words": rules.url_words, "language.model": rules.language.model}
    for flag, path in named.items():
        if path and not Path(path).is_file():
            raise ValueError(f"{path}: no such file (--text.{flag})")
    return {path: file_hash(path) for path in named.values() if path}


def url_words(url: str) -> list[str]:
    """The words of an address: its runs of letters and digits, in lower case (datatrove's URLFilter splits so)."""
    return re.findall(r"[a-z0-9]+", url.lower())


def broken_bounds(scorer: Scorer, bounds: TextBounds) -> list[Reason | None]:
    """For each text the reason of the first bound that it breaks, or None. No score is computed behind the point where all texts broke one."""
    found: list[Reason | None] = [None] * len(scorer.texts)
    for name, score, limit in _bounds_of(bounds):
        if None not in found:
            break
        values = scorer.score(score)
        broken = values < limit if name.startswith("min_") else values > limit  # neither holds for NaN
        for index in np.flatnonzero(broken).tolist():
            found[index] = found[index] or REASONS.get(name) or REASONS[score]
    return found


def _document_scores(text: str, rules: TextRules, lists: WordLists) -> dict[str, float]:
    """The scores of a document that are defined. Raises Rejected with the first bound that it breaks."""
    scorer = Scorer(Texts([text]), rules.document, lists)
    (reason,) = broken_bounds(scorer, rules.document)
    if reason is not None:
        raise Rejected(reason)
    values = {name: float(scorer.score(name)[0]) for name in (SCORES if rules.all_scores else scorer.values)}
    return {name: value for name, value in values.items() if not np.isnan(value)}


def _filter_paragraphs(pieces: Sequence[Piece], bounds: TextBounds, lists: WordLists) -> tuple[list[Piece], Counter[str]]:
    runs = [split_paragraphs(piece) if isinstance(piece, str) else [] for piece in pieces]
    scorer = Scorer(Texts([paragraph for run in runs for paragraph in run]), bounds, lists)
    reasons = iter(broken_bounds(scorer, bounds))
    kept: list[Piece] = []
    dropped: Counter[str] = Counter()
    for piece, run in zip(pieces, runs, strict=True):
        if not isinstance(piece, str):
            kept.append(piece)
            continue
        judged = [(paragraph, next(reasons)) for paragraph in run]
        dropped.update(reason for _, reason in judged if reason is not None)
        text = PARAGRAPH_BREAK.join(paragraph for paragraph, reason in judged if reason is None)
        if text and kept and isinstance(kept[-1], str):
            kept[-1] += PARAGRAPH_BREAK + text
        elif text:
            kept.append(text)
    return kept, dropped


def _redact_pieces(pieces: Sequence[Piece], rules: PersonalDataRules) -> tuple[list[Piece], Counter[str]]:
    """The pieces without personal data in texts and alt texts, and how much of each kind of `rules` was there."""
    counts: Counter[str] = Counter({kind: 0 for kind in rules.redact})
    if not rules.redact:
        return list(pieces), counts
    redacted: list[Piece] = []
    for piece in pieces:
        text, found = redact(piece if isinstance(piece, str) else piece.alt, rules)
        redacted.append(text if isinstance(piece, str) else dataclasses.replace(piece, alt=text))
        counts.update(found)
    return redacted, counts


@functools.cache
def _bounds_of(bounds: TextBounds) -> list[tuple[str, str, float]]:
    """(name, score, limit) of every bound that is set, in order."""
    names = [item.name for item in dataclasses.fields(bounds) if item.name.startswith(("min_", "max_"))]
    return [(name, name[4:], getattr(bounds, name)) for name in names if getattr(bounds, name) is not None]


def _word_lists(language: str, rules: TextRules) -> WordLists:
    return WordLists(
        stop=stop_words(language),
        gopher=gopher_stop_words(language),
        flagged=read_word_list(rules.flagged_words, flag="--text.flagged-words") if rules.flagged_words else None,
        common=read_word_list(rules.common_words, flag="--text.common-words") if rules.common_words else None,
    )


def _count_url_words(url: str, rules: TextRules) -> int:
    if not rules.url_words:
        return 0
    return len(set(url_words(url)) & set(read_words(rules.url_words, flag="--text.url-words")))


def _join(pieces: Sequence[Piece]) -> str:
    return PARAGRAPH_BREAK.join(piece for piece in pieces if isinstance(piece, str))


GOPHER = TextBounds(
    min_words=50, max_words=100_000, min_mean_word_length=3, max_mean_word_length=10, max_symbols=0.1, max_bullets=0.9, max_ellipsis_lines=0.3,
    min_alphabetic_words=0.8, min_gopher_stop_words=2, max_duplicate_lines=0.3, max_duplicate_paragraphs=0.3, max_duplicate_line_characters=0.2,
    max_duplicate_paragraph_characters=0.2, max_top_2_gram=0.2, max_top_3_gram=0.18, max_top_4_gram=0.16, max_duplicate_5_gram=0.15,
    max_duplicate_6_gram=0.14, max_duplicate_7_gram=0.13, max_duplicate_8_gram=0.12, max_duplicate_9_gram=0.11, max_duplicate_10_gram=0.1,
)  # fmt: skip
C4_LINE = TextBounds(max_longest_run=1000, max_javascript=0, max_policy_phrases=0)

PRESETS: dict[str, TextRules] = {
    "minimal": TextRules(),
    # OBELICS: obelics/configs/config_filter_web_documents.yaml; its perplexity (at most 1500) needs a KenLM model and is left out
    "obelics": TextRules(
        language=LanguageRules(keep=("en",), min_probability=0.8),
        paragraph=TextBounds(
            min_words=4, max_words=1000, max_character_repetition=0.1, max_word_repetition=0.1, max_special_characters=0.3, min_stop_words=0.3,
            max_flagged_words=0.01, min_punctuation=0.001, punctuation_min_parts=12, min_common_words=0.8,
        ),
        document=TextBounds(
            min_words=10, max_words=2000, max_character_repetition=0.1, max_word_repetition=0.2, max_special_characters=0.275, min_stop_words=0.35,
            max_flagged_words=0.01, min_punctuation=0.03, min_common_words=0.9,
        ),
    ),
    # MMC4 took its texts from c4-en: langdetect at 0.99, and the numbers of c4_utils.py. Its core set has 4 to 40 sentences
    "mmc4": TextRules(
        language=LanguageRules(keep=("en",), min_probability=0.99),
        paragraph=dataclasses.replace(C4_LINE, min_words=5, min_line_punctuation=1.0),
        document=TextBounds(min_sentences=3, max_lorem_ipsum=0, max_curly_brackets=0),
    ),
    # MassiveText by datatrove's GopherQualityFilter and GopherRepetitionFilter
    "gopher": TextRules(language=LanguageRules(keep=("en",)), document=GOPHER),
    # FineWeb by datatrove's examples/fineweb.py: Gopher, C4 without its rule on the ends of lines, FineWeb's own
    "fineweb": TextRules(
        language=LanguageRules(keep=("en",)),
        paragraph=dataclasses.replace(C4_LINE, min_words=3),
        document=dataclasses.replace(
            GOPHER, min_sentences=5, max_lorem_ipsum=0, max_curly_brackets=0, min_line_punctuation=0.12, max_short_lines=0.67,
            max_duplicate_line_characters=0.01, max_newlines=0.3,
        ),
    ),
}  # fmt: skip
