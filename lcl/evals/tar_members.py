"""Members of a tar as ways to read their bytes; nothing is extracted to disk.

A plain tar is read at offsets. A compressed one cannot be sought, so its members are kept in memory.
"""

import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath

from lcl.core.shards import read_bytes

MEMORY_BYTES = 4 << 30  # that the members of a compressed tar may take

Members = dict[str, Callable[[], bytes]]


def is_tar(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith((".tar", ".tar.gz", ".tgz"))


def read_members(path: Path) -> Members:
    """Name to bytes of each file in the tar, in its order.

    Raises ValueError for a damaged tar, for links and devices, names that are absolute, lead out of it or stand twice, and for a compressed tar of
    more than MEMORY_BYTES.
    """
    plain = path.name.lower().endswith(".tar")
    members: Members = {}
    held = 0
    try:
        with tarfile.open(path, "r:" if plain else "r|gz") as tar:
            for member in tar:
                if member.isdir():
                    continue
                name = _checked_name(path, member)
                if name in members:
                    raise ValueError(f"{path}: {name} stands in it twice; pack it again")
                if plain:
                    members[name] = partial(read_bytes, path, offset=member.offset_data, length=member.size)
                    continue
                held += member.size
                if held > MEMORY_BYTES:
                    raise ValueError(f"{path} holds more than {MEMORY_BYTES >> 30} GiB, and a compressed tar is kept in memory: unpack it to a plain .tar (gunzip)")
                members[name] = partial(bytes, tar.extractfile(member).read())
            if plain:
                _check_end(path, tar.offset)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a tar ({error}): restore it from a copy") from error
    return members


def _check_end(path: Path, end: int) -> None:
    """Raises ReadError for a plain tar that was cut between two members: behind the last one stands a block of zeros."""
    with path.open("rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it was cut: the mark of its end is missing")


def _checked_name(path: Path, member: tarfile.TarInfo) -> str:
    name = PurePosixPath(member.name)
    if not member.isreg() or member.issparse():
        raise ValueError(f"{path}: {member.name} is no plain file (a link, a device or a sparse file); pack it again without")
    if name.is_absolute() or ".." in name.parts:
        raise ValueError(f"{path}: {member.name} lies outside of the tar; pack it again with relative names")
    return str(name)
