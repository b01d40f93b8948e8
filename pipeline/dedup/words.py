"""Text as a sequence of hashed words, and its n-grams: what near-duplicates and contamination are judged by.

    text --NFC, lower case--> words --xxh3--> uint64 per word --> uint64 per run of n words
"""

import re
import unicodedata

import numpy as np
import xxhash

# Thai, Lao, Myanmar, Khmer, kana and Han are written without spaces: there each character is a word.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(f"[{UNSPACED}]|[^\\W{UNSPACED}]+")
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, near 2^64 / golden ratio


def word_hashes(text: str) -> np.ndarray:
    """uint64 per word of the text in order. Words are runs of letters, digits and underscores in lower case: neither punctuation nor space counts."""
    words = WORD.findall(unicodedata.normalize("NFC", text).lower())
    encoded = "\n".join(words).encode().split(b"\n") if words else []
    return np.fromiter(map(xxhash.xxh3_64_intdigest, encoded), np.uint64, len(encoded))


def ngram_hashes(words: np.ndarray, length: int) -> np.ndarray:
    """uint64 per run of `length` words, in order; none where there are fewer words. The order inside a run counts."""
    num = len(words) - length + 1
    if num <= 0:
        return np.empty(0, np.uint64)
    combined = words[:num]
    for offset in range(1, length):
        combined = combined * MULTIPLIER + words[offset : offset + num]
    return mix(combined)


def shingles_of(text: str, length: int) -> np.ndarray:
    """The set of hashed runs of `length` words, sorted, uint64; a text of fewer words is one run, a text of none has none."""
    words = word_hashes(text)
    found = np.sort(ngram_hashes(words, min(length, max(1, len(words)))))
    return found[np.append(True, found[1:] != found[:-1])] if len(found) else found


def jaccard(ours: np.ndarray, theirs: np.ndarray) -> float:
    """|A and B| / |A or B| of two sorted sets of hashes; 0 where both are empty."""
    both = np.concatenate((ours, theirs))
    both.sort()
    num_common = int(np.count_nonzero(both[1:] == both[:-1]))
    return num_common / max(1, len(both) - num_common)


def mix(values: np.ndarray) -> np.ndarray:
    """A bijection of uint64 whose every output bit depends on every input bit (the finalizer of SplitMix64, Steele et al. 2014)."""
    mixed = values ^ (values >> np.uint64(30))
    mixed = mixed * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
