"""Words, shingles and MinHash: what two documents are compared by."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcl.core.document import CrawlOrigin, Document, TextSegment, text_hash
from pipeline.dedup.signature import (
    SignatureConfig,
    band_keys,
    expected_recall,
    minhash_of,
    minhash_table,
    settings_of,
    signature_fields,
    signature_of,
)  # fmt: skip
from pipeline.dedup.words import jaccard, ngram_hashes, shingles_of, word_hashes

WORDS = st.lists(st.sampled_from(["a", "bc", "d9", "é", "ef_g", "über", "x", "y"]), max_size=30)


@given(WORDS, st.integers(1, 6))
def test_shingles_are_the_distinct_runs_of_words(words: list[str], length: int) -> None:
    runs = {tuple(words[start : start + length]) for start in range(len(words) - length + 1)} or ({tuple(words)} if words else set())
    found = shingles_of(" ".join(words), length)
    assert len(found) == len(runs) and np.all(found[1:] > found[:-1])
    assert len(ngram_hashes(word_hashes(" ".join(words)), length)) == max(0, len(words) - length + 1)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("One, two: THREE four five!", "one two three four five"),
        ("caf\u00e9 a b c d", "cafe\u0301 a b c d"),
        ("a\u00a0b c d e", "a b\n\nc d e"),
        ("“a” b c d e", "a b c d e"),
    ],
)
def test_spelling_that_does_not_count(ours: str, theirs: str) -> None:
    assert np.array_equal(shingles_of(ours, 5), shingles_of(theirs, 5))


def test_order_and_letters_count_and_unspaced_scripts_have_a_word_per_character() -> None:
    assert not set(shingles_of("a b c d e", 5)) & set(shingles_of("a b c e d", 5))
    assert len(word_hashes("我们在北京 ok")) == 6 and len(word_hashes("ภาษา")) == 4 and len(word_hashes("한국어 서울")) == 2
    assert len(shingles_of("", 5)) == len(shingles_of("... !? 😀", 5)) == 0
    assert len(word_hashes("a\ud800b")) == 2, "a lone surrogate is no word and no crash"


@given(WORDS, WORDS)
def test_jaccard_is_that_of_sets(ours: list[str], theirs: list[str]) -> None:
    a, b = (shingles_of(" ".join(words), 2) for words in (ours, theirs))
    both = set(a.tolist()) | set(b.tolist())
    assert jaccard(a, b) == (len(set(a.tolist()) & set(b.tolist())) / len(both) if both else 0)


@settings(max_examples=50)
@given(st.sets(st.integers(0, 2**64 - 1), min_size=1, max_size=60), st.sets(st.integers(0, 2**64 - 1), min_size=1, max_size=60), st.sampled_from([1, 8, 112]))
def test_a_union_has_the_least_values(ours: set[int], theirs: set[int], num_hashes: int) -> None:
    """The slots of a union are slots of one of its parts, and order does not count: what makes agreement estimate J without bias."""
    a, b, both = (minhash_of(np.array(list(values), np.uint64), num_hashes) for values in (ours, theirs, ours | theirs))
    assert np.all((both == a) | (both == b))
    assert np.array_equal(a, minhash_of(np.array(sorted(ours, reverse=True), np.uint64), num_hashes))


@pytest.mark.parametrize("size", [20, 100, 1000])
@pytest.mark.parametrize("similarity", [0.5, 0.8, 0.95])
def test_agreement_is_the_jaccard_similarity(size: int, similarity: float) -> None:
    """Over many pairs: the mean agreement within four standard errors of J, its spread not above that of independent hashes; bands as the S-curve says."""
    rng = np.random.default_rng(0)
    num_common = round(2 * size * similarity / (1 + similarity))
    exact = num_common / (2 * size - num_common)
    pools = rng.integers(0, 2**64, (300, 2 * size - num_common), dtype=np.uint64)
    ours = np.stack([minhash_of(pool[:size], 112) for pool in pools])
    theirs = np.stack([minhash_of(pool[-size:], 112) for pool in pools])
    agreement = (ours == theirs).mean(axis=1)
    independent = np.sqrt(exact * (1 - exact) / 112)
    assert abs(agreement.mean() - exact) < 4 * independent / np.sqrt(len(pools))
    assert agreement.std() < 1.2 * independent
    found = (band_keys(ours, bands=14, rows=8) == band_keys(theirs, bands=14, rows=8)).any(axis=1).mean()
    expected = expected_recall(exact, bands=14, rows=8)
    assert abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / len(pools)) + 0.01


def test_the_s_curve_has_its_published_values() -> None:
    assert expected_recall(0.8, bands=14, rows=8) == pytest.approx(0.924, abs=5e-4)  # datatrove's parameters
    assert (1 / 14) ** (1 / 8) == pytest.approx(0.72, abs=5e-3)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_band_keys_are_equal_where_the_rows_are(bands: int, rows: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 2, (6, bands * rows + 1), dtype=np.uint32)
    keys = band_keys(values, bands=bands, rows=rows)
    parts = [[(band, *row[band * rows : (band + 1) * rows]) for band in range(bands)] for row in values.tolist()]
    flat_keys, flat_parts = keys.ravel().tolist(), [part for row in parts for part in row]
    assert len(set(flat_keys)) == len(set(flat_parts)) == len(set(zip(flat_keys, flat_parts, strict=True)))


def test_bytes_of_signatures_never_change() -> None:
    """Golden values: signatures of an older extraction are compared with new ones."""
    signature = signature_of("http://Example.org/a#b", "The quick brown fox jumps over the lazy dog", SignatureConfig(num_hashes=4))
    assert signature == signature_of("https://example.org:443/a", "The quick brown fox jumps over the lazy dog", SignatureConfig(num_hashes=4))
    assert (signature.url_hash.hex(), minhash_table([signature.minhash]).tolist()) == ("63eb0fabf4b36076fb7a6583a99658c1", [[2819119540, 2836872244, 2510158636, 1494362146]])


@given(st.text())
def test_the_text_hash_is_that_of_documents(text: str) -> None:
    document = Document(key="0" * 32, segments=(TextSegment(text),), page_url="https://a.org/", crawl=CrawlOrigin(file="a", offset=0, date=""))
    assert signature_of("https://a.org/", text, SignatureConfig(num_hashes=1)).text_hash.hex() == text_hash(document)


@given(st.builds(SignatureConfig, shingle_words=st.integers(1, 20), num_hashes=st.integers(1, 300)))
def test_columns_tell_their_settings(config: SignatureConfig) -> None:
    schema = pa.schema([("key", pa.string()), *signature_fields(config)])
    assert settings_of(schema) == config
    with pytest.raises(ValueError, match="signatures of version none"):
        settings_of(schema.remove(schema.get_field_index("minhash")))
