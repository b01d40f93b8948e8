"""Entry point: how fast each kind of source is read, in documents per second of processor time on one core.

    python benchmarks/sources.py [CRAWL ...]
"""

import io
import json
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.crawl import read_crawl
from pipeline.sources.kinds import KINDS
from pipeline.sources.options import SourceOptions
from pipeline.storage import Input

NUM_DOCUMENTS = 2_000
REPEATS = 3
URL = "https://a.example/{}.jpg"
SENTENCE = "A sentence of a dozen words or so that says nothing at all. "


def mmc4(path: Path) -> None:
    """20 sentences, 5 images, and the matrix of their similarities."""
    info = [{"image_name": "x", "raw_url": URL.format(number), "matched_text_index": number * 4, "matched_sim": 0.3} for number in range(5)]
    row = {"url": "https://a.example/", "text_list": [SENTENCE] * 20, "image_info": info, "similarity_matrix": [[0.123456789] * 20] * 5}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jsonl", (json.dumps(row) + "\n") * NUM_DOCUMENTS)


def obelics(path: Path) -> None:
    """3 texts of 15 sentences, 3 images."""
    row = {"texts": [SENTENCE * 15, None] * 3, "images": [None, URL.format(1)] * 3, "general_metadata": json.dumps({"url": "https://a.example/"})}
    pq.write_table(pa.Table.from_pylist([row] * NUM_DOCUMENTS), path)


def pairs(path: Path) -> None:
    numbers = range(10 * NUM_DOCUMENTS)
    pq.write_table(pa.table({"URL": [URL.format(number) for number in numbers], "TEXT": [SENTENCE] * len(numbers), "similarity": [0.3] * len(numbers)}), path)


def webdataset(path: Path) -> None:
    """As img2dataset writes them, with images of 30 kB."""
    members = {"jpg": bytes(30_000), "txt": SENTENCE.encode(), "json": json.dumps({"caption": SENTENCE, "url": URL.format(1)}).encode()}
    _write_tar(path, [members] * NUM_DOCUMENTS)


def mint(path: Path) -> None:
    """3 frames of 800 x 600 pixels: noise at an eighth of that size, enlarged."""
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 255, (75, 100, 3), dtype=np.uint8)).resize((800, 600)) for _ in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "TIFF", save_all=True, append_images=frames[1:], compression="tiff_lzw")
    row = {"texts": [SENTENCE, None, None, None], "images": [None, "page_0_image_1", "page_0_image_2", "page_1_image_3"]}
    _write_tar(path, [{"json": json.dumps(row).encode(), "tiff": buffer.getvalue()}] * (NUM_DOCUMENTS // 100))


def _write_tar(path: Path, samples: list[dict[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for number, members in enumerate(samples):
            for ending, data in members.items():
                info = tarfile.TarInfo(f"{number:06d}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def measure(read: Callable[[], Iterator[object]]) -> tuple[int, float]:
    """Number of items, and the best processor time in seconds."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        num_items = sum(1 for _ in read())
        times.append(time.process_time() - start)
    return num_items, min(times)


def main() -> None:
    for name in sys.argv[1:]:
        num_items, seconds = measure(lambda name=name: read_crawl(Input(name)))
        print(f"{Path(name).name:34} {num_items / seconds:10,.0f} records/s {Path(name).stat().st_size / seconds / 1e6:8,.0f} MB/s")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        for make in (mmc4, obelics, pairs, webdataset, mint):
            make(path)
            num_items, seconds = measure(lambda kind=make.__name__: KINDS[kind](Input(str(path)), SourceOptions()))
            print(f"{make.__name__:34} {num_items / seconds:10,.0f} documents/s")


if __name__ == "__main__":
    main()
