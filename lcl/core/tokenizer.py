"""Text to ids, with CLIP's byte-pair merges or a tokenizer.json of one's own; page text can never become a special id.

    text --(straight quotes, NFC, lower case)--> words --bytes--> CLIP's merges --> ids in [0, 512 + num_merges)
    text --(the file's normalizer and pre-tokenizer)--> words --> the file's model --> ids in [0, largest id of the file]
    <sot> <eot> <image> <soi> <eoi> are the next five ids: no string maps to them
"""

import gzip
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Annotated, Any

import regex
import tokenizers
from pydantic import Field
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from lcl.core.config import config
from lcl.core.files import open_aside
from lcl.core.open_clip_files import open_clip_folder

# CLIP's word pattern (Radford et al. 2021) without its alternatives for special tokens: here they are ordinary text.
WORD = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
PATTERN = regex.compile(WORD)
KNOWN_WORDS = 100_000  # kept with their ids, about 20 MB
CLIP_MERGES = 49152 - 256 - 2  # how many of the file's merges CLIP uses; then its vocabulary is 49408 with <sot>, <eot>
END_OF_WORD = "</w>"
TOKENIZER_FILE = "tokenizer.json"  # the name that the Hugging Face libraries give it in a folder
RARE_LETTER = "\U00013000"  # an Egyptian hieroglyph: in hardly any vocabulary, and no normalizer takes it for a control character


@config
class TokenizerConfig:
    num_merges: Annotated[int, Field(ge=0, le=CLIP_MERGES)] = CLIP_MERGES
    """How many of CLIP's merges to use, the most frequent first. Fewer give a smaller vocabulary and longer texts."""
    file: str = ""
    """A local tokenizer.json (Hugging Face `tokenizers`), or a folder that holds one, in the place of CLIP's merges, whatever `num_merges` says; `lcl train-tokenizer` makes one."""


class Tokenizer:
    """Byte-pair merges of CLIP, cut to a number of them, or the model of a tokenizer file; and the five special ids of interleaved rows.

    With all of CLIP's merges, ids of ordinary text equal open_clip's, and `<sot>` and `<eot>` are CLIP's 49406 and 49407.
    With a file, ids of ordinary text are the file's own, and the special ids follow its largest one. None of its added tokens
    comes out of any text, not even one that spells it. Its `unk` may: it stands for what the vocabulary cannot spell.
    Truncation, padding, dropout and the ids that its post-processor would put around a text are off.

    `fingerprint` is kept in a checkpoint: ids mean the same where it is equal, wherever the file lies.
    """

    def __init__(self, settings: TokenizerConfig, *, folder: Path | None = None) -> None:
        """`folder` is a checkpoint that `save` wrote into: the file is read from there, not from `settings.file`.

        Raises ValueError for a file that is missing, damaged or cannot spell every text.
        """
        self.settings = settings
        self._text = _ClipMerges(settings.num_merges) if not settings.file else _TokenizerFile(_find_file(settings, folder))
        self.fingerprint: str = self._text.fingerprint
        self.sot, self.eot, self.image, self.soi, self.eoi = range(self._text.size, self._text.size + 5)
        self.vocab_size = self._text.size + 5

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, all below `self.sot`, whatever markers the text may spell."""
        return self._text.ids_of(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ordinary ids; special ids are left out. With CLIP's merges: lower case, one space between words."""
        return self._text.decode(ids)

    @property
    def of_ordinary_text(self) -> tokenizers.Tokenizer:
        """What makes ids of text, without the special ones, as the Hugging Face library has it."""
        return self._text.model

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json` into `folder`, byte for byte the file that was read; nothing for CLIP's merges, which a package brings."""
        if self.settings.file:
            with open_aside(folder / TOKENIZER_FILE) as file:
                file.write(self._text.source)


class _ClipMerges:
    """CLIP's byte-pair encoding with its `num_merges` most frequent merges; ids are below `size`."""

    def __init__(self, num_merges: int) -> None:
        merges = _read_merges()[:num_merges]
        letters = _byte_letters()
        self._words = letters + [letter + END_OF_WORD for letter in letters] + ["".join(merge) for merge in merges]
        self._decoder = decoders.ByteLevel()
        self._known: dict[str, list[int]] = {}
        self.size = len(self._words)
        self.fingerprint = hashlib.sha256(json.dumps(self._words).encode()).hexdigest()[:16]
        vocabulary = {word: index for index, word in enumerate(self._words)}
        self.model = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix=END_OF_WORD))
        self.model.normalizer = normalizers.Sequence(
            [
                normalizers.Replace(Regex("[\u02bc\u2018-\u201b]"), "'"),  # straight quotes, as CLIP's own cleaning has them
                normalizers.Replace(Regex("[\u201c-\u201f]"), '"'),
                normalizers.NFC(),
                normalizers.Lowercase(),
            ]
        )
        self.model.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )

    def ids_of(self, text: str) -> list[int]:
        """Word by word, for most words were met before: less than half the time of one call for the whole text."""
        ids: list[int] = []
        for word in PATTERN.findall(text.lower() if text.isascii() else self.model.normalizer.normalize_str(text)):
            known = self._known.get(word)
            if known is None:
                if len(self._known) >= KNOWN_WORDS:
                    self._known.clear()
                known = self._known[word] = self.model.encode(word, add_special_tokens=False).ids
            ids += known
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        pieces = "".join(self._words[index] for index in ids if index < self.size)
        return " ".join(self._decoder.decode([word]) for word in pieces.split(END_OF_WORD)).strip()


class _TokenizerFile:
    """The model of a tokenizer.json with its added tokens out of reach of text; ids are below `size`, `source` is the file itself."""

    def __init__(self, path: Path) -> None:
        self.source = path.read_bytes()
        try:
            whole = tokenizers.Tokenizer.from_buffer(self.source)
        except ValueError as error:
            raise ValueError(f"{path} is no tokenizer.json of the Hugging Face library, or a damaged one ({error}): restore it from a copy") from error
        record = json.loads(self.source)
        added = {token.content for token in whole.get_added_tokens_decoder().values()}
        hidden = added - {_unknown_word(record["model"])}
        letters = sorted(word for word in hidden & whole.get_vocab(with_added_tokens=False).keys() if len(word) == 1)
        if letters and not record["model"].get("byte_fallback"):
            listed = ", ".join(map(repr, letters))
            raise ValueError(f"{path} has letters of its alphabet among its added_tokens ({listed}), which no text becomes: take them out of that list")
        self.size = max(whole.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        model = _without_words(record["model"], hidden)
        if "dropout" in model:
            model["dropout"] = None  # of merges, at random: the same text must give the same ids
        self.fingerprint = _hash([record.get("normalizer"), record.get("pre_tokenizer"), model, self.size])
        plain = record | {"added_tokens": [], "truncation": None, "padding": None, "post_processor": None, "model": model}
        self.model = tokenizers.Tokenizer.from_str(json.dumps(plain))
        if not (_has_letters(model) and self._spells(RARE_LETTER)):
            raise ValueError(
                f"{path} loses text that its vocabulary cannot spell: its model has neither all bytes nor an unk for it. "
                "Mend it, or make another with `lcl train-tokenizer`."
            )

    def ids_of(self, text: str) -> list[int]:
        return self.model.encode(text, add_special_tokens=False).ids

    def _spells(self, text: str) -> bool:
        try:
            return bool(self.model.encode(text, add_special_tokens=False).ids)
        except Exception:  # the library raises nothing narrower where a model needs an unk and has none
            return False

    def decode(self, ids: Sequence[int]) -> str:
        return self.model.decode([index for index in ids if self.model.id_to_token(index)])  # a hidden word is "" or None there


def _find_file(settings: TokenizerConfig, folder: Path | None) -> Path:
    path = Path(settings.file) if folder is None else folder
    path = path / TOKENIZER_FILE if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"{path}: no such tokenizer; model.tokenizer.file takes a {TOKENIZER_FILE} or a folder with one; `lcl train-tokenizer` makes one")
    return path


def _unknown_word(model: Mapping[str, Any]) -> str | None:
    """What the model gives for text that it cannot spell, or None. Unigram has its place in the vocabulary, the others its name."""
    if isinstance(model["vocab"], list):
        return None if model.get("unk_id") is None else model["vocab"][model["unk_id"]][0]
    return model.get("unk_token")


def _without_words(model: Mapping[str, Any], words: Set[str]) -> dict[str, Any]:
    """The model without `words` and without the merges that make or take them; every other word keeps its id.

    It is not enough to have no added tokens: WordLevel, WordPiece, Unigram and BPE with `ignore_merges` take a word of
    their vocabulary wherever the text spells it, and merges made from a list of words may spell `<s>` as well.
    """
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):  # Unigram, where an id is a place in the list; its search never tries an empty piece
        return {**model, "vocab": [["" if word in words else word, score] for word, score in vocabulary]}
    kept = {**model, "vocab": {word: index for word, index in vocabulary.items() if word not in words}}
    if "merges" in model:
        prefix = len(model.get("continuing_subword_prefix") or "")
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]  # older files: one string
        kept["merges"] = [[left, right] for left, right in pairs if words.isdisjoint((left, right, left + right[prefix:]))]
    return kept


def _has_letters(model: Mapping[str, Any]) -> bool:
    """False for a byte-pair model that lacks a letter of the byte-level alphabet, and leaves it out of every text without a word."""
    if "merges" not in model or model.get("unk_token") or model.get("byte_fallback"):
        return True
    starts, ends = ({"", model.get(name) or ""} for name in ("continuing_subword_prefix", "end_of_word_suffix"))
    return {start + letter + end for start in starts for letter in _byte_letters() for end in ends} <= model["vocab"].keys()


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _read_merges() -> list[tuple[str, str]]:
    with gzip.open(open_clip_folder() / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        lines = itertools.islice(file, 1, 1 + CLIP_MERGES)  # line 0 is a header
        return [(left, right) for left, right in (line.split() for line in lines)]


def _byte_letters() -> list[str]:
    """A printable letter for each byte value, in CLIP's order of ids (Radford et al. 2019): printable Latin-1 first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
