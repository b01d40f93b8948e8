"""Entry point: a condition on documents to a selection, which is read like a folder of shards. Nothing is copied.

    python pipeline/tools/select_documents.py --shards A B --where "num_images >= 2 and domain != 'x.org'" --output picked
"""

from lcl.core.config import run_command
from lcl.core.logs import set_up_logging
from pipeline.tools.selecting import SelectConfig, select_documents


def main(settings: SelectConfig) -> None:
    set_up_logging()
    record = select_documents(settings)
    print(f"{record['documents']} documents with {record['images']} images, of {len(record['shards'])} shards: {settings.output}")


if __name__ == "__main__":
    run_command(SelectConfig, main, description=__doc__.splitlines()[0])
