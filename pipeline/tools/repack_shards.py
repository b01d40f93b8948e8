"""Entry point: shards or selections, shuffled as a whole into new shards of a chosen size and image side.

    python pipeline/tools/repack_shards.py --shards A B --output C --shard-documents 2000 --side-px 256 --seed 1
"""

from lcl.core.config import run_command
from lcl.core.logs import set_up_logging
from pipeline.tools.repack import RepackConfig, repack


def main(settings: RepackConfig) -> None:
    set_up_logging()
    report = repack(settings)
    print(f"{report['documents']['out']} documents with {report['images']['out']} images in {report['shards']} shards: {settings.output}")


if __name__ == "__main__":
    run_command(RepackConfig, main, description=__doc__.splitlines()[0])
