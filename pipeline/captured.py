"""Images that a crawl holds, by address, through redirects and revisits, from any of its files."""

from collections import OrderedDict
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from lcl.core.rejected import Rejected
from pipeline.addresses import join
from pipeline.crawl import Response, read_record
from pipeline.image_index import IMAGE, REDIRECT, ImageIndex, address_hash, digest_hash

MAX_HOPS = 6
OPEN_FILES = 16


class CapturedImages:
    """Looks addresses up in an index and reads their records. A context manager: leaving it closes the crawl files."""

    def __init__(self, index: ImageIndex, *, own_file: str) -> None:
        """Of several captures of one address, one in `own_file` is taken first, else that of the first file."""
        self._index, self._own_file = index, own_file
        self._open: OrderedDict[str, BinaryIO] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in self._open.values():
            file.close()

    def find(self, url: str) -> bytes | None:
        """The body that was captured at `url`; None if the crawl does not hold it."""
        address = address_hash(url)
        for _ in range(MAX_HOPS):
            found = self._index.find(address)
            if not found:
                return None
            file, offset, kind = min(found, key=lambda entry: (entry[2], entry[0] != self._own_file))
            record = self._read(file, offset)
            if record is None or kind == IMAGE:
                return record and record.body
            if kind == REDIRECT:
                address = address_hash(join(record.url, record.headers.get("location", "")))
                continue
            by_digest = self._index.find(digest_hash(record.digest)) if record.digest else []
            if by_digest:
                record = self._read(*by_digest[0][:2])
                return record and record.body
            if address_hash(record.revisit_of) == address:
                return None
            address = address_hash(record.revisit_of)
        return None

    def _read(self, path: str, offset: int) -> Response | None:
        if path in self._open:
            self._open.move_to_end(path)
        else:
            if len(self._open) == OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            self._open[path] = open(path, "rb")
        try:
            return read_record(self._open[path], offset)
        except Rejected:  # larger, once decoded, than any image may be
            return None
