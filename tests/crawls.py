"""Small crawl files for tests, written by warcio: another implementation than the one that reads them."""

import io
import random
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


def arc_file(answers: list[bytes]) -> bytes:
    """ARC 1.0, written by hand: nobody's library writes it any more."""
    about = b"1 0 Test\nURL IP-address Archive-date Content-type Archive-length\n"
    parts = [b"filedesc://a.arc 0.0.0.0 20080430204825 text/plain %d\n%s\n" % (len(about), about)]
    return b"".join(parts + [b"https://a.example/%d 1.2.3.4 20080430204825 text/html %d\n%s\n" % (n, len(body), body) for n, body in enumerate(answers)])


def jpeg(colour: tuple[int, int, int], size: tuple[int, int] = (200, 180)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG")
    return buffer.getvalue()


def html(body: str) -> bytes:
    return f"<html><body><article><h1>Title</h1><p>{FILLER}</p>{body}<p>{FILLER}</p></article></body></html>".encode()


def write_sites(folder: Path, *, num_sites: int) -> list[Path]:
    """Crawl files of 30 pages and 5 images each, with text that is like no other."""
    chance = random.Random(1)
    found = []
    for number in range(num_sites):
        pages = [
            Capture(f"https://s{number}.example/{page}", html("<p>" + " ".join("".join(chance.choices("abcdefgh", k=5)) for _ in range(150)) + f"</p><img src='/{page % 5}.jpg'>"))
            for page in range(30)
        ]
        images = [Capture(f"https://s{number}.example/{image}.jpg", jpeg((40 * number, 25 * image, 7), (400, 300)), "image/jpeg") for image in range(5)]
        found.append(write_warc(folder / f"site-{number}.warc.gz", [*pages, *images]))
    return found
