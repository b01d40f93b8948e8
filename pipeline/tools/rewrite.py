"""A set of shards written anew, each document through a function: what `lcl repack` and `lcl apply-scores` share.

    catalogues --> parts: which documents, in which order --> tasks: read, change, write --> report.json
                                                                          --> rejects/NAME.parquet: what was left out, and why

A shard that its sidecar commits is not written again, so the same command continues after a kill. Memory is some 100 bytes a document,
and one document at a time in each worker.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Int

from lcl.core.config import Config, claim_folder
from lcl.core.document import SCHEMA, Document, from_members
from lcl.core.files import locked_folder, read_json, write_json
from lcl.core.shards import ShardSet, is_whole, read_bytes, read_members, read_sidecar, verify_shard, write_shard
from pipeline.rejects import FOLDER, write_rejects
from pipeline.tools.parallel import run_tasks

FREE_SETTINGS = ("shards", "output", "num_workers")  # that decide no byte

Reject = Mapping[str, Any]  # a row of rejects/NAME.parquet
Change = Callable[[Document], tuple[Document | None, Sequence[Reject]]]
"""What becomes of a document (None: it is left out), and a row for it and each image that was left out. Raises ValueError naming the document."""


@dataclass(frozen=True)
class Part:
    """One shard to write: where its documents lie, in order, and what becomes of each. `origin` decides its bytes."""

    name: str
    folder: Path
    tars: tuple[Path, ...]
    shards: Int[np.ndarray, " documents"] = field(repr=False)   # places in `tars`
    offsets: Int[np.ndarray, " documents"] = field(repr=False)
    lengths: Int[np.ndarray, " documents"] = field(repr=False)
    open_change: Callable[[], Change] = field(repr=False)       # called once, where the part is written
    origin: dict[str, Any]


def make_part(source: ShardSet, chosen: Int[np.ndarray, " documents"], *, name: str, folder: Path, open_change: Callable[[], Change], origin: dict[str, Any]) -> Part:
    """The part with these documents of the set, in this order."""
    owners, offsets, lengths = source.places(chosen)
    used, shards = np.unique(owners, return_inverse=True)
    return Part(name, folder, tuple(source.tars[shard].resolve() for shard in used), shards.astype(np.int32), offsets, lengths, open_change, origin)


def rewrite(source: ShardSet, parts: Sequence[Part], settings: Config, *, what: str, **inputs: str) -> dict[str, Any]:
    """Writes the shards of all parts and `report.json` into `settings.output`, and returns the report. `what` names them in errors.

    Raises ValueError if the output holds something else, as `Change` does, and for damaged source shards.
    """
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    with locked_folder(output):
        claim_folder(output, settings, free=FREE_SETTINGS, what=what, source=source.fingerprint, **inputs)
        missing = [part for part in parts if not _is_done(part)]
        if missing:  # damage must not get a new checksum
            for _ in run_tasks(verify_shard, [shard.path for shard in source.shards], num_workers=settings.num_workers, title="checksums of sources"):
                pass
        for _ in run_tasks(write_part, missing, num_workers=settings.num_workers, title="shards"):
            pass
        report = _report(source, parts)
        write_json(output / "report.json", report)
    return report


def check_not_a_source(output: Path, folders: Sequence[str]) -> None:
    """Raises ValueError if the output is one of the folders to read."""
    if any(output.resolve() == Path(folder).resolve() for folder in folders):
        raise ValueError(f"--output {output} is one of --shards; give another folder")


def _is_done(part: Part) -> bool:
    """Whether the shard is there. Raises ValueError if it was made by other versions of the libraries."""
    path = part.folder / f"{part.name}.json"
    if not is_whole(path):
        return False
    made_by = read_json(path)["origin"]
    if made_by != part.origin:
        raise ValueError(f"{path} was made by {made_by.get('versions')}, here are {part.origin['versions']}: continue with those, or give another --output")
    return True


def write_part(part: Part) -> str:
    """Writes one shard and returns its name."""
    write_shard(part.folder, part.name, _documents(part), origin=part.origin)
    return part.name


def _documents(part: Part) -> Iterator[Document]:
    """The part's documents as they become. What was left out is written behind the last one, so before the sidecar commits the shard."""
    change = part.open_change()
    rejects: list[Reject] = []
    for shard, offset, length in zip(part.shards.tolist(), part.offsets.tolist(), part.lengths.tolist(), strict=True):
        tar = part.tars[shard]
        try:
            document = from_members(read_members(read_bytes(tar, offset=offset, length=length)))
        except ValueError as error:
            raise ValueError(f"{tar}, the document at byte {offset}: {error}; `lcl verify` says more") from error
        changed, left_out = change(document)
        rejects += left_out
        if changed is not None:
            yield changed
    if rejects:
        write_rejects(part.folder, part.name, rejects)


def _report(source: ShardSet, parts: Sequence[Part]) -> dict[str, Any]:
    """The accounts: all that came in came out, or was left out for a reason. Raises ValueError where a record of that is missing."""
    dropped: dict[str, Counter[str]] = {"documents": Counter(), "images": Counter()}
    kept: Counter[str] = Counter()
    for part in parts:
        kept.update({kind: read_sidecar(part.folder / f"{part.name}.json")[kind] for kind in dropped})
        path = part.folder / FOLDER / f"{part.name}.parquet"
        for row in pq.read_table(path, columns=["image_url", "reason"]).to_pylist() if path.exists() else []:
            dropped["images" if row["image_url"] else "documents"][row["reason"]] += 1
    came = {"documents": len(source), "images": int(source.catalogue["num_images"].to_numpy().sum())}
    for kind, counts in dropped.items():
        if came[kind] != kept[kind] + counts.total():
            listed = f"{came[kind]} {kind} came in, {kept[kind]} out, {counts.total()} are in {FOLDER}/"
            raise ValueError(f"{parts[0].folder}: {listed}: it was changed; remove the folder and run again")
    funnels = {kind: {"in": came[kind], "out": kept[kind], "dropped": dict(sorted(counts.items()))} for kind, counts in dropped.items()}
    return {"schema": SCHEMA, "sources": sorted({shard.path.parent.name for shard in source.shards}), **funnels, "shards": len(parts)}
