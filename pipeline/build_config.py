"""What a shard build can be told."""

from dataclasses import replace
from typing import Annotated, Literal

import tyro
from pydantic import Field

from lcl.core.config import config, hash_of
from pipeline.dedup.hash_lists import ImageListsConfig
from pipeline.dedup.settings import DedupConfig
from pipeline.dedup.signature import SignatureConfig
from pipeline.images import PRESETS as IMAGE_PRESETS
from pipeline.images import ImageRules
from pipeline.pages.read_page import PageRules
from pipeline.sample import Fraction
from pipeline.sources.options import SourceOptions
from pipeline.text.text_rules import PRESETS as TEXT_PRESETS
from pipeline.text.text_rules import TextRules


@config
class BuildConfig:
    crawl: Annotated[tuple[str, ...], Field(min_length=1)]
    """Crawl files (WARC, ARC, WACZ), or documents (MMC4, OBELICS, MINT-1T, pairs, JSON lines): paths or addresses (s3://, https://) of files, folders,
    globs and lists (warc.paths.gz). Images are looked up in all crawl files."""
    prefix: str = ""
    """Put before each line of a list that is no whole path, such as https://data.commoncrawl.org/ or s3://commoncrawl/."""
    anonymous: bool = False
    """Ask object stores without credentials; otherwise they come from the environment."""
    source: SourceOptions = SourceOptions()
    sample: Fraction = 1.0
    """Part of the pages or documents to extract, as 0.001 or 0.1%, by a hash of their addresses; images are looked up in all. `lcl pilot` predicts the whole."""
    output: str
    """Folder for the shards; a build that was interrupted continues there."""
    mirror: str = ""
    """Address of an object store (s3://bucket/shards) where each shard is put too, as soon as its split is built; the same command again puts what is missing there."""
    extends: tuple[str, ...] = ()
    """Sets (folders of shards, or selections) that this build adds to: what is in them already is left out as a duplicate. Read them together: --data.shards A B."""
    images: ImageRules = ImageRules()
    pages: PageRules = PageRules()
    text: TextRules = TextRules()
    image_store: str = ""
    """Folder that `lcl fetch-images` made, for images that the crawl does not hold."""
    until: Literal["wanted", "shards"] = "shards"
    """wanted: stop when documents are extracted and images that the crawl does not hold are listed (OUTPUT/work/wanted), for `lcl fetch-images`."""
    honour_opt_outs: bool = True
    """Leave out pages and images whose captured headers refuse training: X-Robots-Tag noai, TDMRep, AIPREF."""
    require_license: tuple[str, ...] = ()
    """Licences of which a page must link one (cc-by, cc-by-sa-4.0, cc0, ..., or any); empty: no page has to."""
    image_lists: ImageListsConfig = ImageListsConfig()
    """Images that must not be kept, or that evaluations use."""
    dedup: DedupConfig = DedupConfig(image_set=False, paragraphs=False)
    """Duplicates are looked for in all inputs together."""
    signature: SignatureConfig = SignatureConfig()
    shard_documents: Annotated[int, Field(ge=1)] = 1000
    """Documents per shard, at most."""
    shard_bytes: Annotated[int, Field(ge=1)] = 256 << 20
    """Bytes of content after which a shard is closed."""
    keep_rejects: bool = False
    """Keep what is left out and why, by record, page and image, in OUTPUT/rejects (addresses, no texts and no pictures)."""
    executor: Literal["ray", "here"] = "ray"
    """ray: a task for each crawl file, on a cluster or on this machine. here: in this process, one after another."""
    item_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Wall-clock limit of one page, and of the images of one document; a worker that takes longer is ended, and after two times leaves it out."""
    max_failed_crawls: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Fraction of crawl files that may fail before the build ends with an error."""
    core_hour_price: Annotated[float, Field(ge=0)] = 0.0
    """Price of a core for an hour, in any currency, for the costs in timing.json; 0: none are named."""


# What changes no byte of a shard, given the inputs; and what may change between two runs of one build, which all but rejects may: a folder has those of all its splits, or none.
FREE_FIELDS = ("crawl", "prefix", "anonymous", "output", "extends", "keep_rejects", "max_failed_crawls", "item_seconds", "executor", "until", "image_store", "core_hour_price", "mirror")
CHANGEABLE_FIELDS = tuple(name for name in FREE_FIELDS if name != "keep_rejects")


# Rules with published numbers. crawl and output are asked for all the same.
PRESETS = {
    "minimal": BuildConfig(crawl=tyro.MISSING, output=tyro.MISSING),
    "obelics": BuildConfig(
        crawl=tyro.MISSING, output=tyro.MISSING, images=IMAGE_PRESETS["obelics"], pages=PageRules(min_images=1, max_images=30), text=TEXT_PRESETS["obelics"], dedup=DedupConfig(),
    ),
    "mmc4": BuildConfig(
        crawl=tyro.MISSING, output=tyro.MISSING, images=IMAGE_PRESETS["mmc4"], pages=PageRules(min_images=1, max_images=15), text=TEXT_PRESETS["mmc4"],
    ),
}  # fmt: skip


def extraction_hash(value: BuildConfig) -> str:
    """Hash of all that decides what an input is extracted to."""
    return hash_of(replace(value, images=ImageRules(), dedup=DedupConfig(), image_lists=ImageListsConfig(), shard_documents=1, shard_bytes=1), without=FREE_FIELDS)


def rules_hash(value: BuildConfig) -> str:
    """Hash of all that decides the bytes of a split's shards, given its crawl file and what other splits hold."""
    return hash_of(value, without=FREE_FIELDS)
