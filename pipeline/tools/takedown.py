"""What is to be taken down: addresses, domains and hashes from lists, and whether a document or an image is among them.

The same lists serve `lcl remove` on shards and a build that must not bring removed pages back.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt64

from pipeline.addresses import normal_url

SHA256, PHASH = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{16}")
DOMAIN = re.compile(r"[^\s/@?#]+")


@dataclass(frozen=True)
class Takedown:
    """Lists to match against. Addresses are compared without scheme and fragment, in one spelling (`normal_url`); a domain stands for
    its subdomains too; `sha256` is compared with the hashes of the stored and of the captured bytes; `phash` up to `phash_bits` other bits.
    """

    urls: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()
    sha256: frozenset[str] = frozenset()
    phash: frozenset[str] = frozenset()
    phash_bits: int = 0
    _phashes: UInt64[np.ndarray, " hashes"] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_phashes", np.array(sorted(int(value, 16) for value in self.phash), dtype=np.uint64))

    def document_reason(self, *, page_url: str, domain: str) -> str:
        """Why a document of this page goes, or an empty text: "url" or "domain NAME"."""
        if self.urls and normal_url(page_url) in self.urls:
            return "url"
        listed = self._listed_domain(domain)
        return f"domain {listed}" if listed else ""

    def image_reason(self, *, url: str, hashes: Iterable[str], phash: str) -> str:
        """Why an image goes, or an empty text: "url", "domain NAME", "sha256" or "phash". `hashes` are SHA-256 of its stored and captured bytes."""
        if self.urls and normal_url(url) in self.urls:
            return "url"
        listed = self._listed_domain(_host(url)) if self.domains else ""
        if listed:
            return f"domain {listed}"
        if not self.sha256.isdisjoint(hashes):
            return "sha256"
        return "phash" if self._is_near(phash) else ""

    def _listed_domain(self, domain: str) -> str:
        while domain and self.domains:
            if domain in self.domains:
                return domain
            domain = domain.partition(".")[2]
        return ""

    def _is_near(self, phash: str) -> bool:
        if not self.phash_bits or not PHASH.fullmatch(phash):
            return phash in self.phash
        return bool(np.any(np.bitwise_count(self._phashes ^ np.uint64(int(phash, 16))) <= self.phash_bits))


def _host(url: str) -> str:
    return normal_url(url).partition("/")[0].partition(":")[0]


def read_takedown(*, urls: str | None = None, domains: str | None = None, hashes: str | None = None, phash_bits: int = 0) -> Takedown:
    """The lists in these text files: one entry a line, empty lines and lines that start with # apart.

    A hash is 64 hex digits (SHA-256 of an image) or 16 (its perceptual hash). Raises ValueError naming the file and the line.
    """
    found_hashes = [(number, line.lower()) for number, line in _lines(hashes)]
    for number, line in found_hashes:
        if not SHA256.fullmatch(line) and not PHASH.fullmatch(line):
            raise ValueError(f"{hashes}, line {number}: {line[:80]!r} is no hash; give 64 hex digits (SHA-256) or 16 (perceptual hash)")
    found_domains = [(number, line.lower().removeprefix("*.").strip(".")) for number, line in _lines(domains)]
    for number, line in found_domains:
        if not DOMAIN.fullmatch(line):
            raise ValueError(f"{domains}, line {number}: {line[:80]!r} is no domain; give a host like example.org, and addresses in --urls")
    found_urls = list(_lines(urls))
    for number, line in found_urls:
        if "." not in line or any(character.isspace() for character in line):
            raise ValueError(f"{urls}, line {number}: {line[:80]!r} is no address; give one like https://example.org/page, and hosts in --domains")
    return Takedown(
        urls=frozenset(normal_url(line if "//" in line else f"//{line}") for _, line in found_urls),
        domains=frozenset(line for _, line in found_domains),
        sha256=frozenset(line for _, line in found_hashes if len(line) == 64),
        phash=frozenset(line for _, line in found_hashes if len(line) == 16),
        phash_bits=phash_bits,
    )


def _lines(name: str | None) -> Iterator[tuple[int, str]]:
    if name is None:
        return
    try:
        lines: Sequence[str] = Path(name).read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is no UTF-8 text: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.strip()
