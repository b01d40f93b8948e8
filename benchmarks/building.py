"""Entry point: how a build scales: with workers, against no Ray at all, with more input, and what a worker needs of memory.

    python benchmarks/building.py --output docs/benchmarks/building.json                 half an hour on two cores, which nothing else should use
    python benchmarks/building.py --output docs/benchmarks/splits.json --parts splits
    python benchmarks/building.py --output outputs/building.json --parts memory

Each build runs in a process of its own (benchmarks/build_once.py), so that a peak of memory is that of one build.
"""

import gzip
import json
import logging
import random
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from lcl.core.config import config, run_command
from lcl.core.files import read_json
from lcl.core.logs import set_up_logging
from lcl.measured import write_result

log = logging.getLogger(__name__)

IMAGES_A_PAGE = 3
PARAGRAPHS = 12
NUM_WORDS = 20_000
SIZE_PX = (640, 480)
Part = Literal["workers", "soak", "memory", "splits"]


@config
class BuildingConfig:
    output: str
    """JSON file for what was measured."""
    parts: tuple[Part, ...] = ("workers", "soak", "memory")
    pages: Annotated[int, Field(ge=1)] = 150
    """Pages of a crawl file; each has 3 photographs of 640 x 480 pixels."""
    files: Annotated[int, Field(ge=2)] = 16
    """Crawl files of the build that one and two workers share."""
    rounds: Annotated[int, Field(ge=1)] = 3
    soak: tuple[int, ...] = (1, 10, 100)
    """Numbers of crawl files."""
    soak_pages: Annotated[int, Field(ge=1)] = 40
    splits: tuple[int, ...] = (1_000, 10_000, 100_000)
    """Numbers of tiny crawl files; as many as the last are also run as tasks that do nothing, through the driver alone."""
    large_bytes: Annotated[int, Field(ge=1)] = 1_000_000_000
    """Size of the large crawl file."""
    bomb_bytes: Annotated[int, Field(ge=1)] = 4 << 30
    """What one page expands to."""
    bomb_records: Annotated[int, Field(ge=1)] = 5_000_000
    """Records of a file of a few megabytes."""


def main(settings: BuildingConfig) -> None:
    set_up_logging()
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in settings.parts:
            log.info("%s", part)
            measured[part] = PARTS[part](Path(folder), settings)
            log.info("%s", json.dumps(measured[part]))
            write_result(Path(settings.output), settings, measured)


def measure_workers(folder: Path, settings: BuildingConfig) -> dict[str, Any]:
    """Seconds of the same build here, on Ray with one worker, and with two; in turns, so that all meet the same machine."""
    crawls = [write_crawl(folder / f"w{number}.warc.gz", number, settings.pages) for number in range(settings.files)]
    kinds = ("here", "ray-1", "ray-2")
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for round in range(settings.rounds):
        for kind in kinds:
            seconds[kind].append(one(crawls, folder / f"out-{round}-{kind}", kind)["seconds"])
    here, single, double = (min(seconds[kind]) for kind in kinds)
    return {
        "documents": settings.files * settings.pages, "seconds": seconds, "documents_per_second_here": settings.files * settings.pages / here,
        "overhead_of_ray": single / here - 1, "efficiency_of_two": single / (2 * double),
    }  # fmt: skip


def measure_soak(folder: Path, settings: BuildingConfig) -> list[dict[str, Any]]:
    """Cost of a document and memory of the driver, for 1, 10 and 100 times the input."""
    found = []
    for times in settings.soak:
        crawls = [write_crawl(folder / f"s{number}.warc.gz", 1000 + number, settings.soak_pages) for number in range(times)]
        result = one(crawls, folder / f"soak-{times}", "ray-2")
        found.append({"files": times, "documents": result["documents"], "ms_per_document": 1e3 * result["seconds"] / result["documents"], "driver_mib": result["peak_mib"]})
    return found


def measure_memory(folder: Path, settings: BuildingConfig) -> dict[str, Any]:
    """Peak memory of a process that does every phase itself, on inputs that are large or hostile, above that on one small page."""
    made = {
        "one small page": write_crawl(folder / "small.warc.gz", 1, 1),
        "large crawl": write_large(folder / "large.warc", settings.large_bytes),
        "page of 1.7 MB": write_page(folder / "page.warc.gz", (b"<p>" + b"some words of a page " * 40 + b"</p><img src=/a.jpg>") * 2_000),
        "page of a million images": write_page(folder / "images.warc.gz", b"<p>words</p>" + b"<img src=a.jpg>" * 1_000_000),
        "bomb of one record": write_bomb(folder / "bomb.warc.gz", settings.bomb_bytes),
        "bomb of records": write_record_bomb(folder / "records.warc.gz", settings.bomb_records),
    }
    found = {}
    for name, path in made.items():
        result = one([path], folder / f"memory-{path.stem}", "here")
        found[name] = {"file_mb": path.stat().st_size / 1e6, **{key: result[key] for key in ("peak_mib", "mib_before", "seconds", "report")}}
        path.unlink()
    return found


def measure_splits(folder: Path, settings: BuildingConfig) -> dict[str, Any]:
    """Many splits: tiny crawl files built, and built again when all is done; and as many tasks as splits through the driver alone."""
    found = {}
    for number in settings.splits:
        source = folder / f"splits-{number}"
        source.mkdir()
        data = write_crawl(source / "000000.warc.gz", 7, 1).read_bytes()
        for file in range(1, number):
            (source / f"{file:06d}.warc.gz").write_bytes(data)
        runs = [one([source], folder / f"out-splits-{number}", "ray-2") for _ in range(2)]
        found[str(number)] = {name: {"ms_per_split": 1e3 * run["seconds"] / number, "peak_mib": run["peak_mib"]} for name, run in zip(("built", "continued"), runs, strict=True)}
        log.info("%d splits: %s", number, json.dumps(found[str(number)]))
    number = settings.splits[-1]
    run = one([], folder / "out-tasks", f"tasks-{number}")
    return {"builds": found, "tasks": {"number": number, "ms_per_task": 1e3 * run["seconds"] / number, "peak_mib": run["peak_mib"], "mib_before": run["mib_before"]}}


PARTS = {"workers": measure_workers, "soak": measure_soak, "memory": measure_memory, "splits": measure_splits}


def one(crawls: list[Path], output: Path, kind: str) -> dict[str, Any]:
    """A build in a process of its own; what it measured of itself."""
    subprocess.run([sys.executable, str(Path(__file__).with_name("build_once.py")), kind, str(output), *map(str, crawls)], check=True, stdout=subprocess.DEVNULL)
    return read_json(Path(f"{output}.measured.json"))


def write_crawl(path: Path, seed: int, num_pages: int) -> Path:
    """Pages that are like no others, each with photographs of its own: noise at an eighth of their size, enlarged."""
    chance = random.Random(seed)
    with open(path, "wb") as file:
        warc = WARCWriter(file, gzip=True)
        for page in range(num_pages):
            site = f"https://s{seed}.example/{page}"
            _write(warc, site, _html(chance).encode(), "text/html; charset=utf-8")
            for image in range(IMAGES_A_PAGE):
                _write(warc, f"{site}/{image}.jpg", _photograph(chance.randrange(1 << 32)), "image/jpeg")
    return path


def _html(chance: random.Random) -> str:
    words = lambda number: " ".join(f"w{chance.randrange(NUM_WORDS)}" for _ in range(number))  # noqa: E731
    menu = "".join(f"<li><a href='/{number}'>{words(2)}</a></li>" for number in range(40))
    body = "".join(f"<p>{words(60)}.</p>" + (f"<figure><img src='{number}.jpg' alt='{words(4)}'></figure>" if number < IMAGES_A_PAGE else "") for number in range(PARAGRAPHS))
    base = "<base href='{base}'>"  # the page's own address, filled in when it is written
    return f"<html><head><title>{words(6)}</title>{base}</head><body><ul>{menu}</ul><article>{body}</article><footer>{words(30)}</footer></body></html>"


def _photograph(seed: int) -> bytes:
    width, height = SIZE_PX
    noise = np.random.default_rng(seed).integers(256, size=(height // 8, width // 8, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(noise).resize(SIZE_PX, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _write(warc: WARCWriter, url: str, body: bytes, content_type: str, **headers: str) -> None:
    body = body.replace(b"{base}", url.encode() + b"/")
    answer = StatusAndHeaders("200 OK", [("Content-Type", content_type), *headers.items()], protocol="HTTP/1.1")
    warc.write_record(warc.create_warc_record(url, "response", BytesIO(body), len(body), http_headers=answer))


def write_large(path: Path, num_bytes: int) -> Path:
    """A crawl file without compression, so that it is made quickly: pages with images, and files that are neither."""
    chance, filler = random.Random(0), random.Random(1).randbytes(2_000_000)
    with open(path, "wb") as file:
        warc = WARCWriter(file, gzip=False)
        for page in range(sys.maxsize):
            if file.tell() > num_bytes:
                return path
            site = f"https://large.example/{page}"
            _write(warc, site, _html(chance).encode(), "text/html")
            for image in range(IMAGES_A_PAGE):
                _write(warc, f"{site}/{image}.jpg", _photograph(chance.randrange(1 << 32)), "image/jpeg")
            _write(warc, f"{site}/archive", filler, "application/octet-stream")
    return path


def write_page(path: Path, html: bytes) -> Path:
    with open(path, "wb") as file:
        _write(WARCWriter(file, gzip=True), "https://a.example/", html, "text/html")
    return path


def write_bomb(path: Path, num_bytes: int) -> Path:
    """A page and an image whose bodies are zeros, gzipped twice: by the site and by the crawl."""
    squeeze = zlib.compressobj(9, wbits=31)
    body = b"".join([*(squeeze.compress(bytes(1 << 20)) for _ in range(num_bytes >> 20)), squeeze.flush()])
    with open(path, "wb") as file:
        warc = WARCWriter(file, gzip=True)
        _write(warc, "https://a.example/", body, "text/html", **{"Content-Encoding": "gzip"})
        _write(warc, "https://a.example/a.jpg", body, "image/jpeg", **{"Content-Encoding": "gzip"})
        _write(warc, "https://a.example/b", b"<p>words</p><img src=/a.jpg>", "text/html")
    return path


def write_record_bomb(path: Path, num_records: int) -> Path:
    """Redirects in one gzip member, alike but for a number."""
    def records() -> Iterator[bytes]:
        for number in range(num_records):
            body = b"HTTP/1.1 301 M\r\nLocation: /\r\n\r\n"
            yield b"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http\r\nWARC-Target-URI: http://a/%d\r\nContent-Length: %d\r\n\r\n%s\r\n\r\n" % (number, len(body), body)

    with gzip.open(path, "wb", compresslevel=6) as file:
        for record in records():
            file.write(record)
    return path


if __name__ == "__main__":
    run_command(BuildingConfig, main, description=__doc__.splitlines()[0])
