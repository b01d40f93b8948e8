"""Documents that share a run of words with an evaluation text.

    evaluation files --> texts --> hashed runs of 13 words, sorted --> looked up for every document
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.dedup.words import ngram_hashes, word_hashes


def read_texts(path: Path) -> Iterator[str]:
    """The texts of an evaluation file: of a .jsonl file each line's string or `text`, of another one each line that is not blank.

    Raises ValueError naming the file and the line that cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file of evaluation texts (contamination.texts)")
    with open(path, encoding="utf-8") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _text_of(json.loads(line)) if path.suffix == ".jsonl" else line
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, line {number}: no evaluation text ({error!r}); a .jsonl line is a string or an object with a text") from error


def _text_of(value: object) -> str:
    text = value["text"] if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise TypeError(f"{type(text).__name__} in the place of a text")
    return text


def evaluation_ngrams(paths: Sequence[Path], length: int) -> tuple[np.ndarray, int]:
    """The sorted set of hashed runs of `length` words in all texts, uint64, and how many texts were too short to have one."""
    found, num_short = [np.empty(0, np.uint64)], 0
    for path in paths:
        for text in read_texts(path):
            ngrams = ngram_hashes(word_hashes(text), length)
            num_short += not len(ngrams)
            found.append(ngrams)
    return np.unique(np.concatenate(found)), num_short


def shares_ngram(text: str, ngrams: np.ndarray, length: int) -> bool:
    """Whether any run of `length` words of the text is in the sorted set."""
    ours = ngram_hashes(word_hashes(text), length)
    return bool(len(ngrams) and len(ours)) and bool((ngrams[np.searchsorted(ngrams, ours).clip(max=len(ngrams) - 1)] == ours).any())
