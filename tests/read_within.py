"""Reads a file in a process of its own and prints by how many bytes its peak memory grew: `python tests/read_within.py FILE KIND`."""

import re
import sys
from pathlib import Path

from pipeline.crawl import read_crawl
from pipeline.sources.kinds import CRAWL, KINDS
from pipeline.sources.options import SourceOptions
from pipeline.storage import Input


def peak_bytes() -> int:
    """Of this program; getrusage would count what the process was before it became this program."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def main(file: str, kind: str) -> None:
    before = peak_bytes()
    items = read_crawl(Path(file)) if kind == CRAWL else KINDS[kind](Input(file), SourceOptions(kind=kind))
    num_items = sum(1 for _ in items)
    print(num_items, peak_bytes() - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
