"""What a user names as input, found: paths, globs, folders, lists of paths, addresses.

    patterns --> find_inputs --> Input, each once
"""

import glob
import gzip
import itertools
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from lcl.core.files import files_below
from lcl.core.stores import check_no_credentials, file_system, in_words, is_address, lacks_credentials
from pipeline.storage import Input, InputUnreadable, open_input

MAGIC = re.compile(r"[*?[]")
LIST_ENDINGS = (".paths", ".paths.gz", ".txt", ".txt.gz")
MAX_LIST_LINES = 10_000_000    # a crawl of Common Crawl has 90,000 files
MAX_LINE_BYTES = 16_384


def find_inputs(patterns: Sequence[str], *, endings: Sequence[str] = (), prefix: str = "", anonymous: bool = False) -> list[Input]:
    """The inputs that `patterns` name, each once, sorted by location.

    A pattern is a path or an address of a file, of a folder (its files, at any depth; those with one of `endings` where any are
    given), a glob, or a list (`.paths`, `.paths.gz`, `.txt`, `.txt.gz`): one path or address per line, `prefix` put before those that
    are neither absolute nor addresses, as Common Crawl's `warc.paths.gz` needs. What a list names is not asked for here.
    Raises ValueError for what is missing, empty, given twice in the same spelling, or holds credentials.
    """
    found: set[Input] = set()
    for index, pattern in enumerate(patterns):
        if pattern in patterns[:index]:
            raise ValueError(f"{pattern} is given twice")
        location = _plain(pattern)
        for item in _expand(Input(location, anonymous and is_address(location)), endings):
            found.update(_read_list(item, prefix=prefix, anonymous=anonymous) if item.name.endswith(LIST_ENDINGS) else [item])
    return sorted(found, key=lambda item: item.location)


def _plain(pattern: str) -> str:
    """The pattern without `file://`. Raises ValueError if it holds a user name or a password, which would end up in records and logs."""
    pattern = re.sub("^(file|local)://", "", pattern)
    check_no_credentials(pattern)
    return pattern


def _expand(pattern: Input, endings: Sequence[str]) -> list[Input]:
    location = pattern.location
    if pattern.is_local:
        if os.path.isfile(location):
            return [pattern]
        if os.path.isdir(location):
            paths = [str(path) for path in files_below(Path(location)) if not path.name.startswith(".")]
        elif MAGIC.search(location):
            paths = [path for path in glob.glob(location, recursive=True) if os.path.isfile(path)]
        else:
            raise ValueError(f"{location}: no such file")
    else:
        files, path = file_system(location, anonymous=pattern.anonymous)
        is_web = location.startswith("http")
        try:
            if MAGIC.search(location) and not is_web:
                paths = [files.unstrip_protocol(item) for item in files.glob(path) if not files.isdir(item)]
            elif files.isfile(path):
                return [pattern]
            elif files.isdir(path) and not is_web:
                paths = [files.unstrip_protocol(item) for item in files.find(path)]
            else:
                raise ValueError(f"{location}: no such file{' (a web server has neither folders nor globs: give a list, --prefix)' if is_web else ''}")
        except ValueError:  # ours
            raise
        except Exception as error:  # botocore's are no OSErrors
            cure = ", --anonymous asks without" if lacks_credentials(error) else ""
            raise InputUnreadable(f"{location} cannot be read: {in_words(error)}{cure}") from error
    if not MAGIC.search(location) and endings:
        paths = [path for path in paths if path.lower().endswith(tuple(endings))]
    if not paths:
        wanted = f" that ends in {', '.join(endings)}" if endings and not MAGIC.search(location) else ""
        raise ValueError(f"{location} names no file{wanted}")
    return [Input(path, pattern.anonymous) for path in paths]


def _read_list(source: Input, *, prefix: str, anonymous: bool) -> Iterator[Input]:
    """The inputs of a list; blank lines and those that start with # are passed over."""
    try:
        with open_input(source) as file, gzip.GzipFile(fileobj=file) if source.name.endswith(".gz") else file as lines:
            for number in itertools.count(1):
                line = lines.readline(MAX_LINE_BYTES + 1)
                if not line:
                    return
                if number > MAX_LIST_LINES or len(line) > MAX_LINE_BYTES:
                    raise ValueError(f"{source}, line {number}: a list of paths has at most {MAX_LIST_LINES} lines of {MAX_LINE_BYTES} bytes")
                if (entry := line.decode().strip()) and not entry.startswith("#"):
                    yield _entry(entry, f"{source}, line {number}", prefix=prefix, anonymous=anonymous)
    except (EOFError, OSError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{source} is no list of paths: {error}") from error


def _entry(entry: str, where: str, *, prefix: str, anonymous: bool) -> Input:
    location = _plain(entry if is_address(entry) or entry.startswith("/") else prefix + entry)
    if is_address(location):
        return Input(location, anonymous)
    if not os.path.isfile(location):
        raise ValueError(f"{where}: {location}: no such file; --prefix (such as https://data.commoncrawl.org/) goes before each line")
    return Input(location)
