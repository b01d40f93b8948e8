"""What deduplication leaves of a document.

    dedup/lists/NAME.parquet --> Drop by key --without--> RawDocument | Rejected
"""

from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from lcl.core.document import PARAGRAPH_BREAK
from lcl.core.rejected import Reason, Rejected
from pipeline.raw import ImageReference, LostImages, Piece, RawDocument


@dataclass(frozen=True)
class Drop:
    """The reason why a document is left out and the key of the one that was kept for it, or else the numbers of its paragraphs and of its images that are."""

    reason: str | None
    kept: str | None
    paragraphs: frozenset[int]
    images: frozenset[int]


def read_drops(path: Path) -> dict[str, Drop]:
    """The drops of a split, by document key."""
    rows = pq.read_table(path, columns=["key", "reason", "kept", "paragraphs", "images"]).to_pylist()
    return {row["key"]: Drop(row["reason"], row["kept"], frozenset(row["paragraphs"]), frozenset(row["images"])) for row in rows}


def without(document: RawDocument, drop: Drop | None, lost: LostImages) -> RawDocument:
    """The document without what is dropped of it; `lost` gains each such image. Raises Rejected if it is dropped whole."""
    if drop is None:
        return document
    if drop.reason is not None:
        raise Rejected(Reason(drop.reason), drop.kept or "")
    pieces: list[Piece] = []
    paragraph = image = 0
    for piece in document.pieces:
        if isinstance(piece, ImageReference):
            if image in drop.images:
                lost.append((piece, Rejected(Reason.IMAGE_FREQUENT)))
            else:
                pieces.append(piece)
            image += 1
            continue
        paragraphs = piece.split(PARAGRAPH_BREAK)
        kept = PARAGRAPH_BREAK.join(text for number, text in enumerate(paragraphs, paragraph) if number not in drop.paragraphs)
        paragraph += len(paragraphs)
        if kept:
            pieces.append(kept)
    if not any(isinstance(piece, str) for piece in pieces):
        raise Rejected(Reason.NO_TEXT)
    return replace(document, pieces=tuple(pieces))
