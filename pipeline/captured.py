"""Images that a crawl holds, by address, through redirects and revisits, from any of its files."""

from collections import OrderedDict
from types import TracebackType
from typing import Self

from lcl.core.rejected import Rejected
from pipeline.addresses import join
from pipeline.crawl import CrawlFile, Response, Revisit
from pipeline.fetch.fetch_config import AGENT
from pipeline.fetch.opt_out import opt_out
from pipeline.image_index import REDIRECT, ImageIndex, address_hash, digest_hash
from pipeline.storage import Input

MAX_HOPS = 6
OPEN_FILES = 16


class CapturedImages:
    """Looks addresses up in an index and reads their records. A context manager: leaving it closes the crawl files."""

    def __init__(self, index: ImageIndex, *, own_file: str, anonymous: bool = False, honour_opt_outs: bool = True) -> None:
        """Of several captures of one address, one in `own_file` is taken first, else that of the first file."""
        self._index, self._own_file, self._anonymous, self._honour_opt_outs = index, own_file, anonymous, honour_opt_outs
        self._open: OrderedDict[str, CrawlFile] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in self._open.values():
            file.close()

    def find(self, url: str) -> bytes | None:
        """The body that was captured at `url`; None if the crawl does not hold it. Raises Rejected if its headers refuse training."""
        address = address_hash(url)
        for _ in range(MAX_HOPS):
            found = self._index.find(address, own_file=self._own_file)
            if found is None:
                return None
            file, offset, kind = found
            record = self._read(file, offset)
            if isinstance(record, Revisit):
                by_digest = self._index.find(digest_hash(record.digest)) if record.digest else None
                if by_digest is not None:
                    return self._body(self._read(*by_digest[:2]))
                address = address_hash(record.refers_to_url)
            elif record is not None and kind == REDIRECT:
                address = address_hash(join(record.url, record.headers.get("location", "")))
            else:
                return self._body(record)
        return None

    def _read(self, path: str, offset: int) -> Response | Revisit | None:
        if path in self._open:
            self._open.move_to_end(path)
        else:
            if len(self._open) == OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            self._open[path] = CrawlFile(Input(path, self._anonymous))
        try:
            return self._open[path].record_at(offset)
        except Rejected:  # larger, once decoded, than any image may be
            return None

    def _body(self, record: Response | Revisit | None) -> bytes | None:
        if not isinstance(record, Response):
            return None
        if self._honour_opt_outs and (reason := opt_out(record.headers, AGENT)) is not None:
            raise Rejected(reason, record.url)
        return record.body
