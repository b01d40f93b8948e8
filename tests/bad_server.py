"""A web server on loopback that misbehaves in each way that a downloader must bear, with a log of what was asked and when.

It listens on 127.0.0.1 to 127.0.0.N at one port: each is a host of its own.
"""

import asyncio
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate

from tests.crawls import jpeg

Handler = Callable[["Exchange"], Awaitable[None]]
PICTURE = jpeg((200, 30, 30), (64, 48))


def picture(number: int) -> bytes:
    """A small picture that differs with `number`."""
    return jpeg((number % 256, number // 256 % 256, 90), (64, 48))


@dataclass
class Exchange:
    host: str
    path: str
    headers: dict[str, str]
    count: int  # how often this path of this host was asked, this time included
    writer: asyncio.StreamWriter

    async def answer(self, body: bytes = b"", *, status: str = "200 OK", headers: dict[str, str] | None = None, length: int | None = None) -> None:
        head = {"Content-Type": "image/jpeg", "Content-Length": str(len(body) if length is None else length)} | (headers or {})
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        self.writer.write(f"HTTP/1.1 {status}\r\n{lines}Connection: close\r\n\r\n".encode() + body)
        await self.writer.drain()

    async def refuse_to_go_on(self) -> None:
        """A reset in place of an orderly end."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@dataclass
class Site:
    """What the server does, by path; a host may have paths of its own as `127.0.0.2/path`. `log` holds (host, path, start, end)."""

    paths: dict[str, Handler] = field(default_factory=dict)
    log: list[tuple[str, str, float, float]] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    in_flight: Counter = field(default_factory=Counter)
    most_in_flight: Counter = field(default_factory=Counter)
    seconds: float = 0.0  # that any answer takes

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = writer.get_extra_info("sockname")[0]
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            path = lines[0].split(" ")[1]
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:]) if name}
            self.agents.add(headers.get("user-agent", ""))
            self.in_flight[host] += 1
            self.most_in_flight[host] = max(self.most_in_flight[host], self.in_flight[host])
            start = time.monotonic()
            self.log.append((host, path, start, start))
            place = len(self.log) - 1
            try:
                await asyncio.sleep(self.seconds)
                count = sum(entry[:2] == (host, path) for entry in self.log)
                handler = self.paths.get(f"{host}{path}") or self.paths.get(path) or (picture_by_number if path.startswith("/n/") else not_found)
                await handler(Exchange(host, path, headers, count, writer))
            finally:
                self.in_flight[host] -= 1
                self.log[place] = (host, path, start, time.monotonic())
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return
        finally:
            writer.close()

    def asked(self, path: str, host: str = "127.0.0.1") -> int:
        return sum(entry[:2] == (host, path) for entry in self.log)

    def starts(self, host: str = "127.0.0.1") -> list[float]:
        return [start for name, _, start, _ in self.log if name == host]


async def not_found(exchange: Exchange) -> None:
    await exchange.answer(b"no such page", status="404 Not Found", headers={"Content-Type": "text/plain"})


async def picture_by_number(exchange: Exchange) -> None:
    await exchange.answer(picture(int(exchange.path.removeprefix("/n/").partition(".")[0])))


def gives(body: bytes = PICTURE, **options: object) -> Handler:
    async def handler(exchange: Exchange) -> None:
        await exchange.answer(body, **options)

    return handler


def redirects(location: str, status: str = "302 Found") -> Handler:
    return gives(b"", status=status, headers={"Location": location})


def first(num_times: int, handler: Handler, then: Handler) -> Handler:
    """`handler` for the first requests of a path, `then` for the later ones."""

    async def chosen(exchange: Exchange) -> None:
        await (handler if exchange.count <= num_times else then)(exchange)

    return chosen


async def drips(exchange: Exchange) -> None:
    exchange.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + PICTURE[:20])
    while True:
        exchange.writer.write(b"x")
        await exchange.writer.drain()
        await asyncio.sleep(0.05)


async def endless(exchange: Exchange) -> None:
    exchange.writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + PICTURE)
    while True:
        exchange.writer.write(bytes(65536))
        await exchange.writer.drain()


async def endless_head(exchange: Exchange) -> None:
    exchange.writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        exchange.writer.write(b"X-Filler: 1\r\n" * 1000)
        await exchange.writer.drain()


async def hangs(exchange: Exchange) -> None:
    await asyncio.sleep(3600)


async def resets(exchange: Exchange) -> None:
    exchange.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + PICTURE)
    await exchange.writer.drain()
    await exchange.refuse_to_go_on()


async def no_http(exchange: Exchange) -> None:
    exchange.writer.write(b"220 mail.example ESMTP\r\n")
    await exchange.writer.drain()


async def a_date_to_wait_for(exchange: Exchange) -> None:
    await exchange.answer(status="503 Service Unavailable", headers={"Retry-After": formatdate(time.time() + 2, usegmt=True)})


class Server:
    """Serves a Site from a thread of its own. A context manager; `url(path, host)` names what it serves."""

    def __init__(self, site: Site, *, num_hosts: int = 8, tls: ssl.SSLContext | None = None) -> None:
        self.site, self._num_hosts, self._tls = site, num_hosts, tls

    def __enter__(self) -> "Server":
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self.site.handle, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        others = [await asyncio.start_server(self.site.handle, f"127.0.0.{number}", self.port, ssl=self._tls) for number in range(2, self._num_hosts + 1)]
        started.set()
        await self._stop.wait()
        for running in (server, *others):
            running.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"
