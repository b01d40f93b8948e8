"""Documents in a new order, in shards of a chosen size, with images of a chosen side. The same documents and settings give the same tars.

    catalogues --> order by a hash of each key --> shards of so many documents and bytes --> pipeline/tools/rewrite.py: read, shrink, write
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import xxhash
from jaxtyping import Float, Int
from pydantic import Field

from lcl.core.config import config, to_dict, versions
from lcl.core.document import Document, ImageSegment, sha256_hex
from lcl.core.images import decode_image, encode_jpeg
from lcl.core.rejected import Rejected
from lcl.core.shards import Shard, ShardSet
from pipeline.images import shrink
from pipeline.tools.rewrite import FREE_SETTINGS, Change, Part, check_not_a_source, make_part, rewrite

BYTE_LIBRARIES = ("pillow", "pyarrow")  # other versions may give other bytes


@config
class RepackConfig:
    shards: Annotated[tuple[str, ...], Field(min_length=1)]
    """Folders of shards, or selections of them."""
    output: str
    """Folder for the new shards; a repacking that was interrupted continues there."""
    shard_documents: Annotated[int, Field(ge=1)] = 1000
    """Documents per shard, at most."""
    shard_bytes: Annotated[int, Field(ge=1)] = 256 << 20
    """Bytes after which a shard is closed; with --side-px an estimate from the numbers of pixels."""
    side_px: Annotated[int, Field(ge=16)] | None = None
    """Images with a longer shorter side are stored at this one; none: all bytes stay."""
    quality: Annotated[int, Field(ge=1, le=95)] = 90
    """JPEG quality of images that are made smaller."""
    seed: Annotated[int, Field(ge=0, lt=1 << 64)] = 0
    """Another seed gives another order."""
    num_workers: Annotated[int, Field(ge=1)] = 1
    """Processes that write side by side; the bytes do not depend on it."""


def repack(settings: RepackConfig) -> dict[str, Any]:
    """Writes the new shards and `report.json`, and returns the report.

    Raises ValueError if the output holds something else, if a document is there twice, and for damaged source shards.
    """
    source = ShardSet([Path(folder) for folder in settings.shards])
    output = Path(settings.output)
    check_not_a_source(output, settings.shards)
    return rewrite(source, _plan(source, settings, output.resolve()), settings, what="repacked shards")


def shuffled_order(keys: pa.ChunkedArray, seed: int) -> Int[np.ndarray, " documents"]:
    """Places of the keys in the order of their hashes (xxh64), so the order does not depend on how they were sharded.

    Raises ValueError if a key comes twice.
    """
    texts = (key for chunk in keys.chunks for key in chunk.to_pylist())
    hashes = np.fromiter((xxhash.xxh64_intdigest(key.encode(), seed=seed) for key in texts), dtype=np.uint64, count=len(keys))
    order = np.argsort(hashes, kind="stable")
    for place in np.flatnonzero(hashes[order][1:] == hashes[order][:-1]):
        first, second = (keys[int(order[place + step])].as_py() for step in (0, 1))
        if first == second:
            raise ValueError(f"document {first} is there twice; give --shards that share no documents")
        order[place : place + 2] = order[place : place + 2][np.argsort([first, second])]
    return order


def _plan(source: ShardSet, settings: RepackConfig, output: Path) -> list[Part]:
    order = shuffled_order(source.catalogue["key"], settings.seed)
    lengths = source.catalogue["length"].to_numpy()
    sizes = lengths if settings.side_px is None else np.concatenate([_sizes_after(shard, settings.side_px) for shard in source.shards])
    ends, num_bytes, start = [], 0.0, 0
    for place, size in enumerate(sizes[order]):
        num_bytes += size
        if place + 1 - start >= settings.shard_documents or num_bytes >= settings.shard_bytes:
            ends.append(place + 1)
            num_bytes, start = 0.0, place + 1
    if start < len(order):
        ends.append(len(order))
    rules = {key: value for key, value in to_dict(settings).items() if key not in FREE_SETTINGS}
    origin = {"repacked": rules, "source": source.fingerprint, "versions": versions(BYTE_LIBRARIES)}
    open_change = partial(_open_change, settings.side_px, settings.quality)
    return [
        make_part(source, order[begin:end], name=f"repacked-{number:06d}", folder=output, open_change=open_change, origin=origin)
        for number, (begin, end) in enumerate(zip([0, *ends], ends, strict=False))
    ]


def _sizes_after(shard: Shard, side_px: int) -> Float[np.ndarray, " documents"]:
    """About the bytes of each document when its images are made smaller: its bytes times the part of its pixels that is left."""
    table = shard.catalogue(["length", "num_images", "image_width", "image_height"])
    sizes = table["length"].to_numpy().astype(np.float64)
    if table["image_width"].null_count:
        return sizes
    width, height = (table[name].combine_chunks().flatten().to_numpy().astype(np.float64) for name in ("image_width", "image_height"))
    rows = np.repeat(np.arange(len(table)), table["num_images"].to_numpy())
    scale = np.minimum(1.0, side_px / np.maximum(1.0, np.minimum(width, height)))
    before = np.bincount(rows, weights=width * height, minlength=len(table))
    after = np.bincount(rows, weights=width * height * scale**2, minlength=len(table))
    return sizes * np.divide(after, before, out=np.ones_like(sizes), where=before > 0)


def _open_change(side_px: int | None, quality: int) -> Change:
    return partial(_with_smaller_images, side_px=side_px, quality=quality)


def _with_smaller_images(document: Document, *, side_px: int | None, quality: int) -> tuple[Document, tuple[()]]:
    if side_px is None:
        return document, ()
    segments = (_smaller(item, side_px, quality) if isinstance(item, ImageSegment) else item for item in document.segments)
    return replace(document, segments=tuple(segments)), ()


def _smaller(segment: ImageSegment, side_px: int, quality: int) -> ImageSegment:
    """The image at this shorter side, or as it is if it has none that is longer. What it says of its source stays."""
    if min(segment.metadata.width, segment.metadata.height) <= side_px:
        return segment
    try:
        image = shrink(decode_image(segment.data, draft_px=side_px), side_px)
    except Rejected as rejected:
        raise ValueError(f"the image with SHA-256 {segment.metadata.sha256} cannot be decoded ({rejected}); `lcl verify --decode True` names its shard") from rejected
    data = encode_jpeg(image, quality=quality)
    return ImageSegment(data, replace(segment.metadata, width=image.width, height=image.height, sha256=sha256_hex(data)), "jpg")
