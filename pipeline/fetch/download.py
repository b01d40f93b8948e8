"""One address to its outcome: asked within limits of time and bytes, refusals honoured, failures in passing repeated.

    address --> robots.txt, tdmrep.json (SiteRules, once for each origin) --> turn at the host --> headers: opt-outs, status, length
            --> body in bounded pieces, stopped when it is no image --> content encodings removed --> header of the image checked

A redirect is an outcome of its own: its target may be another worker's host. Only one that changes no more than the scheme is followed here.
"""

import asyncio
import email.utils
import hashlib
import math
import re
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC
from typing import BinaryIO, Self

import aiohttp
import brotli
import zstandard
from yarl import URL

from lcl.core.images import probe_image
from lcl.core.rejected import Reason, Rejected
from pipeline.addresses import normal_url
from pipeline.crawl import EXPANDERS, IMAGE_MAGIC
from pipeline.fetch.addresses import CheckedResolver, Lookup, check_url, dns_threads, look_up, parse_url, socket_for
from pipeline.fetch.fetch_config import AGENT, FetchConfig, user_agent
from pipeline.fetch.host_gate import HostGate
from pipeline.fetch.opt_out import merge_headers, opt_out
from pipeline.fetch.site_rules import MAX_RULES_BYTES, Robots, TdmFile, decode_rules

REDIRECTS = (301, 302, 303, 307, 308)
REPEATED = (408, 425, 429)  # and all of 5xx
RULES_REDIRECTS = 5  # RFC 9309, 2.3.1.2: at least five
UNREACHABLE = (Reason.ADDRESS_REFUSED, Reason.HOST_UNREACHABLE, Reason.WAIT_TOO_LONG)  # true of the host, and not of its robots.txt alone
MEMORY_BYTES = 256 << 10  # of a body that is still arriving; what is longer waits on disk
MAGIC_BYTES = 8  # enough to tell images from anything else, RIFF files that are no WEBP aside


class Passing(Exception):
    """A failure that a repetition may not meet. `wait_seconds` is what the server asked for."""

    def __init__(self, reason: Reason, detail: str = "", *, wait_seconds: float = 0.0) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.wait_seconds = reason, detail, wait_seconds


@dataclass(frozen=True, kw_only=True)
class Image:
    """What was fetched: the body without encodings, its SHA-256, and the answer's head."""

    url: str
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    sha256: str


@dataclass(frozen=True)
class Redirect:
    status: int
    location: str


@dataclass(frozen=True)
class Refusal:
    reason: Reason
    detail: str = ""
    status: int = 0


Outcome = Image | Redirect | Refusal


@dataclass(frozen=True)
class SiteRules:
    """What one origin asks; without `robots`, `unreadable` says why its robots.txt could not be had, which means no."""

    robots: Robots | None
    tdm: TdmFile
    unreadable: Refusal | None = None


class Downloader:
    """Asks the web. One for each process: `async with Downloader(config) as downloader`."""

    def __init__(self, settings: FetchConfig, *, lookup: Lookup = look_up) -> None:
        self.settings = settings
        self._lookup = lookup
        self.everywhere = asyncio.Semaphore(settings.limits.concurrency)
        self.active_hosts = asyncio.Semaphore(settings.limits.active_hosts)

    async def __aenter__(self) -> Self:
        limits, loopback = self.settings.limits, self.settings.allow_loopback
        self._threads = dns_threads()
        asyncio.get_running_loop().set_default_executor(self._threads)
        connector = aiohttp.TCPConnector(
            limit=0, resolver=CheckedResolver(allow_loopback=loopback, lookup=self._lookup), ttl_dns_cache=300, keepalive_timeout=15,
            socket_factory=socket_for(allow_loopback=loopback),
        )  # fmt: skip
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=limits.total_seconds, sock_connect=limits.connect_seconds, sock_read=limits.read_seconds),
            headers={"User-Agent": user_agent(self.settings), "Accept": "image/webp,image/jpeg,image/png,image/gif,*/*;q=0.1", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, trust_env=False,
        )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def gate(self) -> HostGate:
        return HostGate(self.settings.politeness, self.everywhere)

    async def fetch(self, url: str, rules: Callable[[URL], "asyncio.Future[SiteRules]"], gate: HostGate) -> Outcome:
        """The outcome for an address, after as many repetitions as the settings allow. `rules` gives those of the URL's origin."""
        politeness = self.settings.politeness
        for attempt in range(politeness.retries + 1):
            if gate.closed:
                return Refusal(gate.closed, "the host was given up")
            try:
                outcome = await self._ask_through_schemes(parse_url(url), rules, gate)
                gate.note(outcome.reason if isinstance(outcome, Refusal) else None)
                return outcome
            except Rejected as rejected:
                gate.note(rejected.reason)
                return Refusal(rejected.reason, rejected.detail)
            except Passing as passing:
                failure = passing
                gate.hold(max(passing.wait_seconds, self._backoff_seconds(attempt)))
        gate.note(failure.reason)
        return Refusal(gate.closed or failure.reason, failure.detail)

    def _backoff_seconds(self, attempt: int) -> float:
        """The wait behind attempt 0, 1, ...: doubling, up to the longest that a host may ask for, and none behind the last."""
        politeness = self.settings.politeness
        return min(politeness.backoff_seconds * 2**attempt, politeness.max_wait_seconds) if attempt < politeness.retries else 0.0

    async def _ask_through_schemes(self, url: URL, rules: Callable[[URL], "asyncio.Future[SiteRules]"], gate: HostGate) -> Outcome:
        """Follows a redirect to the same address under another scheme, which is the same address to us."""
        asked = set()
        while url not in asked and len(asked) <= self.settings.limits.max_redirects:
            asked.add(url)
            outcome = await self._ask(url, await rules(url), gate)
            if not isinstance(outcome, Redirect) or normal_url(outcome.location) != normal_url(str(url)):
                return outcome
            url = parse_url(outcome.location)
        return Refusal(Reason.TOO_MANY_REDIRECTS, "a redirect to itself", outcome.status)

    async def _ask(self, url: URL, rules: SiteRules, gate: HostGate) -> Outcome:
        if rules.robots is None:
            return rules.unreadable
        refusal = rules.robots.refusal(str(url), aipref=self.settings.opt_outs.aipref) or rules.tdm.refusal(str(url))
        if refusal:
            return Refusal(refusal)
        if gate.closed:
            return Refusal(gate.closed)
        async with self._open(url, gate) as response:
            headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in response.raw_headers)
            merged = merge_headers(headers)
            refusal = opt_out(merged, AGENT, aipref=self.settings.opt_outs.aipref)
            if refusal and response.status in (200, *REDIRECTS):
                return Refusal(refusal, status=response.status)
            if response.status in REDIRECTS and "location" in merged:
                return Redirect(response.status, _join(url, merged["location"].partition("\n")[0]))
            check_status(response.status, merged.get("retry-after", ""))
            encodings = content_encodings(merged)
            with tempfile.SpooledTemporaryFile(MEMORY_BYTES) as file:
                sha256 = await self._receive(response, file, plain=not encodings)
                file.seek(0)
                body = file.read()
            if encodings:
                body = expand(body, encodings, max_bytes=self.settings.limits.max_bytes)
                sha256 = hashlib.sha256(body).hexdigest()
            probe_image(body)
            return Image(url=str(url), status=response.status, headers=headers, body=body, sha256=sha256)

    async def _receive(self, response: aiohttp.ClientResponse, file: BinaryIO, *, plain: bool) -> str:
        """Writes the body as it arrives and returns its SHA-256. Raises Rejected as soon as it is too long or, where `plain`, no image."""
        max_bytes = self.settings.limits.max_bytes
        if response.content_length is not None and response.content_length > max_bytes:
            raise Rejected(Reason.BODY_TOO_LARGE, f"{response.content_length} bytes announced")
        digest, size, start, is_image = hashlib.sha256(), 0, b"", not plain
        async for piece in response.content.iter_any():
            size += len(piece)
            if size > max_bytes:
                raise Rejected(Reason.BODY_TOO_LARGE, f"more than {max_bytes} bytes")
            if not is_image and len(start := start + piece[:MAGIC_BYTES]) >= MAGIC_BYTES:
                if not start.startswith(IMAGE_MAGIC):
                    raise Rejected(Reason.IMAGE_UNKNOWN_FORMAT, repr(start[:MAGIC_BYTES]))
                is_image = True
            digest.update(piece)
            file.write(piece)
        return digest.hexdigest()

    @asynccontextmanager
    async def _open(self, url: URL, gate: HostGate) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer's head, in a turn of the host. What goes wrong on the way comes as Rejected or Passing."""
        check_url(url, ports=self.settings.ports, allow_loopback=self.settings.allow_loopback)
        async with gate.turn():
            try:
                async with self._session.get(url, allow_redirects=False) as response:
                    try:
                        yield response
                    finally:
                        response.close()  # a body that was not read to its end is not read on
            except TimeoutError as error:
                raise Passing(Reason.FETCH_TIMEOUT, type(error).__name__) from error
            except (aiohttp.ClientSSLError, aiohttp.ClientConnectorCertificateError) as error:
                raise Rejected(Reason.HOST_UNREACHABLE, str(error)) from error
            except aiohttp.ClientConnectorError as error:
                raise Passing(Reason.HOST_UNREACHABLE, str(error)) from error
            except aiohttp.InvalidURL as error:
                raise Rejected(Reason.URL_UNUSABLE, str(error)) from error
            except (aiohttp.ClientResponseError, aiohttp.http_exceptions.HttpProcessingError) as error:
                raise Rejected(Reason.ANSWER_UNREADABLE, str(error)) from error
            except (aiohttp.ClientError, ConnectionError) as error:  # no other OSError: a full disk is ours to mend
                raise Passing(Reason.CONNECTION_BROKEN, f"{type(error).__name__} {error}") from error

    async def read_rules(self, origin: URL, gate_of: Callable[[URL], HostGate | None]) -> SiteRules:
        """The rules of an origin, asked now. `gate_of` gives the gate of a redirect's host, None where another worker owns it.

        robots.txt (RFC 9309, 2.3.1): 4xx means no rules; 429, 5xx, silence, or a redirect that cannot be followed means no for this run.
        tdmrep.json: whatever fails means that the origin does not take part.
        """
        opt_outs = self.settings.opt_outs
        try:
            text = await self._read_file(origin / "robots.txt", gate_of)
            robots = Robots(text or "", agent=AGENT, also=opt_outs.also)
        except (Passing, Rejected) as error:
            reason = error.reason if error.reason in UNREACHABLE else Reason.ROBOTS_UNREACHABLE
            return SiteRules(None, TdmFile(""), Refusal(reason, f"robots.txt: {error}"))
        gate = gate_of(origin)
        if gate is not None:
            gate.slow_down(robots.delay_seconds)
        tdm_text = None
        if opt_outs.tdm_file and not (gate and gate.closed):
            try:
                tdm_text = await self._read_file(origin / ".well-known/tdmrep.json", gate_of)
            except (Passing, Rejected):
                tdm_text = None  # the protocol's own reading of a failure
        return SiteRules(robots, TdmFile(tdm_text or ""))

    async def _read_file(self, url: URL, gate_of: Callable[[URL], HostGate | None]) -> str | None:
        """A small file as text, None if there is none (4xx). Raises Passing or Rejected if that cannot be known."""
        politeness = self.settings.politeness
        for hop in range(RULES_REDIRECTS + 1):
            for attempt in range(politeness.retries + 1):
                gate = gate_of(url)
                if gate is None:
                    raise Rejected(Reason.ROBOTS_UNREACHABLE, f"a redirect to another site, {url.host}")
                if gate.closed:
                    raise Rejected(gate.closed)
                try:
                    answer = await self._read_once(url, gate)
                    break
                except Passing as passing:
                    if attempt == politeness.retries:
                        raise
                    gate.hold(max(passing.wait_seconds, self._backoff_seconds(attempt)))
            if not isinstance(answer, Redirect):
                return answer
            url = parse_url(answer.location)
        raise Rejected(Reason.TOO_MANY_REDIRECTS, f"{hop} for the rules of a site")

    async def _read_once(self, url: URL, gate: HostGate) -> str | Redirect | None:
        async with self._open(url, gate) as response:
            headers = merge_headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in response.raw_headers)
            if response.status in REDIRECTS and "location" in headers:
                return Redirect(response.status, _join(url, headers["location"].partition("\n")[0]))
            if 400 <= response.status < 500 and response.status != 429:
                return None
            check_status(response.status, headers.get("retry-after", ""))
            body = bytearray()
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > MAX_RULES_BYTES:
                    break
            encodings = content_encodings(headers)
            return decode_rules(expand(bytes(body), encodings, max_bytes=8 * MAX_RULES_BYTES) if encodings else bytes(body))


def check_status(status: int, retry_after: str) -> None:
    """Raises Passing or Rejected for any status but 200."""
    if status in REPEATED or status >= 500:
        reason = Reason.TOO_MANY_REQUESTS if status == 429 else Reason.SERVER_ERROR
        raise Passing(reason, str(status), wait_seconds=parse_retry_after(retry_after, now=time.time()))
    if status != 200:
        raise Rejected(Reason.HTTP_STATUS, str(status))


def parse_retry_after(value: str, *, now: float) -> float:
    """Seconds to wait from `now` (Unix time), by a Retry-After header: a number of seconds or a date (RFC 9110, 10.2.3). 0 if it is neither."""
    value = value.partition("\n")[0].strip()
    if re.fullmatch("[0-9]+", value, re.ASCII):
        return float(value) if len(value) < 10 else math.inf
    try:
        moment = email.utils.parsedate_to_datetime(value)
        return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0


def content_encodings(headers: Mapping[str, str]) -> list[str]:
    """The encodings of a body in the order in which they were put on it."""
    return [name for name in re.split(r"[,\s]+", headers.get("content-encoding", "").lower()) if name not in ("", "identity")]


def expand(body: bytes, encodings: list[str], *, max_bytes: int) -> bytes:
    """The body without its content encodings. Raises Rejected if one is unknown or damaged, or if more than `max_bytes` come out."""
    for name in reversed(encodings):
        try:
            body = EXPANDERS[name](body)
        except (KeyError, zlib.error, brotli.error, zstandard.ZstdError) as error:
            raise Rejected(Reason.ANSWER_UNREADABLE, f"content encoding {name}") from error
        if len(body) > max_bytes:
            raise Rejected(Reason.BODY_TOO_LARGE, f"more than {max_bytes} bytes behind {name}")
    return body


def _join(url: URL, location: str) -> str:
    """The absolute address of a Location header, which servers send as latin-1 or UTF-8."""
    try:
        location = location.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        pass
    try:
        return str(url.join(URL(location.strip())))
    except ValueError as error:
        raise Rejected(Reason.URL_UNUSABLE, "a redirect to no address") from error
