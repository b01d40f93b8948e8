"""The texts of a document that an image can belong to: its paragraphs, or its sentences. Joined again they give the text back.

    text segments --> paragraphs (at blank lines) --> sentences (behind a mark that ends one)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import regex

from lcl.core.document import PARAGRAPH_BREAK, Document

Unit = Literal["paragraph", "sentence"]

CLOSERS = "\"'”’»)\\]」』）"
# Behind . ! ? … and what closes a quotation, where white space follows; behind full-width marks with or without. Abbreviations split as well.
SENTENCE_BREAK = regex.compile(rf"(?<=[.!?…][{CLOSERS}]{{0,3}})\s+|(?<=[。！？][{CLOSERS}]{{0,3}})\s*(?![{CLOSERS}\s]|$)")


@dataclass(frozen=True)
class TextUnit:
    """One text, and what stands between it and the one before (empty for the first)."""

    text: str
    joint: str


def text_units(document: Document, unit: Unit) -> list[TextUnit]:
    """All units of the document in order. Texts on both sides of an image are different paragraphs."""
    paragraphs = [paragraph for text in document.texts for paragraph in text.split(PARAGRAPH_BREAK)]
    units: list[TextUnit] = []
    for paragraph in paragraphs:
        found = [TextUnit(paragraph, "")] if unit == "paragraph" else _sentences(paragraph)
        units += [replace(found[0], joint=PARAGRAPH_BREAK if units else ""), *found[1:]]
    return units


def _sentences(paragraph: str) -> list[TextUnit]:
    breaks = [match for match in SENTENCE_BREAK.finditer(paragraph) if 0 < match.start() and match.end() < len(paragraph)]
    starts, ends = [0, *(match.end() for match in breaks)], [*(match.start() for match in breaks), len(paragraph)]
    joints = ["", *(match[0] for match in breaks)]
    return [TextUnit(paragraph[start:end], joint) for start, end, joint in zip(starts, ends, joints, strict=True)]


def joined(units: Sequence[TextUnit]) -> str:
    """The text of consecutive units, without what stands before the first. Inverse of `text_units` for a document without images."""
    return "".join(unit.joint * bool(number) + unit.text for number, unit in enumerate(units))
