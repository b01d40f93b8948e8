"""Documents between the phases of a build: one table of a split, whose rows filters and deduplication read and assembly turns into shards.

    RawDocument <--> row of work/extracted/NAME.parquet        in the order of the source
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from lcl.core.document import PARAGRAPH_BREAK, CrawlOrigin, key_of
from lcl.core.files import open_aside
from pipeline.dedup.signature import SignatureConfig, signature_fields, signature_of
from pipeline.raw import ImageReference, Piece, RawDocument

COLUMNS = (
    ("key", pa.string()),
    ("file", pa.string()),
    ("offset", pa.int64()),
    ("date", pa.string()),
    ("page_url", pa.string()),
    ("domain", pa.string()),
    ("language", pa.string()),
    ("order", pa.string()),
    ("license", pa.string()),
    ("text", pa.string()),                      # all paragraphs, by blank lines
    ("image_urls", pa.list_(pa.string())),      # first candidate of each image
    ("pieces", pa.string()),                    # JSON: how text and images alternate
    ("image_data", pa.list_(pa.binary())),      # of images that the source itself holds
    ("scores", pa.map_(pa.string(), pa.float64())),
)
ROWS = 256  # in a group: what is held at one time
GROUP_BYTES = 64 << 20


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], signature: SignatureConfig) -> int:
    """Writes rows as they come, whole or not at all, and returns their number. Groups of them are in memory at one time."""
    count, schema = 0, pa.schema([*(pa.field(*column) for column in COLUMNS), *signature_fields(signature)])
    with open_aside(path) as raw, pq.ParquetWriter(raw, schema, compression="zstd") as writer:
        for group in _groups(rows):
            writer.write_table(pa.Table.from_pylist(list(group), schema=schema))
            count += len(group)
    return count


def _groups(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    group: list[Mapping[str, Any]] = []
    num_bytes = 0
    for row in rows:
        group.append(row)
        num_bytes += len(row["text"]) + sum(map(len, row["image_data"]))
        if len(group) == ROWS or num_bytes >= GROUP_BYTES:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table, a group in memory at one time."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield from file.read_row_group(group).to_pylist()


def to_row(document: RawDocument, *, language: str, signature: SignatureConfig) -> dict[str, Any]:
    """The row of a document. Inverse of `from_row`."""
    text = text_of(document.pieces)
    data: list[bytes] = []
    pieces = []
    for piece in document.pieces:
        if isinstance(piece, str):
            pieces.append({"text": piece})
            continue
        entry: dict[str, Any] = {"image": list(piece.candidates), "alt": piece.alt, "similarity": piece.similarity, "sentence": piece.sentence}
        if any(piece.rendered):
            entry["rendered"] = list(piece.rendered)
        if piece.data is not None:
            entry["data"] = len(data)
            data.append(piece.data)
        pieces.append({name: value for name, value in entry.items() if value not in (None, "")})
    images = [piece for piece in document.pieces if isinstance(piece, ImageReference)]
    return {
        "key": key_of(document.crawl.file, document.crawl.offset, document.page_url),
        "file": document.crawl.file, "offset": document.crawl.offset, "date": document.crawl.date,
        "page_url": document.page_url, "domain": urlsplit(document.page_url).hostname or "",
        "language": language, "order": document.order, "license": document.license,
        "text": text, "image_urls": [image.candidates[0] if image.candidates else "" for image in images],
        "pieces": json.dumps(pieces, ensure_ascii=False), "image_data": data, "scores": list(document.scores.items()),
        **asdict(signature_of(document.page_url, text, signature)),
    }  # fmt: skip


def from_row(row: Mapping[str, Any]) -> RawDocument:
    """The document of a row."""
    pieces: list[Piece] = []
    for entry in json.loads(row["pieces"]):
        if "text" in entry:
            pieces.append(entry["text"])
            continue
        data = row["image_data"][entry["data"]] if "data" in entry else None
        width, height = entry.get("rendered", ("", ""))
        pieces.append(ImageReference(tuple(entry["image"]), entry.get("alt", ""), data, entry.get("similarity"), entry.get("sentence"), (width, height)))
    return RawDocument(
        pieces=tuple(pieces), page_url=row["page_url"], crawl=CrawlOrigin(file=row["file"], offset=row["offset"], date=row["date"]), order=row["order"],
        license=row["license"], scores=dict(row["scores"]),
    )  # fmt: skip


def text_of(pieces: Sequence[Piece]) -> str:
    """All text of a document, paragraphs split by a blank line."""
    return PARAGRAPH_BREAK.join(piece for piece in pieces if isinstance(piece, str))
