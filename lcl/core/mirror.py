"""A mirror: an address of an object store (s3://bucket/prefix) that holds what local folders do, in units that are whole or absent.

    publish    data files, large ones in parts --> the commit file, put only where none is
    fetch      the commit file --> data files, held to its checksums --> local files --> the commit file

A unit is files that count together, a shard or a checkpoint; its commit file is JSON with the others' checksums. A store has no rename, but a put is whole or
absent and may be conditional, so who reads trusts commit files alone. All is tried again; what is there is not sent again.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from lcl.core.files import open_aside, sha256_of
from lcl.core.stores import SCHEME, check_no_credentials, file_system, retried

Found = TypeVar("Found")

NO_STORES = ("file", "local", "http", "https")  # schemes of folders, and of servers that list and take nothing
BLOCK_BYTES = 8 << 20
PART_BYTES = 16 << 20  # of an S3 upload; larger ones for files that would have more than
MOST_PARTS = 10_000  # (both: Amazon S3 multipart upload limits)
PARTS_AT_ONCE = 4  # of one file, all in memory


class MirrorError(ValueError):
    """A store that cannot be reached or refuses, or that holds what is not ours or not whole."""


class Mirror:
    def __init__(self, address: str) -> None:
        """Raises ValueError for what is no address of an object store, or holds credentials. Nothing is asked of the store yet."""
        scheme = SCHEME.match(address)
        if scheme is None or scheme[1].lower() in NO_STORES or "::" in address or not address[scheme.end() :].strip("/"):
            raise ValueError(f"{address} is no address of an object store: give one such as s3://bucket/prefix")
        check_no_credentials(address)
        self.address = address.rstrip("/")
        self._files, self._root = file_system(self.address)
        self._is_s3 = scheme[1].lower() in ("s3", "s3a")

    def where(self, name: str) -> str:
        """The address of one of its files."""
        return f"{self.address}/{name}"

    def sizes(self) -> dict[str, int]:
        """Bytes of every file, by name (a relative path)."""
        def find() -> dict[str, Any]:
            self._files.invalidate_cache()
            return self._files.find(self._root, detail=True)

        found = self._reading("", find)
        return {path.removeprefix("/").removeprefix(f"{self._root.strip('/')}/"): status["size"] for path, status in sorted(found.items())}

    def read(self, name: str) -> bytes | None:
        """A small file; None where there is none."""
        return self._reading(name, lambda: _if_there(lambda: self._files.cat_file(self._path(name))))

    def read_all(self, names: Sequence[str]) -> dict[str, bytes]:
        """Many small files, side by side where the store allows it. Raises MirrorError if one is not there."""
        paths = {name: self._path(name) for name in names}
        found = self._reading("", lambda: self._files.cat(list(paths.values()))) if paths else {}
        return {name: found[path] for name, path in paths.items()}

    def write(self, name: str, data: bytes) -> None:
        """Puts a small file in the place of what is there."""
        self._writing(name, lambda: self._files.pipe_file(self._path(name), data))

    def remove(self, names: Iterable[str]) -> None:
        """Removes files, those that are gone already included."""
        for name in names:
            self._writing(name, lambda name=name: _if_there(lambda: self._files.rm_file(self._path(name))))

    def publish(self, folder: Path, files: Mapping[str, str], commit: str, *, replaces: Callable[[bytes], Iterable[str]] | None = None) -> bool:
        """Puts a unit of `folder` there: `files` (name -> SHA-256), then `commit`. False where it was there before.

        `replaces` looks at another commit file that is there already: it returns the names of files that go once ours is in its place, or raises ValueError. Without it
        any other is refused. Raises MirrorError. Data that no commit file vouches for, which a killed process left, is replaced where it differs.
        """
        ours, theirs = (folder / commit).read_bytes(), self.read(commit)
        if theirs == ours:
            return False
        if theirs is not None and replaces is None:
            raise self._taken(commit)
        superseded = replaces(theirs) if theirs is not None and replaces is not None else ()
        for name, sha256 in files.items():
            if not self._holds(name, (folder / name).stat().st_size, sha256):
                self._writing(name, lambda name=name: self._files.put_file(str(folder / name), self._path(name), **self._in_parts((folder / name).stat().st_size)))
        self._commit(commit, ours, before=theirs)
        self.remove(set(superseded) - set(files))
        return True

    def fetch(self, folder: Path, files: Mapping[str, str], commit: str, data: bytes) -> None:
        """Brings a unit into `folder`: `files` (name -> SHA-256) that are not there yet, each whole or absent, then `commit` with the bytes `data`.

        Raises MirrorError for a file that is missing or damaged, and for names that leave the folder.
        """
        for name, sha256 in files.items():
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise MirrorError(f"{self.where(commit)} names a file outside of its folder: {name!r}")
            path = folder / name
            if not (path.exists() and sha256_of(path) == sha256):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._reading(name, lambda name=name, path=path, sha256=sha256: self._fetch_file(name, path, sha256, commit))
        with open_aside(folder / commit) as file:
            file.write(data)

    def _fetch_file(self, name: str, path: Path, sha256: str, commit: str) -> None:
        with open_aside(path) as file:
            self._files.get_file(self._path(name), file.name, **self._in_parts(0))
            if sha256_of(Path(file.name)) != sha256:
                raise MirrorError(f"{self.where(name)} is damaged, or changed while it was read: its bytes do not give the checksum of its unit. Run again; if that does not help, remove it and {commit} there, and publish again")

    def _holds(self, name: str, size: int, sha256: str) -> bool:
        """Whether the store has these bytes under this name; they are read to tell, which only what a killed process left needs."""
        def holds() -> bool:
            self._files.invalidate_cache()
            status = _if_there(lambda: self._files.info(self._path(name)))
            if status is None or status["size"] != size:
                return False
            digest = hashlib.sha256()
            with self._files.open(self._path(name), "rb", block_size=BLOCK_BYTES, cache_type="none") as file:
                while block := file.read(BLOCK_BYTES):
                    digest.update(block)
            return digest.hexdigest() == sha256

        return self._reading(name, holds)

    def _commit(self, name: str, data: bytes, *, before: bytes | None) -> None:
        """Puts a commit file where there is none, or where the one of `before` is. Raises MirrorError if another is there by now."""
        condition: dict[str, Any] = {"mode": "create"} if before is None else {"IfMatch": self._version(name, before)}

        def put() -> None:
            try:
                self._files.pipe_file(self._path(name), data, **condition)
            except Exception as error:
                if not _is_refused(error):
                    raise

        self._writing(name, put)
        if self.read(name) != data:  # refused; or ours of an attempt whose answer was lost
            raise self._taken(name)

    def _version(self, name: str, data: bytes) -> str:
        """What the store calls the version of a file that has these bytes. Raises MirrorError if it has others by now, and where a store cannot replace on condition."""
        if not self._is_s3:
            raise MirrorError(f"{self.where(name)} is of an earlier revision, and only S3 replaces on condition: publish at another address")
        self._files.invalidate_cache()
        version = self._reading(name, lambda: self._files.info(self._path(name))["ETag"])
        if self.read(name) != data:
            raise self._taken(name)
        return version

    def _taken(self, name: str) -> MirrorError:
        return MirrorError(f"{self.where(name)} is of another build or run, or another process is writing there: give another address, or remove it")

    def _in_parts(self, size: int) -> dict[str, int]:
        """How S3 is to take or give a file of so many bytes; other stores have their own ways."""
        return {"chunksize": max(PART_BYTES, -(-size // MOST_PARTS)), "max_concurrency": PARTS_AT_ONCE} if self._is_s3 else {}

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _reading(self, name: str, action: Callable[[], Found]) -> Found:
        return retried(action, what=f"{self.where(name)} cannot be read", giving_up=MirrorError)

    def _writing(self, name: str, action: Callable[[], Found]) -> Found:
        return retried(action, what=f"{self.where(name)} cannot be written", giving_up=MirrorError)


def _if_there(action: Callable[[], Found]) -> Found | None:
    """What the action returns; None where there is no such file."""
    try:
        return action()
    except FileNotFoundError:
        return None


def _is_refused(error: BaseException) -> bool:
    """Whether a conditional put found another state than it asked for. s3fs says so for If-None-Match only where the server names the condition."""
    response = getattr(error.__cause__, "response", {})
    return isinstance(error, FileExistsError) or response.get("Error", {}).get("Code") in ("PreconditionFailed", "412")
