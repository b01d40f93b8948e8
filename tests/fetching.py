"""URL tables and settings for tests of fetching."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.fetch.fetch_config import FetchConfig, Limits, OptOuts, Politeness
from pipeline.fetch.ledger import Row, read_ledger
from tests.bad_server import Server

CONTACT = "crawler@example.org"
FAST = {"delay_seconds": 0.0, "backoff_seconds": 0.05, "retries": 1, "give_up_after": 1000}
SHORT = {"total_seconds": 1.5, "connect_seconds": 1, "read_seconds": 0.7, "max_bytes": 200_000}


def write_urls(path: Path, urls: Iterable[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"url": list(urls)}), path)
    return path


def settings_for(
    folder: Path, server: Server | None, urls: Iterable[str], *, politeness: dict[str, Any] | None = None, limits: dict[str, Any] | None = None, **others: Any
) -> FetchConfig:
    """Settings to fetch `urls` from a loopback server into `folder`/store: short limits, no delay, unless told otherwise."""
    values = {"partitions": 3, "opt_outs": OptOuts(tdm_file=False), "allow_loopback": server is not None, "ports": (server.port,) if server else (80, 443)}
    return FetchConfig(
        urls=(str(write_urls(folder / "urls" / "table.parquet", urls)),), output=str(folder / "store"), contact=CONTACT,
        politeness=Politeness(**(FAST | (politeness or {}))), limits=Limits(**(SHORT | (limits or {}))), **(values | others),
    )  # fmt: skip


def rows_of(store: str) -> list[Row]:
    return [row for folder in sorted(Path(store).glob("partitions/*")) for row in read_ledger(folder)]


def outcomes_of(store: str) -> dict[str, str]:
    """The last outcome of each address, by URL."""
    return {row.url: row.outcome for row in rows_of(store)}


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)
