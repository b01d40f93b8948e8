"""Pairs of an image and its caption in parquet, as LAION, COYO, DataComp and img2dataset name their columns.

    URL | bytes, TEXT, similarity, ... --> a document of one image and its caption, without an order
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from lcl.core.rejected import Rejected
from pipeline.raw import RawDocument
from pipeline.sources.options import SourceOptions
from pipeline.sources.parquet_rows import NotASource, read_parquet_rows, read_schema
from pipeline.sources.pieces import each, image_at, raw_document, scores_of
from pipeline.storage import Input

URL_COLUMNS = ("url", "image_url", "img_url", "image_link")
TEXT_COLUMNS = ("text", "caption", "top_caption", "alt_text", "alt")
IMAGE_COLUMNS = ("image_bytes", "jpg", "image", "img", "bytes")
SIMILARITY_COLUMNS = ("similarity", "clip_l14_similarity_score", "clip_b32_similarity_score", "clip_similarity_vitl14", "clip_similarity_vitb32")
SCORE_COLUMNS = (
    "width", "height", "original_width", "original_height", "punsafe", "pwatermark", "watermark_score", "aesthetic", "aesthetic_score",
    "aesthetic_score_laion_v2", *SIMILARITY_COLUMNS,
)  # fmt: skip


def is_pairs(schema: pa.Schema) -> bool:
    options = SourceOptions()
    return bool(_column(schema, "", TEXT_COLUMNS) and (_column(schema, "", URL_COLUMNS) or _image_column(schema, options)))


def read_pairs(source: Input, options: SourceOptions) -> Iterator[RawDocument | Rejected]:
    """One document for each row: its image, then its caption; numbers such as `similarity` or `width` become scores.

    An image column holds bytes, or {"bytes", "path"} as the `datasets` library writes it. The page is the image's address: the row
    is known by nothing else. Raises NotASource naming the columns if no caption, or neither address nor image, is among them.
    """
    schema = read_schema(source)
    text, url, image = _column(schema, options.text_column, TEXT_COLUMNS), _column(schema, options.url_column, URL_COLUMNS), _image_column(schema, options)
    if not text or not (url or image):
        raise NotASource(f"{source} has the columns {', '.join(schema.names)}: say which is which by --source.text-column, --source.url-column, --source.image-column")
    similarity = _column(schema, "", SIMILARITY_COLUMNS)
    others = [name for name in schema.names if name.lower() in SCORE_COLUMNS]

    def document(item: tuple[int, dict[str, Any]]) -> RawDocument:
        number, row = item
        address = row.get(url) if url else ""
        reference = image_at(address, similarity=row.get(similarity), data=_bytes(row.get(image)) if image else None)
        caption = row[text] if isinstance(row[text], str) else ""
        return raw_document([reference, caption], file=source.name, row=number, page_url=address, order="none", scores=scores_of(row, others))

    return each(read_parquet_rows(source, list(dict.fromkeys([name for name in (text, url, image) if name] + others))), document)


def _column(schema: pa.Schema, given: str, known: Sequence[str]) -> str:
    """The column that was given, or the first known one that is there, in any case; empty if there is none."""
    if given and given not in schema.names:
        raise NotASource(f"there is no column {given}; the columns are {', '.join(schema.names)}")
    lower = {name.lower(): name for name in reversed(schema.names)}
    return given or next((lower[name] for name in known if name in lower), "")


def _image_column(schema: pa.Schema, options: SourceOptions) -> str:
    if options.image_column:
        return _column(schema, options.image_column, ())
    return next((name for known in IMAGE_COLUMNS for name in schema.names if name.lower() == known and _holds_bytes(schema.field(name).type)), "")


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(index).name == "bytes" and _holds_bytes(kind.field(index).type) for index in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _bytes(value: Any) -> bytes | None:
    data = value.get("bytes") if isinstance(value, dict) else value
    return data if isinstance(data, bytes) else None
