"""Documents of the sets that a build extends (`--extends`), as tables like those of its own, so that deduplication compares all of them in one way.

    shards of known sets --texts and addresses--> work/known/HASH/NUMBER.parquet, one per shard --> first in the order of pipeline/dedup/corpus.py

Known documents come before all others, so a new one that is like one of them is the one to go; they are never dropped, listed or assembled.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lcl.core.config import hash_of
from lcl.core.document import CrawlOrigin
from lcl.core.shards import Shard, find_shards, fingerprint_of, read_last_member
from pipeline.dedup.signature import SignatureConfig
from pipeline.extracted import to_row, write_rows
from pipeline.raw import ImageReference, Piece, RawDocument
from pipeline.storage import InputUnreadable


def known_shards(folders: Sequence[str], *, output: Path) -> list[Shard]:
    """The shards of all sets and selections that are extended. Raises ValueError as `find_shards` does, and if the output is one of them."""
    paths = [Path(folder).resolve() for folder in folders]
    if output.resolve() in paths:
        raise ValueError(f"--output {output} is one of --extends: a set stays as it is, and what is new gets a folder of its own. Give another --output.")
    return find_shards(paths)


def known_folder(work: Path, shards: Sequence[Shard], signature: SignatureConfig) -> Path:
    """Where the tables of these shards are, and of no others."""
    return work / "known" / f"{fingerprint_of(shards)}-{hash_of(signature)}"


def list_known(shard: Shard, path: Path, signature: SignatureConfig) -> dict[str, int]:
    """Writes the table of one shard and returns its number of documents; some of them are in memory at one time. A table that is there is not made again.

    Raises InputUnreadable if the shard is damaged.
    """
    if not path.exists():
        try:
            write_rows(path, _rows(shard, signature), signature)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputUnreadable(f"{shard.path.with_suffix('')} of --extends cannot be read ({error}); `lcl verify` says what to do") from error
    return {"documents": len(shard)}


def _rows(shard: Shard, signature: SignatureConfig) -> Iterator[dict[str, Any]]:
    table = shard.catalogue(["offset", "length"])
    for offset, length in zip(table["offset"].to_pylist(), table["length"].to_pylist(), strict=True):
        record = json.loads(read_last_member(shard.tar, offset=offset, length=length))
        document = RawDocument(pieces=tuple(_pieces(record)), page_url=record["page_url"], crawl=CrawlOrigin(**record["crawl"]), order=record["order"])
        yield {**to_row(document, language=record["language"], signature=signature), "key": record["key"], "pieces": ""}  # compared, and never assembled


def _pieces(record: dict[str, Any]) -> Iterator[Piece]:
    """Texts and addresses of images; one that was inline in its page has none."""
    for text, image in zip(record["texts"], record["image_metadata"], strict=True):
        yield text if image is None else ImageReference(() if image["url"].startswith("data:") else (image["url"],))
