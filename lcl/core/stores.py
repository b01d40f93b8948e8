"""Addresses of files (s3://bucket/a, https://host/a, ...): their file systems, by fsspec, and actions on them that are tried again.

Credentials are never part of an address: they come from the environment of the process that asks.
"""

import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

Found = TypeVar("Found")

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
ATTEMPTS = 5                   # of an action
FIRST_WAIT_SECONDS = 0.5       # before the second attempt; doubled before each later one
LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError)  # errors that no retry mends
ANONYMOUS: dict[str, dict[str, Any]] = {"s3": {"anon": True}, "s3a": {"anon": True}, "gs": {"token": "anon"}, "gcs": {"token": "anon"}}
EXTRAS = {"s3": "lcl[s3]", "s3a": "lcl[s3]"}
IN_ENVIRONMENT = "the environment (AWS_ACCESS_KEY_ID, ...)"


def is_address(location: str) -> bool:
    """Whether it is an address, and no local path."""
    return SCHEME.match(location) is not None


def check_no_credentials(location: str) -> None:
    """Raises ValueError if an address holds a user name or a password, which would end up in records and logs."""
    scheme = SCHEME.match(location)
    if scheme and "@" in location[scheme.end() :].partition("/")[0]:
        raise ValueError(f"{scheme[0]}...: an address with credentials; give them in {IN_ENVIRONMENT}, not in the address")


def file_system(address: str, *, anonymous: bool = False) -> tuple[AbstractFileSystem, str]:
    """fsspec's file system of an address, and the path there. Raises ValueError where no installed package knows its scheme."""
    scheme = SCHEME.match(address)
    assert scheme is not None, address
    options = ANONYMOUS.get(scheme[1].lower(), {}) if anonymous else {}
    try:
        files, path = url_to_fs(address, **options)
    except ImportError as error:
        cure = f": pip install '{EXTRAS[scheme[1]]}'" if scheme[1] in EXTRAS else ""
        raise ValueError(f"{address}: {error}{cure}") from error
    except ValueError as error:
        raise ValueError(f"{address}: {error}; give a local path or an address that fsspec knows (s3://, https://, ...)") from error
    files.invalidate_cache()  # a listing of an earlier call may be out of date
    return files, path


def retried(action: Callable[[], Found], *, what: str, giving_up: type[ValueError], again: Callable[[], Found] | None = None) -> Found:
    """What `action` returns, tried up to ATTEMPTS times with growing waits; `again` is called in its place from the second time on.

    Raises `giving_up`, which says `what` is not possible and why, whatever the storage raised; one that the action raises itself is final.
    """
    for attempt in range(ATTEMPTS):
        try:
            return action() if attempt == 0 or again is None else again()
        except giving_up:
            raise
        except Exception as error:  # storage libraries raise what they like: OSError, aiohttp's, botocore's, ...
            lasting = isinstance(error, LASTING) or lacks_credentials(error)
            if lasting or attempt == ATTEMPTS - 1:
                raise giving_up(f"{what}: {in_words(error)}{'' if lasting else f' ({ATTEMPTS} attempts)'}") from error
        time.sleep(FIRST_WAIT_SECONDS * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def lacks_credentials(error: BaseException) -> bool:
    """Whether there are no credentials to ask with: botocore's error, which needs no import where no object store is asked."""
    return "Credentials" in type(error).__name__


def in_words(error: BaseException) -> str:
    """An error's kind and the first line of what it says."""
    lines = str(error).strip().splitlines()
    said = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return f"{said}; credentials come from {IN_ENVIRONMENT}" if lacks_credentials(error) else said
