"""Memory follows the size of a row, not of a file: each kind reads a file of 100 MB in a process of its own."""

import gzip
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT
from tests.crawls import Capture, write_warc

NUM_ROWS, ROW_BYTES = 200, 500_000
MAX_GROWTH_BYTES = 64 << 20
ROW = "word " * (ROW_BYTES // 5)


def mmc4_zip(path: Path) -> None:
    line = json.dumps({"text_list": [ROW], "image_info": []}).encode() + b"\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.jsonl", "w") as member:
        for _ in range(NUM_ROWS):
            member.write(line)


def jsonl_gz(path: Path) -> None:
    line = json.dumps({"text": ROW, "image": "https://a.example/x.jpg"}).encode() + b"\n"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(NUM_ROWS):
            file.write(line)


def one_row_group(path: Path, columns: Callable[[], dict[str, pa.Array]]) -> None:
    with pq.ParquetWriter(path, pa.table(columns()).schema, compression="none", use_dictionary=False, write_batch_size=4) as writer:
        writer.write_table(pa.table(columns()), row_group_size=10**6)


def pairs(path: Path) -> None:
    one_row_group(path, lambda: {"jpg": pa.array([bytes(ROW_BYTES)] * NUM_ROWS), "text": pa.array(["x"] * NUM_ROWS)})


def obelics(path: Path) -> None:
    one_row_group(path, lambda: {"texts": pa.array([[ROW]] * NUM_ROWS), "images": pa.array([[None]] * NUM_ROWS, pa.list_(pa.string()))})


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as file:
        for number in range(NUM_ROWS):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = ROW_BYTES
            file.addfile(info, io.BytesIO(bytes(ROW_BYTES)))


def warc(path: Path) -> None:
    write_warc(path, [Capture("https://a.example/", bytes(ROW_BYTES))] * NUM_ROWS, gzipped=False)


@pytest.mark.parametrize(("kind", "make"), [("mmc4", mmc4_zip), ("jsonl", jsonl_gz), ("pairs", pairs), ("obelics", obelics), ("webdataset", tar), ("crawl", warc)])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, kind: str, make: Callable[[Path], None]) -> None:
    path = tmp_path / "large"
    make(path)
    result = subprocess.run([sys.executable, "-m", "tests.read_within", str(path), kind], cwd=ROOT, capture_output=True, text=True, timeout=100)
    path.unlink()
    assert result.returncode == 0, result.stderr
    num_items, growth_bytes = map(int, result.stdout.split())
    print(f"{kind}: {growth_bytes / 2**20:.0f} MiB")
    assert num_items == NUM_ROWS and growth_bytes < MAX_GROWTH_BYTES
