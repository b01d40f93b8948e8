"""Lines of JSON, one by one: from a plain file, a gzipped one, or the members of a zip.

    .jsonl | .jsonl.gz | .zip --> lines of at most 16 MiB --> (row, object) | Rejected
"""

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from lcl.core.rejected import Reason, Rejected
from pipeline.expand import ZIP_MAGIC, gunzipped, starts_with, zip_members
from pipeline.storage import Input, open_input

MAX_LINE_BYTES = 16 << 20  # as objects, a line of `[],[],...` takes 20 times as much
ENDINGS = (".jsonl", ".json", ".ndjson")

Row = tuple[int, dict[str, Any]]


def read_json_rows(source: Input) -> Iterator[Row | Rejected]:
    """(number, object) of every line that is not blank, numbered from 0 over all members of a zip in order of name.

    A line that is no object comes as a Rejected in its place; a file that is torn or expands too far ends with one.
    """
    with open_input(source) as file:
        row = 0
        try:
            for stream in _streams(file):
                for line in _lines(stream):
                    if line is None or line.strip():
                        yield _parse(line, row, source.name)
                        row += 1
        except Rejected as rejected:  # of the container: nothing behind it can be read
            yield Rejected(rejected.reason, f"{source.name}, behind row {row}: {rejected.detail}")


def _streams(file: BinaryIO) -> Iterator[BinaryIO]:
    if starts_with(file, ZIP_MAGIC):
        yield from (stream for _, stream in zip_members(file, wanted=lambda name: name.lower().endswith(ENDINGS) and not name.startswith("__MACOSX/")))
    else:
        yield gunzipped(file)


def _lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """Lines; None in the place of one that is too long."""
    while line := stream.readline(MAX_LINE_BYTES + 1):
        if len(line) <= MAX_LINE_BYTES:
            yield line
            continue
        while not line.endswith(b"\n") and (line := stream.readline(1 << 20)):
            pass
        yield None


def _parse(line: bytes | None, row: int, name: str) -> Row | Rejected:
    if line is None:
        return Rejected(Reason.ROW_TOO_LARGE, f"{name}, row {row}: more than {MAX_LINE_BYTES} bytes")
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return Rejected(Reason.ROW_MALFORMED, f"{name}, row {row}: {error}")
    return (row, value) if isinstance(value, dict) else Rejected(Reason.ROW_MALFORMED, f"{name}, row {row}: no JSON object")
