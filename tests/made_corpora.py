"""Extracted documents for the tests of deduplication, written as the extract phase writes them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from lcl.core.document import key_of
from pipeline.dedup.signature import SignatureConfig, signature_fields, signature_of

SIGNATURE = SignatureConfig()


@dataclass(frozen=True)
class Extracted:
    text: str
    url: str
    file: str = "a.warc.gz"
    offset: int = 0
    images: tuple[str, ...] = ()
    hashes: tuple[str | None, ...] | None = field(default=None)

    @property
    def key(self) -> str:
        return key_of(self.file, self.offset, self.url)


def write_split(path: Path, documents: Sequence[Extracted], *, settings: SignatureConfig = SIGNATURE, row_group_size: int = 5, with_hashes: bool = False) -> None:
    rows = []
    for document in documents:
        signature = signature_of(document.url, document.text, settings)
        rows.append(
            {
                "key": document.key, "file": document.file, "offset": document.offset, "page_url": document.url,
                "domain": urlsplit(document.url).hostname or "", "text": document.text, "image_urls": list(document.images),
                "image_sha256": list(document.hashes or ()), "url_hash": signature.url_hash, "text_hash": signature.text_hash, "minhash": signature.minhash,
            }
        )  # fmt: skip
    texts = [(name, pa.string()) for name in ("key", "file", "page_url", "domain", "text")]
    lists = [("image_urls", pa.list_(pa.string()))] + [("image_sha256", pa.list_(pa.string()))] * with_hashes
    schema = pa.schema([*texts, ("offset", pa.int64()), *lists, *signature_fields(settings)])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=row_group_size)


def write_corpus(folder: Path, documents: Sequence[Extracted], **options: object) -> Path:
    """A split per crawl file, each in the order of offsets, in `folder`/extracted."""
    for file in sorted({document.file for document in documents}) or ["a.warc.gz"]:
        own = sorted((document for document in documents if document.file == file), key=lambda document: document.offset)
        write_split(folder / "extracted" / f"{file.partition('.')[0]}.parquet", own, **options)
    return folder


def read_lists(folder: Path) -> dict[str, dict]:
    """Rows of all lists by key."""
    return {row["key"]: row for path in sorted((folder / "dedup" / "lists").glob("*.parquet")) for row in pq.read_table(path).to_pylist()}


def result_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted((folder / "dedup").rglob("*")) if path.is_file()}
