"""Scores from outside put into documents: kept for later choices, images left out by them, images assigned to texts.

    parquet (key, image, text, value) --+
                                        +--> of each image: similarity, scores --> images out of bounds leave --> the others before their texts (assign)
    shards -----------------------------+                                                                     --> of the document: NAME_min, _mean, _max

Each shard of the source becomes one (pipeline/rewrite.py), with its documents in their order.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import xxhash
from jaxtyping import Float
from pydantic import Field

from lcl.core.config import config, to_dict, versions
from lcl.core.document import SIMILARITY, Document, ImageMetadata, ImageSegment, content_hash, summary_of_images
from lcl.core.rejected import Reason
from lcl.core.scores import NO, DocumentScores, ScoreFiles, find_scores, read_keys, read_scores
from lcl.core.shards import Shard, ShardSet
from lcl.core.text_units import Unit, text_units
from pipeline.assignment import UNMATCHED, before_their_texts, match, nearest_texts
from pipeline.removal import without_images
from pipeline.rewrite import FREE_SETTINGS, Reject, check_not_a_source, make_part, rewrite

NAME = re.compile(r"[a-z][a-z0-9_]*")
BYTE_LIBRARIES = ("numpy", "pyarrow", "scipy")  # other versions may give other bytes
SUMMARY = re.compile(r"(.+)_(min|mean|max)")

Bounds = Mapping[str, tuple[float, float]]  # of image scores by name: what lies between is kept, ends included


@config
class ApplyConfig:
    shards: Annotated[tuple[str, ...], Field(min_length=1)]
    """Folders of shards, or selections of them."""
    output: str
    """Folder for the new shards; a run that was interrupted continues there."""
    similarities: str = ""
    """Similarities of each image with each text: a folder of `lcl score`, or a parquet file (key, image, text, value)."""
    scores: tuple[str, ...] = ()
    """NAME=PATH of other scores: one for each image (text -1), or one for the document (image and text -1)."""
    assign: Literal["off", "unordered", "all"] = "off"
    """Put images before the texts that they match best, in documents whose order is `none`, or in all; off: the order stays."""
    unit: Unit = "paragraph"
    """What the texts of the similarities are."""
    images_per_text: Annotated[int, Field(ge=1)] = 1
    """Images that may be assigned to one text (MMC4: 1)."""
    min: tuple[str, ...] = ()
    """NAME=VALUE: images with a lower score are left out; `similarity` is that to the assigned text, or else to the nearest (MMC4: 0.15)."""
    max: tuple[str, ...] = ()
    """NAME=VALUE: images with a higher score are left out, e.g. nsfw=0.1."""
    min_images: Annotated[int, Field(ge=0)] = 1
    """A document that loses an image and is left with fewer than these goes as a whole; 0 keeps it for its text."""
    num_workers: Annotated[int, Field(ge=1)] = 1
    """Processes that write side by side; the bytes do not depend on it."""


@dataclass(frozen=True)
class Rules:
    """What decides the bytes of a document, besides the scores."""

    assign: Literal["off", "unordered", "all"]
    unit: Unit
    images_per_text: int
    bounds: Bounds
    min_images: int


@dataclass(frozen=True)
class Application:
    """The change of one shard's documents. `tables` are files of scores by name, those that have any of its documents."""

    shard: Shard
    tables: Mapping[str, tuple[Path, ...]]
    rules: Rules

    @cached_property
    def _scores(self) -> dict[str, dict[str, DocumentScores]]:
        keys = self.shard.catalogue(["key"])["key"].to_pylist()
        return {name: read_scores(files, keys) for name, files in self.tables.items()}

    def __call__(self, document: Document) -> tuple[Document | None, list[Reject]]:
        own = {name: found.get(document.key) for name, found in self._scores.items()}
        return apply_scores(document, own, self.rules)


def apply_scores(document: Document, tables: Mapping[str, DocumentScores | None], rules: Rules) -> tuple[Document | None, list[Reject]]:
    """The document with its scores, without the images that are out of bounds, and a row for all that is left out.

    Raises ValueError naming the document and the scores that it lacks, or that are of another one.
    """
    for name, own in tables.items():
        if own is not None and own.content is not None and own.content != content_hash(document):
            raise ValueError(f"document {document.key} ({document.page_url}) has other texts or images than were scored as {name}: score this set")
    images = _with_scores(document, {name: own for name, own in tables.items() if name != SIMILARITY})
    is_assigned = rules.assign == "all" or (rules.assign == "unordered" and document.order == "none")
    units = text_units(document, rules.unit)
    sentences: Sequence[int | None] = [image.metadata.sentence for image in images]
    if SIMILARITY in tables:
        least = rules.bounds.get(SIMILARITY, (-math.inf, math.inf))[0]
        similarities = _grid(document, SIMILARITY, tables[SIMILARITY], len(images), range(len(units)))
        nearest = nearest_texts(similarities)
        found = match(similarities, images_per_text=rules.images_per_text, least=least) if is_assigned else nearest
        shown = np.where(found == UNMATCHED, nearest, found)  # of an image that has no text, how near it came
        sentences = [None if text == UNMATCHED else int(text) for text in found]
        images = [
            replace(image, metadata=replace(image.metadata, sentence=sentence, similarity=None if text == UNMATCHED else float(row[text])))
            for image, sentence, text, row in zip(images, sentences, shown, similarities, strict=True)
        ]
    reasons = {number: why for number, image in enumerate(images) if (why := _why_left_out(document, image.metadata, rules.bounds))}
    if is_assigned:
        reasons = {number: (Reason.IMAGE_UNMATCHED, "") for number, sentence in enumerate(sentences) if sentence is None} | reasons
    return _rebuild(document, images, units if is_assigned else None, reasons, tables, rules.min_images)


def _with_scores(document: Document, tables: Mapping[str, DocumentScores | None]) -> list[ImageSegment]:
    """The document's images, each with its scores of these tables beside those that it has."""
    images = document.images
    for name, own in tables.items():
        if own is None or own.images[0] != NO:
            values = _grid(document, name, own, len(images), [NO])[:, 0]
            images = [
                replace(image, metadata=replace(image.metadata, scores=dict(image.metadata.scores) | {name: float(value)}))
                for image, value in zip(images, values, strict=True)
            ]
    return images


def _grid(document: Document, name: str, own: DocumentScores | None, num_images: int, texts: Sequence[int]) -> Float[np.ndarray, "images texts"]:
    if own is None and not num_images * len(texts):
        return np.zeros((num_images, len(texts)))
    if own is None:
        raise ValueError(f"document {document.key} ({document.page_url}) has no {name} scores: score this set, or select the documents that have some")
    try:
        return own.grid(range(num_images), texts)
    except ValueError as error:
        raise ValueError(f"document {document.key} ({document.page_url}): {name} {error}; they are of another set, or of another --unit: score this one") from error


def _why_left_out(document: Document, metadata: ImageMetadata, bounds: Bounds) -> tuple[Reason, str] | None:
    scores = dict(metadata.scores) | ({} if metadata.similarity is None else {SIMILARITY: metadata.similarity})
    for name, (low, high) in bounds.items():
        if name not in scores and name != SIMILARITY:
            raise ValueError(f"document {document.key} ({document.page_url}) has an image without the score {name}, which --min or --max names: give --scores {name}=PATH")
        if name in scores and not low <= scores[name] <= high:
            return Reason.IMAGE_SCORE, f"{name} {scores[name]:.6g}"
    return None


def _rebuild(
    document: Document, images: list[ImageSegment], units: list | None, reasons: dict[int, tuple[Reason, str]],
    tables: Mapping[str, DocumentScores | None], min_images: int,
) -> tuple[Document | None, list[Reject]]:  # fmt: skip
    """The document with these images but for those in `reasons`, before their texts where `units` are given."""
    rejects = [_reject(document, images[number], *why) for number, why in sorted(reasons.items())]
    kept = [image for number, image in enumerate(images) if number not in reasons]
    if reasons and (len(kept) < min_images or not (kept or document.texts)):
        rest = [_reject(document, image, Reason.IMAGE_PAGE_DROPPED, "") for image in kept]
        return None, [*rejects, *rest, _reject(document, None, Reason.NO_IMAGES, f"{len(kept)} left")]
    if units is not None:
        changed = replace(document, segments=before_their_texts([(image, image.metadata.sentence) for image in kept], units), order="matched")
    else:
        given = iter(images)
        changed = replace(document, segments=tuple(next(given) if isinstance(segment, ImageSegment) else segment for segment in document.segments))
        changed = without_images(changed, list(reasons))
    before, after = summary_of_images(document.images), summary_of_images(kept)
    own = {name: float(found.grid([NO], [NO])[0, 0]) for name, found in tables.items() if found is not None and found.images[0] == NO}
    others = {name: value for name, value in document.scores.items() if name not in before}
    return replace(changed, scores=others | own | after), rejects


def _reject(document: Document, image: ImageSegment | None, reason: Reason, detail: str) -> Reject:
    address = "" if image is None else image.metadata.url or f"sha256:{image.metadata.sha256}"  # an empty address is the page itself
    return {
        "crawl_file": document.crawl.file, "crawl_offset": document.crawl.offset, "page_url": document.page_url, "image_url": address,
        "reason": reason, "detail": detail,
    }  # fmt: skip


def apply_to_set(settings: ApplyConfig) -> dict[str, Any]:
    """Writes the new shards, `rejects/` and `report.json`, and returns the report.

    Raises ValueError for options that do not fit together, for scores of other documents, and as `rewrite` does.
    """
    rules = _rules(settings)
    tables = {name: find_scores(Path(path)) for name, path in _tables(settings).items()}
    for name, table in tables.items():
        if name == SIMILARITY and table.record.get("unit", settings.unit) != settings.unit:
            raise ValueError(f"{table.path} holds similarities of units of another kind: give --unit {table.record['unit']}")
    source = ShardSet([Path(folder) for folder in settings.shards])
    output = Path(settings.output)
    check_not_a_source(output, settings.shards)
    fingerprints = {name: table.fingerprint for name, table in tables.items()}
    plain = {key: value for key, value in to_dict(settings).items() if key not in (*FREE_SETTINGS, "similarities", "scores")}
    origin = {"applied": plain, "scores": fingerprints, "source": source.fingerprint, "versions": versions(BYTE_LIBRARIES)}
    files = {name: _files_by_shard(source, table) for name, table in tables.items()}
    parts = [
        make_part(
            source, np.arange(source.starts[number], source.starts[number + 1]), name=f"scored-{number:06d}", folder=output.resolve(),
            change=Application(shard, {name: found[number] for name, found in files.items()}, rules), origin=origin,
        )
        for number, shard in enumerate(source.shards)
    ]  # fmt: skip
    return rewrite(source, parts, settings, what="scored shards", scores=" ".join(fingerprints.values()))


def _rules(settings: ApplyConfig) -> Rules:
    if settings.assign != "off" and not settings.similarities:
        raise ValueError(f"--assign {settings.assign} needs --similarities: `lcl score` makes them")
    lows, highs = _numbers("--min", settings.min), _numbers("--max", settings.max)
    bounds = {name: (lows.get(name, -math.inf), highs.get(name, math.inf)) for name in sorted(lows | highs)}
    if not (settings.similarities or settings.scores or bounds):
        raise ValueError("nothing to apply; give --similarities or --scores, or --min and --max for scores that the shards hold")
    for name, (low, high) in bounds.items():
        if low > high:
            raise ValueError(f"--min {name}={low:g} is above --max {name}={high:g}: no image is between")
    return Rules(settings.assign, settings.unit, settings.images_per_text, bounds, settings.min_images)


def _numbers(flag: str, entries: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, text in _pairs(flag, entries, "VALUE").items():
        try:
            found[name] = float(text)
        except ValueError:
            found[name] = math.nan
        if not math.isfinite(found[name]):
            raise ValueError(f"{flag} {name}={text}: {text!r} is no number")
    return found


def _tables(settings: ApplyConfig) -> dict[str, str]:
    named = _pairs("--scores", settings.scores, "PATH")
    for name in named:
        if name == SIMILARITY or SUMMARY.fullmatch(name):
            raise ValueError(f"--scores {name}: {SIMILARITY} has an option of its own, and names in _min, _mean, _max are for documents; give another name")
    return ({SIMILARITY: settings.similarities} if settings.similarities else {}) | named


def _pairs(flag: str, entries: Sequence[str], second: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not (NAME.fullmatch(name) and equals and value):
            raise ValueError(f"{flag} {entry!r} is not NAME={second}, with a NAME of lower-case letters, digits and _")
        if name in found:
            raise ValueError(f"{flag} names {name} twice")
        found[name] = value
    return found


def _files_by_shard(source: ShardSet, table: ScoreFiles) -> list[tuple[Path, ...]]:
    """For each shard of the set, the files that have scores of its documents. Raises ValueError if there are none at all."""
    keys = [xxhash.xxh64_intdigest(key.encode()) for chunk in source.catalogue["key"].chunks for key in chunk.to_pylist()]
    own = np.array(keys, dtype=np.uint64)
    order = np.argsort(own, kind="stable")
    owners = np.repeat(np.arange(len(source.shards)), np.diff(source.starts))[order]
    found: list[list[Path]] = [[] for _ in source.shards]
    for file in table.files:
        listed = np.array([xxhash.xxh64_intdigest(key.encode()) for key in read_keys(file)], dtype=np.uint64)
        for shard in np.unique(owners[np.isin(own[order], listed)]):
            found[shard].append(file)
    if not any(found):
        raise ValueError(f"{table.path} has no scores of any document of --shards: it is of another set")
    return [tuple(files) for files in found]
