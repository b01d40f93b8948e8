"""Input splits: how they are named, and what tells that one changed."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from lcl.core.config import versions
from pipeline.crawl import CRAWL_NAME
from pipeline.storage import Input, fingerprint

BYTE_LIBRARIES = ("pillow", "resiliparse", "fastwarc", "pyarrow", "selectolax", "regex")  # other versions may give other bytes


class CrawlChanged(ValueError):
    """The output holds what was made of an input of this name from other bytes, rules or libraries."""


def split_name(source: Path | Input) -> str:
    """The split's name: the file name without its endings, letters, digits, `-` and `_` only, and a hash of the full file name."""
    stem = CRAWL_NAME.sub("", source.name)
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', stem)[:80]}-{xxhash.xxh32_hexdigest(source.name.encode())}"


def identity_of(source: Input, *, rules: str) -> dict[str, Any]:
    """What decides the result for a split."""
    return {"crawl_file": source.name, "fingerprint": fingerprint(source), "rules": rules, "versions": versions(BYTE_LIBRARIES)}


def size_in(identity: Mapping[str, Any]) -> int:
    """The bytes of the input, as its fingerprint says."""
    return int(identity["fingerprint"].partition("-")[0])


def check_identity(then: Mapping[str, Any], now: Mapping[str, Any], *, output: Path) -> None:
    """Raises CrawlChanged naming what differs."""
    changed = [key for key in now if then.get(key) != now[key]]
    if changed:
        raise CrawlChanged(f"{output} holds shards of {now['crawl_file']} made with another {' and '.join(changed)}; give another --output")
