"""URL tables to partitions: each address once, all addresses of a site in one partition.

    tables --shuffle--> urls/*.parquet, sorted by partition --read_wanted--> the addresses of one partition, each once

A partition holds whole sites (registrable domains), and one worker at a time works on a partition: so limits that a worker
keeps for a host hold for the cluster, and a redirect from example.com to www.example.com stays inside.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tldextract
import xxhash
from yarl import URL

from lcl.core.files import files_below, open_aside, sha256_of
from lcl.core.rejected import Rejected
from pipeline.addresses import normal_url
from pipeline.fetch.addresses import host_of, parse_url

BATCH_ROWS = 65_536
GROUP_ROWS = 4_000_000  # sorted at once; about 2 GB of memory
SCHEMA = pa.schema([("partition", pa.int32()), ("key", pa.string()), ("url", pa.string()), ("depth", pa.int8())])
SOURCES = b"sources"

_domains = tldextract.TLDExtract(cache_dir=None, suffix_list_urls=(), include_psl_private_domains=True)  # its own copy of the list, no network


@dataclass(frozen=True)
class Wanted:
    """An address to ask: `key` names it (pipeline.addresses.normal_url), `depth` counts the redirects that led to it."""

    key: str
    url: str
    depth: int = 0


def hash_key(key: str) -> tuple[int, int]:
    """The two halves, 64 bits each, of a key's xxh128."""
    return divmod(xxhash.xxh128_intdigest(key.encode("utf-8", "surrogatepass")), 1 << 64)


@functools.lru_cache(maxsize=100_000)
def site_of(host: str) -> str:
    """The registrable domain of a host, or the host itself where it has none (an IP address, `localhost`)."""
    return _domains(host).top_domain_under_public_suffix or host


def partition_of(url: URL, num_partitions: int) -> int:
    """The partition in [0, num_partitions) of the URL's site."""
    return xxhash.xxh64_intdigest(site_of(host_of(url)).encode()) % num_partitions


def list_tables(names: Sequence[str]) -> list[Path]:
    """The tables that `--urls` names, folders searched in full, sorted. Raises ValueError where there is none."""
    tables: set[Path] = set()
    for name in names:
        path = Path(name)
        found = [file for file in files_below(path) if file.suffix == ".parquet"] if path.is_dir() else [path] if path.is_file() else []
        if not found:
            raise ValueError(f"--urls {path}: {'no *.parquet in this folder' if path.is_dir() else 'no such file or folder'}")
        tables.update(table.resolve() for table in found)
    return sorted(tables)


def read_urls(table: Path) -> Iterator[list[str]]:
    """The column `url` in batches, without nulls. Raises ValueError if the file is no such table."""
    try:
        file = pq.ParquetFile(table)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{table} is no parquet file, or a damaged one: {error}") from error
    with file:
        if "url" not in file.schema_arrow.names:
            raise ValueError(f"{table} has no column `url`; it has {', '.join(file.schema_arrow.names)}")
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=["url"]):
            yield [url for url in batch.column(0).to_pylist() if isinstance(url, str)]


def count_urls(tables: Sequence[Path]) -> tuple[int, int, int]:
    """Rows, different addresses and different hosts; 8 bytes of memory for each row and host. Rows without a usable address count as rows only."""
    num_rows = 0
    keys, hosts = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    for table in tables:
        for urls in read_urls(table):
            num_rows += len(urls)
            parsed = list(_usable(urls))
            keys.append(np.unique(np.array([hash_key(normal_url(text))[0] for text, _ in parsed], np.uint64)))
            hosts.append(np.unique(np.array([hash_key(host_of(url))[0] for _, url in parsed], np.uint64)))
    return num_rows, len(np.unique(np.concatenate(keys))), len(np.unique(np.concatenate(hosts)))


def _usable(urls: Iterable[str]) -> Iterator[tuple[str, URL]]:
    for text in urls:
        try:
            yield text, parse_url(text)
        except Rejected:  # never an address: find() gives None for it, as for one that nobody listed
            continue


def shuffle_tables(tables: Sequence[Path], folder: Path, *, num_partitions: int) -> list[Path]:
    """Writes the addresses of tables that were not taken up before into `folder` and returns the files. Repeated, it writes nothing.

    A table is known by its file name and content. Rows without a usable address are left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = {source for path in folder.glob("*.parquet") for source in _sources(path)}
    written: list[Path] = []
    sources: list[str] = []
    parts: list[pa.Table] = []
    for table in tables:
        source = f"{table.name} {sha256_of(table)}"
        if source in known:
            continue
        known.add(source)
        sources.append(source)
        parts += [as_table((Wanted(normal_url(text), str(url)) for text, url in _usable(urls)), num_partitions) for urls in read_urls(table)]
        if sum(len(part) for part in parts) >= GROUP_ROWS:
            written.append(write_sorted(folder, parts, sources))
            parts, sources = [], []
    if sources:
        written.append(write_sorted(folder, parts, sources))
    return written


def as_table(wanted: Iterable[Wanted], num_partitions: int) -> pa.Table:
    rows = [{"partition": partition_of(URL(item.url, encoded=True), num_partitions), **asdict(item)} for item in wanted]
    return pa.Table.from_pylist(rows, SCHEMA)


def write_sorted(folder: Path, parts: Sequence[pa.Table], sources: Sequence[str]) -> Path:
    """One file for the addresses of `parts`, sorted, so that a partition reads few row groups of it. Its name follows from `sources`."""
    table = pa.concat_tables([SCHEMA.empty_table(), *parts]).sort_by([(name, "ascending") for name in SCHEMA.names])
    table = table.replace_schema_metadata({SOURCES: json.dumps(list(sources)).encode()})
    name = hashlib.sha256("\n".join(sources).encode()).hexdigest()[:16]
    path = folder / f"{name}.parquet"
    with open_aside(path) as file:
        pq.write_table(table, file, row_group_size=BATCH_ROWS, compression="zstd")
    return path


def _sources(path: Path) -> list[str]:
    return json.loads(pq.read_schema(path).metadata[SOURCES])


def read_wanted(folder: Path, partition: int) -> dict[str, Wanted]:
    """The addresses of one partition by key. Of several for one key: the fewest redirects, then https, then the first in order."""
    wanted: dict[str, Wanted] = {}
    for path in sorted(folder.glob("*.parquet")):
        for row in pq.read_table(path, columns=["key", "url", "depth"], filters=[("partition", "=", partition)]).to_pylist():
            item = Wanted(**row)
            other = wanted.get(item.key)
            if other is None or _rank(item) < _rank(other):
                wanted[item.key] = item
    return dict(sorted(wanted.items()))


def _rank(item: Wanted) -> tuple[int, bool, str]:
    return item.depth, not item.url.startswith("https:"), item.url
