"""Multimodal C4 (Zhu et al. 2023, arXiv:2304.06939): sentences, and images matched to them.

    {"text_list", "image_info": [{"raw_url", "matched_text_index", "matched_sim"}]} --> each image before its sentence
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from lcl.core.rejected import Rejected
from pipeline.raw import ImageReference, Piece, RawDocument
from pipeline.sources.json_rows import read_json_rows
from pipeline.sources.options import SourceOptions
from pipeline.sources.pieces import each, field, image_at, raw_document
from pipeline.storage import Input


def read_mmc4(source: Input, options: SourceOptions) -> Iterator[RawDocument | Rejected]:
    """Documents of a shard (`docs_shard_*`, `docs_no_face_shard_*`; .jsonl, .jsonl.gz or .zip), in file order.

    An image keeps the similarity and the index of its sentence; those of one sentence stand in the order of `image_info`. Sentences
    between two images are joined by spaces. The similarity matrix is not kept: it says nothing about the order beyond the matching.
    """
    return each(read_json_rows(source), lambda item: _document(*item, file=source.name))


def _document(number: int, row: dict[str, Any], *, file: str) -> RawDocument:
    where = f"{file}, row {number}"
    sentences = [sentence if isinstance(sentence, str) else "" for sentence in field(row, "text_list", list, where=where)]
    images: dict[int, list[ImageReference]] = defaultdict(list)
    unusable = 0
    for info in field(row, "image_info", list, where=where):
        index = info.get("matched_text_index") if isinstance(info, dict) else None
        is_index = isinstance(index, int) and not isinstance(index, bool) and 0 <= index < len(sentences)
        image = image_at(info.get("raw_url"), similarity=info.get("matched_sim"), sentence=index) if is_index else None
        if image is None:
            unusable += 1
        else:
            images[index].append(image)
    pieces: list[Piece | None] = [None] * unusable
    run: list[str] = []
    for index, sentence in enumerate(sentences):
        if index in images:
            pieces += [" ".join(run), *images[index]]
            run = []
        run.append(sentence)
    pieces.append(" ".join(run))
    scores = {"could_have_url_duplicate": 1.0} if row.get("could_have_url_duplicate") else {}
    return raw_document(pieces, file=file, row=number, page_url=row.get("url"), order="matched", scores=scores)
