"""A shard build, phase by phase; each leaves files that the next one reads, so any of them continues after an interruption.

    extract     crawl files --> work/extracted, work/images              a task for each split (pipeline/extract_split.py)
    index       work/images --> work/index                               (pipeline/image_index.py)
    known       shards of sets that are extended --> work/known          a task for each shard (pipeline/known_documents.py)
    duplicates  work/extracted, work/known --> work/dedup/lists          (pipeline/dedup)
    wanted      work/extracted, work/index --> work/wanted, and stop     where images are to be fetched first (pipeline/wanted.py)
    assemble    work/extracted, work/index --> shards, splits/*.json     a task for each split (pipeline/assemble_split.py), which puts them at the mirror too
    report      splits/*.json --> report.json; what it cost --> timing.json (pipeline/timing.py); both at the mirror
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import xxhash

from lcl.core.config import to_dict, write_run_record
from lcl.core.document import SCHEMA
from lcl.core.files import locked_folder, read_json, write_json
from lcl.core.mirror import Mirror, MirrorError
from lcl.core.shard_mirror import publish_records
from lcl.core.shards import Shard, fingerprint_of
from pipeline.assemble_split import assemble_and_publish
from pipeline.build_config import CHANGEABLE_FIELDS, BuildConfig
from pipeline.crawl import CRAWL_ENDINGS
from pipeline.dedup.find_duplicates import find_duplicates
from pipeline.dedup.hash_lists import ImageLists
from pipeline.dedup.steps import in_process, on_ray
from pipeline.extract_split import extract_split
from pipeline.find_inputs import find_inputs
from pipeline.image_index import FILES, PARTS, merge_part
from pipeline.known_documents import known_folder, known_shards, list_known
from pipeline.meter import measured
from pipeline.sources.kinds import ENDINGS
from pipeline.splits import split_name
from pipeline.storage import Input
from pipeline.tasks import Outcome, num_workers, run_tasks, start_ray
from pipeline.text.language import check_languages
from pipeline.text.text_rules import resource_hashes
from pipeline.timing import Phase, measuring, summarise_timing
from pipeline.tools.data_card import write_card
from pipeline.wanted import list_wanted

log = logging.getLogger(__name__)


def prepare_output(config: BuildConfig) -> tuple[list[Input], list[Shard], Path]:
    """The inputs, the shards that are extended, and the output folder, checked. Raises ValueError before anything is written."""
    output = Path(config.output)
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        for name in [config.output, *config.extends, *(pattern for pattern in config.crawl if "://" not in pattern)]:
            if not Path(name).is_absolute():
                raise ValueError(f"{name} is a relative path: in a Ray job it would mean a temporary copy of the working folder. Give an absolute one.")
    inputs = find_inputs(config.crawl, endings=CRAWL_ENDINGS + ENDINGS, prefix=config.prefix, anonymous=config.anonymous)
    names: dict[str, Input] = {}
    for source in inputs:
        other = names.setdefault(split_name(source), source)
        if other is not source:
            raise ValueError(f"{source} has the same file name as {other}, from which shards and keys are named: rename one of them")
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file; give a folder")
    if config.mirror:
        Mirror(config.mirror)
    _check_resources(config)
    known = known_shards(config.extends, output=output)
    run_path = output / "run.json"
    if run_path.exists():
        record = read_json(run_path)
        earlier = record.get("config", {})
        is_ours = "crawl" in earlier and "pages" in earlier
        if is_ours and not _holds_results(output):
            pass  # a build that made nothing holds no folder
        elif not is_ours:
            raise ValueError(f"{output} holds the run of another command (its run.json says which). Give another --output, or remove the folder.")
        elif flags := _changed(record, {"config": to_dict(config), **_fingerprints(inputs, known)}):
            raise ValueError(f"{output} holds another build (its run.json has another {flags}). Give another --output, or remove the folder.")
    elif output.exists() and any(output.iterdir()):
        raise ValueError(f"{output} is not empty and holds no shard build. Give another --output.")
    return inputs, known, output


def _check_resources(config: BuildConfig) -> None:
    """Raises ValueError for files that the rules name and that are not there or not what they should be, and for languages that the detector does not know."""
    ImageLists(config.image_lists)
    resource_hashes(config.text)
    check_languages(config.text.language)
    for path in config.dedup.contamination.texts:
        if not Path(path).is_file():
            raise ValueError(f"{path}: no such file of evaluation texts (--dedup.contamination.texts)")


def _changed(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The flags of what differs in two records of builds that must be equal for them to share a folder: settings, the names of inputs, the sets that are extended. Empty if none does."""
    then, config = earlier["config"], now["config"]
    changed = [key for key in sorted({*then, *config}) if key not in CHANGEABLE_FIELDS and (key not in then or key not in config or then[key] != config[key])]
    changed += [key for key in ("crawl", "extends") if earlier.get(key) != now[key]]
    return " and ".join(f"--{name.replace('_', '-')}" for name in changed)


def _claim_mirror(config: BuildConfig, output: Path) -> None:
    """Puts run.json at the mirror before any work, which shows that it can be written. Raises MirrorError if it cannot, or if another build's is there."""
    mirror, ours = Mirror(config.mirror), (output / "run.json").read_bytes()
    theirs = mirror.read("run.json")
    try:
        flags = _changed(json.loads(theirs), json.loads(ours)) if theirs else ""
    except (ValueError, KeyError, TypeError) as error:
        raise MirrorError(f"{mirror.where('run.json')} is of no build of shards: give another --mirror") from error
    if flags:
        raise MirrorError(f"{mirror.where('run.json')} is of another build (with another {flags}): give another --mirror, or the same --output and options as there")
    mirror.write("run.json", ours)


def _holds_results(output: Path) -> bool:
    return any(output.glob("splits/*.json")) or any(output.glob("work/extracted/*.json"))


def _fingerprints(inputs: Sequence[Input], known: Sequence[Shard]) -> dict[str, str]:
    """Of what a folder is built from, by the flag that gives it: the names of the inputs, and the bytes of the sets that are extended."""
    names = xxhash.xxh128_hexdigest("\n".join(sorted(source.name for source in inputs)).encode("utf-8", "surrogateescape"))
    return {"crawl": names, "extends": fingerprint_of(known) if known else ""}


def build_shards(config: BuildConfig) -> dict[str, Any]:
    """Builds every split, writes `report.json` and returns it. The same call continues an interrupted build.

    Raises ValueError if more than `max_failed_crawls` of the crawl files fail, after all others are done.
    """
    inputs, known, output = prepare_output(config)
    work = output.resolve() / "work"
    work.mkdir(parents=True, exist_ok=True)
    if not _holds_results(output):
        write_run_record(output, config, **_fingerprints(inputs, known))
    if config.mirror:
        _claim_mirror(config, output)
    if config.executor == "ray":
        start_ray()
    with locked_folder(output):
        return _build(inputs, known, output, work, config)


def _build(inputs: Sequence[Input], known: Sequence[Shard], output: Path, work: Path, config: BuildConfig) -> dict[str, Any]:
    splits = {split_name(source): source.absolute() for source in inputs}
    done = sum((output / "splits" / f"{name}.json").exists() for name in splits)
    if done:
        log.info("%d of %d inputs were built before: they are checked and left as they are", done, len(splits))
    phase = partial(Phase, work, workers=num_workers(config.executor))
    with phase("extract") as now:
        sources = {name: (source, work, config) for name, source in splits.items()}
        extracted = run_tasks(extract_split, sources, executor=config.executor, title="extracting", note=_say_extracted, live=now.live)
    with phase("index") as now:
        _merge_index(extracted, work, config, now)
    known_tables = None
    if known:
        with phase("known") as now:
            known_tables = _list_known(known, work, config, now)
    if extracted.records:
        with phase("duplicates") as now:
            runner = measuring(on_ray if config.executor == "ray" else in_process, now, work / "dedup")
            find_duplicates(work, config.dedup, known=known_tables, runner=runner)
    if config.until == "wanted":
        with phase("wanted") as now:
            return _list_wanted(extracted, work, config, now)
    extends = _fingerprints(inputs, known)["extends"]
    with phase("assemble") as now:
        names = {name: (name, work, config, extends) for name in extracted.records}
        built = run_tasks(assemble_and_publish, names, executor=config.executor, title="assembling", note=_say_built, live=now.live)
    failures = {splits[name].name: failure for name, failure in (extracted.failures | built.failures).items()}
    report = summarise(list(built.records.values()), failures, num_crawls=len(inputs))
    write_json(output / "report.json", report)
    if report["shards"]:
        write_card(output)
    write_json(output / "timing.json", _timing(output, extracted, report, price=config.core_hour_price))
    if config.mirror:
        publish_records(config.mirror, output)
    if len(failures) > config.max_failed_crawls * len(inputs):
        first = next(iter(failures.values()))
        more = f" ({len(failures)} of {len(inputs)} inputs failed, see {output / 'report.json'})" if len(inputs) > 1 else ""
        raise ValueError(first["message"] + more)
    return report


def _timing(output: Path, extracted: Outcome, report: Mapping[str, Any], *, price: float) -> dict[str, Any]:
    rows, documents = sum(record["rows"] for record in extracted.records.values()), report["documents"]
    counts = {"extract": {"in": documents["in"], "out": rows}, "duplicates": {"in": rows}, "assemble": {"in": rows, "out": documents["out"]}}
    return summarise_timing(output, counts=counts, images=report["images"]["out"], price=price)


def _merge_index(extracted: Outcome, work: Path, config: BuildConfig, phase: Phase) -> None:
    """Merges what splits say of their images, unless it was done for the same crawl files."""
    index = work / "index"
    tables = []
    for name, record in extracted.records.items():
        if record["entries"]["crawl"]:
            tables.append((work / "images" / f"{name}.npy", record["source"]))
        if record["entries"]["copy"]:
            tables.append((work / "images" / f"{name}.copy.npy", str(work / "crawls" / f"{name}.warc")))
    files = [file for _, file in tables]
    if (index / FILES).exists() and read_json(index / FILES) == files:
        return
    index.mkdir(exist_ok=True)
    parts = {f"{part:02d}": (merge_part, part, tables, index) for part in range(PARTS)}
    merged = run_tasks(measured, parts, executor=config.executor, title="indexing images", note=lambda found: phase.add(found[1]))
    if merged.failures:
        raise ValueError(f"the index of images could not be made: {next(iter(merged.failures.values()))['message']}")
    write_json(index / FILES, files)


def _list_known(shards: Sequence[Shard], work: Path, config: BuildConfig, phase: Phase) -> Path:
    """The folder of the tables of all documents that are known already."""
    folder = known_folder(work, shards, config.signature)
    folder.mkdir(parents=True, exist_ok=True)
    tasks = {f"{number:06d}": (list_known, shard, folder / f"{number:06d}.parquet", config.signature) for number, shard in enumerate(shards)}
    listed = run_tasks(measured, tasks, executor=config.executor, title="listing known documents", note=lambda found: phase.add(found[1]))
    if listed.failures:
        raise ValueError(next(iter(listed.failures.values()))["message"])
    log.info("%d documents are known already", sum(record["documents"] for record, _ in listed.records.values()))
    return folder


def _list_wanted(extracted: Outcome, work: Path, config: BuildConfig, phase: Phase) -> dict[str, Any]:
    """Lists the images that the crawl does not hold, and returns how many of each split."""
    splits = {name: (list_wanted, name, work, config.images) for name in extracted.records}
    listed = run_tasks(measured, splits, executor=config.executor, title="listing images", note=lambda found: phase.add(found[1]))
    return {"wanted": sum(record["wanted"] for record, _ in listed.records.values()), "folder": str(work / "wanted"), "failed": extracted.failures | listed.failures}


def _say_extracted(record: Mapping[str, Any]) -> None:
    log.info("%s: %d of %d pages extracted", record["identity"]["crawl_file"], record["rows"], record["documents"].get("in", 0))
    if record["records_rejected"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(record["records_rejected"].items()))
        log.warning("%s: records that cannot be used: %s", record["identity"]["crawl_file"], reasons)


def _say_built(record: Mapping[str, Any]) -> None:
    log.info("%s: %d of %d pages became documents", record["identity"]["crawl_file"], record["documents"].get("out", 0), record["documents"].get("in", 0))


def summarise(records: Sequence[Mapping[str, Any]], failures: dict[str, dict[str, str]], *, num_crawls: int) -> dict[str, Any]:
    """The funnel: for crawl files, records, documents and images, what came in, what came out, what was left out and why."""
    totals: dict[str, Counter[str]] = {kind: Counter() for kind in ("records", "records_rejected", "paragraphs", "documents", "images")}
    for record in records:
        for kind, total in totals.items():
            total.update(record[kind])
    funnel = {}
    for kind in ("documents", "images"):
        counts = dict(totals[kind])
        funnel[kind] = {"in": counts.pop("in", 0), "out": counts.pop("out", 0), "dropped": dict(sorted(counts.items()))}
    return {
        "schema": SCHEMA,
        "crawls": {"in": num_crawls, "out": len(records), "failed": failures},
        "records": dict(sorted(totals["records"].items())),
        "records_rejected": dict(sorted(totals["records_rejected"].items())),
        "paragraphs": dict(sorted(totals["paragraphs"].items())),
        **funnel,
        "shards": sum(len(record["shards"]) for record in records),
    }
