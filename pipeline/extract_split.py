"""Phase 1, one input split: its documents as rows of a table, and where its images lie.

    crawl file --+--> pages --> RawDocument ---------------+--> rules --> work/extracted/NAME.parquet
                 +--> images, redirects, revisits --> work/images/NAME.npy (those that cannot be sought: work/crawls/NAME.warc)
    other source ----> RawDocument ------------------------+
                     what is left out --> counted by reason; work/rejects/NAME.extract.parquet, where it is kept
                     counts --> work/extracted/NAME.json, written last: the split is extracted
                     what it took      --> work/timing/extract/NAME.json (pipeline/meter.py)

Bodies are read once and not kept: assembly reads those of images that documents show again, at their offset.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lcl.core.files import read_json, write_json
from lcl.core.rejected import Reason, Rejected
from pipeline.build_config import BuildConfig, extraction_hash
from pipeline.crawl import IMAGE_MAGIC, Response, Revisit, read_crawl
from pipeline.crawl_copy import CrawlCopy
from pipeline.extracted import to_row, write_rows
from pipeline.guard import Guard
from pipeline.image_index import IMAGE, REDIRECT, REVISIT, Entries, address_hash, digest_hash
from pipeline.meter import Meter, storage_bytes
from pipeline.pages.licenses import LicenseFilter
from pipeline.pages.read_page import read_page
from pipeline.raw import ImageReference, RawDocument
from pipeline.rejects import FOLDER, Keep, Kind, open_rejects, reject_row
from pipeline.sample import page_in_sample
from pipeline.sources.kinds import CRAWL, detect_source, read_source
from pipeline.splits import check_identity, identity_of, size_in, split_name
from pipeline.storage import Input
from pipeline.text.text_rules import filter_text, resource_hashes

HTML_TYPES = ("text/html", "application/xhtml+xml")
NO_RECORD = -1  # offset of what is left out before any record could be read
FOLDERS = ("extracted", "images", "attempts", "crawls")


@dataclass
class Found:
    """What one pass over a source counts, and where it keeps what it leaves out."""

    keep: Keep
    records: Counter[str] = field(default_factory=Counter)
    records_rejected: Counter[str] = field(default_factory=Counter)
    documents: Counter[str] = field(default_factory=Counter)
    paragraphs: Counter[str] = field(default_factory=Counter)
    entries: Entries = field(default_factory=Entries)
    copied: Entries = field(default_factory=Entries)

    def leave_out(self, kind: Kind, rejected: Rejected, source: Input, *, offset: int, page_url: str = "") -> None:
        """Counts a record or a document that is left out, and keeps its row."""
        (self.records_rejected if kind == "record" else self.documents)[rejected.reason] += 1
        self.keep(reject_row(kind, rejected, crawl_file=source.name, crawl_offset=offset, page_url=page_url))


def extract_split(source: Input, work: Path, config: BuildConfig) -> dict[str, Any]:
    """Extracts `source` into `work` and returns the split's record. A split that is done is not redone.

    Raises NotACrawl, NotASource, InputUnreadable, or CrawlChanged if the file, the rules or the libraries were others when it was extracted.
    """
    name = split_name(source)
    for folder in FOLDERS:
        (work / folder).mkdir(parents=True, exist_ok=True)
    record_path = work / "extracted" / f"{name}.json"
    identity = identity_of(source, rules=extraction_hash(config)) | {"word_lists": resource_hashes(config.text)}
    if record_path.exists():
        record = read_json(record_path)
        check_identity(record["identity"], identity, output=work.parent)
        return record
    with Meter(work / "timing" / "extract", name, total_bytes=size_in(identity)) as meter:
        with (
            Guard(work / "attempts", f"{name}.extract", seconds=config.item_seconds) as guard,
            CrawlCopy(work / "crawls" / f"{name}.warc") as copy,
            open_rejects(work / FOLDER / f"{name}.extract.parquet" if config.keep_rejects else None) as keep,
        ):
            found = Found(keep)
            kind = detect_source(source) if config.source.kind == "auto" else config.source.kind
            if kind == CRAWL:
                rows = _page_rows(meter.over(_pages(source, config, copy, found)), source, config, guard, found)
            else:
                rows = _document_rows(meter.over(_documents(source, config, found)), source, config, found)
            num_rows = write_rows(work / "extracted" / f"{name}.parquet", rows, config.signature)
        found.entries.write(work / "images" / f"{name}.npy")
        found.copied.write(work / "images" / f"{name}.copy.npy")
        meter.bytes_written = storage_bytes(work / "extracted" / f"{name}.parquet", *(work / "images" / f"{name}{end}" for end in (".npy", ".copy.npy")), work / "crawls" / f"{name}.warc")
    record = {
        "identity": identity, "source": source.location, "anonymous": source.anonymous, "rows": num_rows, "records": dict(found.records),
        "records_rejected": dict(found.records_rejected), "entries": {"crawl": len(found.entries), "copy": len(found.copied)}, "documents": dict(found.documents), "paragraphs": dict(found.paragraphs),
        "set_aside": {str(number): why for number, why in sorted(guard.set_aside.items())},
    }  # fmt: skip
    write_json(record_path, record)
    return record


def _pages(source: Input, config: BuildConfig, copy: CrawlCopy, found: Found) -> Iterator[Response]:
    """The pages of a crawl that are in the sample; on the way, where the images of all of it lie."""
    offset = NO_RECORD
    for item in read_crawl(source):
        if isinstance(item, Rejected):
            found.records["damaged"] += 1
            found.leave_out("record", item, source, offset=offset)
            continue
        offset = item.offset
        kind = _kind(item)
        found.records[kind] += 1
        hashes = list(_addresses(item, kind))
        if hashes:
            place = item.offset if item.seekable else copy.add(item)
            for address, number in hashes:
                (found.entries if item.seekable else found.copied).add(address, place, number)
        if kind == "page" and page_in_sample(item.url, file=source.name, offset=item.offset, fraction=config.sample):
            yield item


def _page_rows(pages: Iterable[Response], source: Input, config: BuildConfig, guard: Guard, found: Found) -> Iterator[dict[str, Any]]:
    for item in pages:
        found.documents["in"] += 1
        try:
            if item.offset in guard.set_aside:
                raise Rejected(Reason.PAGE_CRASHES, guard.set_aside[item.offset])
            with guard.item(item.offset):
                row = _row(read_page(item, crawl_file=source.name, honour_opt_outs=config.honour_opt_outs), config, found.paragraphs)
        except Rejected as rejected:
            found.leave_out("document", rejected, source, offset=item.offset, page_url=item.url)
        else:
            yield row


def _kind(item: Response | Revisit) -> str:
    if isinstance(item, Revisit):
        return "revisit"
    if 300 <= item.status < 400 and "location" in item.headers:
        return "redirect"
    if item.body.startswith(IMAGE_MAGIC) or item.media_type.startswith("image/"):
        return "image"
    return "page" if item.media_type in HTML_TYPES else "other"


def _addresses(item: Response | Revisit, kind: str) -> Iterator[tuple[bytes, int]]:
    """Under which hashes the index holds a record, and as what."""
    if kind == "image" and item.status == 200:
        yield address_hash(item.url), IMAGE
        if item.digest:
            yield digest_hash(item.digest), IMAGE
    elif kind in ("redirect", "revisit"):
        yield address_hash(item.url), REDIRECT if kind == "redirect" else REVISIT


def _documents(source: Input, config: BuildConfig, found: Found) -> Iterator[RawDocument | Rejected]:
    """The documents of another source that are in the sample, and those that are none."""
    for number, item in enumerate(read_source(source, config.source)):
        found.records["document"] += 1
        url = "" if isinstance(item, Rejected) else item.page_url
        if page_in_sample(url, file=source.name, offset=number, fraction=config.sample):
            yield item


def _document_rows(documents: Iterable[RawDocument | Rejected], source: Input, config: BuildConfig, found: Found) -> Iterator[dict[str, Any]]:
    offset, page_url = NO_RECORD, ""
    for item in documents:
        found.documents["in"] += 1
        try:
            if isinstance(item, Rejected):
                page_url = ""
                raise item
            offset, page_url = item.crawl.offset, item.page_url
            row = _row(item, config, found.paragraphs)
        except Rejected as rejected:
            found.leave_out("document", rejected, source, offset=offset, page_url=page_url)
        else:
            yield row


def _row(document: RawDocument, config: BuildConfig, paragraphs: Counter[str]) -> dict[str, Any]:
    """The row of a document that keeps the rules; Rejected for another. `paragraphs` gains those that were left out, by reason."""
    if config.require_license and not LicenseFilter(config.require_license).allows(document.license):
        raise Rejected(Reason.NO_LICENSE, document.license)
    if config.pages.min_images and not any(isinstance(piece, ImageReference) for piece in document.pieces):
        raise Rejected(Reason.NO_IMAGES)
    filtered = filter_text(document.pieces, config.text, page_url=document.page_url)
    paragraphs.update(filtered.dropped_paragraphs)
    kept = replace(document, pieces=filtered.pieces, scores={**document.scores, **filtered.scores})
    return to_row(kept, language=filtered.language, signature=config.signature)
