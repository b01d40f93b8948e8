"""The language of texts: the built-in detector, and a fastText model whose probabilities are known."""

import math
import struct
from pathlib import Path

import pytest

from lcl.core.rejected import Reason, Rejected
from pipeline.text.language import UNKNOWN, Language, LanguageRules, check_language, identify_language

ENGLISH = "The harbour was quiet in the morning, and nobody had come to see the boats that were leaving with the tide. " * 3
GERMAN = "Der Hafen war am Morgen still, und niemand war gekommen, um die Boote zu sehen, die mit der Flut ausliefen. " * 3


@pytest.mark.parametrize(("text", "code"), [(ENGLISH, "en"), (GERMAN, "de"), ("x" * 3000, UNKNOWN)])
def test_the_built_in_detector(text: str, code: str) -> None:
    language = identify_language(text, LanguageRules())
    assert language.code == code
    assert language.scores == {"language_rank": float(language.rank or 0)}


def test_a_stricter_rank_finds_less() -> None:
    rank = identify_language(ENGLISH, LanguageRules()).rank
    assert rank
    assert identify_language(ENGLISH, LanguageRules(max_rank=rank)).code == "en"
    assert identify_language(ENGLISH, LanguageRules(max_rank=rank - 1)).code == UNKNOWN


def test_languages_to_keep() -> None:
    check_language(Language("de"), LanguageRules())
    check_language(Language("de"), LanguageRules(keep=("en", "de")))
    with pytest.raises(Rejected) as rejected:
        check_language(Language("de"), LanguageRules(keep=("en",)))
    assert rejected.value.reason == Reason.LANGUAGE


def write_fasttext_model(path: Path, *, words: dict[str, tuple[float, float]], labels: tuple[str, str]) -> Path:
    """A fastText classifier (file version 12) whose logits are the mean of its words' two values.

    Magic, version; dim, ws, epoch, minCount, neg, wordNgrams, loss (3: softmax), model (3: supervised), bucket, minn, maxn, lrUpdateRate, t;
    dictionary: size, words, labels, tokens, pruned; entries; then each matrix behind a flag for quantization. `</s>`, which each line gets, is neutral.
    """
    words = {"</s>": (0.0, 0.0)} | words
    data = struct.pack("<ii12id", 793712314, 12, 2, 5, 5, 1, 5, 1, 3, 3, 0, 0, 0, 100, 1e-4)
    data += struct.pack("<iiiqq", len(words) + 2, len(words), 2, 1000, -1)
    for kind, names in ((0, words), (1, labels)):
        for name in names:
            data += name.encode() + b"\0" + struct.pack("<qb", 10, kind)
    data += struct.pack("<?qq", False, len(words), 2) + b"".join(struct.pack("<ff", *vector) for vector in words.values())
    data += struct.pack("<?qq4f", False, 2, 2, 1.0, 0.0, 0.0, 1.0)
    path.write_bytes(data)
    return path


@pytest.fixture
def model(tmp_path: Path) -> str:
    pytest.importorskip("fasttext", reason="needs fasttext-predict (the extra fasttext)")
    return str(write_fasttext_model(tmp_path / "tiny.bin", words={"the": (9.0, 0.0), "der": (0.0, 9.0)}, labels=("__label__en", "__label__de")))


def test_a_model_of_the_user(model: str) -> None:
    expected = 1 / (1 + math.exp(-9 * (3 - 1) / 5))  # the mean over three words, one and the end of the line
    found = identify_language("the the\nder the", LanguageRules(model=model))
    assert found.code == "en" and found.probability == pytest.approx(expected, abs=1e-4)
    assert found.scores == {"language_probability": found.probability}
    assert identify_language("der", LanguageRules(model=model)).code == "de"


def test_a_probability_below_the_bound_finds_nothing(model: str) -> None:
    even = identify_language("the der", LanguageRules(model=model, min_probability=0.65))
    assert even.code == UNKNOWN and even.probability == pytest.approx(0.5, abs=1e-3)
    assert identify_language("the der", LanguageRules(model=model, min_probability=0.4)).code in ("en", "de")


@pytest.mark.parametrize("text", ["", "\n\n", "\ud800 the", "the\0der", "a" * 1_000_000])
def test_a_model_takes_any_text(model: str, text: str) -> None:
    assert 0 <= (identify_language(text, LanguageRules(model=model)).probability or 0) <= 1


def test_a_model_that_is_none_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing\.bin.*--text\.language\.model"):
        identify_language("a", LanguageRules(model=str(tmp_path / "missing.bin")))
    pytest.importorskip("fasttext", reason="needs fasttext-predict (the extra fasttext)")
    (tmp_path / "wrong.bin").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"wrong\.bin is no fastText model \(--text\.language\.model\)"):
        identify_language("a", LanguageRules(model=str(tmp_path / "wrong.bin")))
