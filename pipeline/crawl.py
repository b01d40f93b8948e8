"""Crawl files to responses: WARC (fastwarc), ARC (warcio), WACZ (a zip of them), bodies decoded with a bound on their size.

    file --> records --> HTTP response --> transfer and content encodings removed --> Response | Revisit | Rejected
"""

import os
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import BinaryIO

import brotli
import zstandard
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from warcio.archiveiterator import ArchiveIterator as ArcIterator
from warcio.exceptions import ArchiveLoadFailed

from lcl.core.rejected import Reason, Rejected
from pipeline.expand import GZIP_MAGIC, ZIP_MAGIC, limit_of, zip_members
from pipeline.fetch.opt_out import merge_headers
from pipeline.storage import Input, as_input, open_input, open_scattered

MAX_BODY_BYTES = 64 << 20  # twice the largest image that MAX_PIXELS of JPEG at 4 bits a pixel gives
MAX_RECORDS = 5_000_000  # a file of Common Crawl has a hundred thousand; the table of their images stays below 500 MB
ARC_MAGIC = b"filedesc://"
START_BYTES = 4096  # of a file, by which ARC is told from WARC
CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,8}")
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF")
CRAWL_NAME = re.compile(r"\.w?arc(\.(gz|zst|lz4))?$|\.wacz$", re.IGNORECASE)
CRAWL_ENDINGS = (".warc", ".warc.gz", ".warc.zst", ".warc.lz4", ".arc", ".arc.gz", ".wacz")
WARC_TYPES = WarcRecordType.response | WarcRecordType.resource


@dataclass(frozen=True, kw_only=True)
class Response:
    """One captured answer: byte `offset` of its record, ISO 8601 date, lower-case header names, decoded body.

    `digest` is the record's WARC-Payload-Digest (as `sha1:BASE32`), by which revisits refer to it; empty where there is none.
    `seekable`: `CrawlFile.record_at` finds it again at its offset.
    """

    offset: int
    url: str
    date: str
    status: int
    headers: dict[str, str]
    body: bytes
    digest: str = ""
    seekable: bool = True

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True, kw_only=True)
class Revisit:
    """A capture whose body was stored before, perhaps in another file: what is needed to look it up.

    The body is that of the response with payload digest `digest`, or of the capture of `refers_to_url` at `refers_to_date`
    (WARC 1.1, 6.7); any of them may be empty.
    """

    offset: int
    url: str
    date: str
    digest: str
    refers_to_url: str
    refers_to_date: str
    seekable: bool = True


class NotACrawl(ValueError):
    """The file holds no record."""


def read_crawl(source: Path | Input) -> Iterator[Response | Revisit | Rejected]:
    """Every response of a crawl file in file order; a damaged record comes as a Rejected in its place.

    Offsets are of the file as it lies there, and grow from record to record: where records share a compressed block, so that several
    begin at one byte, the next free number is taken, and they are not `seekable`. A WACZ counts as its crawl members one behind the other,
    in order of name. Behind MAX_RECORDS records, or bodies of many times the file's size, the rest is given up: a Rejected.
    Raises NotACrawl if there is no record in it, InputUnreadable if it cannot be read to its end.
    """
    with open_input(source) as file:
        found, last, seekable = False, -1, True
        limit = limit_of(file.seek(0, os.SEEK_END))
        file.seek(0)
        for number, record in enumerate(_read(file, as_input(source))):
            found = True
            if isinstance(record, Response):
                limit -= len(record.body)
            elif isinstance(record, Rejected) and record.reason == Reason.BODY_TOO_LARGE:
                limit -= MAX_BODY_BYTES
            if number >= MAX_RECORDS or limit < 0:
                yield Rejected(Reason.ARCHIVE_TOO_LARGE, f"{source}: not read behind record {number}")
                return
            if isinstance(record, Response | Revisit):
                if last < 1 <= record.offset:  # the first that does not begin with the file speaks for all
                    seekable = record.seekable and _begins_record(source, record.offset)
                last = max(record.offset, last + 1)
                yield replace(record, offset=last, seekable=seekable and record.seekable and record.offset == last)
            elif record is not None:
                yield record
    if not found:
        raise NotACrawl(f"{source} is no crawl: it holds no WARC or ARC record (give .warc, .warc.gz, .warc.zst, .arc, .arc.gz or .wacz files)")


class CrawlFile:
    """A crawl file whose records are looked up by their offsets. Raises InputUnreadable if it cannot be read."""

    def __init__(self, source: Input) -> None:
        self._file = open_scattered(source)
        self._read = _read_arc if _is_arc(self._file.read(START_BYTES)) else _read_warc

    def record_at(self, offset: int) -> Response | Revisit | None:
        """The response or revisit whose record begins at byte `offset`; None if there is none any more."""
        self._file.seek(offset)
        record = next(self._read(self._file), None)
        return replace(record, offset=offset) if isinstance(record, Response | Revisit) else None

    def close(self) -> None:
        self._file.close()


def _begins_record(source: Path | Input, offset: int) -> bool:
    """Whether a record can be read from there on: in a file that is compressed as a whole, none can but the first."""
    with open_scattered(source) as file:
        start = file.read(4)
        file.seek(offset)
        here = file.read(4)
    return not start.startswith((GZIP_MAGIC, ZSTD_MAGIC)) or here[: len(GZIP_MAGIC)] == start[: len(GZIP_MAGIC)]


Records = Iterator[Response | Revisit | Rejected | None]  # None: a record that is no response, but a sign that the file is a crawl


def _read(file: BufferedReader, source: Input) -> Records:
    start = file.peek(START_BYTES)
    if not start:
        raise NotACrawl(f"{source} is empty; a crawl file holds at least one record")
    if start.startswith(ZIP_MAGIC):
        return _read_wacz(file)
    return _read_arc(file) if _is_arc(start) else _read_warc(file)


def _read_wacz(file: BufferedReader) -> Records:
    """WACZ 1.1.1: the crawl lies in archive/, stored without further compression."""
    base = 0
    try:
        for info, stream in zip_members(file, wanted=lambda name: name.startswith("archive/") and CRAWL_NAME.search(name) is not None):
            for record in _read_arc(stream) if _is_arc(stream.peek(START_BYTES)) else _read_warc(stream):
                yield replace(record, offset=base + record.offset, seekable=False) if isinstance(record, Response | Revisit) else record
            base += info.file_size
    except Rejected as rejected:  # of the zip: nothing behind it can be read
        yield rejected


def _is_arc(start: bytes) -> bool:
    if start[:2] == b"\x1f\x8b":
        try:
            start = zlib.decompressobj(wbits=31).decompress(start, len(ARC_MAGIC))
        except zlib.error:
            return False
    return start.startswith(ARC_MAGIC)


def _read_warc(file: BinaryIO | RawIOBase) -> Records:
    # Decoding is ours: auto_decode='all' ends the file at a record that says `chunked` but was stored de-chunked.
    records = ArchiveIterator(file, record_types=WarcRecordType.any_type, parse_http=True, quirks_mode=True, auto_decode="none")
    while True:
        try:
            record = next(records)
        except StopIteration:
            return
        except Rejected as rejected:  # of the container that the file lies in
            yield rejected
            return
        except OSError as error:  # a torn gzip member or header: fastwarc cannot go on behind it
            yield Rejected(Reason.RECORD_DAMAGED, str(error))
            return
        try:
            if record.record_type & WARC_TYPES:
                yield from _from_warc(record)
            else:
                yield _revisit(record) if record.record_type == WarcRecordType.revisit else None
        except Rejected as rejected:
            yield rejected
        except OSError as error:
            yield Rejected(Reason.RECORD_DAMAGED, str(error))
            return


def _revisit(record: WarcRecord) -> Revisit:
    head = record.headers
    return Revisit(
        offset=record.stream_pos, url=_target(record), date=head.get("WARC-Date") or "", digest=head.get("WARC-Payload-Digest") or "",
        refers_to_url=(head.get("WARC-Refers-To-Target-URI") or "").strip("<> "), refers_to_date=head.get("WARC-Refers-To-Date") or "",
    )  # fmt: skip


def _target(record: WarcRecord) -> str:
    return (record.headers.get("WARC-Target-URI") or "").strip("<> ")


def _from_warc(record: WarcRecord) -> Iterator[Response | Rejected | None]:
    """The response, kept as far as it goes, and behind one that the file cuts short a Rejected."""
    url = _target(record)
    head = record.http_headers
    if head is not None:
        status, headers = head.status_code or 0, merge_headers(head.astuples())
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


def _read_arc(file: BinaryIO | RawIOBase) -> Records:
    records = ArcIterator(file)
    while True:
        try:
            record = next(records)
            head = record.http_headers
            if record.rec_type != "response" or head is None:
                yield None
                continue
            headers = merge_headers(head.headers)
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
            if rejected.reason != Reason.BODY_TOO_LARGE:  # of the container that the file lies in
                return
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
