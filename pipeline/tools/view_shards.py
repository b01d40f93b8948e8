"""Entry point: documents of shards as static HTML pages with their images, searchable, for a browser without a network.

    python pipeline/tools/view_shards.py --shards A --output pages --where "num_images >= 2"
"""

from pathlib import Path

from lcl.core.config import run_command
from lcl.core.logs import set_up_logging
from pipeline.tools.viewer import ViewConfig, view_shards


def main(settings: ViewConfig) -> None:
    set_up_logging()
    counts = view_shards(settings)
    print(f"{counts['documents']} documents with {counts['images']} images on {counts['pages']} pages: {(Path(settings.output) / 'index.html').resolve()}")


if __name__ == "__main__":
    run_command(ViewConfig, main, description=__doc__.splitlines()[0])
