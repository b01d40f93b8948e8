"""Entry point: documents per second of the text rules, and how often they decide as the code that their numbers come from.

    python benchmarks/text_rules.py --pages crawl.warc.gz articles/ --output text_rules.json --obelics path/to/OBELICS

    pages --extract--> texts --our presets------------------> seconds of processor time, documents kept, reasons
                             --OBELICS' own functions-------> the same, and agreement paragraph by paragraph
                             --datatrove's filters, if here-> the same, and agreement document by document

OBELICS is read from a checkout (`git clone https://github.com/huggingface/OBELICS`): it is no package, and its models (fastText, KenLM) and its list of
common words are left out on both sides. datatrove is compared where `pip install datatrove spacy` was done.
"""

import gzip
import logging
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from lcl.core.config import config, run_command
from lcl.core.document import PARAGRAPH_BREAK
from lcl.core.logs import set_up_logging
from lcl.core.rejected import Rejected
from lcl.measured import write_result
from pipeline.crawl import Response, read_crawl
from pipeline.pages.extract import decode_page, extract_pieces
from pipeline.text.language import LanguageRules
from pipeline.text.line_scores import split_paragraphs
from pipeline.text.personal_data import PersonalDataRules
from pipeline.text.text_arrays import Texts
from pipeline.text.text_rules import PRESETS, Scorer, TextRules, WordLists, broken_bounds, filter_text
from pipeline.text.word_lists import hash_words, stop_words

log = logging.getLogger(__name__)

NUM_SORTS = 5000


@config
class TextRulesConfig:
    output: str
    """JSON file for the numbers."""
    pages: Annotated[tuple[str, ...], Field(min_length=1)]
    """Crawl files (WARC, ARC) and folders of HTML files, gzipped or not."""
    max_documents: Annotated[int, Field(ge=1)] = 1000
    """Documents that are taken, at most: every so many of them, so that each input has its share."""
    rounds: Annotated[int, Field(ge=1)] = 5
    """Times that each is measured; the fastest counts."""
    obelics: str = ""
    """A checkout of OBELICS to compare with."""


Document = list[Any]


def main(config: TextRulesConfig) -> None:
    set_up_logging()
    documents = _take(list(_read_documents(config.pages)), config.max_documents)
    texts = [PARAGRAPH_BREAK.join(piece for piece in document if isinstance(piece, str)) for document in documents]
    measured: dict[str, Any] = {
        "documents": len(documents), "characters": sum(map(len, texts)), "paragraphs": sum(len(split_paragraphs(text)) for text in texts),
        "sort_of_5000_words_us": round(_seconds(_sort, config.rounds) * 1e6 / NUM_SORTS, 1),
    }  # fmt: skip
    log.info("%(documents)d documents, %(characters)d characters, %(paragraphs)d paragraphs", measured)
    measured["ours"] = {name: _measure(documents, rules, config.rounds) for name, rules in _variants().items()}
    english = [text for text in texts if _is_english(text)]
    if config.obelics:
        measured["obelics"] = _compare_obelics(english, _load_obelics(Path(config.obelics)), config.rounds)
    if find_spec("datatrove") and find_spec("spacy"):
        measured["datatrove"] = _compare_datatrove(english, config.rounds)
    write_result(Path(config.output), config, measured)


def _variants() -> dict[str, TextRules]:
    every_kind = PersonalDataRules(redact=("email", "iban", "card", "phone", "ip"))
    return PRESETS | {
        "obelics, scores of its bounds only": replace(PRESETS["obelics"], all_scores=False),
        "obelics, personal data redacted": replace(PRESETS["obelics"], personal_data=every_kind),
    }


def _read_documents(inputs: Sequence[str]) -> Iterator[Document]:
    for name in inputs:
        for body, content_type in _read_pages(Path(name)):
            try:
                yield extract_pieces(decode_page(body, content_type), "https://page.example/")
            except Rejected:
                continue


def _read_pages(path: Path) -> Iterator[tuple[bytes, str]]:
    if path.is_dir():
        for page in sorted(path.rglob("*.html*")):
            body = page.read_bytes()
            yield (gzip.decompress(body) if page.suffix == ".gz" else body), ""
        return
    for response in read_crawl(path):
        if isinstance(response, Response) and response.status == 200 and response.media_type == "text/html":
            yield response.body, response.headers.get("content-type", "")


def _take(documents: list[Document], most: int) -> list[Document]:
    step = max(1, -(-len(documents) // most))
    return documents[::step]


def _is_english(text: str) -> bool:
    try:
        return filter_text([text], TextRules(language=LanguageRules(keep=("en",)), all_scores=False)) is not None
    except Rejected:
        return False


def _seconds(work: Callable[[], object], rounds: int) -> float:
    """Processor time of the fastest of some rounds: other work on the machine disturbs it less than wall clock."""
    best = float("inf")
    for _ in range(rounds):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return best


def _sort() -> None:
    """A yardstick for the machine, sorts of 5,000 64-bit numbers: 12 us each on an idle core of the one where the figures in docs/ were measured."""
    values = np.random.default_rng(0).integers(0, 2**64, 5000, dtype=np.uint64)
    for _ in range(NUM_SORTS):
        np.sort(values)


def _measure(documents: Sequence[Document], rules: TextRules, rounds: int) -> dict[str, Any]:
    reasons: Counter[str] = Counter()
    paragraphs: Counter[str] = Counter()

    def judge() -> None:
        reasons.clear()
        paragraphs.clear()
        for document in documents:
            try:
                paragraphs.update(filter_text(document, rules).dropped_paragraphs)
                reasons["out"] += 1
            except Rejected as rejected:
                reasons[rejected.reason] += 1

    seconds = _seconds(judge, rounds)
    return {"documents_per_second": round(len(documents) / seconds), "documents": dict(reasons), "paragraphs_dropped": dict(paragraphs)}


def _load_obelics(checkout: Path) -> tuple[Any, ModuleType]:
    """OBELICS' functions and word lists from its files; what they import and is not asked here (models, emoji) need not be installed."""
    if not (checkout / "obelics").is_dir():
        raise ValueError(f"--obelics {checkout} is no checkout of OBELICS: it has no folder obelics")
    absent = {name: ModuleType(name) for name in ("fasttext", "kenlm", "sentencepiece", "emoji") if name not in sys.modules}
    if "emoji" in absent:
        absent["emoji"].UNICODE_EMOJI = {"en": {}}
    package, functions = ModuleType("obelics.utils"), ModuleType("obelics.functions")
    lists = ModuleType("obelics.lists")
    sys.modules.update(absent | {"obelics": ModuleType("obelics"), "obelics.utils": package})
    exec(compile((checkout / "obelics/utils/filtering_utils.py").read_text(), "filtering_utils.py", "exec"), lists.__dict__)
    package.SPECIAL_CHARACTERS = lists.SPECIAL_CHARACTERS
    exec(compile((checkout / "obelics/processors/web_document_filtering.py").read_text(), "web_document_filtering.py", "exec"), functions.__dict__)
    for name in absent:
        del sys.modules[name]
    return functions.FilteringFunctions, lists


def _compare_obelics(texts: Sequence[str], loaded: tuple[Any, ModuleType], rounds: int) -> dict[str, Any]:
    """Agreement on each paragraph with OBELICS' list of stop words and with ours, and its speed."""
    theirs, lists = loaded
    paragraphs = [paragraph for text in texts for paragraph in split_paragraphs(text)]
    bounds = replace(PRESETS["obelics"].paragraph, min_common_words=None)
    special = lists.SPECIAL_CHARACTERS

    def keeps(text: str) -> bool:
        return (
            theirs.check_number_words(text, special, bounds.min_words, bounds.max_words)
            and theirs.check_character_repetition_ratio(text, bounds.character_ngram, bounds.max_character_repetition)
            and theirs.check_word_repetition_ratio(text, special, bounds.word_ngram, bounds.max_word_repetition)
            and theirs.check_special_character_ratio(text, special, bounds.max_special_characters)
            and theirs.check_stopword_ratio(text, special, lists.STOPWORDS, bounds.min_stop_words)
            and theirs.check_flagged_word_ratio(text, special, lists.FLAGGED_WORDS, bounds.max_flagged_words)
            and theirs.check_punctuation_ratio(text, lists.PUNCTUATION, bounds.min_punctuation, bounds.punctuation_min_parts)
        )

    flagged = hash_words(lists.FLAGGED_WORDS)
    decisions = [keeps(paragraph) for paragraph in paragraphs]
    ratios: dict[str, float] = {}
    agreement: dict[str, float] = {}
    for name, stop in (("their stop words", hash_words(lists.STOPWORDS)), ("our stop words", stop_words("en"))):
        scorer = Scorer(Texts(paragraphs), bounds, WordLists(stop=stop, flagged=flagged))
        found = [reason is None for reason in broken_bounds(scorer, bounds)]
        agreement[name] = round(float(np.mean(np.array(found) == np.array(decisions))), 4)
        ratios[name] = round(float(np.mean(Scorer(Texts(list(texts)), bounds, WordLists(stop=stop)).score("stop_words"))), 4)
    seconds = _seconds(lambda: [keeps(paragraph) for paragraph in paragraphs], min(rounds, 2))
    ours = _seconds(lambda: [broken_bounds(Scorer(Texts(split_paragraphs(text)), bounds, WordLists(stop=stop_words("en"), flagged=flagged)), bounds) for text in texts], rounds)
    return {
        "paragraphs": len(paragraphs), "kept": sum(decisions), "agreement": agreement, "mean_stop_word_ratio_of_documents": ratios,
        "paragraph_rules_documents_per_second": {"theirs": round(len(texts) / seconds), "ours": round(len(texts) / ours)},
    }  # fmt: skip


def _compare_datatrove(texts: Sequence[str], rounds: int) -> dict[str, Any]:
    """Agreement on each document with datatrove's filters, alone, and their speed. They read one line break where ours has two."""
    document = import_module("datatrove.data").Document
    filters = import_module("datatrove.pipeline.filters")
    gopher, fineweb = PRESETS["gopher"].document, PRESETS["fineweb"].document
    repetition = [item for item in vars(gopher) if re.search("duplicate|gram$", item)]
    pairs = {
        "gopher quality": (filters.GopherQualityFilter(), replace(gopher, **dict.fromkeys(repetition))),
        "gopher repetition": (filters.GopherRepetitionFilter(), replace(PRESETS["minimal"].document, min_words=None, **{name: getattr(gopher, name) for name in repetition})),
        "fineweb": (
            filters.FineWebQualityFilter(),
            replace(PRESETS["minimal"].document, min_words=None, **{name: getattr(fineweb, name) for name in ("min_line_punctuation", "max_short_lines", "max_duplicate_line_characters", "max_newlines")}),
        ),
    }  # fmt: skip
    lists = WordLists(stop=stop_words("en"), gopher=hash_words("the be to of and that have with".split()))
    found: dict[str, Any] = {}
    theirs_input = [document(text=text.replace(PARAGRAPH_BREAK, "\n"), id="") for text in texts]
    words = import_module("datatrove.utils.text")
    for name, (theirs, bounds) in pairs.items():
        def judge_theirs(theirs: Any = theirs) -> list[bool]:
            words.split_into_parts.cache_clear()
            return [theirs.filter(item) is True for item in theirs_input]

        def judge_ours(bounds: Any = bounds) -> list[bool]:
            return [broken_bounds(Scorer(Texts([text]), bounds, lists), bounds) == [None] for text in texts]

        one, two = judge_theirs(), judge_ours()
        found[name] = {
            "kept": {"theirs": sum(one), "ours": sum(two)}, "agreement": round(float(np.mean(np.array(one) == np.array(two))), 4),
            "documents_per_second": {"theirs": round(len(texts) / _seconds(judge_theirs, min(rounds, 2))), "ours": round(len(texts) / _seconds(judge_ours, rounds))},
        }  # fmt: skip
    return {"documents": len(texts)} | found


if __name__ == "__main__":
    run_command(TextRulesConfig, main, description=__doc__.splitlines()[0])
