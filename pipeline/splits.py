"""Input splits: how they are named, and what tells that one changed."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from lcl.core.config import versions

BYTE_LIBRARIES = ("pillow", "resiliparse", "fastwarc", "pyarrow", "selectolax")  # other versions may give other bytes


class CrawlChanged(ValueError):
    """The output holds what was made of a crawl file of this name from other bytes, rules or libraries."""


def split_name(crawl_file: Path) -> str:
    """The split's name: the file name without its endings, letters, digits, `-` and `_` only, and a hash of the full file name."""
    stem = re.sub(r"\.(w?arc)(\.gz)?$", "", crawl_file.name)
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', stem)[:80]}-{xxhash.xxh32_hexdigest(crawl_file.name.encode())}"


def fingerprint(crawl_file: Path) -> str:
    """Changes when the crawl file does: its size and a hash of its first and last 64 KiB."""
    size = crawl_file.stat().st_size
    with open(crawl_file, "rb") as file:
        ends = file.read(1 << 16)
        file.seek(max(0, size - (1 << 16)))
        ends += file.read(1 << 16)
    return f"{size}-{xxhash.xxh64_hexdigest(ends)}"


def identity_of(crawl_file: Path, *, rules: str) -> dict[str, Any]:
    """What decides the result for a split."""
    return {"crawl_file": crawl_file.name, "fingerprint": fingerprint(crawl_file), "rules": rules, "versions": versions(BYTE_LIBRARIES)}


def check_identity(then: Mapping[str, Any], now: Mapping[str, Any], *, crawl_file: Path, output: Path) -> None:
    """Raises CrawlChanged naming what differs."""
    changed = [key for key in now if then.get(key) != now[key]]
    if changed:
        raise CrawlChanged(f"{output} holds shards of {crawl_file.name} made with another {' and '.join(changed)}; give another --output")
