"""Compressed files as streams that stop at a bound: gzip, and the members of a zip.

    file --> gzip or zip member --> bytes, at most 200 for each compressed one (or 256 MiB) --> reader
"""

import gzip
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from io import BufferedReader, RawIOBase
from typing import Any, BinaryIO

from lcl.core.rejected import Reason, Rejected
from pipeline.storage import BUFFER_BYTES, InputUnreadable

GZIP_MAGIC = b"\x1f\x8b"
ZIP_MAGIC = b"PK\x03\x04"
MAX_EXPANSION = 200  # JSON and HTML shrink 4 to 30 times; deflate's best on zeros is 1032
FREE_BYTES = 256 << 20
MAX_MEMBERS = 100_000
MAX_DIRECTORY_BYTES = 16 << 20  # the directory of a zip is read into memory
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # an LZMA member names the memory that its decoder takes, up to 4 GiB
# gzip and zipfile on hostile bytes; a storage that fails raises InputUnreadable, which is none of these
DAMAGE = (EOFError, OSError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError, struct.error, UnicodeDecodeError, OverflowError)


def limit_of(size_bytes: int) -> int:
    """The bytes that a compressed file of this size may expand to."""
    return max(FREE_BYTES, MAX_EXPANSION * size_bytes)


def starts_with(file: BinaryIO, magic: bytes) -> bool:
    """Whether the file begins so; its position is its start afterwards."""
    file.seek(0)
    found = file.read(len(magic)) == magic
    file.seek(0)
    return found


def gunzipped(file: BinaryIO) -> BinaryIO:
    """The file, without its gzip compression where it has one (all members of it). Reads raise Rejected: torn, or beyond its limit."""
    if not starts_with(file, GZIP_MAGIC):
        return file
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return BufferedReader(_Bounded(gzip.GzipFile(fileobj=file), _Budget(limit_of(size))), buffer_size=BUFFER_BYTES)


def zip_members(file: BinaryIO, *, wanted: Callable[[str], bool]) -> Iterator[tuple[zipfile.ZipInfo, BufferedReader]]:
    """The wanted members in order of name, each as a stream that is valid until the next. All of them share one limit.

    Raises Rejected if the file is no whole zip or has too many members; so do reads that meet damage, encryption or the limit.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    budget = _Budget(limit_of(size))
    with open_zip(file) as archive:
        for info in sorted(archive.infolist(), key=lambda info: info.filename):
            if not wanted(info.filename):
                continue
            if info.compress_type not in METHODS:
                raise Rejected(Reason.RECORD_DAMAGED, f"{info.filename}: compression method {info.compress_type}; stored and deflated members are read")
            try:
                member = archive.open(info)
            except DAMAGE as error:
                raise Rejected(Reason.RECORD_DAMAGED, f"{info.filename}: {error}") from error
            with BufferedReader(_Bounded(member, budget), buffer_size=BUFFER_BYTES) as stream:
                yield info, stream


def open_zip(file: BinaryIO) -> zipfile.ZipFile:
    """Raises Rejected if it is no whole zip, or one with a directory beyond MAX_DIRECTORY_BYTES or MAX_MEMBERS."""
    try:
        archive = zipfile.ZipFile(_SmallReads(file))
    except InputUnreadable:
        raise
    except (*DAMAGE, ValueError) as error:
        raise Rejected(Reason.RECORD_DAMAGED, f"no whole zip: {error}") from error
    if len(archive.infolist()) > MAX_MEMBERS:
        archive.close()
        raise Rejected(Reason.ARCHIVE_TOO_LARGE, f"{len(archive.infolist())} members")
    return archive


class _SmallReads:
    """A file that refuses the one large read of zipfile: a directory of any size that the end of the file claims."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > MAX_DIRECTORY_BYTES:
            raise Rejected(Reason.ARCHIVE_TOO_LARGE, f"a directory of {size} bytes")
        return self._file.read(size)


class _Budget:
    def __init__(self, num_bytes: int) -> None:
        self.left = self.total = num_bytes


class _Bounded(RawIOBase):
    """Reads of another stream, until a budget of bytes is spent."""

    def __init__(self, stream: Any, budget: _Budget) -> None:
        super().__init__()
        self._stream = stream
        self._budget = budget
        self._position = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(len(buffer))
        except DAMAGE as error:
            raise Rejected(Reason.RECORD_DAMAGED, f"{type(error).__name__}: {error}") from error
        self._position += len(data)
        self._budget.left -= len(data)
        if self._budget.left < 0:
            raise Rejected(Reason.ARCHIVE_TOO_LARGE, f"expands to more than {self._budget.total} bytes")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()
