"""Our own import format: a line of JSON for each document or pair, images by address or by a path beside the file.

    {"texts": ["Words", null], "images": [null, "https://... or pictures/a.jpg"], "url": "https://..."}    a document
    {"text": "A caption", "image": "https://... or pictures/a.jpg"}                                         a pair
"""

from collections.abc import Iterator
from typing import Any

from lcl.core.rejected import Rejected
from pipeline.raw import ImageReference, Piece, RawDocument
from pipeline.sources.json_rows import read_json_rows
from pipeline.sources.obelics import page_of, texts_beside
from pipeline.sources.options import SourceOptions
from pipeline.sources.pieces import SCHEMES, each, finite, image_at, raw_document
from pipeline.storage import Input, InputUnreadable, open_input

MAX_IMAGE_BYTES = 64 << 20
TEXT_FIELDS = ("text", "caption")
IMAGE_FIELDS = ("image", "url", "image_url")


def read_local_json(source: Input, options: SourceOptions) -> Iterator[RawDocument | Rejected]:
    """Documents and pairs of a .jsonl file, plain, gzipped or zipped, in file order.

    A path is taken from the folder of the file and never leads out of it; an image that is not there or is larger than
    MAX_IMAGE_BYTES is unusable. A document may have `alts` beside its `images`.
    """
    return each(read_json_rows(source), lambda item: (_document if "texts" in item[1] else _pair)(item[1], source, item[0]))


def _document(row: dict[str, Any], source: Input, number: int) -> RawDocument:
    where = f"{source.name}, row {number}"
    texts = texts_beside(row, where)
    alts = row.get("alts") if isinstance(row.get("alts"), list) and len(row["alts"]) == len(texts) else [""] * len(texts)
    pieces: list[Piece | None] = []
    for text, image, alt in zip(texts, row["images"], alts, strict=True):
        if isinstance(text, str):
            pieces.append(text)
        if image is not None:
            pieces.append(_image(image, source, alt=alt))
    return raw_document(pieces, file=source.name, row=number, page_url=page_of(row, where), order="page")


def _pair(row: dict[str, Any], source: Input, number: int) -> RawDocument:
    address = next((row[name] for name in IMAGE_FIELDS if row.get(name)), None)
    text = next((row[name] for name in TEXT_FIELDS if isinstance(row.get(name), str)), "")
    image = _image(address, source, similarity=finite(row.get("similarity")))
    return raw_document([image, text], file=source.name, row=number, page_url=row.get("page_url") or address, order="none")


def _image(value: Any, source: Input, *, alt: Any = "", similarity: float | None = None) -> ImageReference | None:
    if not isinstance(value, str) or value.startswith(SCHEMES):
        return image_at(value, alt=alt, similarity=similarity)
    try:
        with open_input(source.beside(value)) as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except InputUnreadable as error:
        if isinstance(error.__cause__, FileNotFoundError | PermissionError | IsADirectoryError):
            return None
        raise
    except ValueError:  # a path that leads out of the folder
        return None
    return image_at("", alt=alt, similarity=similarity, data=data) if len(data) <= MAX_IMAGE_BYTES else None
