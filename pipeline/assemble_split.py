"""Phase 3, one input split: its documents that stayed, with their images, as shards.

    work/extracted/NAME.parquet --minus duplicates--> images looked up, checked, re-encoded --> documents --> shards (each committed by its sidecar)
                                                                                                         --> rejects/NAME.parquet, where they are kept
                                                                                                         --> splits/NAME.json, written last: the split is done

The shards' names and bytes follow from the crawl files and the config alone, so a repeated task writes them again, equal.
"""

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lcl.core.document import Document
from lcl.core.files import read_json, sha256_of, write_json
from lcl.core.rejected import Reason, Rejected
from lcl.core.shard_mirror import publish_shard
from lcl.core.shards import SUFFIXES, is_whole, write_shard
from pipeline.build_config import BuildConfig, rules_hash
from pipeline.captured import CapturedImages
from pipeline.dedup.hash_lists import ImageLists, list_hashes
from pipeline.drops import Drop, read_drops, without
from pipeline.extracted import from_row, read_rows
from pipeline.fetch.image_store import ImageStore
from pipeline.guard import Guard
from pipeline.image_index import open_image_index
from pipeline.load_images import FindImage, load_document
from pipeline.meter import Meter, storage_bytes
from pipeline.raw import ImageReference, LostImages
from pipeline.rejects import FOLDER, Keep, open_rejects, reject_row, write_rejects
from pipeline.splits import CrawlChanged, check_identity
from pipeline.tools.removal import FOLDER as REMOVALS


def assemble_split(name: str, work: Path, config: BuildConfig, extends: str = "") -> dict[str, Any]:
    """Writes the shards of an extracted split beside `work` and returns the split's record. A split that is done is not redone.

    `extends` is the fingerprint of the sets that the build extends.

    Raises CrawlChanged if what decides its shards has changed since they were built, documents taken down included. Whatever is raised, no shard of this split is left:
    shards belong to a record.
    """
    output = work.parent
    record_path, rejects = output / "splits" / f"{name}.json", output / FOLDER / f"{name}.parquet"
    extracted = read_json(work / "extracted" / f"{name}.json")
    drops = work / "dedup" / "lists" / f"{name}.parquet"
    own_rejects = work / FOLDER / f"{name}.assemble.parquet"
    store = ImageStore(Path(config.image_store)) if config.image_store else None
    identity = extracted["identity"] | {
        "rules": rules_hash(config), "duplicates": sha256_of(drops), "image_lists": list_hashes(config.image_lists), "image_store": store.fingerprint if store else "",
        **({"extends": extends} if extends else {}),
    }  # fmt: skip
    if record_path.exists():
        record = read_json(record_path)
        check_identity(record["identity"], identity, output=output)
        if all(is_whole(output / f"{shard}.json") for shard in record["shards"]) and (rejects.exists() or not config.keep_rejects):
            return record
        if any((output / REMOVALS).glob(f"{name}-*.json")):
            raise CrawlChanged(
                f"a shard of {name} is lost, from which documents were taken down ({output / REMOVALS}): building it again would bring them back. "
                "Build into another --output, and `lcl remove` there with the same lists."
            )
    _remove(output, name)  # what an interrupted build left
    try:
        with (
            Meter(work / "timing" / "assemble", name, total_documents=extracted["rows"]) as meter,
            Guard(work / "attempts", f"{name}.assemble", seconds=config.item_seconds) as guard,
            CapturedImages(open_image_index(work / "index"), own_file=extracted["source"], anonymous=extracted["anonymous"], honour_opt_outs=config.honour_opt_outs) as captured,
            open_rejects(own_rejects if config.keep_rejects else None) as keep,
        ):
            counts: dict[str, Counter[str]] = {"documents": Counter(extracted["documents"]), "images": Counter(), "paragraphs": Counter(extracted["paragraphs"])}
            rows = meter.over(read_rows(work / "extracted" / f"{name}.parquet"))
            documents = _documents(rows, read_drops(drops), _finder(captured, store), config, guard, counts, keep)
            shards = _write_shards(documents, output, name, config, identity)
            meter.bytes_written = storage_bytes(*(output / f"{shard}{suffix}" for shard in shards for suffix in SUFFIXES))
            set_aside = {str(number): why for number, why in sorted(guard.set_aside.items())}
        if config.keep_rejects:
            phases = (read_rows(path) for path in (work / FOLDER / f"{name}.extract.parquet", own_rejects))
            write_rejects(output, name, heapq.merge(*phases, key=lambda row: row["crawl_offset"]))
        record = {
            "identity": identity, "shards": shards, "records": extracted["records"], "records_rejected": extracted["records_rejected"],
            **{kind: dict(+found) for kind, found in counts.items()}, "set_aside": {"pages": extracted["set_aside"], "documents": set_aside},
            "rejects": sha256_of(rejects) if config.keep_rejects else None,
        }  # fmt: skip
        check_accounts(record)
    except BaseException:
        _remove(output, name)
        raise
    record_path.parent.mkdir(exist_ok=True)
    write_json(record_path, record)
    return record


def assemble_and_publish(name: str, work: Path, config: BuildConfig, extends: str = "") -> dict[str, Any]:
    """`assemble_split`, then its shards at the build's mirror, where there is one: not before, for a split that fails leaves no shard. Raises MirrorError besides."""
    record = assemble_split(name, work, config, extends)
    for shard in record["shards"] if config.mirror else ():
        publish_shard(config.mirror, work.parent / f"{shard}.json")
    return record


def _finder(captured: CapturedImages, store: ImageStore | None) -> FindImage:
    """What was captured with the page comes before what was fetched later."""
    if store is None:
        return captured.find
    return lambda url: data if (data := captured.find(url)) is not None else store.find(url)


def _remove(output: Path, name: str) -> None:
    """Removes the shards and the rejects of a split."""
    (output / FOLDER / f"{name}.parquet").unlink(missing_ok=True)
    for sidecar in output.glob(f"{name}-*.json"):  # sidecars first: without one, a shard does not exist
        sidecar.unlink()
    for suffix in SUFFIXES:
        for path in output.glob(f"{name}-*{suffix}"):
            path.unlink()


def check_accounts(record: Mapping[str, Any]) -> None:
    """Asserts that what went in came out or was left out for a reason, for documents and for images."""
    for kind in ("documents", "images"):
        counts = dict(record[kind])
        assert counts.pop("in", 0) == sum(counts.values()), f"{kind} do not add up: {record[kind]}"


def _documents(
    rows: Iterator[dict[str, Any]], drops: Mapping[str, Drop], find_image: FindImage, config: BuildConfig, guard: Guard,
    counts: dict[str, Counter[str]], keep: Keep,
) -> Iterator[Document]:
    lists = ImageLists(config.image_lists)
    for number, row in enumerate(rows):
        raw = from_row(row)
        references = [piece for piece in raw.pieces if isinstance(piece, ImageReference)]
        lost: LostImages = []
        document = None
        place = {"crawl_file": row["file"], "crawl_offset": row["offset"], "page_url": row["page_url"]}
        try:
            drop = drops.get(row["key"])
            raw = without(raw, drop, lost)
            counts["paragraphs"][Reason.PARAGRAPH_REPEATED] += len(drop.paragraphs) if drop else 0
            if number in guard.set_aside:
                raise Rejected(Reason.IMAGES_CRASH, guard.set_aside[number])
            with guard.item(number):
                document = load_document(raw, key=row["key"], language=row["language"], find_image=find_image, config=config, lists=lists, lost=lost)
            counts["documents"]["out"] += 1
        except Rejected as rejected:
            counts["documents"][rejected.reason] += 1
            keep(reject_row("document", rejected, **place))
            known = {id(reference) for reference, _ in lost}  # equal ones may stand in a page twice
            lost += [(reference, Rejected(Reason.IMAGE_PAGE_DROPPED, rejected.reason)) for reference in references if id(reference) not in known]
        counts["images"].update({"in": len(references), "out": len(document.images) if document else 0})
        for reference, why in lost:
            counts["images"][why.reason] += 1
            keep(reject_row("image", why, **place, image_url=next(iter(reference.candidates), "")))
        if document is not None:
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
