"""Scores of texts: each equals a plain version that follows the published formula word by word, for any text."""

import math
import re
import time
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text import line_scores, text_scores
from pipeline.text.line_scores import split_lines
from pipeline.text.text_arrays import UNSPACED, Texts, hash_words, is_in, kinds_of_characters
from pipeline.text.text_rules import SCORES, Scorer, TextBounds, WordLists
from pipeline.text.word_lists import GOPHER_STOP_WORDS, STOP_WORDS, stop_words

STOP = STOP_WORDS["en"].split()
LISTS = WordLists(stop=stop_words("en"), gopher=hash_words(GOPHER_STOP_WORDS["en"].split()), flagged=hash_words(["cat"]), common=hash_words(["dog", "cat"]))

# Few words and characters, so that repetitions are common; and anything at all.
WORDS = st.sampled_from(["the", "cat", "dog", "a", "of", "Don't", "don’t", "42", "x2y", "—", "(and)", "#", "...", "end.", "why?!", "naïve", "日本語", "そう。", "แมว", "{"])
SENTENCES = st.lists(WORDS, max_size=30).map(" ".join)
TEXTS = st.one_of(
    st.lists(SENTENCES, max_size=6).map("\n\n".join),
    st.lists(SENTENCES, max_size=6).map("\n".join),
    st.text(alphabet="ab .\n,", max_size=80),
    st.text(max_size=80),
)


def is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] in "LM"


# How names of letters of scripts without spaces begin; the prolonged and the halfwidth voiced sound marks are of no script.
UNSPACED_NAMES = re.compile(r"(HALFWIDTH )?(CJK (UNIFIED|COMPATIBILITY) IDEOGRAPH|(VERTICAL )?IDEOGRAPHIC ITERATION|OLD CHINESE|HENTAIGANA|HIRAGANA|KATAKANA(?!-HIRAGANA)(?! (SEMI-)?VOICED SOUND)|THAI|LAO|KHMER|MYANMAR)")


def is_unspaced(character: str) -> bool:
    return unicodedata.category(character)[0] == "L" and bool(UNSPACED_NAMES.match(unicodedata.name(character, "")))


def test_the_plain_version_knows_every_letter_of_scripts_without_spaces() -> None:
    kinds = kinds_of_characters()
    for code in range(0x110000):
        if unicodedata.category(chr(code)) != "Cn":
            assert is_unspaced(chr(code)) == bool(kinds[code] & UNSPACED), f"U+{code:04X} {unicodedata.name(chr(code), '')}"


def plain_runs(text: str) -> list[str]:
    """Runs as the docstring says them, one character after the other."""
    runs: list[str] = []
    for run in text.split():
        current = ""
        for character in run:
            tail = unicodedata.category(character)[0] == "M" or character in "ーｰ"
            if current and (is_unspaced(character) or (is_unspaced(current[0]) and not tail)):
                runs.append(current)
                current = ""
            current += character
        runs.append(current)
    return runs


def plain_tokens(text: str) -> list[str]:
    tokens: list[str] = []
    for run in plain_runs(text):
        inside = [index for index, character in enumerate(run) if is_letter(character) or unicodedata.category(character)[0] == "N" or character in "_'"]
        first, end = (inside[0], inside[-1] + 1) if inside else (0, 0)
        tokens += [*run[:first], *[run[first:end]] * bool(inside), *run[end:]]
    return [token.lower().replace("’", "'") for token in tokens]


def plain_words(text: str) -> list[str]:
    words = []
    for run in plain_runs(text):
        places = [index for index, character in enumerate(run) if is_letter(character)]
        if places:
            words.append(run[places[0] : places[-1] + 1].lower().replace("’", "'"))
    return words


def plain_character_repetition(text: str, n: int) -> float:
    sizes = sorted(Counter(text[i : i + n] for i in range(len(text) - n + 1)).values(), reverse=True)
    if not sizes:
        return 0.0
    top = min(int(math.sqrt(len(sizes))), len(sizes) - sizes.count(1))
    return sum(sizes[:top]) / sum(sizes)


def plain_word_repetition(words: list[str], n: int) -> float:
    sizes = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)).values()
    return sum(size for size in sizes if size > 1) / sum(sizes) if sizes else 0.0


def plain_top_ngram(text: str, n: int) -> float:
    words = plain_tokens(text)
    grams = Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
    if not grams:
        return 0.0
    gram, size = grams.most_common(1)[0]
    return len(gram) * size / len(text)


def plain_duplicate_ngram(text: str, n: int) -> float:
    words, seen, characters, place = plain_tokens(text), set(), 0, 0
    while place <= len(words) - n:
        gram = tuple(words[place : place + n])
        if gram in seen:
            characters += sum(map(len, gram))
            place += n
        else:
            seen.add(gram)
            place += 1
    return characters / len(text) if text else 0.0


def plain_punctuation(text: str) -> float:
    parts = re.findall(r"[\w']+|[,;:?!.]", text)
    return sum(part in ",;:?!." for part in parts) / len(parts) if parts else 0.0


def share(which: list[bool]) -> float:
    return sum(which) / len(which) if which else 0.0


def score(name: str, text: str, **sizes: int) -> float:
    return float(SCORES[name](Scorer(Texts([text]), TextBounds(**sizes), LISTS))[0])


def is_known_to_both(text: str) -> bool:
    """unicodedata and regex know the same letters but for those that were added to Unicode between their versions."""
    return all(unicodedata.category(character) != "Cn" for character in text)


def same_lower_case(text: str) -> bool:
    return all(len(character.lower()) == 1 for character in text) and "Σ" not in text


PLAIN = {
    "words": lambda text: len(plain_words(text)),
    "longest_run": lambda text: max(map(len, plain_runs(text)), default=0),
    "character_repetition": lambda text: plain_character_repetition(text, 10),
    "word_repetition": lambda text: plain_word_repetition(plain_words(text), 5),
    "special_characters": lambda text: share([not is_letter(character) for character in text]),
    "punctuation": plain_punctuation,
    "stop_words": lambda text: share([word in STOP for word in plain_words(text)]),
    "flagged_words": lambda text: share([word == "cat" for word in plain_words(text)]),
    "common_words": lambda text: share([word in ("cat", "dog") for word in plain_words(text)]),
    "gopher_stop_words": lambda text: len(set(plain_words(text)) & set(GOPHER_STOP_WORDS["en"].split())),
    "alphabetic_words": lambda text: share([any(map(is_letter, token)) for token in plain_tokens(text)]),
    "symbols": lambda text: max(text.count("#"), text.count("...") + text.count("…")) / max(len(plain_tokens(text)), 1),
    **{f"top_{n}_gram": lambda text, n=n: plain_top_ngram(text, n) for n in (2, 3, 4)},
    **{f"duplicate_{n}_gram": lambda text, n=n: plain_duplicate_ngram(text, n) for n in range(5, 11)},
}


@pytest.mark.parametrize("name", PLAIN)
@given(TEXTS.filter(is_known_to_both).filter(same_lower_case))
@settings(max_examples=60, deadline=None)
def test_scores_equal_their_plain_versions(name: str, text: str) -> None:
    assert score(name, text) == pytest.approx(PLAIN[name](text))


@given(st.text(alphabet="ab ", max_size=60), st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_repetitions_of_any_length(text: str, n: int) -> None:
    texts = Texts([text])
    assert text_scores.character_repetition(texts, n=n)[0] == pytest.approx(plain_character_repetition(text, n))
    assert text_scores.word_repetition(texts, n=n)[0] == pytest.approx(plain_word_repetition(plain_words(text), n))
    assert text_scores.top_ngram(texts, n=n)[0] == pytest.approx(plain_top_ngram(text, n))
    for k, shares in enumerate(text_scores.duplicate_ngrams(texts, smallest=1, largest=n), start=1):
        assert shares[0] == pytest.approx(plain_duplicate_ngram(text, k))


@given(st.lists(TEXTS, min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_texts_side_by_side_score_as_alone(texts: list[str]) -> None:
    together = Scorer(Texts(texts), TextBounds(), LISTS)
    for name in SCORES:
        alone = [score(name, text) for text in texts]
        assert np.allclose(together.score(name), alone, equal_nan=True), name


@pytest.mark.parametrize("name", SCORES)
def test_an_empty_text_has_scores(name: str) -> None:
    for text in ("", " \n\n "):
        found = score(name, text)
        assert math.isnan(found) if name == "mean_word_length" else found == (name == "special_characters" and bool(text))


CASES = [
    ("words", "Forty-two (42) cats, 'quoted' — and don't.", 5.0),  # Forty-two cats quoted and don't
    ("words", "日本語です。OK?", 6.0),
    ("words", "カー", 1.0),
    ("mean_word_length", "a bcd (efghi)", 3.0),
    ("special_characters", "ab 1!", 0.6),
    ("punctuation", "Yes, it's so.", 2 / 5),
    ("stop_words", "The cat of the house", 3 / 5),
    ("stop_words", "DON’T", 1.0),
    ("gopher_stop_words", "the the THE of cat", 2.0),
    ("character_repetition", "abcdefghij" * 2, 0.0 + 2 / 11),
    ("word_repetition", "a b c d e a b c d e", 2 / 6),
    ("symbols", "# a # b … c!", 2 / 7),
    ("alphabetic_words", "a 1 b2, 3", 2 / 5),
    ("bullets", "- a\n• b\nc\n\nd - e", 0.5),
    ("ellipsis_lines", "a...\nb…\nc.\nd", 0.5),
    ("line_punctuation", "a.\nb!”\nc。\nd", 0.75),
    ("short_lines", "short\n" + "x" * 31, 0.5),
    ("duplicate_lines", "a\nb\na\na", 0.5),
    ("duplicate_line_characters", "aaa\nb\naaa", 3 / 7),
    ("duplicate_paragraphs", "a\nb\n\nc\n\na\nb", 1 / 3),
    ("duplicate_paragraph_characters", "a\nb\n\nc\n\na\nb", 3 / 7),
    ("newlines", "a b\n\nc d", 1 / 4),
    ("top_2_gram", "a b a b c", 6 / 9),
    ("duplicate_5_gram", "a b c d e a b c d e", 5 / 19),
    ("sentences", "One. Two! Three?! (Four.) five", 5.0),
    ("sentences", "今日。明日！「昨日。」と", 4.0),
    ("sentences", "version 1.2.3 and so on...", 1.0),
    ("longest_run", "a bcd 日本語", 3.0),
    ("lorem_ipsum", "Lorem ipsum dolor. LOREM IPSUM", 2.0),
    ("curly_brackets", "if (x) { y }", 1.0),
    ("javascript", "Please enable JavaScript", 1.0),
    ("policy_phrases", "Privacy Policy and Terms of use", 2.0),
]


@pytest.mark.parametrize(("name", "text", "expected"), CASES)
def test_cases_by_hand(name: str, text: str, expected: float) -> None:
    assert score(name, text) == pytest.approx(expected)


def test_every_score_has_a_case_by_hand_or_a_plain_version() -> None:
    assert {name for name, _, _ in CASES} | set(PLAIN) == set(SCORES)


def test_the_first_of_equally_frequent_ngrams_counts() -> None:
    assert score("top_2_gram", "aa bb aa bb c dddd eeee dddd eeee") == pytest.approx(10 / 33)


def test_scores_are_absent_where_they_mean_nothing() -> None:
    assert math.isnan(score("mean_word_length", "日本語の文章です"))
    assert math.isnan(score("punctuation", "too short", punctuation_min_parts=3))
    assert all(np.isnan(text_scores.listed_words(Texts(["a b"]), None)))


@given(TEXTS)
@settings(max_examples=60, deadline=None)
def test_sentences_end_where_a_reader_would_end_them(text: str) -> None:
    """Of texts without brackets and full-width marks: what a split behind . ? ! before white space leaves."""
    plain = re.sub(r"[^A-Za-z .?!\n]", "", text)
    expected = sum(len([part for part in re.split(r"(?<=[.?!])\s+", line.strip()) if part]) for line in split_lines(plain))
    assert score("sentences", plain) == expected


@pytest.mark.parametrize(("text", "expected"), [("แ\u0301ม", 2), ("漢\u0301b c", 3), ("aーb", 1), ("かーb", 2), ("e\u0301x", 1), ("か\u3099\u0301ー字", 2)])
def test_marks_belong_to_what_stands_before_them(text: str, expected: int) -> None:
    assert Texts([text]).num_words.tolist() == [expected] == [len(plain_words(text))]


def test_a_list_of_words_finds_exactly_its_words() -> None:
    known = hash_words(["Cat", "don't", "naïve"])
    assert is_in(Texts(["cat CATS don’t dont Naïve"]).words, known).tolist() == [True, False, True, False, True]
    assert not is_in(Texts(["cat"]).words, known[:0]).any()


def test_letters_of_another_case_and_of_odd_scripts_do_not_break_words() -> None:
    assert Texts(["İstanbul ΟΔΟΣ \ud800 e\u0301te\u0301"]).num_words.tolist() == [3]
    assert Texts([]).num_tokens.tolist() == []


HOSTILE = {
    "one word": "a" * 1_000_000,
    "one sign": "." * 1_000_000,
    "words": "spam " * 200_000,
    "lines": "x\n" * 500_000,
    "marks": "e" + "\u0301" * 500_000,
    "sentence marks": ".a" * 500_000,
    "quotes": ".”" * 500_000,
    "Chinese": "语" * 500_000,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_texts_take_bounded_time(kind: str) -> None:
    scorer = Scorer(Texts([HOSTILE[kind]]), TextBounds(), LISTS)
    started = time.process_time()
    for name in ("words", "character_repetition", "word_repetition", "top_2_gram", "duplicate_5_gram", "duplicate_10_gram", "sentences", "duplicate_lines"):
        assert math.isfinite(scorer.score(name)[0])
    assert time.process_time() - started < 20  # a bound against hanging; half a second here


def test_line_scores_of_no_lines() -> None:
    assert line_scores.newlines([], num_tokens=0) == 0 and line_scores.duplicate_characters([]) == 0
