"""A shard build, phase by phase; each leaves files that the next one reads, so any of them continues after an interruption.

    extract     crawl files --> work/extracted, work/images              a task for each split (pipeline/extract_split.py)
    index       work/images --> work/index                               (pipeline/image_index.py)
    assemble    work/extracted, work/index --> shards, splits/*.json     a task for each split (pipeline/assemble_split.py)
    report      splits/*.json --> report.json
"""

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lcl.core.config import to_dict, write_run_record
from lcl.core.document import SCHEMA
from lcl.core.files import read_json, write_json
from pipeline.assemble_split import assemble_split
from pipeline.build_config import BuildConfig
from pipeline.extract_split import extract_split
from pipeline.image_index import PARTS, merge_part
from pipeline.splits import split_name
from pipeline.tasks import Outcome, run_tasks, start_ray

log = logging.getLogger(__name__)


def prepare_output(config: BuildConfig) -> tuple[list[Path], Path]:
    """The crawl files and the output folder, checked. Raises ValueError before anything is written."""
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    output = Path(config.output)
    crawl_files = [Path(name) for name in config.crawl]
    for path in [output, *crawl_files] if in_job else []:
        if not path.is_absolute():
            raise ValueError(f"{path} is a relative path: in a Ray job it would mean a temporary copy of the working folder. Give an absolute one.")
    names: dict[str, Path] = {}
    for path in crawl_files:
        if not path.is_file():
            raise ValueError(f"{path}: no such crawl file")
        other = names.setdefault(split_name(path), path)
        if other is not path:
            problem = "is given twice" if other == path else f"has the same file name as {other}, from which shards and keys are named: rename one of them"
            raise ValueError(f"{path} {problem}")
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file; give a folder")
    run_path = output / "run.json"
    if run_path.exists():
        earlier = read_json(run_path).get("config", {})
        is_ours = "crawl" in earlier and "pages" in earlier
        if is_ours and not any(output.glob("splits/*.json")) and not any(output.glob("work/extracted/*.json")):
            run_path.unlink()  # a build that made nothing holds no folder
        elif not is_ours or _identity(earlier) != _identity(to_dict(config)):
            raise ValueError(f"{output} holds another run's shards (its run.json has other crawls or rules). Give another --output, or remove the folder.")
    elif output.exists() and any(output.iterdir()):
        raise ValueError(f"{output} is not empty and holds no shard build. Give another --output.")
    return crawl_files, output


def _identity(config: dict[str, Any]) -> dict[str, Any]:
    """What must be equal for two builds to share a folder: the rules, and which crawl files by name."""
    return {key: value for key, value in config.items() if key not in ("output", "max_failed_crawls", "item_seconds", "executor", "crawl")} | {
        "crawl": sorted(Path(name).name for name in config["crawl"])
    }


def build_shards(config: BuildConfig) -> dict[str, Any]:
    """Builds every split, writes `report.json` and returns it. The same call continues an interrupted build.

    Raises ValueError if more than `max_failed_crawls` of the crawl files fail, after all others are done.
    """
    crawl_files, output = prepare_output(config)
    work = output.resolve() / "work"
    work.mkdir(parents=True, exist_ok=True)
    if not (output / "run.json").exists():
        write_run_record(output, config)
    if config.executor == "ray":
        start_ray()
    splits = {split_name(path): path.resolve() for path in crawl_files}
    extracted = run_tasks(extract_split, {name: (path, work, config) for name, path in splits.items()}, executor=config.executor, title="extracting", note=_say_extracted)
    _merge_index(extracted, work, config)
    built = run_tasks(assemble_split, {name: (name, work, config) for name in extracted.records}, executor=config.executor, title="assembling", note=_say_built)
    failures = {splits[name].name: failure for name, failure in (extracted.failures | built.failures).items()}
    report = summarise(list(built.records.values()), failures, num_crawls=len(crawl_files))
    write_json(output / "report.json", report)
    if len(failures) > config.max_failed_crawls * len(crawl_files):
        first = next(iter(failures.values()))
        more = f" ({len(failures)} of {len(crawl_files)} crawl files failed, see {output / 'report.json'})" if len(crawl_files) > 1 else ""
        raise ValueError(first["message"] + more)
    return report


def _merge_index(extracted: Outcome, work: Path, config: BuildConfig) -> None:
    """Merges what splits say of their images, unless it was done for the same crawl files."""
    index = work / "index"
    tables = [(work / "images" / f"{name}.npy", record["crawl_path"]) for name, record in extracted.records.items()]
    files = [file for _, file in tables]
    if not files or ((index / "files.json").exists() and read_json(index / "files.json") == files):
        return
    index.mkdir(exist_ok=True)
    merged = run_tasks(
        merge_part, {f"{part:02d}": (part, tables, index) for part in range(PARTS)}, executor=config.executor, title="indexing images", note=lambda _: None
    )
    if merged.failures:
        raise ValueError(f"the index of images could not be made: {next(iter(merged.failures.values()))['message']}")
    write_json(index / "files.json", files)


def _say_extracted(record: Mapping[str, Any]) -> None:
    log.info("%s: %d of %d pages extracted", record["identity"]["crawl_file"], record["rows"], record["documents"].get("in", 0))
    if record["records_rejected"]:
        log.warning("%s: records damaged or too large: %s", record["identity"]["crawl_file"], record["records_rejected"])


def _say_built(record: Mapping[str, Any]) -> None:
    log.info("%s: %d of %d pages became documents", record["identity"]["crawl_file"], record["documents"].get("out", 0), record["documents"].get("in", 0))


def summarise(records: Sequence[Mapping[str, Any]], failures: dict[str, dict[str, str]], *, num_crawls: int) -> dict[str, Any]:
    """The funnel: for crawl files, records, documents and images, what came in, what came out, what was left out and why."""
    totals: dict[str, Counter[str]] = {kind: Counter() for kind in ("records", "records_rejected", "documents", "images")}
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
        **funnel,
        "shards": sum(len(record["shards"]) for record in records),
    }
