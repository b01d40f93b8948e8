"""What was asked of an invented site and what it answered, as a crawl file. Equal captures give equal bytes."""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from lcl.core.files import open_aside

START = datetime(2024, 6, 7, 8, 0, 0, tzinfo=UTC)  # of the crawl; each capture takes a second


@dataclass(frozen=True)
class Capture:
    """What a URL answered, the body with its transfer and content encodings on."""

    url: str
    content_type: str
    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def write_crawl(path: Path, captures: Iterable[Capture], *, seed: int) -> None:
    """Writes the captures, each with its request, as WARC 1.1 (ISO 28500:2017): a gzip member for each record, a second for each capture."""
    with open_aside(path) as file:
        warc = WARCWriter(file, gzip=True, warc_version="1.1")
        information = b"software: lcl pipeline/samples\r\nformat: WARC File Format 1.1\r\n"
        warc.write_record(warc.create_warc_record("", "warcinfo", BytesIO(information), len(information), warc_headers_dict=_stamp("warcinfo", seed, 0)))
        for number, capture in enumerate(captures, start=1):
            headers = {"Content-Type": capture.content_type, **capture.headers}
            if "Transfer-Encoding" not in headers:
                headers["Content-Length"] = str(len(capture.body))
            answer = StatusAndHeaders(f"{capture.status} {HTTPStatus(capture.status).phrase}", list(headers.items()), protocol="HTTP/1.1")
            response = warc.create_warc_record(
                capture.url, "response", BytesIO(capture.body), len(capture.body), warc_headers_dict=_stamp("response", seed, number), http_headers=answer
            )
            parts = urlsplit(capture.url)
            question = StatusAndHeaders(f"GET {parts.path} HTTP/1.1", [("Host", parts.netloc), ("User-Agent", "sample-crawl")], is_http_request=True)
            request = warc.create_warc_record(capture.url, "request", warc_headers_dict=_stamp("request", seed, number), http_headers=question)
            warc.write_request_response_pair(request, response)


def _stamp(kind: str, seed: int, number: int) -> dict[str, str]:
    """The id and date of a record: warcio's own would be new in each run."""
    record_id = uuid.uuid5(uuid.NAMESPACE_URL, f"https://sample.example/{kind}/{seed}/{number}")
    return {"WARC-Record-ID": f"<urn:uuid:{record_id}>", "WARC-Date": (START + timedelta(seconds=number)).strftime("%Y-%m-%dT%H:%M:%SZ")}
