"""One input split (a crawl file) to its shards and its record: the unit of work, of retry and of resumption.

    crawl file --> spool --> pages --> documents --> shards (each committed by its sidecar)
                                                 --> splits/NAME.json, written last: the split is done

The shards' names and bytes follow from the crawl file and the config alone, so a repeated task writes them again, equal.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

from lcl.core.config import versions
from lcl.core.document import Document, text_hash
from lcl.core.files import read_json, write_json
from lcl.core.rejected import Reason, Rejected
from lcl.core.shards import SUFFIXES, is_whole, write_shard
from pipeline.build_config import BuildConfig, rules_hash
from pipeline.pages import make_document
from pipeline.spool import Spool, normal_url

BYTE_LIBRARIES = ("pillow", "resiliparse", "selectolax", "fastwarc", "pyarrow")  # other versions may give other bytes


class CrawlChanged(ValueError):
    """The output holds shards of a crawl file of this name that came from other bytes, rules or libraries."""


def split_name(crawl_file: Path) -> str:
    """The split's name: the file name without its endings, letters, digits, `-` and `_` only, and a hash of the full file name."""
    stem = re.sub(r"\.(w?arc)(\.gz)?$", "", crawl_file.name)
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', stem)[:80]}-{xxhash.xxh32_hexdigest(crawl_file.name.encode())}"


def fingerprint(crawl_file: Path) -> str:
    """Changes when the crawl file does: its size and a hash of its first and last 64 KiB."""
    size = crawl_file.stat().st_size
    with open(crawl_file, "rb") as file:
        ends = file.read(1 << 16)
        file.seek(max(0, size - (1 << 16)))
        ends += file.read(1 << 16)
    return f"{size}-{xxhash.xxh64_hexdigest(ends)}"


def build_split(crawl_file: Path, output: Path, config: BuildConfig) -> dict[str, Any]:
    """Writes the shards of `crawl_file` into `output` and returns the split's record. A split that is done is not redone.

    Raises NotACrawl, or CrawlChanged if the file, the rules or the libraries were others when its shards were built. Whatever is
    raised, no shard of this crawl file is left: shards belong to a record.
    """
    name = split_name(crawl_file)
    record_path = output / "splits" / f"{name}.json"
    identity = {"crawl_file": crawl_file.name, "fingerprint": fingerprint(crawl_file), "rules": rules_hash(config), "versions": versions(BYTE_LIBRARIES)}
    if record_path.exists():
        record = read_json(record_path)
        if record["identity"] != identity:
            changed = [key for key in identity if record["identity"].get(key) != identity[key]]
            raise CrawlChanged(f"{output} holds shards of {crawl_file.name} made with another {' and '.join(changed)}; give another --output")
        if all(is_whole(output / f"{shard}.json") for shard in record["shards"]):
            return record
    _remove_shards(output, name)  # of a build that was interrupted, perhaps of another file
    try:
        record = _build(crawl_file, output, config, name, identity)
    except BaseException:
        _remove_shards(output, name)
        raise
    record_path.parent.mkdir(exist_ok=True)
    write_json(record_path, record)
    return record


def _remove_shards(output: Path, name: str) -> None:
    for sidecar in output.glob(f"{name}-*.json"):  # sidecars first: without one, a shard does not exist
        sidecar.unlink()
    for suffix in SUFFIXES:
        for path in output.glob(f"{name}-*{suffix}"):
            path.unlink()


def _build(crawl_file: Path, output: Path, config: BuildConfig, name: str, identity: dict[str, Any]) -> dict[str, Any]:
    with Spool(crawl_file) as spool:
        documents_counts: Counter[str] = Counter({"in": len(spool)})
        image_counts: Counter[str] = Counter()
        documents = _documents(spool, crawl_file, config, documents_counts, image_counts)
        shards = _write_shards(documents, output, name, config, identity)
        record = {
            "identity": identity,
            "shards": shards,
            "records": dict(spool.num_records),
            "records_rejected": dict(spool.rejected),
            "documents": dict(documents_counts),
            "images": dict(image_counts),
        }
    check_accounts(record)
    return record


def check_accounts(record: dict[str, Any]) -> None:
    """Asserts that what went in came out or was left out for a reason, for documents and for images."""
    for kind in ("documents", "images"):
        counts = dict(record[kind])
        assert counts.pop("in", 0) == sum(counts.values()), f"{kind} do not add up: {record[kind]}"


def _documents(spool: Spool, crawl_file: Path, config: BuildConfig, counts: Counter[str], image_counts: Counter[str]) -> Iterator[Document]:
    urls: set[str] = set()
    contents: set[str] = set()
    for response in spool.pages():
        page_images: Counter[str] = Counter()
        try:
            url = normal_url(response.url)
            if config.dedup == "exact" and url in urls:
                raise Rejected(Reason.DUPLICATE_URL, response.url)
            document = make_document(
                response, crawl_file=crawl_file.name, find_image=spool.image, page_rules=config.pages, image_rules=config.images,
                image_counts=page_images,
            )
            content = text_hash(document) + "".join(image.metadata.sha256 for image in document.images)
            if config.dedup == "exact" and content in contents:
                page_images[Reason.IMAGE_PAGE_DROPPED] = page_images.pop("out", 0)
                raise Rejected(Reason.DUPLICATE_CONTENT, response.url)
        except Rejected as rejected:
            counts[rejected.reason] += 1
            document = None
        image_counts.update(page_images)
        if document is not None:
            urls.add(url)
            contents.add(content)
            counts["out"] += 1
            yield document


def _write_shards(documents: Iterator[Document], output: Path, name: str, config: BuildConfig, identity: dict[str, Any]) -> list[str]:
    shards: list[str] = []
    batch: list[Document] = []
    num_bytes = 0

    def flush() -> None:
        nonlocal num_bytes
        shard = f"{name}-{len(shards):05d}"
        write_shard(output, shard, batch, origin=identity)
        shards.append(shard)
        batch.clear()
        num_bytes = 0

    for document in documents:
        batch.append(document)
        num_bytes += sum(len(image.data) for image in document.images) + sum(len(text) for text in document.texts)
        if len(batch) >= config.shard_documents or num_bytes >= config.shard_bytes:
            flush()
    if batch:
        flush()
    return shards
