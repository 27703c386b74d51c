"""What control's addresses do with requests that no well-behaved client sends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from gateway.control.admin.address_budget import AddressBudget
from gateway.control.admin.api import shapes
from gateway.control.admin.api.errors import Reply, error_body
from gateway.control.admin.api.operations import Call, Operation, Response
from gateway.control.admin.http_app import Route, make_app
from gateway.control.admin.http_server import HttpServers
from gateway.control.admin.known_hosts import KnownHosts
from gateway.control.admin.token_gate import TokenGate
from gateway.control.core.errors import ErrorReporter
from gateway.control.core.sockets import ListenSockets
from tests.support.polling import until

AT_ONCE = 3
PATH = "/api/authorize"


@dataclass
class Served:
    """A running server, and what happened in it."""

    port: int = 0
    hosts: KnownHosts = field(default_factory=KnownHosts)
    errors: int = 0
    begun: int = 0
    ended: int = 0

    def count_error(self) -> None:
        self.errors += 1

    async def echo(self, request: web.Request) -> web.Response:
        self.begun += 1
        try:
            return web.Response(body=await request.read())
        finally:
            self.ended += 1

    async def endless(self, request: web.Request) -> web.StreamResponse:
        self.begun += 1
        response = web.StreamResponse()
        try:
            await response.prepare(request)
            while True:
                await response.write(bytes(64 * 1024))
        finally:
            self.ended += 1

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, head: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        """Send a request with a head as it is given; return status, fields and body."""
        reader, writer = await self.connect()
        writer.write(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        start, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        fields = dict(line.lower().split(": ", 1) for line in lines)
        answer = await reader.readexactly(int(fields.get("content-length", "0")))
        writer.close()
        return int(start.split()[1]), fields, answer


async def authorize(call: Call) -> Reply:  # noqa: ARG001 - an operation's signature
    return Reply(204)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    served = Served()
    budget = AddressBudget(at_once=AT_ONCE, per_second=0.001)
    operation = Operation(
        "authorize",
        "POST",
        [PATH],
        "Ask.",
        authorize,
        {204: Response("Good."), 400: Response("Bad.")},
        takes=shapes.AuthorizeRequest,
        needs=None,
        budget=budget,
    )
    routes = [
        Route("POST", "/echo", served.echo),
        Route("GET", "/endless", served.endless),
        Route("GET", "/api/thing", served.echo),
        *operation.routes(),
    ]
    errors = ErrorReporter(served.count_error)
    asyncio.get_running_loop().set_exception_handler(errors.on_loop_error)
    servers, sockets = HttpServers(), ListenSockets()
    (main,) = await sockets.bind(["127.0.0.1:0"])
    app = make_app(routes, TokenGate(lambda _: None), errors, error_body, served.hosts)
    await servers.serve(app, main, None)
    served.port = main[0].sock.getsockname()[1]
    yield served
    await servers.close()
    sockets.close()


# Names (DNS rebinding)


async def test_a_name_that_is_not_known_is_refused_with_what_to_do(served: Served) -> None:
    with capture_logs() as logs:
        for path in ("/endless", "/nothing"):
            status, _, body = await served.ask(f"GET {path} HTTP/1.1\nHost: evil.example:8090")
            assert status == 421
            assert "admin.hosts" in json.loads(body)["error"]
    assert served.begun == 0
    assert {line["host"] for line in logs} == {"evil.example:8090"}


async def test_the_api_refuses_a_name_in_its_own_form(served: Served) -> None:
    status, _, body = await served.ask("GET /api/thing HTTP/1.1\nHost: evil.example")
    assert status == 421
    assert json.loads(body)["errors"][0]["_type"] == "MisdirectedRequestError"


@pytest.mark.parametrize("head", ["1.1\nHost: 127.0.0.1:1", "1.1\nHost: localhost", "1.0"])
async def test_addresses_localhost_and_no_name_are_answered(served: Served, head: str) -> None:
    status, _, _ = await served.ask(f"GET /api/thing HTTP/{head}")
    assert status == 200


# The budget of those who have no token


async def test_an_address_without_a_token_has_a_budget(served: Served) -> None:
    body = b'{"apiKey": "k"}'
    head = f"POST {PATH} HTTP/1.1\nHost: localhost\nContent-Length: {len(body)}"
    for _ in range(AT_ONCE):
        assert (await served.ask(head, body))[0] == 204
    with capture_logs() as logs:
        status, fields, answer = await served.ask(head, body)
    assert (status, answer) == (429, b"")
    assert int(fields["retry-after"]) >= 1
    assert [line["peer"] for line in logs] == ["127.0.0.1"]


async def test_beyond_the_budget_no_body_is_read(served: Served) -> None:
    for _ in range(AT_ONCE):
        await served.ask(f"POST {PATH} HTTP/1.1\nHost: localhost\nContent-Length: 0")
    status, _, _ = await served.ask(f"POST {PATH} HTTP/1.1\nHost: localhost\nContent-Length: 9")
    assert status == 429


# Clients that hang up, or send what cannot be read: never an internal error


HANG_UPS: list[bytes] = [
    b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf",
    b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe",
    b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n",
]


def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


@pytest.mark.parametrize("request_bytes", HANG_UPS)
@pytest.mark.parametrize("hang_up", [_close, _reset])
async def test_a_client_that_hangs_up_is_no_internal_error(
    served: Served, request_bytes: bytes, hang_up: Callable[[asyncio.StreamWriter], None]
) -> None:
    with capture_logs() as logs:
        _, writer = await served.connect()
        writer.write(request_bytes)
        await until(lambda: served.begun == 1)
        hang_up(writer)
        await until(lambda: served.ended == 1)
        await served.ask("GET /api/thing HTTP/1.1\nHost: localhost")
    assert served.errors == 0
    assert logs == []


@pytest.mark.parametrize(
    "fields, body",
    [
        ("Content-Encoding: gzip\nContent-Length: 7", b"no gzip"),
        ("Transfer-Encoding: chunked", b"zz\r\nno chunk\r\n"),
    ],
)
async def test_a_body_that_cannot_be_read_is_a_bad_request(
    served: Served, fields: str, body: bytes
) -> None:
    with capture_logs() as logs:
        status, _, _ = await served.ask(f"POST /echo HTTP/1.1\nHost: localhost\n{fields}", body)
    assert status == 400
    assert served.errors == 0
    assert [line for line in logs if line["log_level"] == "error"] == []
