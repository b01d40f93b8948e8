"""Entry point: a set of shards from a folder to an address of an object store, or from there to a folder; what is there already is not sent again.

    python pipeline/tools/copy_shards.py --shards /data/repacked --output s3://bucket/repacked
    python pipeline/tools/copy_shards.py --shards s3://bucket/repacked --output /data/repacked
"""

from pathlib import Path

from lcl.core.config import config, run_command
from lcl.core.logs import progress_bar, set_up_logging
from lcl.core.selection import is_selection
from lcl.core.shard_mirror import fetch_shards, publish_records, publish_shard
from lcl.core.shards import find_shards
from lcl.core.stores import is_address


@config
class CopyConfig:
    shards: str
    """Folder of shards, or an address of them (s3://bucket/shards)."""
    output: str
    """Address, or folder: the other of the two. A folder is made to hold what the address does, and no more."""


def main(settings: CopyConfig) -> None:
    set_up_logging()
    if is_address(settings.shards) == is_address(settings.output):
        raise ValueError("--shards and --output are one folder and one address: give an address such as s3://bucket/shards for one of them")
    if is_address(settings.shards):
        fetch_shards(settings.shards, Path(settings.output))
        print(f"{len(find_shards([Path(settings.output)]))} shards of {settings.shards}: {settings.output}")
        return
    source = Path(settings.shards)
    if is_selection(source):
        raise ValueError(f"{source} is a selection, which holds no shards; `lcl repack` makes some of it")
    shards = find_shards([source])
    with progress_bar("publishing shards", total=len(shards)) as bar:
        sent = 0
        for shard in shards:
            sent += publish_shard(settings.output, shard.path)
            bar.advance()
    publish_records(settings.output, source)
    print(f"{len(shards)} shards of {source}, {sent} of them new or of a new revision: {settings.output}")


if __name__ == "__main__":
    run_command(CopyConfig, main, description=__doc__.splitlines()[0])
