"""The language of a text: resiliparse's fast detector, or a fastText model that the user gives.

    text --> detect_fast (built in): code, rank          text --> fastText model: code, probability
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from resiliparse.parse.lang import detect_fast, supported_langs

from lcl.core.config import config
from lcl.core.rejected import Reason, Rejected

UNKNOWN = "unknown"
LABEL_PREFIX = "__label__"
MAX_CHARACTERS = 100_000  # read by a fastText model; more does not change its mind


@config
class LanguageRules:
    keep: tuple[str, ...] = ()
    """Languages to keep, as the detector names them (ISO 639-1: en de zh); none given: all."""
    max_rank: Annotated[int, Field(ge=0)] = 1200
    """Worst rank of the built-in detector that counts as found (resiliparse: ranks above 1200 are usually false)."""
    model: str = ""
    """A fastText model file (lid.176.bin, lid.176.ftz) to ask instead; needs `pip install 'lcl[fasttext]'`."""
    min_probability: Annotated[float, Field(ge=0, le=1)] = 0.65
    """Least probability of a fastText model that counts as found (datatrove: 0.65, OBELICS: 0.8)."""


@dataclass(frozen=True)
class Language:
    """What a detector found: a code, and how well it fits by `rank` (0 is best) or by `probability` (1 is best)."""

    code: str
    rank: int | None = None
    probability: float | None = None

    @property
    def scores(self) -> dict[str, float]:
        """As kept with a document: language_rank or language_probability."""
        named = {"language_rank": self.rank, "language_probability": self.probability}
        return {name: float(value) for name, value in named.items() if value is not None}


def identify_language(text: str, rules: LanguageRules) -> Language:
    """The language of `text`, with the code `unknown` where its rank or probability is worse than the rules ask.

    A rank is the sum of differences between the text's frequencies of letters and letter pairs and those of the language's Wikipedia, in
    whole numbers (resiliparse calls it out-of-place): a distance and no probability, smaller for longer texts. A fastText model gives a
    probability. Raises ValueError if its file or its package is missing.
    """
    if not rules.model:
        code, rank = detect_fast(text, cutoff=rules.max_rank)
        return Language(code, rank=int(rank))
    line = text[:MAX_CHARACTERS].replace("\n", " ").encode("utf-8", "replace").decode()  # half of a surrogate pair is no text for it
    labels, probabilities = _load_model(rules.model).predict(line, k=1)
    if not len(labels):  # no word that the model knows
        return Language(UNKNOWN, probability=0.0)
    probability = min(1.0, float(probabilities[0]))  # the library gives up to 1.00005
    return Language(labels[0].removeprefix(LABEL_PREFIX) if probability >= rules.min_probability else UNKNOWN, probability=probability)


def check_languages(rules: LanguageRules) -> None:
    """Raises ValueError for a language that the built-in detector never finds, so that no document would be kept for it."""
    unknown = sorted({*rules.keep} - {*supported_langs(), UNKNOWN}) if not rules.model else []
    if unknown:
        raise ValueError(f"--text.language.keep {' '.join(unknown)}: the detector knows {' '.join(sorted(supported_langs()))}")


def check_language(language: Language, rules: LanguageRules) -> None:
    """Raises Rejected if the rules name languages to keep and this is none of them."""
    if rules.keep and language.code not in rules.keep:
        raise Rejected(Reason.LANGUAGE, language.code)


@functools.cache
def _load_model(path: str) -> Any:
    if not Path(path).is_file():
        raise ValueError(f"there is no language model {path}; give a fastText model file (--text.language.model), or none for the built-in detector")
    try:
        import fasttext
    except ImportError as error:
        raise ValueError("a language model (--text.language.model) needs the package fasttext-predict: pip install 'lcl[fasttext]'") from error
    try:
        return fasttext.load_model(path)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is no fastText model (--text.language.model): {error}") from error
