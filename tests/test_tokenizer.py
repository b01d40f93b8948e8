"""Byte-pair encoding: equal to CLIP's on ordinary text, and never a special id."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcl.core.tokenizer import Tokenizer, TokenizerConfig

FULL = Tokenizer(TokenizerConfig())
SMALL = Tokenizer(TokenizerConfig(num_merges=1000))
MARKERS = ("<sot>", "<eot>", "<soi>", "<eoi>", "<start_of_text>", "<end_of_text>", "<img_placehold>", "<|endoftext|>", "<start_of_img>")


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
