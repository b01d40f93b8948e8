"""Sets of shards at an address: a shard is a unit of its mirror (lcl/core/mirror.py), its sidecar the commit file.

    folder --publish_shard, wherever it was built; publish_records--> s3://bucket/shards --fetch_shards, once on each machine--> folder
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any

from lcl.core.document import SCHEMA
from lcl.core.files import locked_folder, open_aside
from lcl.core.logs import progress_bar
from lcl.core.mirror import Mirror, MirrorError
from lcl.core.selection import RECORD
from lcl.core.shards import BUILD_RECORDS, REBUILD, data_file, is_whole, read_sidecar
from lcl.core.stores import is_address

REPORT = "report.json"
RECORDS = (*BUILD_RECORDS, "README.md")  # of a whole set; a later build replaces them
ADDRESS_FILE = "address.txt"  # in a folder that `fetch_shards` keeps: where its shards are from
SHARDS_AT_ONCE = 4  # that are fetched side by side

log = logging.getLogger(__name__)


def publish_shard(address: str, sidecar_path: Path) -> bool:
    """Puts a shard at the address; False where it was there. Its earlier revision is replaced, and its files go.

    Raises MirrorError if a shard of this name and other bytes is there, a later revision included: documents that were taken down there must not come back.
    """
    mirror, sidecar = Mirror(address), read_sidecar(sidecar_path)

    def replaces(theirs: bytes) -> Iterable[str]:
        there = _read(theirs, mirror.where(sidecar_path.name))
        here, revision = sidecar.get("revision", 0), there.get("revision", 0)
        if there["origin"] != sidecar["origin"] or revision == here:
            raise MirrorError(f"{mirror.where(sidecar_path.name)} is a shard of another build: publish at another address")
        if revision > here:
            raise MirrorError(f"{mirror.where(sidecar_path.name)} has revision {revision}, {sidecar_path} {here}: `lcl remove` the same here first, or what was taken down there would come back")
        return list(_data_files(sidecar_path.name, there))

    return mirror.publish(sidecar_path.parent, _data_files(sidecar_path.name, sidecar), sidecar_path.name, replaces=replaces)


def publish_records(address: str, folder: Path) -> None:
    """Puts what stands beside the shards of a set (reports, the data card) at the address; the report, by whose count readers know that all are there, last."""
    mirror = Mirror(address)
    for name in sorted(RECORDS, key=lambda name: name == REPORT):
        if (folder / name).exists():
            mirror.write(name, (folder / name).read_bytes())


def fetch_shards(address: str, folder: Path) -> Path:
    """Makes `folder` hold the shards at the address, no more and no fewer, and returns it. What is there is not fetched again; processes that come together wait for the first.

    Raises MirrorError, and ValueError for a folder that holds something else.
    """
    mirror = Mirror(address)
    folder.mkdir(parents=True, exist_ok=True)
    with locked_folder(folder, wait=True):
        _claim(folder, mirror.address)
        sizes = mirror.sizes()
        names = [name for name in sizes if "/" not in name and name.endswith(".json") and name not in BUILD_RECORDS]
        if RECORD in names:
            raise MirrorError(f"{address} is a selection, which holds no shards: copy those that it names, and select there")
        if not names:
            raise MirrorError(f"{address} holds no committed shard: publish some with `lcl build-shards --mirror` or `lcl copy-shards`")
        records = mirror.read_all([name for name in RECORDS if name in sizes])
        _check_whole(address, len(names), records.get(REPORT))
        for path in folder.glob("*.json"):
            if path.name not in (*names, *BUILD_RECORDS):
                gone = _data_files(path.name, _read(path.read_bytes(), str(path)))
                path.unlink()  # first: without it, a shard does not exist
                _unlink(folder, gone)
        with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool, progress_bar(f"fetching {address}", total=len(names)) as bar:
            for _ in pool.map(partial(_fetch_shard, mirror, folder), names, mirror.read_all(names).values()):
                bar.advance()
        for name, data in records.items():
            with open_aside(folder / name) as file:
                file.write(data)
    return folder


def _claim(folder: Path, address: str) -> None:
    """Notes in an empty folder whose shards it keeps, for those that are not at the address go. Raises ValueError for a folder that holds something else."""
    path = folder / ADDRESS_FILE
    if path.exists():
        if path.read_text() != address:
            raise ValueError(f"{folder} holds the shards of {path.read_text()}, not of {address}: give another folder")
        return
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no copy of {address}: give another folder")
    with open_aside(path) as file:
        file.write(address.encode())


def _check_whole(address: str, num_shards: int, report: bytes | None) -> None:
    """Raises MirrorError where the report counts other shards than there are; warns where there is none."""
    if report is None:
        log.warning("%s holds no %s: its %d shards are taken, but whether those are all is not known", address, REPORT, num_shards)
    elif (counted := json.loads(report).get("shards")) not in (None, num_shards):
        raise MirrorError(f"{address} holds {num_shards} shards, and its {REPORT} counts {counted}: wait until all are published, or run the command that publishes them again")


def _fetch_shard(mirror: Mirror, folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    sidecar = _read(data, mirror.where(name))
    before = path.read_bytes() if path.exists() else b""
    if before == data and is_whole(path):
        return
    mirror.fetch(folder, _data_files(name, sidecar), name, data)
    if before:
        _unlink(folder, _data_files(name, _read(before, str(path))).keys() - _data_files(name, sidecar).keys())


def _unlink(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _read(data: bytes, where: str) -> dict[str, Any]:
    """The sidecar in these bytes. Raises MirrorError if they are none of this schema."""
    try:
        sidecar = json.loads(data)
        schema = sidecar["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise MirrorError(f"{where} is no sidecar of a shard: the address holds something else than shards") from error
    if schema != SCHEMA:
        raise MirrorError(f"{where}: schema {schema!r}, this version reads {SCHEMA!r}: {REBUILD}")
    return sidecar


def _data_files(name: str, sidecar: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the tar and the catalogue, by name."""
    return {data_file(Path(name), int(sidecar.get("revision", 0)), suffix).name: sidecar["sha256"][suffix] for suffix in (".tar", ".parquet")}


def local_folder(location: str, cache: str) -> Path:
    """Where the shards of a folder, or of an address when they are fetched, lie on this machine. Raises ValueError for an address without a `cache`."""
    if not is_address(location):
        return Path(location)
    if not cache:
        raise ValueError(f"{location} is an address: give --data.cache, a folder on each machine with room for its shards")
    address = location.rstrip("/")
    return Path(cache) / f"{address.rpartition('/')[2]}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"


def folders_of(location: str, cache: str) -> list[Path]:
    """The folders that a location names: one, or by a pattern (/data/shards/part-*) several, in the order of their names. Raises ValueError for a pattern that no folder has."""
    if is_address(location) or "*" not in location:
        return [local_folder(location, cache)]
    found = [path for path in map(Path, sorted(glob(location))) if path.is_dir()]
    if not found:
        raise ValueError(f"{location}: no folder of shards has such a name")
    return found


def fetch_sets(locations: Sequence[str], cache: str) -> None:
    """Fetches the sets of those locations that are addresses to their `local_folder`. Raises as `fetch_shards` and `local_folder` do."""
    for location in filter(is_address, locations):
        fetch_shards(location, local_folder(location, cache))
