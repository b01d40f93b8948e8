"""Every kind of source in one table, and how a file's kind is found out.

    Input --> detect_source --> KINDS[kind] --> RawDocument | Rejected
"""

import difflib
import json
from collections.abc import Callable, Iterator, Mapping

from lcl.core.rejected import Rejected
from pipeline.crawl import CRAWL_NAME, ZSTD_MAGIC
from pipeline.expand import ZIP_MAGIC, gunzipped, open_zip
from pipeline.raw import RawDocument
from pipeline.sources.data_juicer import is_data_juicer, read_data_juicer
from pipeline.sources.json_rows import read_json_rows
from pipeline.sources.local_json import read_local_json
from pipeline.sources.mint import read_mint
from pipeline.sources.mmc4 import read_mmc4
from pipeline.sources.obelics import is_obelics, read_obelics
from pipeline.sources.options import SourceOptions
from pipeline.sources.pairs import is_pairs, read_pairs
from pipeline.sources.parquet_rows import NotASource, read_schema
from pipeline.sources.tar_samples import BLOCK, looks_like_tar, read_samples
from pipeline.sources.webdataset_pairs import read_webdataset_pairs
from pipeline.storage import Input, open_input

Reader = Callable[[Input, SourceOptions], Iterator[RawDocument | Rejected]]

CRAWL = "crawl"  # its pages are extracted first: pipeline/extract_split.py
KINDS: Mapping[str, Reader] = {
    "mmc4": read_mmc4,
    "obelics": read_obelics,
    "mint": read_mint,
    "jsonl": read_local_json,
    "pairs": read_pairs,
    "data_juicer": read_data_juicer,
    "webdataset": read_webdataset_pairs,
}
ENDINGS = (".parquet", ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".zip", ".tar", ".tar.gz", ".tgz")
PARQUET_MAGIC = b"PAR1"


def read_source(source: Input, options: SourceOptions) -> Iterator[RawDocument | Rejected]:
    """The documents of a file, each with the key `key_of(crawl.file, crawl.offset, page_url)`, which is its own in the file.

    Raises NotASource for a crawl (which holds pages, not documents), a file of another kind, or an unknown kind.
    """
    kind = detect_source(source) if options.kind == "auto" else options.kind
    if kind == CRAWL:
        raise NotASource(f"{source} is a crawl, its pages must be extracted: give it by --crawl")
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        raise NotASource(f"--source.kind {kind} is not one of auto, {CRAWL}, {', '.join(KINDS)}" + (f"; did you mean {near[0]}?" if near else ""))
    return KINDS[kind](source, options)


def detect_source(source: Input) -> str:
    """`crawl` or the key of KINDS that the file's content speaks for; its name decides only for crawls, whose records may be malformed.

    Raises NotASource if it is none of them, InputUnreadable if it cannot be read.
    """
    if CRAWL_NAME.search(source.name):
        return CRAWL
    try:
        with open_input(source) as file:
            start = file.read(4)
            if start == PARQUET_MAGIC:
                return _kind_of_parquet(source)
            if start == ZSTD_MAGIC:
                return CRAWL
            if start == ZIP_MAGIC:
                with open_zip(file) as archive:
                    if any(name.startswith("archive/") and CRAWL_NAME.search(name) for name in archive.namelist()):
                        return CRAWL
                return _kind_of_json(source)
            file.seek(0)
            start = gunzipped(file).read(BLOCK)
    except Rejected as rejected:
        raise NotASource(f"{source}: {rejected.detail}") from rejected
    if start.startswith((b"WARC/", b"filedesc://")):
        return CRAWL
    if looks_like_tar(start):
        return _kind_of_tar(source)
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return _kind_of_json(source)
    raise _unknown(source, "it begins neither as WARC, ARC, tar, zip, parquet nor as lines of JSON")


def _kind_of_parquet(source: Input) -> str:
    schema = read_schema(source)
    for kind, fits in (("obelics", is_obelics), ("data_juicer", is_data_juicer), ("pairs", is_pairs)):
        if fits(schema):
            return kind
    raise _unknown(source, f"its columns are {', '.join(schema.names)}")


def _kind_of_json(source: Input) -> str:
    row = next((item[1] for item in read_json_rows(source) if not isinstance(item, Rejected)), None)
    if row is None:
        raise _unknown(source, "it holds no line that is a JSON object")
    return "mmc4" if "text_list" in row else "jsonl"


def _kind_of_tar(source: Input) -> str:
    sample = next((item for item in read_samples(source) if not isinstance(item, Rejected)), None)
    if sample is None:
        raise _unknown(source, "the tar holds no sample that is whole")
    try:
        row = json.loads(sample.members.get("json", b"{}"))
    except (ValueError, RecursionError):
        row = {}
    return "mint" if isinstance(row, dict) and {"texts", "images"} <= row.keys() else "webdataset"


def _unknown(source: Input, found: str) -> NotASource:
    return NotASource(f"{source}: its kind is not known: {found}. If you know it, give --source.kind with one of {CRAWL}, {', '.join(KINDS)}")
