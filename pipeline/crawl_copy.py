"""A plain WARC of the images, redirects and revisits that cannot be sought where they were captured.

    records of a WACZ, or of a crawl that was compressed as a whole --> NAME.warc, made when the first comes
"""

import io
from pathlib import Path
from types import TracebackType
from typing import Self

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipeline.crawl import Response, Revisit


class CrawlCopy:
    """A context manager; leaving it closes the file. A copy that was left half-written is begun again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: io.BufferedWriter | None = None

    def __enter__(self) -> Self:
        self._path.unlink(missing_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, item: Response | Revisit) -> int:
        """Writes the record, its body decoded, and returns its offset in bytes."""
        if self._file is None:
            self._file = open(self._path, "wb")
            self._writer = _Writer(self._file, gzip=False)
        offset = self._file.tell()
        if isinstance(item, Revisit):
            head = StatusAndHeaders("304 Not Modified", [], protocol="HTTP/1.1")
            record = self._writer.create_revisit_record(item.url, item.digest, item.refers_to_url, item.refers_to_date, http_headers=head)
        else:
            kept = [(name, item.headers[name]) for name in ("content-type", "location") if name in item.headers]
            head = StatusAndHeaders(f"{item.status} Captured", kept, protocol="HTTP/1.1")
            record = self._writer.create_warc_record(item.url, "response", payload=io.BytesIO(item.body), http_headers=head)
        self._writer.write_record(record)
        return offset


class _Writer(WARCWriter):
    _create_temp_file = staticmethod(io.BytesIO)  # warcio leaves its temporary files open; bodies are bounded
