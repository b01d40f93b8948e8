"""Only the public net is ever reached: addresses in each spelling, names that resolve to private ones, a listener that counts connections."""

import asyncio
import ipaddress
import socket
from collections.abc import Iterator

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcl.core.rejected import Reason, Rejected
from pipeline.fetch.addresses import CheckedResolver, check_address, check_url, is_public, parse_url, socket_for
from pipeline.fetch.download import Downloader, Refusal, SiteRules
from pipeline.fetch.fetch_config import FetchConfig, Politeness
from pipeline.fetch.site_rules import Robots, TdmFile
from tests.fetching import CONTACT, run

PRIVATE = (
    "127.0.0.1 127.255.255.254 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 100.127.255.255 169.254.169.254 0.0.0.0 0.1.2.3 "
    "224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 192.0.2.1 198.51.100.7 203.0.113.9 198.18.0.1 192.88.99.1 192.0.0.8 "
    ":: ::1 fe80::1 fe80::1%eth0 fec0::1 fc00::1 fd12::1 ff02::1 2001:db8::1 3fff::1 5f00::1 100::1 4000::1 "
    "::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::808:808 "
    "2002:7f00:1:: 2002:c0a8:101:: 2001:0:4136:e378:8000:63bf:3fff:fdd2 ::127.0.0.1 ::8.8.8.8"
).split()
PUBLIC = "8.8.8.8 1.1.1.1 172.32.0.1 100.128.0.1 192.0.3.1 2606:4700:4700::1111 2a00:1450::1 ::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808::".split()
SPELLINGS = (
    "2130706433 0x7f000001 0x7f.1 127.1 127.0.1 0177.0.0.1 017700000001 127.0.0.1. 0x7f.0.0.0x1 0 1.2.3.4.5 256.256.256.256 "
    "[::1] [::ffff:7f00:1] 169.254.169.254 １２７.0.0.1"
).split()


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_refused(address: str) -> None:
    with pytest.raises(Rejected) as error:
        check_address(address, allow_loopback=False)
    assert error.value.reason is Reason.ADDRESS_REFUSED


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_pass(address: str) -> None:
    check_address(address, allow_loopback=False)


def test_loopback_is_allowed_by_its_flag_and_nothing_else_is() -> None:
    passed = []
    for address in PRIVATE:
        try:
            check_address(address, allow_loopback=True)
            passed.append(address)
        except Rejected:
            continue
    assert set(passed) <= {"127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"} and {"127.0.0.1", "::1"} <= set(passed)


@given(st.ip_addresses(v=4))
def test_an_embedded_address_is_judged_as_itself(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    for form in ((0xFFFF << 32) | number, (0x2002 << 112) | (number << 80), (0x64FF9B << 96) | number):  # mapped, 6to4, NAT64
        assert is_public(ipaddress.IPv6Address(form)) == is_public(address)


@pytest.mark.parametrize("host", SPELLINGS)
def test_odd_spellings_of_an_address_are_refused_before_any_look_up(host: str) -> None:
    with pytest.raises(Rejected) as error:
        check_url(parse_url(f"http://{host}/a.jpg"), ports=(80, 443), allow_loopback=False)
    assert error.value.reason in (Reason.ADDRESS_REFUSED, Reason.URL_UNUSABLE)


@pytest.mark.parametrize("url", ["http://example.org:22/a", "https://example.org:8080/a", "http://example.org:0/"])
def test_other_ports_are_refused(url: str) -> None:
    with pytest.raises(Rejected) as error:
        check_url(parse_url(url), ports=(80, 443), allow_loopback=False)
    assert error.value.reason is Reason.ADDRESS_REFUSED


NO_ADDRESSES = [
    "ftp://example.org/a", "data:image/png;base64,AA", "javascript:alert(1)", "//example.org/a", "", "http://", "http:///a", "http://[::1", "http://user@example.org/a",
    "http://example.org/" + "a" * 9000, "http://example.org:99999/", "http://ex ample.org/", "http://..../", "http://a..example/", "http://" + "a" * 64 + ".example/",
]  # fmt: skip


@pytest.mark.parametrize("url", NO_ADDRESSES)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(Rejected):
        check_url(parse_url(url), ports=(80, 443), allow_loopback=False)


@given(st.text(max_size=60))
def test_no_text_makes_the_check_raise_anything_else(text: str) -> None:
    for url in (text, f"http://{text}/a", f"http://example.org/{text}", f"http://example.org:{text}/"):
        try:
            check_url(parse_url(url), ports=(80, 443), allow_loopback=False)
        except Rejected:
            continue


def test_names_are_refused_by_any_of_their_addresses() -> None:
    async def lookup(host: str) -> list[str]:
        return {"good.example": ["8.8.8.8", "2606:4700::1111"], "mixed.example": ["8.8.8.8", "10.0.0.1"]}[host]

    resolver = CheckedResolver(allow_loopback=False, lookup=lookup)
    assert [place["host"] for place in run(resolver.resolve("good.example"))] == ["8.8.8.8", "2606:4700::1111"]
    with pytest.raises(Rejected):
        run(resolver.resolve("mixed.example"))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        yield server


def assert_nobody_came(listener: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        listener.accept()


async def no_rules() -> SiteRules:
    return SiteRules(Robots("", agent="lcl-fetch"), TdmFile(""))


@pytest.mark.parametrize("host", ["rebound.example", "localhost", "127.0.0.1", "0x7f.1", "2130706433", "127.1", "[::ffff:127.0.0.1]"])
def test_a_local_listener_gets_no_connection(listener: socket.socket, host: str) -> None:
    """Through the whole downloader, the port allowed; the name server gives a public address at first and loopback for ever after (rebinding)."""
    port = listener.getsockname()[1]
    answers = iter([["192.0.2.1"]])

    async def lookup(host: str) -> list[str]:
        return next(answers, ["127.0.0.1"])

    async def ask() -> list[object]:
        settings = FetchConfig(urls=("x",), output="x", contact=CONTACT, ports=(port,))
        async with Downloader(settings, lookup=lookup) as downloader:
            url = f"http://{host}:{port}/a.jpg"
            return [await downloader.fetch(url, lambda url: asyncio.ensure_future(no_rules()), downloader.gate()) for _ in range(3)]

    outcomes = run(ask())
    assert all(isinstance(outcome, Refusal) and outcome.reason is Reason.ADDRESS_REFUSED for outcome in outcomes), outcomes
    assert_nobody_came(listener)


def test_the_socket_itself_is_refused_where_no_other_check_was_made(listener: socket.socket) -> None:
    async def connect() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=socket_for(allow_loopback=False))) as session:
            await session.get(f"http://127.0.0.1:{listener.getsockname()[1]}/")

    with pytest.raises(aiohttp.ClientConnectorError, match="address_refused"):
        run(connect())
    assert_nobody_came(listener)


def test_proxies_of_the_environment_are_not_used(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{listener.getsockname()[1]}")

    async def lookup(host: str) -> list[str]:
        raise OSError("no such name")

    async def ask() -> object:
        settings = FetchConfig(urls=("x",), output="x", contact=CONTACT, politeness=Politeness(retries=0))
        async with Downloader(settings, lookup=lookup) as downloader:
            return await downloader.fetch("http://example.org/a.jpg", lambda url: asyncio.ensure_future(no_rules()), downloader.gate())

    assert run(ask()).reason is Reason.HOST_UNREACHABLE
    assert_nobody_came(listener)
