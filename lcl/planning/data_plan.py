"""What building shards of whole crawls would take, from what a build of some files, or a pilot, took.

    timing.json and report.json of a build, or PILOT.json --> Rates of a crawl file --x files x crawls--> core-hours, days, storage, costs
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from lcl.core.config import config
from lcl.core.files import read_json

Amount = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


@config
class DataPlanConfig:
    build: str = ""
    """A finished folder of `lcl build-shards`, or the .pilot.json of `lcl pilot`, whose rates are taken in the place of the four numbers below."""
    core_seconds_per_file: Amount = 0.0
    """Processor seconds that a crawl file takes, over all phases."""
    documents_per_file: Amount = 0.0
    """Documents that it gives."""
    shard_bytes_per_file: Amount = 0.0
    """Bytes of shards that it gives."""
    work_bytes_per_file: Amount = 0.0
    """Bytes of temporary tables."""
    crawl_files: Count = 1
    """Files of one crawl. One of Common Crawl has some 90,000 (its announcements)."""
    crawls: Count = 1
    cores: Count = 1
    """Cores that build at one time."""
    efficiency: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Part of the cores' time that tasks use; two workers had 0.92 (docs/benchmarks.md, building)."""
    core_hour_price: Amount = 0.0
    """Price of a core for an hour; 0: no costs are given."""


def rates_of(settings: DataPlanConfig) -> dict[str, float] | None:
    """Core seconds, documents and bytes of one crawl file; None if neither a build nor numbers are given. Raises ValueError for a folder without a finished build, and for one of two numbers."""
    if not settings.build:
        given = {
            "core_seconds": settings.core_seconds_per_file, "documents": settings.documents_per_file, "shard_bytes": settings.shard_bytes_per_file,
            "work_bytes": settings.work_bytes_per_file,
        }  # fmt: skip
        if any(given.values()) and not (given["core_seconds"] and given["documents"]):
            raise ValueError("--data.core-seconds-per-file and --data.documents-per-file belong together: give both, or --data.build")
        return given if given["core_seconds"] else None
    path = Path(settings.build)
    if path.suffix == ".json":
        return _rates_of_pilot(path)
    if not (path / "timing.json").exists():
        raise ValueError(f"--data.build {path} holds no timing.json: give the folder of a finished `lcl build-shards`, or the .pilot.json of `lcl pilot`")
    timing, report = read_json(path / "timing.json"), read_json(path / "report.json")
    files, storage = report["crawls"]["out"], timing["storage_bytes"]
    work = sum(amount for name, amount in storage.items() if name != "shards")
    return {
        "core_seconds": timing["total"]["core_seconds"] / files, "documents": timing["total"]["documents_out"] / files, "shard_bytes": storage["shards"] / files, "work_bytes": work / files
    }


def _rates_of_pilot(path: Path) -> dict[str, float]:
    if not path.exists():
        raise ValueError(f"--data.build {path}: no such file")
    record = read_json(path)
    if "predictions" not in record:
        raise ValueError(f"--data.build {path} is no record of `lcl pilot`")
    predicted = {name: one["value"] for name, one in record["predictions"].items()}
    files = record["inputs"]
    return {
        "core_seconds": 3600 * predicted["core_hours.in_all"] / files, "documents": predicted["documents_out"] / files,
        "shard_bytes": predicted["storage_bytes.shards"] / files,
        "work_bytes": (predicted["storage_bytes.in_all"] - predicted["storage_bytes.shards"]) / files,
    }  # fmt: skip


def plan_data(settings: DataPlanConfig, rates: dict[str, float]) -> dict[str, Any]:
    """The plan as JSON values. Files are alike, and nothing but storage of the search for duplicates grows with their number (docs/benchmarks.md, many splits)."""
    files = settings.crawl_files * settings.crawls
    hours = rates["core_seconds"] * files / 3600
    held = hours / settings.efficiency
    return {
        "per_file": {"core_hours": rates["core_seconds"] / 3600, **{name: rates[name] for name in ("documents", "shard_bytes", "work_bytes")}},
        "per_crawl": {"core_hours": hours / settings.crawls, "documents": rates["documents"] * settings.crawl_files, "shard_bytes": rates["shard_bytes"] * settings.crawl_files},
        "in_all": {
            "files": files, "core_hours": hours, "documents": rates["documents"] * files, "shard_bytes": rates["shard_bytes"] * files, "work_bytes": rates["work_bytes"] * files,
            "days": held / settings.cores / 24, "cost": held * settings.core_hour_price or None,
        },
        "documents_per_second": settings.efficiency * settings.cores * rates["documents"] / rates["core_seconds"],
        "documents_per_core_second": rates["documents"] / rates["core_seconds"],
    }  # fmt: skip
