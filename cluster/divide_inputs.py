"""Entry point: one part of the inputs of a build as a list, for a task of a job array.

    python -m cluster.divide_inputs --crawl /data/crawl --parts 16 --part 3 --output part-3.paths
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from lcl.core.config import config, run_command
from lcl.core.files import open_aside
from pipeline.crawl import CRAWL_ENDINGS
from pipeline.find_inputs import find_inputs
from pipeline.sources.kinds import ENDINGS


@config
class DivideConfig:
    crawl: Annotated[tuple[str, ...], Field(min_length=1)]
    """As for `lcl build-shards`."""
    prefix: str = ""
    """As for `lcl build-shards`."""
    anonymous: bool = False
    """As for `lcl build-shards`."""
    parts: Annotated[int, Field(ge=1)]
    part: Annotated[int, Field(ge=0)]
    """From 0; every input is in one part."""
    output: str
    """List for `lcl build-shards --crawl`, which ends in .paths."""


def main(settings: DivideConfig) -> None:
    if settings.part >= settings.parts:
        raise ValueError(f"--part {settings.part} must be below --parts ({settings.parts})")
    inputs = find_inputs(settings.crawl, endings=CRAWL_ENDINGS + ENDINGS, prefix=settings.prefix, anonymous=settings.anonymous)
    mine = [source.absolute().location for source in inputs][settings.part :: settings.parts]
    if not mine:
        raise ValueError(f"there are {len(inputs)} inputs in {settings.parts} parts, and none in part {settings.part}: give fewer parts")
    path = Path(settings.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_aside(path) as file:
        file.write("".join(f"{location}\n" for location in mine).encode("utf-8", "surrogateescape"))


if __name__ == "__main__":
    run_command(DivideConfig, main, description=__doc__.splitlines()[0])
