"""Text to ids with CLIP's byte-pair merges; page text can never become a special id.

    text --(straight quotes, NFC, lower case)--> words --bytes--> merges --> ids in [0, 512 + num_merges)
    <sot> <eot> <image> <soi> <eoi> are the next five ids: no string maps to them
"""

import gzip
import hashlib
import importlib.util
import itertools
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated

import tokenizers
from pydantic import Field
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from lcl.core.config import config

# CLIP's word pattern (Radford et al. 2021) without its alternatives for special tokens: here they are ordinary text.
WORD = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
CLIP_MERGES = 49152 - 256 - 2  # how many of the file's merges CLIP uses; then its vocabulary is 49408 with <sot>, <eot>
END_OF_WORD = "</w>"


@config
class TokenizerConfig:
    num_merges: Annotated[int, Field(ge=0, le=CLIP_MERGES)] = CLIP_MERGES
    """How many of CLIP's merges to use, the most frequent first. Fewer give a smaller vocabulary and longer texts."""


class Tokenizer:
    """CLIP's byte-pair encoding, cut to a number of merges, and the five special ids of interleaved rows.

    With all merges, ids of ordinary text equal open_clip's, and `<sot>` and `<eot>` are CLIP's 49406 and 49407.
    """

    def __init__(self, settings: TokenizerConfig) -> None:
        self.settings = settings
        merges = _read_merges()[: settings.num_merges]
        letters = _byte_letters()
        words = letters + [letter + END_OF_WORD for letter in letters] + ["".join(merge) for merge in merges]
        vocabulary = {word: index for index, word in enumerate(words)}
        self._bpe = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix=END_OF_WORD))
        self._bpe.normalizer = normalizers.Sequence(
            [
                normalizers.Replace(Regex("[\u02bc\u2018-\u201b]"), "'"),  # straight quotes, as CLIP's own cleaning has them
                normalizers.Replace(Regex("[\u201c-\u201f]"), '"'),
                normalizers.NFC(),
                normalizers.Lowercase(),
            ]
        )
        self._bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        self._decoder = decoders.ByteLevel()
        self._words = words
        self.sot, self.eot, self.image, self.soi, self.eoi = range(len(words), len(words) + 5)
        self.vocab_size = len(words) + 5

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, all below `self.sot`, whatever markers the text may spell."""
        return self._bpe.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The words of ordinary ids, lower case, one space between words; special ids are left out."""
        pieces = "".join(self._words[index] for index in ids if index < len(self._words))
        return " ".join(self._decoder.decode([word]) for word in pieces.split(END_OF_WORD)).strip()

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the vocabulary, kept in a checkpoint: ids mean the same where it is equal."""
        return hashlib.sha256(json.dumps(self._words).encode()).hexdigest()[:16]


def _read_merges() -> list[tuple[str, str]]:
    package = importlib.util.find_spec("open_clip")  # finds it, does not import it (nor torch)
    if package is None or package.origin is None:
        raise ValueError("the tokenizer reads CLIP's merges from open_clip's package: pip install open_clip_torch")
    with gzip.open(Path(package.origin).parent / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        lines = itertools.islice(file, 1, 1 + CLIP_MERGES)  # line 0 is a header
        return [(left, right) for left, right in (line.split() for line in lines)]


def _byte_letters() -> list[str]:
    """A printable letter for each byte value, in CLIP's order of ids (Radford et al. 2019): printable Latin-1 first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
