"""Removal from a set of shards, in place: only shards that hold something listed are read or written.

    catalogues --> rows that are hit --> the shard again without them, as its next revision:
        removals/NAME.rN.json (what goes and why) --> NAME.rN.tar, NAME.rN.parquet --> NAME.json, renamed into place: now it holds --> old files go

A kill before that rename leaves the old shard, after it the new one; the same command finishes.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from lcl.core.config import config
from lcl.core.document import PARAGRAPH_BREAK, Document, ImageSegment, Segment, TextSegment, from_members, with_summary
from lcl.core.files import locked_folder, sync_folder, write_json
from lcl.core.logs import progress_bar
from lcl.core.selection import is_selection
from lcl.core.shards import Shard, data_file, find_shards, read_bytes, read_members, verify_shard, write_shard
from pipeline.tools.takedown import Takedown, read_takedown

SCHEMA = "lcl-removal/1"
FOLDER = "removals"
COLUMNS = ("page_url", "domain", "image_url", "image_sha256", "image_source_sha256", "image_phash")


@config
class RemoveConfig:
    shards: Annotated[tuple[str, ...], Field(min_length=1)]
    """Folders of shards that are changed in place."""
    urls: str | None = None
    """Text file of addresses, one a line: documents of these pages, and images from these addresses."""
    domains: str | None = None
    """Text file of domains: documents of their pages and images that they served, subdomains included."""
    hashes: str | None = None
    """Text file of image hashes: SHA-256 of the stored or captured bytes (64 hex digits), or perceptual hashes (16)."""
    phash_bits: Annotated[int, Field(ge=0, le=16)] = 0
    """Bits in which a perceptual hash may differ from a listed one; 0: none."""
    min_images: Annotated[int, Field(ge=0)] = 1
    """A document that loses an image and is left with fewer than these goes as a whole; 0 keeps it for its text."""
    note: str = ""
    """Kept in the log of this removal, e.g. who asked for it and when."""


@dataclass(frozen=True)
class Hit:
    """What is listed in one document: a reason for the whole of it, or reasons by the number of the image."""

    document: str
    images: dict[int, str]


def find_hits(table: pa.Table, takedown: Takedown) -> dict[int, Hit]:
    """What is listed, by row of a catalogue with COLUMNS."""
    hits: dict[int, Hit] = {}
    columns = [table[name].to_pylist() for name in COLUMNS]
    for row, (page_url, domain, urls, stored, captured, phashes) in enumerate(zip(*columns, strict=True)):
        document = takedown.document_reason(page_url=page_url, domain=domain)
        images = {
            number: reason
            for number, (url, *hashes, phash) in enumerate(zip(urls, stored, captured, phashes, strict=True))
            if (reason := takedown.image_reason(url=url, hashes=hashes, phash=phash))
        }
        if document or images:
            hits[row] = Hit(document, images)
    return hits


def without_images(document: Document, numbers: Sequence[int]) -> Document:
    """The document without these of its images and what its scores said of them; texts that meet are joined by a paragraph break."""
    segments: list[Segment] = []
    number = -1
    for segment in document.segments:
        if isinstance(segment, ImageSegment):
            number += 1
            if number in numbers:
                continue
        elif segments and isinstance(segments[-1], TextSegment):
            segments[-1] = TextSegment(segments[-1].text + PARAGRAPH_BREAK + segment.text)
            continue
        segments.append(segment)
    return with_summary(replace(document, segments=tuple(segments)), before=document)


def remove_documents(settings: RemoveConfig) -> dict[str, int]:
    """Removes what is listed and returns counts: shards searched and rewritten, documents and images removed by this call.

    Raises ValueError if nothing is listed, for a selection, for a shard whose catalogue cannot be searched or whose bytes are
    damaged, and if another process changes the set.
    """
    takedown = read_takedown(urls=settings.urls, domains=settings.domains, hashes=settings.hashes, phash_bits=settings.phash_bits)
    if not (takedown.urls or takedown.domains or takedown.sha256 or takedown.phash):
        raise ValueError("nothing is listed; give --urls, --domains or --hashes, text files with one entry a line")
    folders = [Path(folder) for folder in settings.shards]
    for folder in folders:
        if is_selection(folder):
            raise ValueError(f"{folder} is a selection, which holds no bytes; remove from the shards that it names, then select again")
    counts: Counter[str] = Counter(shards=0, rewritten=0, documents=0, images=0)
    for folder in folders:
        shards = find_shards([folder])
        _check_searchable(shards)
        with locked_folder(folder), progress_bar(f"{folder.name} shards", total=len(shards)) as bar:
            for shard in find_shards([folder]):  # again: until the lock was ours, another removal could change them
                _sweep(shard)
                counts.update(_remove_from(shard, takedown, settings))
                bar.advance()
    return dict(counts)


def _check_searchable(shards: Sequence[Shard]) -> None:
    for shard in shards:
        if not shard.stored_columns().issuperset(COLUMNS):
            raise ValueError(f"{shard.path}: its catalogue is of an early version without image addresses; `lcl repack` the set first, then remove from that")


def _sweep(shard: Shard) -> None:
    """Deletes files of other revisions, which a kill left on either side of a commit."""
    stem, revision = shard.path.stem, shard.sidecar.get("revision", 0)
    kept = {data_file(shard.path, revision, suffix) for suffix in (".tar", ".parquet")}
    others = {data_file(shard.path, other, suffix) for other in (revision - 1, revision + 1) if other >= 0 for suffix in (".tar", ".parquet")}
    for path in sorted(others - kept):
        is_of_namesake = path.with_suffix(".json").exists() and path.stem != stem  # a shard that is called NAME.rN
        if path.exists() and not is_of_namesake:
            path.unlink()


def _remove_from(shard: Shard, takedown: Takedown, settings: RemoveConfig) -> Counter[str]:
    """Writes the shard's next revision, if it holds anything that is listed."""
    hits = find_hits(shard.catalogue(COLUMNS), takedown)
    if not hits:
        return Counter(shards=1)
    verify_shard(shard.path)  # damage must not get a new checksum
    documents, log = _plan(shard, hits, settings)
    revision = shard.sidecar.get("revision", 0) + 1
    before = shard.sidecar.get("removed", {"documents": 0, "images": 0})
    gone = {"documents": len(log["documents"]), "images": len(log["images"])}
    (shard.path.parent / FOLDER).mkdir(exist_ok=True)
    write_json(shard.path.parent / FOLDER / f"{shard.path.stem}.r{revision}.json", log | {"revision": revision})
    write_shard(
        shard.path.parent, shard.path.stem, _rest(shard, documents), origin=shard.sidecar["origin"], revision=revision,
        removed={kind: before[kind] + gone[kind] for kind in gone},
    )
    _sweep(replace(shard, sidecar=shard.sidecar | {"revision": revision}))
    sync_folder(shard.path.parent)
    return Counter(shards=1, rewritten=1, **gone)


def _plan(shard: Shard, hits: dict[int, Hit], settings: RemoveConfig) -> tuple[dict[int, tuple[int, ...] | None], dict[str, Any]]:
    """For each row that is hit, the images that go (None: the document goes), and the log."""
    table = shard.catalogue(["key", "page_url", "num_images", "num_characters", "image_url", "image_sha256"])
    rows: dict[int, tuple[int, ...] | None] = {}
    documents, images = [], []
    for row, hit in hits.items():
        entry = {name: table[name][row].as_py() for name in table.column_names}
        left = entry["num_images"] - len(hit.images)
        reason = hit.document or ("left with too few images" if left < settings.min_images or not (left or entry["num_characters"]) else "")
        rows[row] = None if reason else tuple(hit.images)
        if reason:
            documents.append({"key": entry["key"], "page_url": entry["page_url"], "reason": reason})
        for number in range(entry["num_images"]) if reason else hit.images:
            why = hit.images.get(number, "its document")
            images.append({"key": entry["key"], "url": entry["image_url"][number], "sha256": entry["image_sha256"][number], "reason": why})
    return rows, {"schema": SCHEMA, "shard": shard.path.stem, "note": settings.note, "documents": documents, "images": images}


def _rest(shard: Shard, rows: dict[int, tuple[int, ...] | None]) -> Iterator[Document]:
    """The shard's documents without what goes, read one at a time."""
    table = shard.catalogue(["offset", "length"])
    for row, (offset, length) in enumerate(zip(table["offset"].to_pylist(), table["length"].to_pylist(), strict=True)):
        if row in rows and rows[row] is None:
            continue
        document = from_members(read_members(read_bytes(shard.tar, offset=offset, length=length)))
        yield without_images(document, rows[row]) if row in rows else document
