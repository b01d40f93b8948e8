"""A tokenizer learnt from shards: the same bytes each time, every text spelled and given back, and errors before any work."""

import json
import shutil
import unicodedata
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers

from lcl.core.config import from_dict
from lcl.core.document import CrawlOrigin, Document, TextSegment, key_of
from lcl.core.shards import ShardSet, write_shard
from lcl.core.tokenizer import Tokenizer, TokenizerConfig
from lcl.train_tokenizer import TrainTokenizerConfig, characters_per_token, main, spread
from tests.conftest import Run, assert_one_line_error

NFC = normalizers.NFC()  # the library's: its Unicode version is another than Python's, and they differ in a few recent marks
VOCAB_SIZE = 400


def train(shards: Path, output: Path, **options: object) -> Tokenizer:
    main(TrainTokenizerConfig(shards=(str(shards),), output=str(output), **{"vocab_size": VOCAB_SIZE, **options}))
    return Tokenizer(TokenizerConfig(file=str(output)))


def write_texts(folder: Path, texts: list[str]) -> Path:
    """Shards of one document for each text."""
    folder.mkdir()
    origin = CrawlOrigin(file="crawl.warc.gz", offset=0, date="2024-01-01T00:00:00Z")
    documents = [
        Document(key=key_of("crawl.warc.gz", number, ""), segments=(TextSegment(text),) if text else (), page_url="https://a.example/", crawl=origin)
        for number, text in enumerate(texts)
    ]
    write_shard(folder, "made", documents, origin={})
    return folder


@pytest.fixture(scope="module")
def learnt(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("learnt") / "tokenizer.json"
    train(shards, path)
    return path


@pytest.fixture(scope="module")
def tokenizer(learnt: Path) -> Tokenizer:
    return Tokenizer(TokenizerConfig(file=str(learnt)))


def test_the_same_shards_give_the_same_bytes(run: Run, shards: Path, learnt: Path, tmp_path: Path) -> None:
    """In this process and, with threads and another hash seed, in one of its own; which tells people what it made."""
    train(shards, tmp_path / "again.json")
    output = tmp_path / "new folder" / "tokenizer.json"
    options = ("--shards", shards, "--vocab-size", VOCAB_SIZE, "--output", output, "--lowercase", "False")
    result = run("lcl", "train-tokenizer", *options, TOKENIZERS_PARALLELISM="true", PYTHONHASHSEED="7")
    assert result.returncode == 0, result.stderr
    assert learnt.read_bytes() == (tmp_path / "again.json").read_bytes() == output.read_bytes()
    assert list(output.parent.iterdir()) == [output]
    num_documents = sum(any(document.texts) for document in ShardSet([shards]))
    length = characters_per_token(tokenizers.Tokenizer.from_file(str(learnt)), ShardSet([shards]), range(len(ShardSet([shards]))))
    assert f"vocabulary of {VOCAB_SIZE} words from {num_documents} documents, {length:.2f} characters per token" in result.stderr
    assert num_documents > 0


def test_words_are_the_bytes_and_then_what_was_asked_for(tokenizer: Tokenizer, learnt: Path) -> None:
    assert (tokenizer.sot, tokenizer.vocab_size) == (VOCAB_SIZE, VOCAB_SIZE + 5)
    vocabulary = json.loads(learnt.read_text())["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(VOCAB_SIZE))
    assert all(len(word) == 1 for word, index in vocabulary.items() if index < 256)
    assert json.loads(learnt.read_text())["added_tokens"] == []


@given(text=st.lists(st.one_of(st.text(), st.sampled_from(["<sot>", "<|endoftext|>", "e\u0301", "\r\n", " ", "\0", "नमस्ते", "日本語", "👩‍👩‍👧"]))).map("".join))
def test_every_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == NFC.normalize_str(text)
    assert all(0 <= index < tokenizer.sot for index in ids)


def test_texts_are_composed_and_keep_their_case(tokenizer: Tokenizer) -> None:
    text = "Ve\u0301lo A\u030a, Häuser \u1100\u1161\u11a8 ÉTÉ"
    assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text) != text


def test_it_learns_the_words_of_its_texts(tmp_path: Path) -> None:
    shards = write_texts(tmp_path / "shards", ["नमस्ते दुनिया, 日本語 and Grüße " * 3] * 4)
    tokenizer = train(shards, tmp_path / "learnt.json", vocab_size=1000)
    for word in ("नमस्ते", " दुनिया", " 日本語", " and", " Grüße"):
        assert len(tokenizer.encode(word)) == 1, word
    assert tokenizer.encode("नमस्ते दुनिया") == tokenizer.encode("नमस्ते") + tokenizer.encode(" दुनिया")
    assert len(tokenizer.encode("unheard")) > 3 and tokenizer.vocab_size < 1000, "texts that repeat little give fewer words"


def test_lower_case_is_a_choice(tmp_path: Path) -> None:
    shards = write_texts(tmp_path / "shards", ["Grüße AN ALLE"] * 3)
    lower, kept = train(shards, tmp_path / "lower.json", lowercase=True), train(shards, tmp_path / "kept.json")
    assert lower.decode(lower.encode("GRÜSSE E\u0301")) == "grüsse é"
    assert lower.encode(" alle") == lower.encode(" ALLE") and len(lower.encode(" ALLE")) == 1
    assert kept.encode(" alle") != kept.encode(" ALLE") and len(kept.encode(" ALLE")) == 1


def test_it_learns_from_as_many_documents_as_it_is_told(tmp_path: Path) -> None:
    words = ("first", "second", "third", "fourth")
    shards = write_texts(tmp_path / "shards", ["", *("\n".join([word] * 3) for word in words), ""])
    tokenizer = train(shards, tmp_path / "half.json", max_documents=2)
    assert [len(tokenizer.encode(word)) == 1 for word in words] == [True, False, True, False], "half of those with text, evenly spread"


@given(length=st.integers(1, 300), count=st.integers(1, 400))
def test_spread_indices_are_even(length: int, count: int) -> None:
    chosen = spread(range(length), count)
    assert len(chosen) == len(set(chosen)) == min(length, count) and chosen[0] == 0
    gaps = {after - before for before, after in zip(chosen, [*chosen[1:], length], strict=True)}
    assert max(gaps) - min(gaps) <= 1


def test_a_tokenizer_that_is_there_is_not_overwritten(shards: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("mine")
    with pytest.raises(ValueError, match="is there already.*--output"):
        train(shards, path)
    assert path.read_text() == "mine"


def test_shards_without_text_are_named(tmp_path: Path) -> None:
    shards = write_texts(tmp_path / "shards", ["", ""])
    with pytest.raises(ValueError, match="hold no text to learn from; see their report.json"):
        train(shards, tmp_path / "tokenizer.json")


def test_a_damaged_shard_leaves_no_file(run: Run, shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(shards, folder)
    tar = sorted(folder.glob("*.tar"))[-1]
    tar.write_bytes(bytes(tar.stat().st_size))
    result = run("lcl", "train-tokenizer", "--shards", folder, "--output", tmp_path / "made" / "tokenizer.json")
    assert_one_line_error(result, str(tar))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("wrong", [{"vocab_size": 255}, {"max_documents": 0}, {"vocabulary": 1000}])
def test_wrong_settings_are_named(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        from_dict(TrainTokenizerConfig, {"shards": ["a"], "output": "b", **wrong}, origin="test")
