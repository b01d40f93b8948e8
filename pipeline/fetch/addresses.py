"""Which addresses may be reached: the public web alone, whatever a URL, a redirect or a name server says.

    URL --check_url--> host --resolve, check every address--> socket_for, which checks once more what it connects to

A name is resolved once for a connection, and the connection goes to the address that was checked, so a name server that
changes its answer (DNS rebinding) gains nothing.
"""

import asyncio
import errno
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from lcl.core.rejected import Reason, Rejected

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Lookup = Callable[[str], Awaitable[list[str]]]

MAX_URL_CHARACTERS = 8192  # longer ones are refused by most servers
DNS_THREADS = 32
HOST = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*|[0-9a-f:.]+")  # a name in ASCII (RFC 1035, 2.3.4), or an IPv6 address without its brackets
NUMBER_LIKE = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")  # a host that ends so is an IPv4 address in some spelling (WHATWG URL, "ends in a number")

NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            "192.0.0.0/24",     # protocol assignments (RFC 6890); Python before 3.11.9 knows parts of it
            "192.88.99.0/24",   # 6to4 relays, withdrawn (RFC 7526)
            "::/96",            # IPv4-compatible, withdrawn (RFC 4291)
            "64:ff9b:1::/48",   # NAT64 inside one network (RFC 8215)
            "3fff::/20",        # documentation (RFC 9637)
            "5f00::/16",        # segment routing inside one network (RFC 9602)
            "fec0::/10",        # site-local, withdrawn (RFC 3879)
        ),
    )
)  # fmt: skip
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # all of IPv6 that is assigned to the public net


def is_public(address: Address) -> bool:
    """True for an address of the public net; one that embeds an IPv4 address (mapped, 6to4, NAT64) is judged by it."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        embedded = address.ipv4_mapped or address.sixtofour or (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else None)
        if embedded is not None:
            return is_public(embedded)
        if address not in GLOBAL_UNICAST:
            return False
    return address.is_global and not address.is_multicast and not any(address in network for network in NOT_PUBLIC if network.version == address.version)


def check_address(text: str, *, allow_loopback: bool) -> None:
    """Raises Rejected for an address that is not of the public net; `allow_loopback` lets 127.0.0.0/8 and ::1 through."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise Rejected(Reason.ADDRESS_REFUSED, f"{text} is no IP address") from error
    if not is_public(address) and not (allow_loopback and address.is_loopback):
        raise Rejected(Reason.ADDRESS_REFUSED, text)


def parse_url(text: str) -> URL:
    """The address as a client sends it: escaped, host in ASCII. Raises Rejected if it is no http or https address."""
    try:
        url = URL(text.strip())
        usable = url.scheme in ("http", "https") and HOST.fullmatch(host_of(url)) and len(text) <= MAX_URL_CHARACTERS and url.port is not None
    except (ValueError, UnicodeError, TypeError) as error:
        raise Rejected(Reason.URL_UNUSABLE, str(error)) from error
    if not usable:
        raise Rejected(Reason.URL_UNUSABLE, text[:100])
    return url.with_fragment(None)


def host_of(url: URL) -> str:
    """The host in ASCII and lower case, without a final dot."""
    return (url.raw_host or "").lower().rstrip(".")


def check_url(url: URL, *, ports: Collection[int], allow_loopback: bool) -> None:
    """Raises Rejected for a URL that must not be asked, as far as that is seen before a name is resolved.

    That is: one with a user name, with another port than `ports`, with a literal address that is not public, or with an IPv4 address in
    another spelling than four decimal numbers (127.1, 0x7f000001, 2130706433, 0177.0.0.1).
    """
    host = host_of(url)
    if url.user is not None or url.password is not None:
        raise Rejected(Reason.URL_UNUSABLE, "a user name in the address")
    if url.port not in ports:
        raise Rejected(Reason.ADDRESS_REFUSED, f"port {url.port}")
    if ":" in host or NUMBER_LIKE.fullmatch(host.rpartition(".")[2]):
        check_address(host, allow_loopback=allow_loopback)


async def look_up(host: str) -> list[str]:
    """The addresses of a name, from the system's resolver."""
    infos = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(info[4][0]) for info in infos]


class CheckedResolver(AbstractResolver):
    """Names to addresses for aiohttp, none unless all are allowed: a name that mixes public and private ones is an attack."""

    def __init__(self, *, allow_loopback: bool, lookup: Lookup = look_up) -> None:
        self._allow_loopback, self._lookup = allow_loopback, lookup

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        addresses = await self._lookup(host)
        for address in addresses:
            check_address(address, allow_loopback=self._allow_loopback)
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=socket.AF_INET6 if ":" in address else socket.AF_INET, proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in dict.fromkeys(addresses)
        ]  # fmt: skip

    async def close(self) -> None:
        """Nothing is held."""


def socket_for(*, allow_loopback: bool) -> Callable[[tuple], socket.socket]:
    """A factory of sockets that makes none for an address that is not allowed, whichever way it came there."""

    def make(address_info: tuple) -> socket.socket:
        family, kind, protocol, _, place = address_info
        try:
            check_address(place[0], allow_loopback=allow_loopback)
        except Rejected as rejected:
            raise PermissionError(errno.EACCES, str(rejected)) from rejected
        return socket.socket(family=family, type=kind, proto=protocol)

    return make


def dns_threads() -> ThreadPoolExecutor:
    """Threads for name look-ups, which block: asyncio's own are as few as the CPUs."""
    return ThreadPoolExecutor(DNS_THREADS, thread_name_prefix="dns")
