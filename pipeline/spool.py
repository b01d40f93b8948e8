"""One pass over a crawl file into a temporary file, so that a page finds images that come before or behind it.

Memory holds addresses only; bodies lie on disk, whatever the size or the compression of the crawl.
"""

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self
from urllib.parse import urljoin, urlsplit

from lcl.core.rejected import Rejected
from pipeline.crawl import Response, Revisit, read_crawl
from pipeline.storage import Input

HTML_TYPES = ("text/html", "application/xhtml+xml")
MAX_REDIRECTS = 5
ESCAPE = re.compile("%([0-9a-fA-F]{2})")
UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")
IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF")


@dataclass(frozen=True)
class _Place:
    position: int
    length: int


class Spool:
    """The pages of a crawl file, and its images by address. A context manager: leaving it deletes the temporary file."""

    def __init__(self, source: Path | Input, *, folder: Path | None = None) -> None:
        """Reads `source` once. `num_records` counts records by kind, `rejected` the damaged ones by reason.

        Raises NotACrawl if `source` is none, InputUnreadable if it cannot be read to its end.
        """
        self.num_records: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self._images: dict[str, _Place] = {}
        self._by_digest: dict[str, _Place] = {}
        self._revisits: dict[str, Revisit] = {}
        self._redirects: dict[str, str] = {}
        self._pages: list[tuple[Response, _Place]] = []
        self._file = tempfile.TemporaryFile(dir=folder)
        try:
            for item in read_crawl(source):
                self._add(item)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _add(self, item: Response | Revisit | Rejected) -> None:
        if isinstance(item, Rejected):
            self.num_records["damaged"] += 1
            self.rejected[item.reason] += 1
        elif isinstance(item, Revisit):
            self.num_records["revisit"] += 1
            self._revisits.setdefault(normal_url(item.url), item)
        elif 300 <= item.status < 400 and "location" in item.headers:
            self.num_records["redirect"] += 1
            self._redirects.setdefault(normal_url(item.url), _join(item.url, item.headers["location"]))
        elif item.body.startswith(IMAGE_MAGIC) or item.media_type.startswith("image/"):
            self.num_records["image"] += 1
            if item.status == 200 and normal_url(item.url) not in self._images:
                place = self._images[normal_url(item.url)] = self._store(item.body)
                if item.digest:
                    self._by_digest.setdefault(item.digest, place)
        elif item.media_type in HTML_TYPES:
            self.num_records["page"] += 1
            self._pages.append((replace(item, body=b""), self._store(item.body)))
        else:
            self.num_records["other"] += 1

    def _store(self, body: bytes) -> _Place:
        position = self._file.seek(0, 2)
        self._file.write(body)
        return _Place(position, len(body))

    def _load(self, place: _Place) -> bytes:
        self._file.seek(place.position)
        return self._file.read(place.length)

    def __len__(self) -> int:
        return len(self._pages)

    def pages(self) -> Iterator[Response]:
        """HTML responses of any status, in file order."""
        for response, place in self._pages:
            yield replace(response, body=self._load(place))

    def image(self, url: str) -> bytes | None:
        """The body that was captured at `url`, through captured redirects and revisits; None if the crawl does not hold it."""
        key = normal_url(url)
        for _ in range(MAX_REDIRECTS + 1):
            if (place := self._images.get(key)) is not None:
                return self._load(place)
            if (revisit := self._revisits.get(key)) is not None:
                if (place := self._by_digest.get(revisit.digest)) is not None:
                    return self._load(place)
                key = normal_url(revisit.refers_to_url)
            elif key in self._redirects:
                key = normal_url(self._redirects[key])
            else:
                return None
        return None


def normal_url(url: str) -> str:
    """The address as a key: no scheme, no fragment, host in lower case, escapes in one spelling (RFC 3986, 6.2.2)."""
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:  # no address that a client could ask for; it still is a key
        return url.strip()
    place = host if port in (None, 80, 443) else f"{host}:{port}"
    rest = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return place + ESCAPE.sub(_normal_escape, "".join(map(_escaped, rest)))


def _escaped(character: str) -> str:
    plain = "!" <= character <= "~" and character not in '"<>\\^`{|}'
    return character if plain else "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def _normal_escape(match: re.Match[str]) -> str:
    """Letters, digits and -._~ stand for themselves; other escapes stay, in upper case: %2F is not a slash."""
    character = chr(int(match[1], 16))
    return character if UNRESERVED.fullmatch(character) else match[0].upper()


def _join(base: str, address: str) -> str:
    try:
        return urljoin(base, address.strip())
    except ValueError:
        return address
