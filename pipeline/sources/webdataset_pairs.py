"""A WebDataset tar of pairs, as img2dataset writes it: an image and its caption for each sample.

    KEY.jpg|png|webp|... + KEY.txt, KEY.json {"caption", "url", ...} --> a document of one image and its caption
"""

from collections.abc import Iterator
from typing import Any

from lcl.core.rejected import Reason, Rejected
from pipeline.raw import RawDocument
from pipeline.sources.mint import read_json_member
from pipeline.sources.options import SourceOptions
from pipeline.sources.pairs import SCORE_COLUMNS, SIMILARITY_COLUMNS
from pipeline.sources.pieces import each, finite, image_at, raw_document, scores_of
from pipeline.sources.tar_samples import Sample, read_samples
from pipeline.storage import Input

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif")
TEXT_ENDINGS = ("txt", "caption", "text")
TEXT_FIELDS = ("caption", "text")


def read_webdataset_pairs(source: Input, options: SourceOptions) -> Iterator[RawDocument | Rejected]:
    """One document for each sample, in file order; `crawl.offset` is the byte offset of its first header.

    The caption is the sample's text member, else `caption` or `text` of its .json; the address is the .json's `url`. Other members
    (.cls, .npy, .pyd, ...) are left alone.
    """
    return each(read_samples(source), lambda sample: _document(sample, file=source.name))


def _document(sample: Sample, *, file: str) -> RawDocument:
    where = f"{file}, sample {sample.name}"
    row: dict[str, Any] = read_json_member(sample, where) if "json" in sample.members else {}
    image = next((sample.members[ending] for ending in IMAGE_ENDINGS if ending in sample.members), None)
    if image is None:
        raise Rejected(Reason.ROW_MALFORMED, f"{where}: no image among {', '.join(sorted(sample.members))}")
    text = next((sample.members[ending].decode("utf-8", "replace") for ending in TEXT_ENDINGS if ending in sample.members), None)
    if text is None:
        text = next((row[name] for name in TEXT_FIELDS if isinstance(row.get(name), str)), "")
    similarity = next((value for name in SIMILARITY_COLUMNS if (value := finite(row.get(name))) is not None), None)
    reference = image_at(row.get("url"), similarity=similarity, data=image)
    return raw_document([reference, text], file=file, row=sample.offset, page_url=row.get("url"), order="none", scores=scores_of(row, SCORE_COLUMNS))
