"""OBELICS (Laurençon et al. 2023, arXiv:2306.16527) and MINT-1T's HTML part in parquet: documents as parallel lists.

    texts[i] or images[i], the other is null --> pieces in the page's order
    metadata (JSON, parallel) --> alt texts; general_metadata (JSON) or url --> the page
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from lcl.core.rejected import Reason, Rejected
from pipeline.raw import Piece, RawDocument
from pipeline.sources.options import SourceOptions
from pipeline.sources.parquet_rows import read_parquet_rows, read_schema
from pipeline.sources.pieces import each, field, image_at, raw_document
from pipeline.storage import Input

COLUMNS = ("texts", "images")
OTHER_COLUMNS = ("metadata", "general_metadata", "url")
PAGE_FIELDS = ("url", "document_url", "page_url")


def is_obelics(schema: pa.Schema) -> bool:
    return set(COLUMNS) <= set(schema.names)


def read_obelics(source: Input, options: SourceOptions) -> Iterator[RawDocument | Rejected]:
    """Documents of a parquet file in row order. Raises NotASource without the columns `texts` and `images`."""
    schema = read_schema(source)
    rows = read_parquet_rows(source, [*COLUMNS, *(name for name in OTHER_COLUMNS if name in schema.names)])
    return each(rows, lambda item: interleaved(item[1], file=source.name, number=item[0]))


def interleaved(row: Mapping[str, Any], *, file: str, number: int) -> RawDocument:
    """The document of parallel `texts` and `images`; images are addresses. Raises Rejected if the lists do not fit together."""
    where = f"{file}, row {number}"
    images = field(row, "images", list, where=where)
    metadata = _plain(row.get("metadata"), where)
    described = metadata if isinstance(metadata, list) and len(metadata) == len(images) else [None] * len(images)
    pieces: list[Piece | None] = []
    for image, about, text in zip(images, described, texts_beside(row, where), strict=True):
        if isinstance(text, str):
            pieces.append(text)
        if image is not None:
            pieces.append(image_at(image, alt=about.get("alt_text") if isinstance(about, dict) else ""))
    return raw_document(pieces, file=file, row=number, page_url=page_of(row, where), order="page")


def texts_beside(row: Mapping[str, Any], where: str) -> Sequence[Any]:
    """`texts`, checked to be as long as `images`."""
    texts, images = field(row, "texts", list, where=where), field(row, "images", list, where=where)
    if len(texts) != len(images):
        raise Rejected(Reason.ROW_MALFORMED, f"{where}: {len(texts)} texts beside {len(images)} images")
    return texts


def page_of(row: Mapping[str, Any], where: str) -> Any:
    general = _plain(row.get("general_metadata"), where)
    places = [row, general if isinstance(general, dict) else {}]
    return next((place[name] for place in places for name in PAGE_FIELDS if place.get(name)), "")


def _plain(value: Any, where: str) -> Any:
    """The value, read as JSON where it is a string."""
    if not isinstance(value, str) or not value:
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise Rejected(Reason.ROW_MALFORMED, f"{where}: metadata is no JSON: {error}") from error
