"""What a shard build can be told."""

from typing import Annotated, Literal

from pydantic import Field

from lcl.core.config import config, hash_of
from pipeline.images import ImageRules
from pipeline.pages import PageRules


@config
class BuildConfig:
    crawl: Annotated[tuple[str, ...], Field(min_length=1)]
    """Crawl files (WARC, ARC, WACZ, compressed or not), globs, folders, lists (warc.paths.gz), at paths or addresses (s3://, https://).
    Images are looked up in the same file as their page."""
    prefix: str = ""
    """Put before each line of a list that is no whole path, such as https://data.commoncrawl.org/ or s3://commoncrawl/."""
    anonymous: bool = False
    """Ask object stores without credentials; otherwise they come from the environment."""
    output: str
    """Folder for the shards; a build that was interrupted continues there."""
    images: ImageRules = ImageRules()
    pages: PageRules = PageRules()
    dedup: Literal["exact", "none"] = "exact"
    """exact: within a crawl file, one document per address and per content."""
    shard_documents: Annotated[int, Field(ge=1)] = 1000
    """Documents per shard, at most."""
    shard_bytes: Annotated[int, Field(ge=1)] = 256 << 20
    """Bytes of content after which a shard is closed."""
    max_failed_crawls: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Fraction of crawl files that may fail before the build ends with an error."""


def rules_hash(value: BuildConfig) -> str:
    """Hash of all that decides the bytes of a split's shards, given its crawl file."""
    return hash_of(value, without=("crawl", "prefix", "anonymous", "output", "max_failed_crawls"))
