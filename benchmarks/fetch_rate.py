"""Entry point: how many images a second one core fetches from loopback and finds again, by the size of the image.

    python benchmarks/fetch_rate.py --output fetch_rate.json

    a server in a process of its own --> fetch_images, without delay --> store --> ImageStore.find

Figures are processor time of the fetching process: plan, partitions, requests, checks, WARC, ledger and index included.
"""

import asyncio
import logging
import multiprocessing
import time
from collections.abc import Mapping
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pydantic import Field

from lcl.core.config import config, run_command
from lcl.core.logs import set_up_logging
from lcl.measured import write_result
from pipeline.fetch.fetch_config import FetchConfig, OptOuts, Politeness
from pipeline.fetch.image_store import ImageStore
from pipeline.fetch.run_fetch import fetch_images


@config
class FetchRateConfig:
    output: str
    """JSON file for the numbers."""
    addresses: Annotated[int, Field(ge=1)] = 3000
    """Of each size."""
    hosts: Annotated[int, Field(ge=1, le=200)] = 8
    """127.0.0.1 and on; eight requests are in flight at each."""
    sides_px: tuple[Annotated[int, Field(ge=8)], ...] = (16, 256)
    """Sides of the pictures, which are noise: JPEG of about 1 and 70 kB."""


def picture(side_px: int) -> bytes:
    buffer = BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def serve(hosts: int, bodies: Mapping[str, bytes], connection: Connection) -> None:
    """Answers `/SIDE/NUMBER` with the picture of that side and the number behind its end, so that bodies differ; anything else with 404."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                path = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1].decode()
                side, _, number = path[1:].partition("/")
                status, body = ("200 OK", bodies[side] + number.encode()) if side in bodies else ("404 Not Found", b"")
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run() -> None:
        first = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = first.sockets[0].getsockname()[1]
        servers = [first, *[await asyncio.start_server(handle, f"127.0.0.{number}", port) for number in range(2, hosts + 1)]]
        connection.send(port)
        await asyncio.gather(*(server.serve_forever() for server in servers))

    asyncio.run(run())


def measure(settings: FetchRateConfig, port: int, side_px: int, num_bytes: int) -> dict[str, float]:
    """Rates for pictures of one side. Raises ValueError if an image is missing."""
    urls = [f"http://127.0.0.{number % settings.hosts + 1}:{port}/{side_px}/{number}" for number in range(settings.addresses)]
    with TemporaryDirectory() as folder:
        pq.write_table(pa.table({"url": urls}), Path(folder) / "urls.parquet")
        fetch = FetchConfig(
            urls=(str(Path(folder) / "urls.parquet"),), output=str(Path(folder) / "store"), contact="benchmark@localhost", partitions=8, ports=(port,),
            allow_loopback=True, politeness=Politeness(per_host=8, delay_seconds=0), opt_outs=OptOuts(tdm_file=False),
        )  # fmt: skip
        start = time.process_time()
        report = fetch_images(fetch)
        fetching = time.process_time() - start
        images = ImageStore(Path(fetch.output))
        start = time.process_time()
        missing = sum(images.find(url) is None for url in urls)
        finding = time.process_time() - start
    if missing:
        raise ValueError(f"{missing} of {len(urls)} images were not fetched: {report['left_out']}")
    return {"bytes": num_bytes, "fetched_per_cpu_second": round(len(urls) / fetching, 1), "found_per_cpu_second": round(len(urls) / finding, 1)}


def main(settings: FetchRateConfig) -> None:
    set_up_logging()
    bodies = {str(side): picture(side) for side in settings.sides_px}
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(settings.hosts, bodies, theirs), daemon=True)
    server.start()
    port = ours.recv()
    measured: dict[str, Any] = {}
    for side in settings.sides_px:
        measured[f"{side} px"] = found = measure(settings, port, side, len(bodies[str(side)]))
        logging.info("%d px: %s", side, found)
    server.terminate()
    server.join()
    write_result(Path(settings.output), settings, measured)


if __name__ == "__main__":
    run_command(FetchRateConfig, main, description=__doc__.splitlines()[0])
