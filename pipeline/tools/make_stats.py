"""Entry point: histograms and counts of shards from their catalogues, as JSON, pictures and one HTML page.

    python pipeline/tools/make_stats.py --shards A B --output stats
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging
from pipeline.tools.shard_stats import gather_stats
from pipeline.tools.stats_page import write_stats


@config
class StatsConfig:
    shards: Annotated[tuple[str, ...], Field(min_length=1)]
    """Folders of shards, or selections of them."""
    output: str
    """Folder for stats.json, the pictures and index.html."""


def main(settings: StatsConfig) -> None:
    set_up_logging()
    output = Path(settings.output)
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not (output / "stats.json").exists())):
        raise ValueError(f"--output {output} holds something else than statistics; give another folder")
    stats = gather_stats([Path(folder) for folder in settings.shards])
    write_stats(stats, output)
    print(f"{stats['counts']['documents']} documents with {stats['counts']['images']} images: {(output / 'index.html').resolve()}")


if __name__ == "__main__":
    run_command(StatsConfig, main, description=__doc__.splitlines()[0])
