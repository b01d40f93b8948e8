"""One build in this process, for benchmarks/building.py: python benchmarks/build_once.py KIND OUTPUT CRAWL ...

KIND is `here` (no Ray) or `ray-N` (a local Ray with N workers, which is started and has imported the pipeline before the clock starts).
Writes OUTPUT.measured.json: seconds, peak memory of this process in MiB, memory in MiB before the build, and the counts of the report.
"""

import json
import logging
import sys
import time
from pathlib import Path

import ray

from pipeline.build_config import BuildConfig
from pipeline.dedup.settings import DedupConfig
from pipeline.meter import peak_memory
from pipeline.run_splits import build_shards


def main(kind: str, output: str, *crawls: str) -> None:
    logging.basicConfig(level=logging.ERROR)
    settings = BuildConfig(crawl=crawls, output=output, executor="here" if kind == "here" else "ray", dedup=DedupConfig(), max_failed_crawls=1.0)
    if kind != "here":
        num_workers = int(kind.removeprefix("ray-"))
        ray.init(num_cpus=num_workers, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
        ray.get([_import_pipeline.remote() for _ in range(num_workers)])
    before = peak_memory() / 2**20
    start = time.perf_counter()
    report = build_shards(settings)
    measured = {"seconds": time.perf_counter() - start, "peak_mib": peak_memory() / 2**20, "mib_before": before, "documents": report["documents"]["in"]}
    counts = {name: report[name] for name in ("documents", "images", "records_rejected")}
    Path(f"{output}.measured.json").write_text(json.dumps(measured | {"report": counts}))


@ray.remote
def _import_pipeline() -> None:
    import pipeline.run_splits  # noqa: F401

    time.sleep(1)  # so that no worker does it for another


if __name__ == "__main__":
    main(*sys.argv[1:])
