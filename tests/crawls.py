"""Small crawl files for tests, written by warcio: another implementation than the one that reads them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

FILLER = "This paragraph holds enough words for a boilerplate remover to see that it is content, and it goes on for a while. " * 2


@dataclass(frozen=True)
class Capture:
    url: str
    body: bytes
    content_type: str = "text/html; charset=utf-8"
    status: str = "200 OK"
    headers: Sequence[tuple[str, str]] = field(default=())


class _MemoryWriter(WARCWriter):
    """warcio leaves its temporary files open; in memory there is nothing to close."""

    _create_temp_file = staticmethod(io.BytesIO)


def write_warc(path: Path, captures: Sequence[Capture], *, gzipped: bool = True) -> Path:
    with open(path, "wb") as file:
        writer = _MemoryWriter(file, gzip=gzipped)
        for capture in captures:
            head = StatusAndHeaders(capture.status, [("Content-Type", capture.content_type), *capture.headers], protocol="HTTP/1.1")
            writer.write_record(writer.create_warc_record(capture.url, "response", payload=io.BytesIO(capture.body), http_headers=head))
    return path


def jpeg(colour: tuple[int, int, int], size: tuple[int, int] = (200, 180)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG")
    return buffer.getvalue()


def html(body: str) -> bytes:
    return f"<html><body><article><h1>Title</h1><p>{FILLER}</p>{body}<p>{FILLER}</p></article></body></html>".encode()
