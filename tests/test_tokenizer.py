"""Text to ids: equal to CLIP's, or to a file's own, on ordinary text, and never a special or added id."""

import json
import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from lcl.core.config import from_dict
from lcl.core.tokenizer import Tokenizer, TokenizerConfig

FULL = Tokenizer(TokenizerConfig())
SMALL = Tokenizer(TokenizerConfig(num_merges=1000))
MARKERS = ("<sot>", "<eot>", "<soi>", "<eoi>", "<start_of_text>", "<end_of_text>", "<img_placehold>", "<|endoftext|>", "<start_of_img>")

SPECIAL = ("<unk>", "<s>", "</s>", "[MASK]", "<|endoftext|>")  # in the vocabulary of each file below, and reachable there in its own way
ADDED = ("wörld", "Hello", "<|user|>", "  ")  # added without being special: the first two are in the vocabulary
LATE = ("<|im_start|>", "<pad>")  # special, behind the vocabulary
SPELLED = SPECIAL + ADDED + LATE
ALPHABET = "".join(sorted(set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,!ö▁" + "".join(SPELLED))))
CORPUS = ["hello world, a wörld of words", "Hello there, other worlds are wörlds", "over there the other words"] * 20


@pytest.mark.parametrize(
    "text",
    ["A red seven, on the wall!!! isn't it 123 naïve café", "日本語 テスト #!/bin/sh <!-- x -->", "I'LL  we've  x\n\ny", "“quoted” and ‘single’", "ÅÄÖ é e\u0301", ""],
)
def test_ids_are_those_of_clip(text: str) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    assert FULL.encode(text) == SimpleTokenizer().encode(text)


def test_special_ids_are_those_of_the_published_code() -> None:
    """lcl's model configs: CLIP's 49406 and 49407, then placeholder, start and end of an image."""
    assert (FULL.sot, FULL.eot, FULL.image, FULL.soi, FULL.eoi, FULL.vocab_size) == (49406, 49407, 49408, 49409, 49410, 49411)


@given(st.lists(st.one_of(st.text(max_size=20), st.sampled_from(MARKERS))).map("".join))
def test_no_text_gives_a_special_id(text: str) -> None:
    for tokenizer in (FULL, SMALL):
        assert all(0 <= index < tokenizer.sot for index in tokenizer.encode(text))


@given(st.text(alphabet=st.characters(codec="ascii", categories=("Ll",)), min_size=1))
def test_decode_inverts_encode_on_a_word(word: str) -> None:
    for tokenizer in (FULL, SMALL):
        assert tokenizer.decode(tokenizer.encode(word)) == word


def test_fingerprint_tells_vocabularies_apart() -> None:
    assert FULL.fingerprint != SMALL.fingerprint == Tokenizer(TokenizerConfig(num_merges=1000)).fingerprint


def byte_level() -> tokenizers.Tokenizer:
    """As of GPT-2: special ids come first, no merge leads to them."""
    bpe = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", dropout=0.5))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=[*SPECIAL, *ADDED[:2]], initial_alphabet=alphabet, show_progress=False))
    return bpe


def whole_words() -> tokenizers.Tokenizer:
    """As of Llama 3: a word of the vocabulary is taken whole, here without a pre-tokenizer that would cut markers."""
    record = json.loads(byte_level().to_str())
    record["model"] |= {"ignore_merges": True, "unk_token": None, "dropout": None}
    record["pre_tokenizer"] = json.loads(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).__getstate__())
    return tokenizers.Tokenizer.from_str(json.dumps(record))


def merged_markers(prefix: str = "") -> tokenizers.Tokenizer:
    """As converted from a list of words: every word has merges that lead to it, letter by letter, the markers too."""
    words = list(dict.fromkeys([*SPECIAL, *ALPHABET, *(prefix + letter for letter in ALPHABET)]))
    merges = []
    for word in (*SPECIAL[1:], *ADDED[:2], "the", "other"):
        for end in range(2, len(word) + 1):
            if word[:end] not in words:
                words.append(word[:end])
            if (pair := (word[: end - 1], prefix + word[end - 1])) not in merges:
                merges.append(pair)
    vocabulary = {word: index for index, word in enumerate(words)}
    return tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", continuing_subword_prefix=prefix))


def prefixed_markers() -> tokenizers.Tokenizer:
    """The same with a mark on letters inside a word, which merges leave out of what they make."""
    return merged_markers("##")


def word_pieces() -> tokenizers.Tokenizer:
    """As of BERT, but cut at white space only, so that a marker stays whole."""
    words = [*SPECIAL, *ADDED[:2], *ALPHABET, *("##" + letter for letter in ALPHABET), "the", "##there"]
    pieces = tokenizers.Tokenizer(models.WordPiece(vocab={word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    pieces.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pieces.decoder = decoders.WordPiece()
    return pieces


def lower_words() -> tokenizers.Tokenizer:
    """A list of whole words behind a normalizer: markers in capitals become markers."""
    words = [*SPECIAL, *ADDED[:2], "[mask]", "hello", "there"]
    level = tokenizers.Tokenizer(models.WordLevel(vocab={word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    level.normalizer = normalizers.Lowercase()
    level.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return level


def unigram() -> tokenizers.Tokenizer:
    """As of SentencePiece: the search takes special words with score 0, the best there is."""
    words = [(word, 0.0) for word in (*SPECIAL, *ADDED[:2])] + [(letter, -5.0) for letter in ALPHABET] + [("▁the", -2.0), ("there", -2.5)]
    pieces = tokenizers.Tokenizer(models.Unigram(words, 0, False))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces.decoder = decoders.Metaspace()
    return pieces


KINDS = {make.__name__: make for make in (byte_level, whole_words, merged_markers, prefixed_markers, word_pieces, lower_words, unigram)}


def with_everything_added(bare: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same with special and added tokens, of every matching option, and with all that must be switched off."""
    bare.add_special_tokens([*SPECIAL[:3], AddedToken("[MASK]", lstrip=True, rstrip=True), AddedToken("<|endoftext|>", normalized=True), *LATE])
    bare.add_tokens([AddedToken("wörld", single_word=True), AddedToken("Hello", normalized=False), *ADDED[2:]])
    around = [(word, bare.token_to_id(word)) for word in ("<s>", "</s>")]
    bare.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=around)
    bare.enable_truncation(3)
    bare.enable_padding(length=8, pad_id=bare.token_to_id("<pad>"), pad_token="<pad>")
    return bare


@dataclass(frozen=True)
class Made:
    """A tokenizer of the library itself, its file, and what we make of that file."""

    whole: tokenizers.Tokenizer = field(repr=False)
    path: Path
    tokenizer: Tokenizer

    @property
    def added_ids(self) -> set[int]:
        """The ids that no text may give. A model's own unk, which is id 0 in these files, stands for what the vocabulary cannot spell."""
        model = json.loads(self.path.read_text())["model"]
        unknown = {0} if model.get("unk_token") == "<unk>" or model.get("unk_id") == 0 else set()
        return set(self.whole.get_added_tokens_decoder()) - unknown


Files = dict[str, Made]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tokenizers")
    made = {}
    for name, make in KINDS.items():
        whole, path = with_everything_added(make()), folder / f"{name}.json"
        whole.save(str(path))
        made[name] = Made(whole, path, read(path))
    return made


def read(path: Path) -> Tokenizer:
    return Tokenizer(TokenizerConfig(file=str(path)))


def library_ids(made: Made, text: str, **changes: Any) -> list[int]:
    """Ids of `text` by the library itself, from the file with some of its entries changed, without truncation, padding and dropout."""
    record = json.loads(made.path.read_text())
    if "dropout" in record["model"]:
        record["model"]["dropout"] = None
    whole = tokenizers.Tokenizer.from_str(json.dumps(record | {"truncation": None, "padding": None} | changes))
    return whole.encode(text, add_special_tokens=False).ids


markers = st.sampled_from(SPELLED + MARKERS)
marked = st.lists(st.one_of(st.text(max_size=10), markers, markers.map(str.swapcase), st.just(" "), st.text("Ġ▁#<>|s/", max_size=8))).map("".join)


@given(text=marked)
def test_no_text_gives_an_id_of_an_added_token(files: Files, text: str) -> None:
    for name, made in files.items():
        ids = made.tokenizer.encode(text)
        assert all(0 <= index < made.tokenizer.sot for index in ids), name
        assert not made.added_ids & set(ids), name


def test_the_library_alone_would_give_them(files: Files) -> None:
    """Neither its switch for special tokens nor a file without added tokens is enough: the reason for taking words out of the model."""
    for name, made in files.items():
        made.whole.encode_special_tokens = True
        assert made.added_ids & set(made.whole.encode("x <|user|> y", add_special_tokens=False).ids), name
        made.whole.encode_special_tokens = False
        reached = {index for word in SPECIAL for index in library_ids(made, word, added_tokens=[])}
        assert bool(made.added_ids & reached) == (name != "byte_level"), name


def test_special_ids_follow_the_largest_id_of_the_file(files: Files) -> None:
    for made in files.values():
        tokenizer, largest = made.tokenizer, max(made.added_ids)
        assert largest == max(made.whole.get_vocab().values()) > made.whole.get_vocab_size(with_added_tokens=False)
        assert (tokenizer.sot, tokenizer.eot, tokenizer.image, tokenizer.soi, tokenizer.eoi) == tuple(range(largest + 1, largest + 6))
        assert tokenizer.vocab_size == largest + 6


@given(text=st.text("abcdefghijklmnopqrstuvwxyzA .,!", max_size=40).filter(lambda text: "  " not in text))
def test_ordinary_text_has_the_ids_of_the_library(files: Files, text: str) -> None:
    for name, made in files.items():
        ids = made.tokenizer.encode(text)
        assert ids == library_ids(made, text), name
        with_special = [made.tokenizer.sot, *made.added_ids, *ids, made.tokenizer.image, made.tokenizer.eot]
        assert made.tokenizer.decode(with_special) == made.tokenizer.decode(ids), name
    assert files["byte_level"].tokenizer.decode(files["byte_level"].tokenizer.encode(text)) == text


def test_text_that_spells_a_marker_is_spelled_and_not_lost(files: Files) -> None:
    for name in ("byte_level", "whole_words", "merged_markers", "unigram"):
        for word in ("<s>", "[MASK]", "<|endoftext|>", "<|im_start|>", "Hello"):
            ids = files[name].tokenizer.encode(word)
            assert len(ids) > 1 and files[name].tokenizer.decode(ids).replace(" ", "") == word, (name, word)


def test_dropout_truncation_and_padding_are_off(files: Files) -> None:
    text = " ".join(CORPUS)
    for made in files.values():
        ids = made.tokenizer.encode(text)
        assert len(ids) > 8 and all(made.tokenizer.encode(text) == ids for _ in range(5))
        assert made.tokenizer.encode("") == []


def test_a_folder_is_read_as_the_file_in_it(files: Files, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    made = files["byte_level"]
    PreTrainedTokenizerFast(tokenizer_object=made.whole, unk_token="<unk>", mask_token="[MASK]").save_pretrained(tmp_path)
    text = "Hello there, <s> [MASK]"
    assert read(tmp_path).encode(text) == made.tokenizer.encode(text) != []


def test_a_checkpoint_keeps_the_tokenizer_without_its_first_file(files: Files, tmp_path: Path) -> None:
    text = f"Hello there, other {' '.join(SPELLED)} words"
    for name, made in files.items():
        copy, folder = tmp_path / f"{name}.json", tmp_path / name
        copy.write_bytes(made.path.read_bytes())
        folder.mkdir()
        first = read(copy)
        first.save(folder)
        copy.unlink()
        again = Tokenizer(first.settings, folder=folder)
        assert again.encode(text) == made.tokenizer.encode(text) != []
        assert (again.fingerprint, again.sot, again.vocab_size) == (made.tokenizer.fingerprint, made.tokenizer.sot, made.tokenizer.vocab_size)
    assert len(list(tmp_path.glob("*/tokenizer.json"))) == len(KINDS)


def test_the_merges_of_clip_are_not_saved(tmp_path: Path) -> None:
    SMALL.save(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert Tokenizer(SMALL.settings, folder=tmp_path).fingerprint == SMALL.fingerprint


def test_it_can_be_handed_to_another_process(files: Files) -> None:
    for tokenizer in (SMALL, *(made.tokenizer for made in files.values())):
        again = pickle.loads(pickle.dumps(tokenizer))
        assert again.encode("Hello <s> there") == tokenizer.encode("Hello <s> there") != []


def test_fingerprints_of_clip_are_those_in_checkpoints() -> None:
    """Golden: `Tokenizer(TokenizerConfig(num_merges=N)).fingerprint`; another value would refuse every checkpoint there is."""
    assert FULL.fingerprint == "2aa62de6fbcee25f"
    assert SMALL.fingerprint == "e8e2b347fbbf5804"


def test_fingerprint_of_a_file_is_of_what_gives_ids(files: Files, tmp_path: Path) -> None:
    record = json.loads(files["merged_markers"].path.read_text())

    def fingerprint(changes: dict[str, Any]) -> str:
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(record | changes, indent=3))
        return read(path).fingerprint

    model = record["model"]
    first = files["merged_markers"].tokenizer.fingerprint
    same = (
        {},
        {"truncation": None, "padding": None, "post_processor": None},
        {"model": dict(reversed(model.items())) | {"vocab": dict(reversed(model["vocab"].items()))}},
        {"model": model | {"merges": [" ".join(pair) for pair in model["merges"]]}},
    )
    swapped = model["vocab"] | {"A": model["vocab"]["B"], "B": model["vocab"]["A"]}
    other = (
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "WhitespaceSplit"}},
        {"model": model | {"vocab": swapped}},
        {"model": model | {"merges": model["merges"][::-1]}},
        {"added_tokens": record["added_tokens"][:-1]},
        {"added_tokens": [token for token in record["added_tokens"] if token["content"] != "[MASK]"]},
    )
    assert {fingerprint(changes) for changes in same} == {first}
    assert len({fingerprint(changes) for changes in other} | {first}) == len(other) + 1


def test_a_number_of_merges_does_not_count_beside_a_file(files: Files) -> None:
    """Presets have one, and a file takes the merges' place."""
    path = str(files["unigram"].path)
    assert Tokenizer(TokenizerConfig(file=path, num_merges=500)).fingerprint == Tokenizer(TokenizerConfig(file=path)).fingerprint


def test_settings_of_older_checkpoints_mean_the_merges_of_clip() -> None:
    assert from_dict(TokenizerConfig, {"num_merges": 1000}, origin="config.json") == SMALL.settings


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff\xfe", b'{"version": "1.0", "model": {"type": "BPE"}}'])
def test_a_damaged_file_is_named_with_its_cure(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} is no tokenizer.json .*restore it"):
        read(path)


def test_a_file_cut_short_is_named(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(files["unigram"].path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="damaged"):
        read(path)


def test_a_missing_file_is_named_with_its_cure(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ValueError, match=r"no such tokenizer; model\.tokenizer\.file takes .*train-tokenizer"):
            read(path)
    with pytest.raises(ValueError, match="no such tokenizer"):
        Tokenizer(TokenizerConfig(file="tok.json"), folder=tmp_path)


def test_a_file_that_loses_text_is_refused(tmp_path: Path) -> None:
    unseen_bytes = tokenizers.Tokenizer(models.BPE())
    unseen_bytes.pre_tokenizer = pre_tokenizers.ByteLevel()
    unseen_bytes.train_from_iterator(["a rare 𓀀"], trainers.BpeTrainer(vocab_size=300, show_progress=False))
    no_unk = (models.BPE(vocab={"a": 0}, merges=[]), models.WordLevel(vocab={"a": 0}, unk_token="?"), models.Unigram([("a", 0.0)]), models.BPE())
    for lossy in (unseen_bytes, *map(tokenizers.Tokenizer, no_unk)):
        lossy.save(str(tmp_path / "tokenizer.json"))
        with pytest.raises(ValueError, match="loses text .*train-tokenizer"):
            read(tmp_path)


def test_a_letter_among_the_added_tokens_is_refused(tmp_path: Path) -> None:
    """Stable Diffusion 2 pads with "!": without that letter, text would lose its exclamation marks."""
    bpe = byte_level()
    bpe.add_special_tokens(["!"])
    bpe.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"\('!'\).*take them out"):
        read(tmp_path)


def test_bytes_stand_in_for_a_letter_among_the_added_tokens(tmp_path: Path) -> None:
    """As of Gemma, whose line break is an added token."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "\n"]
    bpe = tokenizers.Tokenizer(models.BPE(vocab={word: index for index, word in enumerate(words)}, merges=[], unk_token="<unk>", byte_fallback=True))
    bpe.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    bpe.add_tokens(["\n"])
    bpe.save(str(tmp_path / "tokenizer.json"))
    tokenizer = read(tmp_path)
    assert tokenizer.encode("a\na") == [257, 1 + 0x0A, 257]
    assert tokenizer.decode(tokenizer.encode("a\né𓀀")) == "a\né𓀀"
