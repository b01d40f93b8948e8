"""Entry point: a set of shards from a folder to an address of an object store, or from there to a folder; what is there already is not sent again.

    python pipeline/tools/copy_shards.py --source /data/repacked --target s3://bucket/repacked
    python pipeline/tools/copy_shards.py --source s3://bucket/repacked --target /data/repacked
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
    source: str
    """Folder of shards, or an address (s3://bucket/shards)."""
    target: str
    """The other of the two. A folder is made to hold what the address does, and no more."""


def main(settings: CopyConfig) -> None:
    set_up_logging()
    if is_address(settings.source) == is_address(settings.target):
        raise ValueError("--source and --target are one folder and one address: give an address such as s3://bucket/shards for one of them")
    if is_address(settings.source):
        fetch_shards(settings.source, Path(settings.target))
        print(f"{len(find_shards([Path(settings.target)]))} shards of {settings.source}: {settings.target}")
        return
    source = Path(settings.source)
    if is_selection(source):
        raise ValueError(f"{source} is a selection, which holds no shards; `lcl repack` makes some of it")
    shards = find_shards([source])
    with progress_bar("publishing shards", total=len(shards)) as bar:
        sent = 0
        for shard in shards:
            sent += publish_shard(settings.target, shard.path)
            bar.advance()
    publish_records(settings.target, source)
    print(f"{len(shards)} shards of {source}, {sent} of them new or of a new revision: {settings.target}")


if __name__ == "__main__":
    run_command(CopyConfig, main, description=__doc__.splitlines()[0])
