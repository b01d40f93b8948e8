"""One build in this process, for benchmarks/building.py: python benchmarks/build_once.py KIND OUTPUT CRAWL ...

KIND is `here` (no Ray) or `ray-N` (a local Ray with N workers, which is started and has imported the pipeline before the clock starts);
or `tasks-N`: no build, but N tasks that return a split's record, on two workers.
Writes OUTPUT.measured.json: seconds, peak memory of this process in MiB, memory in MiB before the build, and the counts of the report.
"""

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import ray

from pipeline.build_config import BuildConfig
from pipeline.dedup.settings import DedupConfig
from pipeline.meter import peak_memory
from pipeline.run_splits import build_shards
from pipeline.tasks import run_tasks

COUNTS = ("documents", "images", "records_rejected")


def main(kind: str, output: str, *crawls: str) -> None:
    logging.basicConfig(level=logging.ERROR)
    settings = BuildConfig(crawl=crawls or ("none",), output=output, executor="here" if kind == "here" else "ray", dedup=DedupConfig(), max_failed_crawls=1.0)
    name, _, number = kind.partition("-")
    if name != "here":
        num_workers = int(number) if name == "ray" else 2
        ray.init(address="local", num_cpus=num_workers, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
        ray.get([_import_pipeline.remote() for _ in range(num_workers)])
    before = peak_memory() / 2**20
    start = time.perf_counter()
    if name == "tasks":
        run_tasks(_record, {f"{task:06d}": (task,) for task in range(int(number))}, executor="ray", title="tasks", note=lambda record: None)
        report = {name: {"in": int(number)} for name in COUNTS}
    else:
        report = build_shards(settings)
    measured = {"seconds": time.perf_counter() - start, "peak_mib": peak_memory() / 2**20, "mib_before": before, "documents": report["documents"]["in"]}
    Path(f"{output}.measured.json").write_text(json.dumps(measured | {"report": {name: report[name] for name in COUNTS}}))


def _record(number: int) -> dict[str, Any]:
    """Of the size of a split's."""
    identity = {"crawl_file": f"{number:06d}.warc.gz", "fingerprint": f"{number}-{'0' * 32}", "rules": "0" * 16, "duplicates": "0" * 64, "versions": {str(n): "1.2.3" for n in range(7)}}
    counts = {str(n): number + n for n in range(20)}
    return {"identity": identity, "shards": [f"{number:06d}-00000"], "documents": counts, "images": dict(counts), "records": {}, "records_rejected": {}, "paragraphs": {}}


@ray.remote
def _import_pipeline() -> None:
    import pipeline.run_splits  # noqa: F401

    time.sleep(1)  # so that no worker does it for another


if __name__ == "__main__":
    main(*sys.argv[1:])
