"""Scores from outside put into documents: kept for later choices, images left out by them, images assigned to texts.

    parquet (key, image, text, value) --+
                                        +--> of each image: similarity, scores --> images out of bounds leave --> the others before their texts (assign)
    shards -----------------------------+                                                                     --> of the document: NAME_min, _mean, _max

Each shard of the source becomes one (pipeline/tools/rewrite.py), with its documents in their order.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import xxhash
from jaxtyping import Float, UInt64
from pydantic import Field

from lcl.core.config import config, to_dict, versions
from lcl.core.document import SIMILARITY, Document, ImageSegment, content_hash, with_summary
from lcl.core.rejected import Reason
from lcl.core.scores import NO, DocumentScores, Kind, ScoreFiles, find_scores, read_keys, read_scores
from lcl.core.shards import Shard, ShardSet
from lcl.core.text_units import TextUnit, Unit, text_units
from pipeline.tools.assignment import UNMATCHED, before_their_texts, match, nearest_texts
from pipeline.tools.removal import without_images
from pipeline.tools.rewrite import FREE_SETTINGS, Change, Reject, check_not_a_source, make_part, rewrite

NAME = re.compile(r"[a-z][a-z0-9_]*")
BYTE_LIBRARIES = ("numpy", "pyarrow", "scipy")  # other versions may give other bytes
SUMMARY = re.compile(r"(.+)_(min|mean|max)")

ANY = (-math.inf, math.inf)
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
    """What decides the bytes of a document, besides the scores. `kinds` says what the tables of scores hold, by name."""

    kinds: Mapping[str, Kind]
    assign: Literal["off", "unordered", "all"]
    unit: Unit
    images_per_text: int
    bounds: Bounds
    min_images: int


Tables = Mapping[str, DocumentScores | None]  # what the tables have of one document, by name
Reasons = dict[int, tuple[Reason, str]]       # why images are left out, by number


def open_change(shard: Shard, files: Mapping[str, tuple[Path, ...]], rules: Rules) -> Change:
    """The change of one shard's documents, with their scores in memory. `files` are those that have any, by name."""
    keys = shard.catalogue(["key"])["key"].to_pylist()
    scores = {name: read_scores(paths, keys) for name, paths in files.items()}
    return lambda document: apply_scores(document, {name: found.get(document.key) for name, found in scores.items()}, rules)


def apply_scores(document: Document, tables: Tables, rules: Rules) -> tuple[Document | None, list[Reject]]:
    """The document with its scores, without the images that are out of bounds, and a row for all that is left out.

    Raises ValueError naming the document and the scores that it lacks, or that are of another one.
    """
    for name, own in tables.items():
        if own is not None and own.content is not None and own.content != content_hash(document):
            raise ValueError(f"document {document.key} ({document.page_url or 'no address'}) has other texts or images than were scored as {name}: score this set")
    images, reasons = _with_scores(document, tables, rules)
    is_assigned = rules.assign == "all" or (rules.assign == "unordered" and document.order == "none")
    units = text_units(document, rules.unit)
    unmatched: Reasons = {}
    if SIMILARITY in tables:
        similarities = _grid(document, SIMILARITY, tables, images=range(len(images)), texts=range(len(units)))
        texts = nearest_texts(similarities)
        if is_assigned:
            candidates = [number for number in range(len(images)) if number not in reasons]
            matched = match(similarities[candidates], images_per_text=rules.images_per_text, least=rules.bounds.get(SIMILARITY, ANY)[0])
            unmatched = {number: (Reason.IMAGE_UNMATCHED, "") for number, text in zip(candidates, matched, strict=True) if text == UNMATCHED}
            texts[candidates] = np.where(matched == UNMATCHED, texts[candidates], matched)
        images = [_with_similarity(image, row, int(text)) for image, row, text in zip(images, similarities, texts, strict=True)]
    if SIMILARITY in rules.bounds:
        for number, image in enumerate(images):
            value = image.metadata.similarity
            scores = {} if value is None and SIMILARITY not in tables else {SIMILARITY: value}
            if number not in reasons and (why := _why_left_out(document, scores, SIMILARITY, rules.bounds[SIMILARITY])):
                reasons[number] = why
    return _rebuild(document, images, units if is_assigned else None, unmatched | reasons, tables, rules)


def _with_scores(document: Document, tables: Tables, rules: Rules) -> tuple[list[ImageSegment], Reasons]:
    """The document's images, each with its scores of these tables beside those that it has, and which of them are out of bounds."""
    images = document.images
    for name, kind in rules.kinds.items():
        if kind == "images":
            values = _grid(document, name, tables, images=range(len(images)), texts=[NO])[:, 0].tolist()
            images = [
                replace(image, metadata=replace(image.metadata, scores=dict(image.metadata.scores) | {name: value})) for image, value in zip(images, values, strict=True)
            ]
    reasons: Reasons = {}
    for number, image in enumerate(images):
        for name, bounds in rules.bounds.items():
            if name != SIMILARITY and number not in reasons and (why := _why_left_out(document, image.metadata.scores, name, bounds)):
                reasons[number] = why
    return images, reasons


def _with_similarity(image: ImageSegment, similarities: Float[np.ndarray, " texts"], text: int) -> ImageSegment:
    similarity, sentence = (None, None) if text == UNMATCHED else (float(similarities[text]), text)
    return replace(image, metadata=replace(image.metadata, similarity=similarity, sentence=sentence))


def _grid(document: Document, name: str, tables: Tables, *, images: Sequence[int], texts: Sequence[int]) -> Float[np.ndarray, "images texts"]:
    where, own = f"document {document.key} ({document.page_url or 'no address'})", tables[name]
    if own is None and not len(images) * len(texts):
        return np.zeros((len(images), len(texts)))
    if own is None:
        raise ValueError(f"{where} has no scores in {name}: score this set, or select the documents that have some")
    try:
        return own.grid(images, texts)
    except ValueError as error:
        raise ValueError(f"{where}: {name} {error}; they are of another set, or of another --unit: score this one") from error


def _why_left_out(document: Document, scores: Mapping[str, float | None], name: str, bounds: tuple[float, float]) -> tuple[Reason, str] | None:
    if name not in scores:
        option = "--similarities PATH" if name == SIMILARITY else f"--scores {name}=PATH"
        raise ValueError(f"document {document.key} ({document.page_url or 'no address'}) has an image without the score {name}, which --min or --max names: give {option}")
    value = scores[name]
    if value is not None and bounds[0] <= value <= bounds[1]:
        return None
    return Reason.IMAGE_SCORE, f"no {name}: there is no text" if value is None else f"{name} {value:.6g}"


def _rebuild(
    document: Document, images: Sequence[ImageSegment], units: Sequence[TextUnit] | None, reasons: Reasons, tables: Tables, rules: Rules
) -> tuple[Document | None, list[Reject]]:
    """The document with these images but for those in `reasons`, before their texts where `units` are given."""
    rejects = [_reject(document, images[number], *why) for number, why in sorted(reasons.items())]
    kept = [image for number, image in enumerate(images) if number not in reasons]
    if reasons and (len(kept) < rules.min_images or not (kept or document.texts)):
        rest = [_reject(document, image, Reason.IMAGE_PAGE_DROPPED, "") for image in kept]
        return None, [*rejects, *rest, _reject(document, None, Reason.NO_IMAGES, f"{len(kept)} left")]
    if units is not None:
        changed = replace(document, segments=before_their_texts([(image, image.metadata.sentence) for image in kept], units), order="matched")
    else:
        given = iter(images)
        segments = tuple(next(given) if isinstance(segment, ImageSegment) else segment for segment in document.segments)
        changed = without_images(replace(document, segments=segments), list(reasons))
    own = {name: float(_grid(document, name, tables, images=[NO], texts=[NO])[0, 0]) for name, kind in rules.kinds.items() if kind == "documents"}
    return with_summary(replace(changed, scores=dict(document.scores) | own), before=document), rejects


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
    tables = {name: find_scores(Path(path)) for name, path in _paths(settings).items()}
    rules = _rules(settings, tables)
    source = ShardSet([Path(folder) for folder in settings.shards])
    output = Path(settings.output)
    check_not_a_source(output, settings.shards)
    fingerprints = {name: table.fingerprint for name, table in tables.items()}
    plain = {key: value for key, value in to_dict(settings).items() if key not in (*FREE_SETTINGS, "similarities", "scores")}
    origin = {"applied": plain, "scores": fingerprints, "source": source.fingerprint, "versions": versions(BYTE_LIBRARIES)}
    files = _files_by_shard(source, tables)
    parts = [
        make_part(
            source, np.arange(source.starts[number], source.starts[number + 1]), name=f"scored-{number:06d}", folder=output.resolve(),
            open_change=partial(open_change, shard, files[number], rules), origin=origin,
        )
        for number, shard in enumerate(source.shards)
    ]  # fmt: skip
    return rewrite(source, parts, settings, what="scored shards", scores=" ".join(fingerprints.values()))


def _rules(settings: ApplyConfig, tables: Mapping[str, ScoreFiles]) -> Rules:
    if settings.assign != "off" and not settings.similarities:
        raise ValueError(f"--assign {settings.assign} needs --similarities: `lcl score` makes them")
    for name, table in tables.items():
        if (table.kind == "pairs") != (name == SIMILARITY):
            wanted = "--similarities PATH" if table.kind == "pairs" else "--scores NAME=PATH"
            raise ValueError(f"{table.path} holds scores of {table.kind}: give it as {wanted}")
        if table.kind == "pairs" and table.record.get("unit", settings.unit) != settings.unit:
            raise ValueError(f"{table.path} was made for each {table.record['unit']}: give --unit {table.record['unit']}")
    lows, highs = _numbers("--min", settings.min), _numbers("--max", settings.max)
    bounds = {name: (lows.get(name, -math.inf), highs.get(name, math.inf)) for name in sorted(lows | highs)}
    if not (settings.similarities or settings.scores or bounds):
        raise ValueError("nothing to apply; give --similarities or --scores, or --min and --max for scores that the shards hold")
    for name, (low, high) in bounds.items():
        if low > high:
            raise ValueError(f"--min {name}={low:g} is above --max {name}={high:g}: no image is between")
    return Rules({name: table.kind for name, table in tables.items()}, settings.assign, settings.unit, settings.images_per_text, bounds, settings.min_images)


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


def _paths(settings: ApplyConfig) -> dict[str, str]:
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


def _files_by_shard(source: ShardSet, tables: Mapping[str, ScoreFiles]) -> list[dict[str, tuple[Path, ...]]]:
    """For each shard of the set, the files of each table that have scores of its documents. Raises ValueError for a table that has none at all."""
    own = _hashes(key for chunk in source.catalogue["key"].chunks for key in chunk.to_pylist())
    owners = np.repeat(np.arange(len(source.shards)), np.diff(source.starts))
    found: list[dict[str, tuple[Path, ...]]] = [dict.fromkeys(tables, ()) for _ in source.shards]
    for name, table in tables.items():
        for file in table.files:
            for shard in np.unique(owners[np.isin(own, _hashes(read_keys(file)))]):
                found[shard][name] += (file,)
        if not any(files[name] for files in found):
            raise ValueError(f"{table.path} has no scores of any document of --shards: it is of another set")
    return found


def _hashes(keys: Iterable[str]) -> UInt64[np.ndarray, " keys"]:
    return np.array([xxhash.xxh64_intdigest(key.encode()) for key in keys], dtype=np.uint64)
