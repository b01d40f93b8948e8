"""What a set already holds, for a build that extends it: hashes and addresses, from catalogues alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lcl.core.shards import find_shards
from pipeline.addresses import normal_url


@dataclass(frozen=True)
class KnownDocuments:
    """Parallel lists over the documents of one shard."""

    text_xxh128: list[str]         # `text_hash` of all text
    urls: list[str]                # page addresses in one spelling (`normal_url`)
    image_sha256: list[list[str]]  # of the stored images, in order


def known_documents(folders: Sequence[Path]) -> Iterator[KnownDocuments]:
    """The documents of all shards of some sets or selections, a shard at a time, so that memory stays that of one catalogue.

    A document is a copy of one in the set if its address is among `urls`, or its text hash with its images' hashes is among the others
    (what `dedup: exact` compares within a crawl file). Raises ValueError as `find_shards` does.
    """
    for shard in find_shards(folders):
        table = shard.catalogue(["text_xxh128", "page_url", "image_sha256"])
        yield KnownDocuments(
            table["text_xxh128"].to_pylist(), [normal_url(url) for url in table["page_url"].to_pylist()], table["image_sha256"].to_pylist()
        )
