"""Phase 1, one input split: its documents as rows of a table, and where its images lie.

    crawl file --+--> pages --> RawDocument --> rules --> work/extracted/NAME.parquet
                 +--> images, redirects, revisits ------> work/images/NAME.npy
                 +--> counts, by reason ----------------> work/extracted/NAME.json, written last: the split is extracted

Bodies are read once and not kept: assembly reads those of images that documents show again, at their offset.
"""

import gzip
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from resiliparse.parse.lang import detect_fast

from lcl.core.files import open_aside, read_json, write_json
from lcl.core.rejected import Reason, Rejected
from pipeline.build_config import BuildConfig, extraction_hash
from pipeline.crawl import Response, read_crawl
from pipeline.extracted import text_of, to_row, write_rows
from pipeline.guard import Guard
from pipeline.image_index import IMAGE, REDIRECT, REVISIT, address_hash, digest_hash, write_entries
from pipeline.pages import read_page
from pipeline.raw import ImageReference
from pipeline.splits import check_identity, identity_of, split_name

HTML_TYPES = ("text/html", "application/xhtml+xml")
IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF")
LANGUAGE_WORST_RANK = 1200  # resiliparse: ranks above are usually false results


class NotSeekable(Exception):
    """The crawl file is compressed as a whole, so no record can be read again by its offset."""


def extract_split(crawl_file: Path, work: Path, config: BuildConfig) -> dict[str, Any]:
    """Extracts `crawl_file` into `work` and returns the split's record. A split that is done is not redone.

    Raises NotACrawl, or CrawlChanged if the file, the rules or the libraries were others when it was extracted.
    """
    name = split_name(crawl_file)
    folders = {kind: work / kind for kind in ("extracted", "images", "attempts", "crawls")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    record_path = folders["extracted"] / f"{name}.json"
    identity = identity_of(crawl_file, rules=extraction_hash(config))
    if record_path.exists():
        record = read_json(record_path)
        check_identity(record["identity"], identity, crawl_file=crawl_file, output=work.parent)
        return record
    with Guard(folders["attempts"], f"{name}.extract", seconds=config.item_seconds) as guard:
        path = crawl_file
        try:
            found = _extract(path, crawl_file.name, name, folders, config, guard)
        except NotSeekable:
            path = _inflated(crawl_file, folders["crawls"] / f"{name}.crawl")
            found = _extract(path, crawl_file.name, name, folders, config, guard)
    record = {"identity": identity, "crawl_path": str(path), **found, "set_aside": {str(number): why for number, why in sorted(guard.set_aside.items())}}
    write_json(record_path, record)
    return record


def _inflated(crawl_file: Path, target: Path) -> Path:
    with open_aside(target) as out, gzip.open(crawl_file) as file:
        try:
            shutil.copyfileobj(file, out)
        except EOFError:  # cut short: what there is
            pass
    return target


def _extract(path: Path, file_name: str, name: str, folders: dict[str, Path], config: BuildConfig, guard: Guard) -> dict[str, Any]:
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in ("records", "records_rejected", "documents")}
    entries: list[tuple[bytes, int, int]] = []
    rows = _rows(path, file_name, config, guard, counts, entries)
    num_rows = write_rows(folders["extracted"] / f"{name}.parquet", rows)
    write_entries(folders["images"] / f"{name}.npy", entries)
    return {"rows": num_rows, **{kind: dict(found) for kind, found in counts.items()}}


def _rows(
    path: Path, file_name: str, config: BuildConfig, guard: Guard, counts: dict[str, Counter[str]], entries: list[tuple[bytes, int, int]]
) -> Iterator[dict[str, Any]]:
    last = -1
    for item in read_crawl(path):
        if isinstance(item, Rejected):
            counts["records"]["damaged"] += 1
            counts["records_rejected"][item.reason] += 1
            continue
        if item.offset == last:
            raise NotSeekable(str(path))
        last = item.offset
        kind = _kind(item)
        counts["records"][kind] += 1
        entries += _entries(item, kind)
        if kind != "page":
            continue
        counts["documents"]["in"] += 1
        try:
            if item.offset in guard.set_aside:
                raise Rejected(Reason.PAGE_CRASHES, guard.set_aside[item.offset])
            with guard.item(item.offset):
                row = _row(item, file_name, config)
        except Rejected as rejected:
            counts["documents"][rejected.reason] += 1
        else:
            yield row


def _row(page: Response, file_name: str, config: BuildConfig) -> dict[str, Any]:
    document = read_page(page, crawl_file=file_name)
    text = text_of(document.pieces)
    num_words = len(text.split())
    if num_words < config.pages.min_words:
        raise Rejected(Reason.TOO_FEW_WORDS, str(num_words))
    if config.pages.min_images and not any(isinstance(piece, ImageReference) for piece in document.pieces):
        raise Rejected(Reason.NO_IMAGES)
    language, rank = detect_fast(text, cutoff=LANGUAGE_WORST_RANK)
    return to_row(replace(document, scores={"words": float(num_words), "language_rank": float(rank)}), language=language)


def _kind(item: Response) -> str:
    if item.revisit_of:
        return "revisit"
    if 300 <= item.status < 400 and "location" in item.headers:
        return "redirect"
    if item.body.startswith(IMAGE_MAGIC) or item.media_type.startswith("image/"):
        return "image"
    return "page" if item.media_type in HTML_TYPES else "other"


def _entries(item: Response, kind: str) -> Iterator[tuple[bytes, int, int]]:
    """What the index holds of a record."""
    if kind == "image" and item.status == 200:
        yield address_hash(item.url), item.offset, IMAGE
        if item.digest:
            yield digest_hash(item.digest), item.offset, IMAGE
    elif kind in ("redirect", "revisit"):
        yield address_hash(item.url), item.offset, REDIRECT if kind == "redirect" else REVISIT
