"""What is wrong with a shard, and with the accounts of a set: findings in words, each with its cure.

    sidecar --> checksums of tar and catalogue --> every document: its place, its members, its row, its images
    report.json, splits/*.json --> the same sums as the sidecars, and as the rows of rejects/*.parquet
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from lcl.core.document import Document, from_members, sha256_hex
from lcl.core.files import json_bytes, read_json, sha256_of
from lcl.core.images import decode_image, probe_image
from lcl.core.rejected import Reason, Rejected
from lcl.core.shards import BLOCK, Shard, catalogue_row, data_file, read_bytes, read_catalogue, read_members, read_sidecar, sidecar_checksum
from pipeline.rejects import FOLDER, count_rejects

MAX_FINDINGS = 5  # of one shard: a flood says no more
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class ShardCheck:
    """One shard to check: its sidecar, and whether every image is decoded."""

    sidecar: Path
    decode: bool = False


@dataclass(frozen=True)
class Findings:
    """What was found in one shard; none: it is sound. `documents` and `images` were looked at."""

    sidecar: Path
    problems: tuple[str, ...]
    documents: int = 0
    images: int = 0


def check_shard(check: ShardCheck) -> Findings:
    """Compares each byte of the shard with what its sidecar and its catalogue say. Never raises for damage."""
    path = check.sidecar
    try:
        sidecar = read_sidecar(path)
        if damage := list(_check_sidecar(path, sidecar)):
            return Findings(path, tuple(damage))
        problems = list(_check_files(path, sidecar))
        table = read_catalogue(path, sidecar)
    except ValueError as error:
        return Findings(path, (str(error),))
    except (KeyError, TypeError, AttributeError) as error:
        return Findings(path, (f"{path} lacks what a sidecar has ({error!r})",))
    stored = set(pq.read_schema(data_file(path, sidecar.get("revision", 0), ".parquet")).names)
    rows = [{name: value for name, value in row.items() if name in stored} for row in table.to_pylist()]
    tar = Shard(path, sidecar).tar
    tar_bytes = tar.stat().st_size
    counts: Counter[str] = Counter()
    keys: set[str] = set()
    end = 0
    for number, row in enumerate(rows):
        if row["offset"] != end or not 0 < row["length"] <= tar_bytes - end:
            problems.append(f"{tar.name}, document {number}: starts at byte {end}, but its catalogue row says {row['offset']} (+ {row['length']})")
            break
        end += row["length"]
        problems += [f"{tar.name}, document {number}: {problem}" for problem in _check_document(tar, row, keys, counts, check.decode)]
    else:
        problems += _check_end(tar, end)
        summed = {"documents": len(rows), "images": counts["images"], "characters": counts["characters"]}
        problems += [f"{path.name} says {sidecar[kind]} {kind}, its tar has {number}" for kind, number in summed.items() if sidecar[kind] != number]
    if len(problems) > MAX_FINDINGS:
        problems[MAX_FINDINGS:] = [f"and {len(problems) - MAX_FINDINGS} more"]
    return Findings(path, tuple(problems), documents=len(rows), images=counts["images"])


def _check_sidecar(path: Path, sidecar: dict[str, Any]) -> Iterable[str]:
    if sidecar["sha256"].get(".json", sidecar_checksum(sidecar)) != sidecar_checksum(sidecar) or path.read_bytes() != json_bytes(sidecar):
        yield f"{path.name} is damaged: it does not give its own checksum"
    if sidecar["name"] != path.stem:
        yield f"{path.name} is the sidecar of {sidecar['name']!r}"


def _check_files(path: Path, sidecar: dict[str, Any]) -> Iterable[str]:
    for suffix in (".tar", ".parquet"):
        file = data_file(path, sidecar.get("revision", 0), suffix)
        if sha256_of(file) != sidecar["sha256"][suffix]:
            yield f"{file.name} is damaged: it does not give the checksum in {path.name}"


def _check_document(tar: Path, row: dict[str, Any], keys: set[str], counts: Counter[str], decode: bool) -> Iterable[str]:
    try:
        members = read_members(read_bytes(tar, offset=row["offset"], length=row["length"]))
        document = from_members(members)
        actual = catalogue_row(document, offset=row["offset"], length=row["length"])
    except ValueError as error:
        yield str(error)
        return
    actual["scores"] = [(name, float(value)) for name, value in actual["scores"]]
    wrong = [name for name in row if row[name] != actual[name]]
    if wrong:
        yield f"its catalogue row differs in {', '.join(wrong)}"
    if document.key in keys:
        yield f"its key {document.key} is that of an earlier one"
    keys.add(document.key)
    if any(not name.startswith(f"{document.key}.") for name, _ in members) or len(members) != len(document.images) + 1:
        yield f"members {', '.join(name for name, _ in members)} are not those of {document.key}"
    counts.update(images=len(document.images), characters=sum(map(len, document.texts)))
    yield from _check_images(document, decode)


def _check_images(document: Document, decode: bool) -> Iterable[str]:
    for number, image in enumerate(document.images):
        metadata = image.metadata
        if sha256_hex(image.data) != metadata.sha256:
            yield f"image {number} is damaged: it does not give its checksum"
            continue
        try:
            size = (decode_image if decode else probe_image)(image.data).size
        except Rejected as rejected:
            yield f"image {number} cannot be decoded: {rejected}"
            continue
        if size != (metadata.width, metadata.height):
            yield f"image {number} has {size[0]} x {size[1]} pixels, its metadata says {metadata.width} x {metadata.height}"


def _check_end(tar: Path, end: int) -> Iterable[str]:
    """Behind the last document a tar holds zeros, two blocks at least."""
    size = tar.stat().st_size
    if size - end < 2 * BLOCK:
        yield f"{tar.name} has no end: {size - end} bytes behind its last document"
    for offset in range(end, size, CHUNK_BYTES):
        if any(read_bytes(tar, offset=offset, length=CHUNK_BYTES)):
            yield f"{tar.name} holds something behind its last document"
            return


COUNTED = ("records", "records_rejected", "paragraphs")  # plain counts in reports and records; of documents and images there is a funnel


def check_accounts(folder: Path, shards: Sequence[Shard]) -> list[str]:
    """Where the records of a build disagree with each other or with the sidecars; a set without records has nothing to disagree.

    For each kind, in = out + what was left out, and out = what the shards hold + what was removed from them since.
    """
    problems: list[str] = []
    held = {kind: sum(shard.sidecar[kind] + shard.sidecar.get("removed", {}).get(kind, 0) for shard in shards) for kind in ("documents", "images")}
    report_path = folder / "report.json"
    if report_path.exists():
        problems += _guarded(report_path, lambda report: _check_report(report, held, len(shards)))
    if (folder / "run.json").exists():
        problems += _guarded(folder / "run.json", lambda record: [])
    problems += _check_splits(folder, shards, report_path)
    return problems


def _guarded(path: Path, check: Any) -> list[str]:
    """The check of one JSON file, and what is said of a file that is none or lacks what it should have."""
    try:
        value = read_json(path)
        changed = ["is not as it was written"] if path.read_bytes() != json_bytes(value) else []
        return [f"{path.name} {problem}" for problem in [*changed, *check(value)]]
    except ValueError as error:
        return [str(error)]
    except (KeyError, TypeError, AttributeError) as error:
        return [f"{path.name} is damaged: it lacks what it should have ({error!r})"]


def _check_report(report: dict[str, Any], held: dict[str, int], num_shards: int) -> list[str]:
    problems = []
    for kind, count in held.items():
        funnel = report[kind]
        if funnel["in"] != funnel["out"] + sum(funnel["dropped"].values()):
            problems.append(f"does not add up: {funnel['in']} {kind} in, {funnel['out']} out, {sum(funnel['dropped'].values())} left out")
        if funnel["out"] != count:
            problems.append(f"says {funnel['out']} {kind}, the sidecars {count}: shards are missing, or too many")
        problems += [f"names the reason {reason!r}, which there is not" for reason in funnel["dropped"] if reason not in list(Reason)]
    if report["shards"] != num_shards:
        problems.append(f"says {report['shards']} shards, there are {num_shards}")
    return problems


def _check_splits(folder: Path, shards: Sequence[Shard], report_path: Path) -> list[str]:
    """Each shard belongs to one split, each split has its shards, and the report is the sum of the splits."""
    records = sorted(folder.glob("splits/*.json"))
    if not records:
        return []
    by_name = {shard.path.stem: shard for shard in shards}
    problems: list[str] = []
    listed: list[str] = []
    sums = {kind: Counter() for kind in (*COUNTED, "documents", "images")}

    def check(name: str, record: dict[str, Any]) -> list[str]:
        found = _check_rejects(folder / FOLDER / f"{name}.parquet", record)
        for shard in record["shards"]:
            listed.append(shard)
            if shard not in by_name:
                found.append(f"lists {shard}, which is not there")
            elif by_name[shard].sidecar["origin"] != record["identity"]:
                found.append(f"and the sidecar of {shard} name different origins")
        for kind, total in sums.items():
            total.update(record[kind])
        for kind, reason in (("pages", Reason.PAGE_CRASHES), ("documents", Reason.IMAGES_CRASH)):
            if len(record["set_aside"][kind]) != record["documents"].get(reason, 0):
                found.append(f"sets aside {len(record['set_aside'][kind])} {kind}, and counts {record['documents'].get(reason, 0)}")
        return found

    for path in records:
        problems += [f"splits/{problem}" if not problem.startswith(str(folder)) else problem for problem in _guarded(path, partial(check, path.stem))]
    orphans = sorted(set(by_name) - set(listed))
    if orphans:
        problems.append(f"no record in splits/ lists {', '.join(orphans[:3])}" + (f" and {len(orphans) - 3} more" if len(orphans) > 3 else ""))
    if report_path.exists() and not problems:
        problems += _guarded(report_path, lambda report: _compare_sums(report, sums, len(records)))
    return problems


def _check_rejects(path: Path, record: dict[str, Any]) -> list[str]:
    """Whether the rows of what a split left out are those that its record counts; a build that kept none has nothing to compare."""
    if not record.get("rejects"):
        return [f"keeps no rejects, but there is {FOLDER}/{path.name}"] if path.exists() else []
    if not path.exists() or sha256_of(path) != record["rejects"]:
        return [f"keeps rejects, but {FOLDER}/{path.name} is missing or damaged"]
    counted = {"record": record["records_rejected"], "document": record["documents"], "image": record["images"]}
    return [
        f"counts {kind}s left out, and {FOLDER}/{path.name} has other rows of them" for kind, rows in count_rejects(path).items()
        if rows != {reason: count for reason, count in counted[kind].items() if reason not in ("in", "out")}
    ]  # fmt: skip


def _compare_sums(report: dict[str, Any], sums: dict[str, Counter[str]], num_records: int) -> list[str]:
    problems = []
    for kind, total in sums.items():
        said = report[kind] if kind in COUNTED else {"in": report[kind]["in"], "out": report[kind]["out"], **report[kind]["dropped"]}
        differing = [name for name in sorted(set(said) | set(total)) if said.get(name, 0) != total[name]]
        if differing:
            problems.append(f"differs from the sum of splits/*.json in {kind}: {', '.join(map(str, differing))}")
    crawls = report["crawls"]
    if crawls["out"] != num_records or crawls["in"] != crawls["out"] + len(crawls["failed"]):
        problems.append(f"says {crawls['out']} of {crawls['in']} crawl files, splits/ has {num_records}")
    return problems
