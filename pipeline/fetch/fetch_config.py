"""What a fetch can be told."""

from importlib.metadata import version
from typing import Annotated, Literal

from pydantic import Field

from lcl.core.config import config

Seconds = Annotated[float, Field(gt=0)]
Token = Annotated[str, Field(pattern=r"^[A-Za-z_-]+$")]  # what RFC 9309 allows in a product token

AGENT: Token = "lcl-fetch"
MAX_REDIRECTS = 20  # what browsers follow


@config
class Politeness:
    per_host: Annotated[int, Field(ge=1)] = 2
    """Requests in flight at one host, at most."""
    delay_seconds: Annotated[float, Field(ge=0)] = 0.5
    """From the start of a request to the start of the next at the same host, at least; a longer Crawl-delay counts in its place."""
    max_wait_seconds: Seconds = 120
    """A host that asks for a longer Crawl-delay or Retry-After is left for a later round."""
    retries: Annotated[int, Field(ge=0)] = 3
    """How often a request that failed in passing (timeout, broken connection, 408, 425, 429, 5xx) is repeated."""
    backoff_seconds: Seconds = 2.0
    """Wait at the host before the first repetition; it doubles with each. Retry-After counts where it is longer."""
    give_up_after: Annotated[int, Field(ge=1)] = 5
    """Addresses of one host that failed in passing, one behind the other, after which the rest is not asked in this round."""


@config
class OptOuts:
    aipref: bool = True
    """Honour `Content-Usage: train-ai=n` in headers and robots.txt (IETF AIPREF, a draft)."""
    tdm_file: bool = True
    """Ask each origin for /.well-known/tdmrep.json and honour it. The header tdm-reservation is always honoured."""
    also: tuple[Token, ...] = ("CCBot",)
    """Crawlers whose robots.txt groups are kept beside those for `*`, where a site has no group for lcl-fetch. CCBot: who closed the crawl closed this."""


@config
class Limits:
    concurrency: Annotated[int, Field(ge=1)] = 256
    """Requests in flight in one process, at most."""
    active_hosts: Annotated[int, Field(ge=1)] = 1000
    """Hosts that one process works on at the same time."""
    total_seconds: Seconds = 60
    """For one request, from connecting to the last byte."""
    connect_seconds: Seconds = 10
    read_seconds: Seconds = 15
    """Without a single byte."""
    max_bytes: Annotated[int, Field(ge=1)] = 20 << 20
    """Of an image, as it is sent and as it is decoded."""
    max_redirects: Annotated[int, Field(ge=0, le=MAX_REDIRECTS)] = 5


@config
class FetchConfig:
    urls: Annotated[tuple[str, ...], Field(min_length=1)]
    """Folders of parquet tables, or tables, with a column `url`."""
    output: str
    """Folder for the store; a fetch that was interrupted continues there."""
    contact: Annotated[str, Field(pattern=r"^[\x21-\x7e]*(@|https?://)[\x21-\x7e]+$")]
    """Where a site can reach you, e-mail or web address. It is sent with each request."""
    executor: Literal["local", "ray"] = "local"
    """local: in this process. ray: a downloader on each node of the cluster that RAY_ADDRESS names."""
    partitions: Annotated[int, Field(ge=1, le=1 << 16)] = 64
    """Parts of the store, each with whole sites; 50,000 addresses in each are a good size. The same in all runs on a store."""
    partitions_in_flight: Annotated[int, Field(ge=1)] = 4
    """Partitions that one downloader works on at the same time."""
    round: Annotated[int, Field(ge=1)] = 1
    """1 asks each address once. 2 asks again what failed in passing in round 1, and so on."""
    politeness: Politeness = Politeness()
    opt_outs: OptOuts = OptOuts()
    limits: Limits = Limits()
    ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = (80, 443)
    """Ports that may be asked."""
    allow_loopback: bool = False
    """Allow 127.0.0.0/8 and ::1. For tests."""
    commit_seconds: Seconds = 10
    """What was fetched is written for good at least so often; a killed run loses no more."""
    commit_outcomes: Annotated[int, Field(ge=1)] = 1000
    """... and after so many addresses."""


def user_agent(settings: FetchConfig) -> str:
    """The User-Agent header: `lcl-fetch/VERSION (+CONTACT)`."""
    return f"{AGENT}/{version('lcl')} (+{settings.contact})"
