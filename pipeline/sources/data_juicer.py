"""data-juicer's multimodal parquet (arXiv:2309.02033): a text with a token at the place of each image.

    text "<__dj__image> A bed. <|__dj__eoc|>", images [path or address], image_bytes [bytes] --> pieces in the text's order
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from lcl.core.document import PARAGRAPH_BREAK
from lcl.core.rejected import Reason, Rejected
from pipeline.raw import Piece, RawDocument
from pipeline.sources.options import SourceOptions
from pipeline.sources.parquet_rows import read_parquet_rows, read_schema
from pipeline.sources.pieces import each, field, image_at, raw_document
from pipeline.storage import Input

IMAGE_TOKEN = "<__dj__image>"  # data_juicer.utils.mm_utils.SpecialTokens
END_OF_CHUNK = "<|__dj__eoc|>"


def is_data_juicer(schema: pa.Schema) -> bool:
    return {"text", "images"} <= set(schema.names) and pa.types.is_list(schema.field("images").type) and pa.types.is_string(schema.field("text").type)


def read_data_juicer(source: Input, options: SourceOptions) -> Iterator[RawDocument | Rejected]:
    """Documents in row order. Raises NotASource without the columns `text` and `images`."""
    columns = ["text", "images", *(name for name in ("image_bytes",) if name in read_schema(source).names)]
    return each(read_parquet_rows(source, columns), lambda item: _document(*item, file=source.name))


def _document(number: int, row: Mapping[str, Any], *, file: str) -> RawDocument:
    where = f"{file}, row {number}"
    text = field(row, "text", str, where=where).replace(END_OF_CHUNK, PARAGRAPH_BREAK)
    addresses = field(row, "images", list, where=where) if row["images"] is not None else []
    held = row.get("image_bytes") or [None] * len(addresses)
    before, *behind = text.split(IMAGE_TOKEN)
    if not len(behind) == len(addresses) == len(held):
        raise Rejected(Reason.ROW_MALFORMED, f"{where}: {len(behind)} tokens, {len(addresses)} images and {len(held)} images' bytes")
    pieces: list[Piece | None] = [before]
    for address, data, part in zip(addresses, held, behind, strict=True):
        pieces += [image_at(address, data=data), part]
    return raw_document(pieces, file=file, row=number, order="page")
