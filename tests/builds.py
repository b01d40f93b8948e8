"""Shard builds in the process of a test."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lcl.core.config import from_dict, to_dict
from lcl.core.files import read_json
from pipeline.build_config import BuildConfig
from pipeline.captured import CapturedImages
from pipeline.image_index import ImageIndex
from pipeline.run_splits import build_shards
from pipeline.splits import split_name
from pipeline.storage import Input
from tests.crawls import Capture, write_warc


def build_here(crawls: Sequence[Path | str], output: Path, **rules: object) -> list[dict[str, Any]]:
    """Builds shards of the crawl files and returns their records. `pages__min_images` sets a rule of a group.

    Near-duplicates stay: the pages of tests differ in few words.
    """
    values = to_dict(replace(BuildConfig(crawl=tuple(map(str, crawls)), output=str(output)), executor="here", max_failed_crawls=0.0))
    for key, value in {"dedup__near": {"on": False}, **rules}.items():
        group, _, name = key.rpartition("__")
        (values[group] if group else values)[name] = value
    build_shards(from_dict(BuildConfig, values, origin="test"))
    return [read_json(output / "splits" / f"{split_name(Input(str(crawl)))}.json") for crawl in crawls]


OF_THE_RUN = ("run.json", "timing.json", "README.md")


def built_bytes(folder: Path) -> dict[str, bytes]:
    """What a build leaves beside work/, but for its records of when it ran, how long, and where its inputs lay, and the card, which has the folder's name."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name not in OF_THE_RUN and not name.startswith("work/")}


def build_captures(folder: Path, captures: list[Capture], **rules: object) -> dict[str, Any]:
    """Builds `folder`/shards from one crawl file of these captures and returns its record."""
    (record,) = build_here([write_warc(folder / "crawl.warc.gz", captures)], folder / "shards", **rules)
    return record


def captured_images(crawls: Sequence[Path], output: Path) -> CapturedImages:
    """The images that some crawl files hold."""
    build_here(crawls, output, max_failed_crawls=1.0, pages__min_images=0)
    return CapturedImages(ImageIndex(output / "work" / "index"), own_file="")
