"""A WebDataset tar as a stream: members of one name are one sample, read once, with bounds on every size that a header claims.

    .tar | .tar.gz --> headers (USTAR, GNU, POSIX) --> members --> samples {ending: bytes} | Rejected

Nothing is unpickled or unpacked to disk. Python's tarfile is not used: it reads headers of any size and keeps all of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from lcl.core.rejected import Reason, Rejected
from pipeline.expand import gunzipped
from pipeline.storage import BUFFER_BYTES, Input, open_input

BLOCK = 512
MAX_MEMBER_BYTES = 256 << 20
MAX_SAMPLE_BYTES = 512 << 20
MAX_SAMPLE_MEMBERS = 10_000
MAX_NAME_BYTES = 1 << 16  # of a long name; a header of extended attributes may take 16 times this
REGULAR = (b"0", b"\0", b"7")
EXTENSIONS = (b"L", b"K", b"x", b"g")  # headers that say more of the member behind them


@dataclass(frozen=True)
class Sample:
    """Members that share a name up to their first dot, by the rest of the name, and the byte offset where the first one's headers begin."""

    name: str
    offset: int
    members: dict[str, bytes] = field(repr=False)


@dataclass(frozen=True)
class _Header:
    offset: int
    name: str
    size: int


def read_samples(source: Input) -> Iterator[Sample | Rejected]:
    """Samples in file order. One that is too large comes as a Rejected in its place; so does the end of a torn or damaged file."""
    with open_input(source) as file:
        name, offset, members, num_bytes = "", 0, {}, 0

        def finish() -> Iterator[Sample | Rejected]:
            if num_bytes > MAX_SAMPLE_BYTES or len(members) > MAX_SAMPLE_MEMBERS:
                yield Rejected(Reason.ROW_TOO_LARGE, f"{source.name}, sample {name}: {num_bytes} bytes")
            elif members:
                yield Sample(name, offset, members)

        try:
            stream = gunzipped(file)
            for header in _headers(stream):
                folder, slash, base = header.name.rpartition("/")
                stem, dot, ending = base.partition(".")
                if not dot or not stem:
                    _skip(stream, header.size)
                    continue
                if folder + slash + stem != name:
                    yield from finish()
                    name, offset, members, num_bytes = folder + slash + stem, header.offset, {}, 0
                num_bytes += header.size if header.size <= MAX_MEMBER_BYTES else MAX_SAMPLE_BYTES + header.size
                if num_bytes > MAX_SAMPLE_BYTES or len(members) > MAX_SAMPLE_MEMBERS:
                    members = dict.fromkeys(members, b"")
                    _skip(stream, header.size)
                else:
                    members[ending.lower()] = _take(stream, header.size)
            yield from finish()
        except Rejected as rejected:
            yield Rejected(rejected.reason, f"{source.name}, in or behind sample {name!r}: {rejected.detail}")


def looks_like_tar(start: bytes) -> bool:
    """Whether these first 512 bytes are a tar's header."""
    return len(start) >= BLOCK and _checksum_holds(start[:BLOCK])


def _headers(stream: BinaryIO) -> Iterator[_Header]:
    """Headers of regular files, each read to before the next is asked for: the caller takes or skips `size` bytes and nothing else."""
    position, start, long_name, long_size = 0, 0, "", None
    while True:
        header = stream.read(BLOCK)
        if not header:
            raise Rejected(Reason.RECORD_DAMAGED, "it ends without the empty block that closes a tar")
        if not any(header):
            return
        if len(header) < BLOCK or not _checksum_holds(header):
            raise Rejected(Reason.RECORD_DAMAGED, f"a damaged header at byte {position}")
        kind, size = header[156:157], _number(header[124:136])
        position += BLOCK
        if kind == b"L":
            long_name = _take(stream, size, limit=MAX_NAME_BYTES).rstrip(b"\0").decode("utf-8", "replace")
        elif kind == b"x":
            long_name, long_size = _attributes(_take(stream, size, limit=16 * MAX_NAME_BYTES), long_name, long_size)
        elif kind in REGULAR:
            size = size if long_size is None else long_size
            yield _Header(start, long_name or _name(header), size)
        else:  # folders, links, devices, attributes of all members: nothing that a sample is made of
            _skip(stream, size)
        _skip(stream, -size % BLOCK)
        position += size + -size % BLOCK
        if kind not in EXTENSIONS:
            start, long_name, long_size = position, "", None


def _name(header: bytes) -> str:
    name, prefix = (part.partition(b"\0")[0] for part in (header[:100], header[345:500]))
    is_posix = header[257:263] == b"ustar\0"  # GNU's own headers hold times where POSIX has the prefix
    return (prefix + b"/" + name if prefix and is_posix else name).decode("utf-8", "replace")


def _number(digits: bytes) -> int:
    """Octal, or base 256 behind a first byte of 0x80 (GNU, sizes beyond 8 GiB)."""
    if digits[0] == 0x80:
        return int.from_bytes(digits[1:], "big")
    try:
        return int(digits.strip(b" \0") or b"0", 8)
    except ValueError as error:
        raise Rejected(Reason.RECORD_DAMAGED, f"a size that is no number: {digits!r}") from error


def _checksum_holds(header: bytes) -> bool:
    """The sum of all bytes, those of the checksum itself taken as spaces."""
    try:
        return int(header[148:156].strip(b" \0"), 8) == sum(header) - sum(header[148:156]) + 8 * ord(" ")
    except ValueError:
        return False


def _attributes(data: bytes, name: str, size: int | None) -> tuple[str, int | None]:
    """`path` and `size` of POSIX extended attributes: lines `LENGTH KEY=VALUE`, where LENGTH counts the whole line."""
    at = 0
    while at < len(data):
        digits, space, _ = data[at : at + 20].partition(b" ")
        if not space or not digits.isdigit() or not len(digits) + 1 < int(digits) <= len(data) - at:
            raise Rejected(Reason.RECORD_DAMAGED, "extended attributes that are none")
        key, _, value = data[at + len(digits) + 1 : at + int(digits)].rstrip(b"\n").partition(b"=")
        if key == b"path":
            name = value[:MAX_NAME_BYTES].decode("utf-8", "replace")
        elif key == b"size" and value.isdigit() and len(value) < 20:
            size = int(value)
        at += int(digits)
    return name, size


def _take(stream: BinaryIO, size: int, *, limit: int = MAX_MEMBER_BYTES) -> bytes:
    if size > limit:
        raise Rejected(Reason.RECORD_DAMAGED, f"a header of {size} bytes")
    data = stream.read(size)
    if len(data) < size:
        raise Rejected(Reason.RECORD_DAMAGED, f"cut short: {len(data)} of a member's {size} bytes")
    return data


def _skip(stream: BinaryIO, size: int) -> None:
    while size > 0:
        data = stream.read(min(size, BUFFER_BYTES))
        if not data:
            raise Rejected(Reason.RECORD_DAMAGED, "cut short in a member")
        size -= len(data)
