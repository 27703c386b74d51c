"""Connections to an admin address: who makes room for whom, and what has an end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from gateway.control.admin.connections import DISPLACED, TIMEOUT, ConnectionLimits
from gateway.control.admin.http_app import CONNECTIONS, Route, make_app
from gateway.control.admin.http_server import HttpServers
from gateway.control.admin.tls_files import TlsFiles
from gateway.control.admin.token_gate import TokenGate
from gateway.control.core.errors import ErrorReporter
from gateway.control.core.sockets import ListenSockets
from tests.support.certs import Authority
from tests.support.polling import until

FLOOD = "127.0.0.2"
OTHER = "127.0.0.3"
MOST = 4
LONG_S = 600.0
WAIT_S = 20
GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
HALF_HEAD = b"GET /livez HTTP/1.1\r\nHo"
HALF_BODY = b"POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nabc"
GET_LARGE = b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n"
GET_SLOW = b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n"
WAITING = [b"", HALF_HEAD, HALF_BODY, GET, GET_LARGE]
"""What connections have sent that wait for their clients."""


@dataclass
class Fixture:
    """A server on one address, and what is closed there for its limits."""

    port: int = 0
    app: web.Application = field(default_factory=web.Application)
    closed: list[str] = field(default_factory=list)
    slow: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def open(self) -> int:
        return len(self.app[CONNECTIONS])

    def connect(self, host: str = FLOOD, data: bytes = b"") -> socket.socket:
        sock = socket.socket()
        self.stack.enter_context(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.bind((host, 0))
        sock.connect(("127.0.0.1", self.port))
        sock.send(data)
        sock.settimeout(0)
        return sock

    async def fill(self, data: Sequence[bytes], host: str = FLOOD) -> list[socket.socket]:
        """Open connections that send `data`, and wait until the server has it."""
        socks = []
        for each in data:
            asked = self.asked + (each not in {b"", HALF_HEAD})
            socks.append(self.connect(host, each))
            await self.until(min(len(socks), MOST), asked)
        return socks

    async def until(self, connections: int, asked: int) -> None:
        """Wait for as many connections or more, and exactly so many requests."""
        await until(lambda: self.open >= connections and self.asked == asked)

    async def until_closed(self, count: int) -> None:
        await until(lambda: len(self.closed) == count)

    async def large(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(body=bytes(10_000_000))

    async def live(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(text="live")

    async def body(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(body=await request.read())

    async def wait(self, request: web.Request) -> web.Response:
        self.asked += 1
        await self.slow.wait()
        return web.Response(text="done")


@asynccontextmanager
async def serving(
    *,
    request_s: float = LONG_S,
    body_s: float = LONG_S,
    most: int = MOST,
    tls: TlsFiles | None = None,
) -> AsyncIterator[Fixture]:
    made = Fixture()
    limits = ConnectionLimits(most, request_s, body_s, made.closed.append)
    servers, sockets = HttpServers(limits), ListenSockets()
    [[bound]] = await sockets.bind(["127.0.0.1:0"])
    routes = [
        Route("GET", "/livez", made.live),
        Route("POST", "/body", made.body),
        Route("GET", "/large", made.large),
        Route("GET", "/slow", made.wait),
    ]
    made.app = make_app(routes, TokenGate(lambda _: None), ErrorReporter(lambda: None))
    await servers.serve(made.app, [bound], tls)
    made.port = int(bound.bound.rpartition(":")[2])
    with made.stack:
        yield made
    made.slow.set()
    await servers.close()
    sockets.close()
    assert made.open == 0


async def first_line(sock: socket.socket) -> bytes:
    async with asyncio.timeout(WAIT_S):
        return (await asyncio.get_running_loop().sock_recv(sock, 4096)).partition(b"\r\n")[0]


async def ends(sock: socket.socket) -> None:
    """Read to the end, which may be a reset."""
    async with asyncio.timeout(WAIT_S):
        with contextlib.suppress(ConnectionError):
            while await asyncio.get_running_loop().sock_recv(sock, 65536):
                pass


def is_open(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True


@pytest.mark.parametrize("data", WAITING)
@pytest.mark.parametrize("host", [FLOOD, OTHER])
async def test_a_probe_gets_in_whatever_waits_for_its_client(data: bytes, host: str) -> None:
    async with serving() as made:
        await made.fill([data] * MOST)
        assert await first_line(made.connect(host, GET)) == b"HTTP/1.1 200 OK"
        assert (made.open, made.closed) == (MOST, [DISPLACED])


async def test_the_longest_waiting_of_the_client_with_the_most_makes_room() -> None:
    async with serving() as made:
        [other] = await made.fill([b""], OTHER)
        flood = await made.fill([GET, HALF_HEAD, b""])
        flood[0].send(GET)  # it has not waited as long as the others now
        await until(lambda: made.asked == 2)
        for displaced in (flood[1], flood[2], flood[0]):
            flood.append(made.connect())
            await made.until_closed(len(flood) - 3)
            await ends(displaced)
        assert is_open(other)
        assert all(map(is_open, flood[3:]))


async def test_what_the_gateway_works_on_makes_room_last() -> None:
    async with serving() as made:
        slow = await made.fill([GET_SLOW])
        await made.fill([b""] * (MOST - 1))
        for _ in range(MOST - 1):
            slow += await made.fill([GET_SLOW])
        assert made.closed == [DISPLACED] * (MOST - 1)
        assert await first_line(made.connect(OTHER, GET)) == b"HTTP/1.1 200 OK"
        await ends(slow[0])
        made.slow.set()
        assert await first_line(slow[1]) == b"HTTP/1.1 200 OK"


@pytest.mark.parametrize("data", [b"", HALF_HEAD, HALF_BODY, GET_LARGE])
async def test_what_waits_for_its_client_ends_after_a_time(data: bytes) -> None:
    async with serving(request_s=0.2, body_s=0.2) as made:
        sock = made.connect(data=data)
        await until(lambda: made.closed == [TIMEOUT])
        await ends(sock)
        assert made.open == 0


async def test_a_second_head_must_be_complete_in_time_too() -> None:
    async with serving(request_s=0.2) as made:
        sock = made.connect(data=GET)
        assert await first_line(sock) == b"HTTP/1.1 200 OK"
        sock.send(HALF_HEAD)
        await until(lambda: made.closed == [TIMEOUT])
        await ends(sock)


async def test_an_idle_connection_and_a_slow_answer_are_waited_for() -> None:
    async with serving(request_s=0.1, body_s=0.1) as made:
        idle, slow = await made.fill([GET, GET_SLOW])
        assert await first_line(idle) == b"HTTP/1.1 200 OK"
        limit = made.connect()  # one that comes later than both, and ends for its limit
        await until(lambda: made.closed == [TIMEOUT])
        await ends(limit)
        made.slow.set()
        assert await first_line(slow) == b"HTTP/1.1 200 OK"
        idle.send(GET)
        assert await first_line(idle) == b"HTTP/1.1 200 OK"


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01\x02"])
async def test_half_open_handshakes_make_room_and_end(tmp_path: Path, data: bytes) -> None:
    authority = Authority.create(tmp_path)
    certificate = authority.issue("server", ["localhost"])
    tls = TlsFiles(str(certificate.cert_file), str(certificate.key_file), None, "1.2")
    async with serving(tls=tls, request_s=1) as made:
        half_open = [made.connect(data=data) for _ in range(MOST)]
        await until(lambda: made.open == MOST)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            made.port,
            ssl=authority.client_context(),
            server_hostname="localhost",
        )
        writer.write(GET)
        assert (await asyncio.wait_for(reader.readline(), WAIT_S)) == b"HTTP/1.1 200 OK\r\n"
        assert made.closed[0] == DISPLACED
        await ends(half_open[0])
        writer.close()
        await until(lambda: made.closed == [DISPLACED, *[TIMEOUT] * (MOST - 1)])
        for sock in half_open:
            await ends(sock)
