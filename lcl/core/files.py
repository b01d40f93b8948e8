"""Files that are either whole or absent: written aside, fsynced, then renamed."""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def locked_folder(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Keeps other processes that ask for the same lock out of `folder`, and removes what killed writers left there: first, and in the end what workers of ours did.

    Raises ValueError if another process holds it, or waits for that one. The lock is the kernel's and ends with the process; it leaves no file.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise ValueError(f"another process is changing {folder}: wait until it is done") from error
        _sweep(folder)
        yield
        _sweep(folder)
    finally:
        os.close(descriptor)


def _sweep(folder: Path) -> None:
    for left in folder.rglob(".*.tmp"):
        left.unlink()


def files_below(folder: Path, *, broken_links: bool = False) -> Iterator[Path]:
    """The files below a folder, in the order of their names, those in folders that links lead to among them.

    Raises ValueError for a link to a folder that it lies in, and for one to nothing, unless `broken_links` are wanted among the files.
    """
    return _files_below(folder, (folder.resolve(),), broken_links)


def _files_below(folder: Path, above: tuple[Path, ...], broken_links: bool) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            real = path.resolve()
            if real in above:
                raise ValueError(f"{path} is a link to a folder that it lies in: remove it")
            yield from _files_below(path, (*above, real), broken_links)
        elif path.is_file() or (broken_links and path.is_symlink()):
            yield path
        elif path.is_symlink():
            raise ValueError(f"{path} is a link to nothing: remove it, or restore what it led to")


@contextmanager
def open_aside(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the name `path` when the block ends well, and vanishes when it does not.

    The temporary name is in the same folder, starts with a dot and is random, so that two writers of the same file
    do not meet; the last one to finish wins whole. It is short, for a file's own name may be as long as names can be.
    """
    aside = path.with_name(f".{secrets.token_hex(12)}.tmp")
    try:
        try:
            file = open(aside, "wb")
        except OSError as error:  # of the name that was asked for
            raise type(error)(error.errno, error.strerror, str(path)) from None
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """An empty folder that takes the name `path`, which must be free, when the block ends well, and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    aside.mkdir()
    try:
        yield aside
        os.replace(aside, path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Makes renames inside `folder` durable (POSIX: a rename is lost in a power cut until its folder is synced)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_bytes(value: Any) -> bytes:
    """The bytes that `write_json` writes."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def write_json(path: Path, value: Any) -> None:
    with open_aside(path) as file:
        file.write(json_bytes(value))


def read_json(path: Path) -> Any:
    """The JSON value in `path`. Raises ValueError that names the file if it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON, or damaged ({error}): restore it from a copy") from error


def sha256_of(path: Path) -> str:
    """The SHA-256 of the file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
