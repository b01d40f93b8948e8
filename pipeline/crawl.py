"""Crawl files to responses: WARC (fastwarc) and ARC (warcio), bodies decoded with a bound on their size.

    file --> records --> HTTP response --> transfer and content encodings removed --> Response | Rejected
"""

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import brotli
import zstandard
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from warcio.archiveiterator import ArchiveIterator as ArcIterator
from warcio.exceptions import ArchiveLoadFailed

from lcl.core.rejected import Reason, Rejected

MAX_BODY_BYTES = 64 << 20  # twice the largest image that MAX_PIXELS of JPEG at 4 bits a pixel gives
ARC_MAGIC = b"filedesc://"
CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,8}")
WARC_TYPES = WarcRecordType.response | WarcRecordType.resource


@dataclass(frozen=True, kw_only=True)
class Response:
    """One captured answer: byte `offset` of its record, ISO 8601 date, lower-case header names, decoded body."""

    offset: int
    url: str
    date: str
    status: int
    headers: dict[str, str]
    body: bytes
    digest: str = ""          # of the payload, as the record gives it (`sha1:...`)
    revisit_of: str = ""      # the address whose earlier capture held the same body; empty where the record holds its own

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


class NotACrawl(ValueError):
    """The file holds no record, or there is no such file."""


def read_crawl(path: Path) -> Iterator[Response | Rejected]:
    """Every response of a crawl file in file order; a damaged record comes as a Rejected in its place.

    Raises NotACrawl if there is no such file or no record in it.
    """
    if not path.is_file():
        raise NotACrawl(f"{path}: no such crawl file")
    if path.stat().st_size == 0:
        raise NotACrawl(f"{path} is empty; a crawl file holds at least one record")
    found = False
    with open(path, "rb") as file:
        for record in _read_arc(file) if _is_arc(file) else _read_warc(file):
            found = True
            if record is not None:
                yield record
    if not found:
        raise NotACrawl(f"{path} is no crawl: it holds no WARC or ARC record (give .warc, .warc.gz, .arc or .arc.gz files)")


def read_record(file: BinaryIO, offset: int) -> Response | None:
    """The response whose record begins at `offset` of a crawl file; None if there is none any more."""
    is_arc = _is_arc(file)
    file.seek(offset)
    record = next(_read_arc(file) if is_arc else _read_warc(file), None)
    return replace(record, offset=offset) if isinstance(record, Response) else None


def _is_arc(file: BinaryIO) -> bool:
    file.seek(0)
    start = file.read(4096)
    file.seek(0)
    if start[:2] == b"\x1f\x8b":
        try:
            start = zlib.decompressobj(wbits=31).decompress(start, len(ARC_MAGIC))
        except zlib.error:
            return False
    return start.startswith(ARC_MAGIC)


def _read_warc(file: BinaryIO) -> Iterator[Response | Rejected | None]:
    """None stands for a record that is no response (it counts as a sign that the file is a crawl)."""
    # Decoding is ours: auto_decode='all' ends the file at a record that says `chunked` but was stored de-chunked.
    records = ArchiveIterator(file, record_types=WarcRecordType.any_type, parse_http=True, quirks_mode=True, auto_decode="none")
    while True:
        try:
            record = next(records)
            if record.record_type & WARC_TYPES:
                yield from _from_warc(record)
            elif record.record_type == WarcRecordType.revisit:
                yield _from_revisit(record)
            else:
                yield None
        except StopIteration:
            return
        except Rejected as rejected:
            yield rejected
        except OSError as error:  # a torn gzip member or header: fastwarc cannot go on behind it
            yield Rejected(Reason.RECORD_DAMAGED, str(error))
            return


def _from_revisit(record: WarcRecord) -> Response:
    """A capture whose body an earlier record holds (WARC 1.1, 6.7); its status is that of the body's."""
    url = (record.headers.get("WARC-Target-URI") or "").strip("<> ")
    earlier = (record.headers.get("WARC-Refers-To-Target-URI") or url).strip("<> ")
    return Response(
        offset=record.stream_pos, url=url, date=record.headers.get("WARC-Date") or "", status=304, headers={}, body=b"",
        digest=record.headers.get("WARC-Payload-Digest") or "", revisit_of=earlier,
    )  # fmt: skip


def _from_warc(record: WarcRecord) -> Iterator[Response | Rejected | None]:
    """The response, kept as far as it goes, and behind one that the file cuts short a Rejected."""
    url = (record.headers.get("WARC-Target-URI") or "").strip("<> ")
    head = record.http_headers
    if head is not None:
        status, headers = head.status_code or 0, {name.lower(): value for name, value in head.astuples()}
    elif record.record_type == WarcRecordType.resource:  # its own Content-Type stands for HTTP headers that were never sent
        status, headers = 200, {"content-type": record.headers.get("Content-Type") or ""}
    elif url.startswith("http"):
        yield Rejected(Reason.RECORD_DAMAGED, f"{url}: a response without HTTP headers")
        return
    else:
        yield None  # an answer of another protocol: Heritrix keeps its DNS look-ups so
        return
    body = record.reader.read(MAX_BODY_BYTES + 1)
    yield Response(
        offset=record.stream_pos, url=url, date=record.headers.get("WARC-Date") or "", status=status, headers=headers,
        body=_decode_body(body, headers, url), digest=record.headers.get("WARC-Payload-Digest") or "",
    )
    if len(body) < min(record.content_length, MAX_BODY_BYTES):
        yield Rejected(Reason.RECORD_DAMAGED, f"{url}: {len(body)} of {record.content_length} bytes")


def _read_arc(file: BinaryIO) -> Iterator[Response | Rejected | None]:
    records = ArcIterator(file)
    while True:
        try:
            record = next(records)
            head = record.http_headers
            if record.rec_type != "response" or head is None:
                yield None
                continue
            headers = {name.lower(): value for name, value in head.headers}
            url = record.rec_headers.get_header("uri") or ""
            body = record.raw_stream.read(MAX_BODY_BYTES + 1)
            code = head.get_statuscode()
            yield Response(
                offset=records.get_record_offset(), url=url, date=_arc_date(record.rec_headers.get_header("archive-date") or ""),
                status=int(code) if re.fullmatch("[0-9]{3}", code) else 0, headers=headers, body=_decode_body(body, headers, url),
            )
        except StopIteration:
            return
        except Rejected as rejected:
            yield rejected
        except (ArchiveLoadFailed, EOFError, zlib.error, UnicodeDecodeError) as error:
            yield Rejected(Reason.RECORD_DAMAGED, str(error))
            return


def _arc_date(digits: str) -> str:
    """`20080430204825` as `2008-04-30T20:48:25Z`."""
    if len(digits) != 14:
        return digits
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}T{digits[8:10]}:{digits[10:12]}:{digits[12:]}Z"


def _decode_body(body: bytes, headers: dict[str, str], url: str) -> bytes:
    """The body without transfer and content encodings; where a claimed encoding is not there, the bytes as they are.

    Archives often store a body already decoded and keep the header, so a failure to decode is no damage.
    Raises Rejected if the body, before or after decoding, is larger than MAX_BODY_BYTES.
    """
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _dechunk(body)
    for encoding in reversed(headers.get("content-encoding", "").lower().split(",")):
        expand = EXPANDERS.get(encoding.strip())
        if expand is not None:
            try:
                body = expand(body)
            except (zlib.error, brotli.error, zstandard.ZstdError):
                continue
    if len(body) > MAX_BODY_BYTES:
        raise Rejected(Reason.BODY_TOO_LARGE, url)
    return body


def _dechunk(body: bytes) -> bytes:
    chunks, position = [], 0
    while position < len(body):
        end = body.find(b"\r\n", position, position + 1024)
        size = CHUNK_SIZE.fullmatch(body[position:end].partition(b";")[0].strip()) if end >= 0 else None
        if size is None:
            return b"".join(chunks) if chunks else body  # never chunked, or cut short: what came is kept
        length = int(size[0], 16)
        if length == 0:
            break
        chunks.append(body[end + 2 : end + 2 + length])
        position = end + 2 + length + 2
    return b"".join(chunks)


def _inflate(wbits: int) -> Callable[[bytes], bytes]:
    return lambda body: zlib.decompressobj(wbits=wbits).decompress(body, MAX_BODY_BYTES + 1)


def _deflate(body: bytes) -> bytes:
    try:
        return _inflate(zlib.MAX_WBITS)(body)
    except zlib.error:  # many servers send the bare stream, without zlib's header
        return _inflate(-zlib.MAX_WBITS)(body)


def _unbrotli(body: bytes) -> bytes:
    decoder = brotli.Decompressor()
    out = decoder.process(body, output_buffer_limit=MAX_BODY_BYTES + 1)
    while not decoder.is_finished() and len(out) <= MAX_BODY_BYTES:
        more = decoder.process(b"", output_buffer_limit=MAX_BODY_BYTES + 1)
        if not more:
            break
        out += more
    return out


def _unzstd(body: bytes) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(body).read(MAX_BODY_BYTES + 1)


EXPANDERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": _inflate(31), "x-gzip": _inflate(31), "deflate": _deflate, "br": _unbrotli, "zstd": _unzstd,
}
