"""BLEU-4 and CIDEr-D of captions against references, by their published formulas."""

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from lcl.evals.intervals import RESAMPLES, Estimate

ORDERS = 4          # n-grams of 1 to 4 words
SIGMA = 6.0         # words: how fast CIDEr-D falls with the difference of two lengths
WORD = re.compile(r"\w+(?:'\w+)*")

References = Sequence[Sequence[str]]


def words(text: str) -> list[str]:
    """Lower-case words, without punctuation, as the captions of COCO are compared (its tokenizer splits a few words further)."""
    return WORD.findall(text.lower())


def bleu(candidates: Sequence[str], references: References, *, seed: int = 0) -> Estimate:
    """Corpus BLEU-4 (Papineni et al. 2002): BP exp(mean_n log p_n), in [0, 1]; percentile bootstrap over images.

    p_n is the share of n-grams of all candidates that a reference has, each as often as the reference that has it most; BP = min(1, exp(1 - r / c)) with c
    the words of the candidates and r those of the references nearest in length (of equal ones the shorter). Not smoothed: 0 where some p_n is 0.
    """
    counts = np.array([_bleu_counts(candidate, given) for candidate, given in zip(candidates, references, strict=True)], dtype=np.int64)
    num = len(counts)
    drawn = np.random.default_rng(seed).multinomial(num, np.full(num, 1 / num), size=RESAMPLES) @ counts
    low, high = np.quantile([_bleu_of(sums) for sums in drawn], [0.025, 0.975])
    return Estimate(_bleu_of(counts.sum(axis=0)), float(low), float(high), "bootstrap over images", num)


def cider_d(candidates: Sequence[str], references: References) -> Float[np.ndarray, " images"]:
    """CIDEr-D of each candidate (Vedantam et al. 2015, arXiv:1411.5726), from 0 to 10.

    10 times the mean over n = 1..4 and references s of exp(-(|c| - |s|)^2 / (2 sigma^2)) min(g(c), g(s)) . g(s) / (|g(c)| |g(s)|), where g(x) has for each
    n-gram its count in x times log(N / max(1, images with it in a reference)) for N images. Counts are not divided by their sum, as in the code that the
    numbers on COCO come from.
    """
    given = [[words(reference) for reference in one] for one in references]
    frequency = Counter(gram for one in given for gram in {gram for reference in one for n in range(1, ORDERS + 1) for gram in _ngrams(reference, n)})
    scores = [np.mean([_similarity(words(candidate), reference, frequency, len(given)) for reference in one]) for candidate, one in zip(candidates, given, strict=True)]
    return 10.0 * np.array(scores, dtype=np.float64)


def _ngrams(text: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(text[at : at + n]) for at in range(len(text) - n + 1))


def _bleu_counts(candidate: str, references: Sequence[str]) -> list[int]:
    """Right n-grams for n = 1..4, all n-grams, words, and words of the nearest reference."""
    said, given = words(candidate), [words(reference) for reference in references]
    right, total = [], []
    for n in range(1, ORDERS + 1):
        grams, most = _ngrams(said, n), Counter[tuple[str, ...]]()
        for reference in given:
            most |= _ngrams(reference, n)
        right.append((grams & most).total())
        total.append(grams.total())
    return [*right, *total, len(said), min((len(reference) for reference in given), key=lambda length: (abs(length - len(said)), length))]


def _bleu_of(sums: Int[np.ndarray, " counts"]) -> float:
    right, total, (said, wanted) = sums[:ORDERS], sums[ORDERS : 2 * ORDERS], sums[2 * ORDERS :]
    if not right.all():
        return 0.0
    return float(min(1.0, math.exp(1 - wanted / said)) * np.exp(np.log(right / total).mean()))


def _similarity(candidate: Sequence[str], reference: Sequence[str], frequency: Counter[tuple[str, ...]], num_images: int) -> float:
    total = 0.0
    for n in range(1, ORDERS + 1):
        said, wanted = (
            {gram: count * math.log(num_images / max(1, frequency[gram])) for gram, count in _ngrams(text, n).items()} for text in (candidate, reference)
        )
        lengths = math.hypot(*said.values()) * math.hypot(*wanted.values())
        if lengths:
            total += sum(min(weight, wanted.get(gram, 0.0)) * wanted.get(gram, 0.0) for gram, weight in said.items()) / lengths
    return total / ORDERS * math.exp(-((len(candidate) - len(reference)) ** 2) / (2 * SIGMA**2))
