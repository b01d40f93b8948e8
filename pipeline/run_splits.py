"""All splits on Ray: one stateless task each, bounded in flight, and a report that adds up.

    crawl files --> build_split tasks (retried when a worker dies) --> records --> report.json
"""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import xxhash

from lcl.core.config import to_dict, write_run_record
from lcl.core.document import SCHEMA
from lcl.core.files import read_json, write_json
from lcl.core.logs import progress_bar
from lcl.core.rejected import Reason
from pipeline.build_config import BuildConfig
from pipeline.crawl import CRAWL_ENDINGS, NotACrawl
from pipeline.split import CrawlChanged, build_split, split_name
from pipeline.storage import Input, InputUnreadable, find_inputs

MAX_RETRIES = 3
TASKS_PER_CPU = 2  # queued beside the running ones, so that no CPU waits for the driver

FAILURES: dict[type[Exception], Reason] = {
    NotACrawl: Reason.NOT_A_CRAWL, CrawlChanged: Reason.CRAWL_CHANGED, InputUnreadable: Reason.CRAWL_UNREADABLE, OSError: Reason.CRAWL_UNREADABLE,
}  # fmt: skip

log = logging.getLogger(__name__)


def prepare_output(config: BuildConfig) -> tuple[list[Input], Path]:
    """The crawl files and the output folder, checked. Raises ValueError before anything is written."""
    output = Path(config.output)
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        for name in [config.output, *(pattern for pattern in config.crawl if "://" not in pattern)]:
            if not Path(name).is_absolute():
                raise ValueError(f"{name} is a relative path: in a Ray job it would mean a temporary copy of the working folder. Give an absolute one.")
    crawl_files = find_inputs(config.crawl, endings=CRAWL_ENDINGS, prefix=config.prefix, anonymous=config.anonymous)
    names: dict[str, Input] = {}
    for crawl in crawl_files:
        other = names.setdefault(split_name(crawl), crawl)
        if other is not crawl:
            raise ValueError(f"{crawl} has the same file name as {other}, from which shards and keys are named: rename one of them")
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file; give a folder")
    run_path = output / "run.json"
    if run_path.exists():
        record = read_json(run_path)
        earlier = record.get("config", {})
        is_ours = "crawl" in earlier and "pages" in earlier
        if is_ours and not any(output.glob("splits/*.json")):
            run_path.unlink()  # a build that made nothing holds no folder
        elif not is_ours or _rules(earlier) != _rules(to_dict(config)) or record.get("crawls") != _names_hash(crawl_files):
            raise ValueError(f"{output} holds another run's shards (its run.json has other crawls or rules). Give another --output, or remove the folder.")
    elif output.exists() and any(output.iterdir()):
        raise ValueError(f"{output} is not empty and holds no shard build. Give another --output.")
    return crawl_files, output


def _rules(config: dict[str, Any]) -> dict[str, Any]:
    """What must be equal for two builds to share a folder, beside the names of their crawl files."""
    return {key: value for key, value in config.items() if key not in ("output", "max_failed_crawls", "crawl", "prefix", "anonymous")}


def _names_hash(crawl_files: Sequence[Input]) -> str:
    return xxhash.xxh128_hexdigest("\n".join(sorted(crawl.name for crawl in crawl_files)).encode("utf-8", "surrogateescape"))


def build_shards(config: BuildConfig) -> dict[str, Any]:
    """Builds every split, writes `report.json` and returns it. The same call continues an interrupted build.

    Raises ValueError if more than `max_failed_crawls` of the crawl files fail, after all others are done.
    """
    crawl_files, output = prepare_output(config)
    (output / "splits").mkdir(parents=True, exist_ok=True)
    if not (output / "run.json").exists():
        write_run_record(output, config, crawls=_names_hash(crawl_files))
    _start_ray()
    records, failures = _run(crawl_files, output.resolve(), config)
    report = summarise(records, failures, num_crawls=len(crawl_files))
    write_json(output / "report.json", report)
    if len(failures) > config.max_failed_crawls * len(crawl_files):
        first = next(iter(failures.values()))
        more = f" ({len(failures)} of {len(crawl_files)} crawl files failed, see {output / 'report.json'})" if len(crawl_files) > 1 else ""
        raise ValueError(first["message"] + more)
    return report


def _start_ray() -> None:
    """Joins the cluster that RAY_ADDRESS names (a job's environment has it), else starts a local Ray of its own."""
    if not ray.is_initialized():
        ray.init(address=os.environ.get("RAY_ADDRESS", "local"), include_dashboard=False, log_to_driver=True, logging_level=logging.WARNING)


def _run(crawl_files: Sequence[Input], output: Path, config: BuildConfig) -> tuple[list[dict[str, Any]], dict[str, dict[str, str]]]:
    task = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(build_split)
    limit = max(1, int(ray.cluster_resources().get("CPU", 1))) * (1 + TASKS_PER_CPU)
    waiting = sorted(crawl_files, key=split_name)
    running: dict[ray.ObjectRef, Input] = {}
    records: dict[str, dict[str, Any]] = {}
    failures: dict[str, dict[str, str]] = {}
    with progress_bar("crawl files", total=len(waiting)) as bar:
        while waiting or running:
            while waiting and len(running) < limit:
                crawl = waiting.pop(0)
                running[task.remote(crawl.absolute(), output, config)] = crawl
            for done in ray.wait(list(running))[0]:
                crawl = running.pop(done)
                try:
                    records[split_name(crawl)] = record = ray.get(done)
                    log.info("%s: %d of %d pages became documents", crawl.name, record["documents"].get("out", 0), record["documents"]["in"])
                    if record["records_rejected"]:
                        log.warning("%s: records damaged or too large: %s", crawl.name, record["records_rejected"])
                except ray.exceptions.RayError as error:
                    failures[crawl.name] = _failure(crawl, error)
                    log.warning("%s", failures[crawl.name]["message"])
                bar.advance(note=crawl.name)
    return [records[name] for name in sorted(records)], failures


def _failure(crawl: Input, error: ray.exceptions.RayError) -> dict[str, str]:
    """What is written of a crawl file whose task failed: its reason, and a line for people."""
    cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    for kind, reason in FAILURES.items():
        if isinstance(cause, kind):
            return {"reason": reason, "message": str(cause)}
    return {"reason": Reason.CRAWL_CRASHES, "message": f"{crawl}: its task failed ({type(cause).__name__}: {str(cause).splitlines()[0]}); please report this file"}


def summarise(records: Sequence[dict[str, Any]], failures: dict[str, dict[str, str]], *, num_crawls: int) -> dict[str, Any]:
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
