"""Input files wherever they lie, read: on local disks, and at any address that fsspec knows (s3://, https://, ...).

    Input --+--> open_input ------> from end to end: blocks of 8 MiB  --+--> reads retried --> readers
            +--> open_scattered --> here and there: blocks of 64 KiB, doubled as a read goes on
"""

import errno
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import xxhash
from fsspec import AbstractFileSystem

from lcl.core.stores import SCHEME, file_system, is_address, retried

BLOCK_BYTES = 8 << 20          # of one request to an object store
BUFFER_BYTES = 1 << 18         # of one read of a local file
FIRST_BYTES = 1 << 16          # of the first read behind a seek, where reads are scattered: most images of the web are smaller
LARGEST_BYTES = 1 << 20        # of a later one
ENDS_BYTES = 1 << 16


class InputUnreadable(ValueError):
    """An input that is not there, may not be read, changed while it was read, or failed at every attempt. Never a sign of its content."""


@dataclass(frozen=True)
class Input:
    """A file to read, by local path or address. Credentials are never part of it: they come from the environment of the process that reads."""

    location: str
    anonymous: bool = False  # ask an object store without credentials

    @property
    def is_local(self) -> bool:
        return not is_address(self.location)

    @property
    def name(self) -> str:
        """The file name, from which shards and keys are named: equal for a file and its copy elsewhere."""
        if self.is_local:
            return Path(self.location).name
        first = self.location.partition("::")[0]  # of a chain such as zip://a.warc::s3://bucket/b.zip
        path = urlsplit(first).path if first.startswith("http") else SCHEME.sub("", first, count=1)
        return unquote(path.rstrip("/").rpartition("/")[2]) or urlsplit(first).netloc

    def absolute(self) -> "Input":
        """The same file from any working folder."""
        return Input(os.path.abspath(self.location), self.anonymous) if self.is_local else self

    def beside(self, path: str) -> "Input":
        """The input at `path`, relative to this one's folder. Raises ValueError if that would leave the folder."""
        parts = path.split("/")
        if not path or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path or is_address(path):
            raise ValueError(f"{path!r} is no path inside the folder of {self}")
        if not self.is_local:
            return Input(f"{self.location.rpartition('/')[0]}/{path}", self.anonymous)
        folder = Path(self.location).parent.resolve()
        if not (folder / path).resolve().is_relative_to(folder):
            raise ValueError(f"{path!r} is a link that leaves the folder of {self}")
        return Input(str(folder / path))

    def __str__(self) -> str:
        return self.location


def as_input(source: Input | Path) -> Input:
    return source if isinstance(source, Input) else Input(str(source))


def open_input(source: Input | Path) -> BinaryIO:
    """The input as a seekable binary file that holds at most two blocks in memory.

    A read that fails is tried again from its place, up to five times; then, or if the input is another one by now, InputUnreadable is
    raised, whatever the storage raised: a reader never takes a broken connection for a damaged file. A web server that does not
    answer ranges is copied to a temporary file first.
    """
    source = as_input(source)
    return BufferedReader(_RetriedFile(source, cache="readahead"), buffer_size=BUFFER_BYTES)


def open_scattered(source: Input | Path) -> RawIOBase:
    """The input for reads of a few KiB at places far apart: as open_input, but raw (a read may be short), and little more is read than asked for.

    FIRST_BYTES behind a seek, then twice as many at each read, up to LARGEST_BYTES: a record of n bytes costs at most 2 n + FIRST_BYTES, in few requests.
    """
    return _Scattered(_RetriedFile(as_input(source), cache="none"))


_read_so_far = [0]


def bytes_read() -> int:
    """Bytes of inputs that this process has read until now; as with `time.process_time`, differences are what tells."""
    return _read_so_far[0]


def fingerprint(source: Input | Path) -> str:
    """Changes when the input does: its size and a hash of its first and last 64 KiB. A copy elsewhere has the same."""
    with BufferedReader(open_scattered(source), buffer_size=ENDS_BYTES) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        ends = file.read(ENDS_BYTES)
        file.seek(max(0, size - ENDS_BYTES))
        ends += file.read(ENDS_BYTES)
    return f"{size}-{xxhash.xxh64_hexdigest(ends)}"


class _Seekable(RawIOBase):
    """What both readers say of themselves; each keeps its own `_position`."""

    _position: int

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position


class _RetriedFile(_Seekable):
    """A file that is opened again, at the place where it was, when a read fails. `cache` is fsspec's, for what is not local."""

    def __init__(self, source: Input, *, cache: str) -> None:
        super().__init__()
        self._source = source
        self._cache = cache
        self._file: Any = None
        self._position = 0
        self._size, self._version = self._retry(self._open)

    def _open(self) -> tuple[int, Any]:
        """Size in bytes, and what tells this version of the input from others."""
        if self._source.is_local:
            self._file = open(self._source.location, "rb", buffering=0)
            status = os.fstat(self._file.fileno())
            return status.st_size, (status.st_ino, status.st_mtime_ns)
        files, path = file_system(self._source.location, anonymous=self._source.anonymous)
        self._file = files.open(path, "rb", block_size=BLOCK_BYTES, cache_type=self._cache)
        details = getattr(self._file, "details", None) or files.info(path)
        if self._source.location.startswith("http") and not _answers_ranges(self._file):
            self._file.close()
            self._file = _copy(files, path)
        size = self._file.seek(0, os.SEEK_END)
        return size, details.get("ETag") or details.get("etag") or details.get("Last-Modified") or details.get("LastModified") or size

    def _reopen(self) -> None:
        self._close_file()
        if self._open() != (self._size, self._version):
            raise InputUnreadable(f"{self._source} changed while it was read; run again")

    def _retry(self, action: Callable[[], Any]) -> Any:
        def again() -> Any:
            self._reopen()
            return action()

        return retried(action, again=None if action == self._open else again, what=f"{self._source} cannot be read", giving_up=InputUnreadable)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, f"cannot seek to {start + offset}")  # as the system says it
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        data = self._retry(lambda: self._read_at(self._position, wanted))
        buffer[: len(data)] = data
        self._position += len(data)
        _read_so_far[0] += len(data)
        return len(data)

    def _read_at(self, position: int, length: int) -> bytes:
        if self._file.tell() != position:
            self._file.seek(position)
        data = self._file.read(length)
        if not data:
            raise OSError(f"it ends at byte {position} of {self._size}")
        return data

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        self._close_file()
        super().close()


class _Scattered(_Seekable):
    """A file in blocks that begin small behind each seek and double from there; the last block is kept."""

    def __init__(self, file: _RetriedFile) -> None:
        super().__init__()
        self._file = file
        self._block = b""
        self._start = self._position = 0
        self._wanted = FIRST_BYTES

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = self._position + offset if whence == os.SEEK_CUR else self._file.seek(offset, whence)
        self._wanted = FIRST_BYTES
        return self._position

    def readinto(self, buffer: Any) -> int:
        if not self._start <= self._position < self._start + len(self._block):
            start = self._file.seek(self._position)
            self._start, self._block = start, self._file.read(self._wanted)
            self._wanted = min(2 * self._wanted, LARGEST_BYTES)
        data = self._block[self._position - self._start :][: len(buffer)]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _answers_ranges(file: Any) -> bool:
    """Whether a web server gives parts of a file: its last byte is asked for."""
    size = getattr(file, "size", None)
    if not size:
        return False
    try:
        file.seek(size - 1)
        return len(file.read(1)) == 1
    except ValueError:  # fsspec's word for a server that answered with the whole file
        return False


def _copy(files: AbstractFileSystem, path: str) -> BinaryIO:
    copy = tempfile.TemporaryFile()
    try:
        with files.open(path, "rb", block_size=0) as stream:
            while chunk := stream.read(BUFFER_BYTES):
                copy.write(chunk)
    except BaseException:
        copy.close()
        raise
    return copy
