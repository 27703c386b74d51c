"""The admin requests, over real connections."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from gateway.control.admin.handlers import AdminHandlers
from gateway.control.admin.health import GatewayState, Health
from gateway.control.admin.http_app import Route, make_app
from gateway.control.admin.http_server import HttpServers
from gateway.control.admin.roles import Caller, Role
from gateway.control.admin.token_gate import TokenGate
from gateway.control.admin.tokens import AdminTokens
from gateway.control.core.errors import ErrorReporter, ReloadError
from gateway.control.core.sockets import ListenSockets
from gateway.control.metrics.busiest_keys import BusiestKeys
from gateway.control.metrics.exposition import Exposition
from gateway.control.metrics.metric_totals import MetricTotals

TOKEN = {"X-API-Token": "secret"}


@dataclass
class Fixture:
    """A running admin server and what it answers with."""

    accepting: int = 1
    reload_error: ReloadError | None = None
    reloads: int = 0
    notes: list[str] = field(default_factory=list)
    errors: int = 0
    url: str = ""
    public_url: str = ""
    client: aiohttp.ClientSession | None = None

    def state(self) -> GatewayState:
        return GatewayState(
            keys_loaded=True, accepting=self.accepting, wanted=1, stores=[], backends=[]
        )

    def count_error(self) -> None:
        self.errors += 1

    async def reload(self) -> Sequence[str]:
        self.reloads += 1
        if self.reload_error is not None:
            raise self.reload_error
        return self.notes

    async def ask(
        self, path: str, method: str = "GET", headers: dict[str, str] | None = None
    ) -> tuple[int, Any, aiohttp.ClientResponse]:
        assert self.client is not None
        url = path if path.startswith("http") else self.url + path
        async with self.client.request(method, url, headers=headers) as answer:
            is_json = answer.content_type == "application/json"
            body = await (answer.json() if is_json else answer.text())
            return answer.status, body, answer


async def fail(request: web.Request) -> web.Response:  # noqa: ARG001 - a handler
    msg = "a bug"
    raise ValueError(msg)


async def read_body(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


@pytest.fixture
async def admin() -> AsyncIterator[Fixture]:
    fixture = Fixture()
    exposition = Exposition(MetricTotals(), BusiestKeys(), str, [], list)
    handlers = AdminHandlers(
        exposition, Health(fixture.state), fixture.reload, lambda: {"key": "**"}
    )
    tokens = AdminTokens(
        [
            (Caller("one", Role.ADMINISTRATOR), "secret"),
            (Caller("two", Role.ADMINISTRATOR), "other"),
        ]
    )
    gate = TokenGate(tokens.accept)
    errors = ErrorReporter(fixture.count_error)

    servers, sockets = HttpServers(), ListenSockets()
    main, public = await sockets.bind(["127.0.0.1:0", "127.0.0.1:0"])
    routes = [
        *handlers.routes(),
        Route("GET", "/broken", fail),
        Route("POST", "/body", read_body),
    ]
    await servers.serve(make_app(routes, gate, errors), main, None)
    await servers.serve(make_app(handlers.public_routes(), gate, errors), public, None)
    fixture.url, fixture.public_url = f"http://{main[0].bound}", f"http://{public[0].bound}"
    async with aiohttp.ClientSession() as fixture.client:
        yield fixture
    await servers.close()
    sockets.close()


async def test_metrics_are_answered_as_text(admin: Fixture) -> None:
    status, body, answer = await admin.ask("/metrics")
    assert status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "# TYPE gateway_requests_total counter" in body


async def test_metrics_are_compressed_for_who_asks(admin: Fixture) -> None:
    async with aiohttp.ClientSession(auto_decompress=False) as client:
        fields = {"Accept-Encoding": "gzip"}
        async with client.get(admin.url + "/metrics", headers=fields) as answer:
            assert answer.headers["Content-Encoding"] == "gzip"
            assert b"gateway_requests_total" in gzip.decompress(await answer.read())


async def test_openmetrics_ends_with_eof(admin: Fixture) -> None:
    _, body, answer = await admin.ask(
        "/metrics", headers={"Accept": "application/openmetrics-text"}
    )
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith("# EOF\n")


async def test_readyz_follows_the_workers_and_says_why(admin: Fixture) -> None:
    status, body, _ = await admin.ask("/readyz")
    assert (status, body["status"]) == (200, "ready")
    admin.accepting = 0
    status, body, _ = await admin.ask("/readyz")
    assert (status, body["status"]) == (503, "not ready")
    assert body["reasons"] == ["no worker accepts connections (0 of 1)"]


async def test_livez_does_not_depend_on_readiness(admin: Fixture) -> None:
    admin.accepting = 0
    status, body, _ = await admin.ask("/livez")
    assert (status, body) == (200, {"status": "live"})


async def test_health_can_be_asked_for_with_head(admin: Fixture) -> None:
    status, _, _ = await admin.ask("/readyz", "HEAD")
    assert status == 200


@pytest.mark.parametrize("method,path", [("POST", "/-/reload"), ("GET", "/-/config")])
@pytest.mark.parametrize(
    "headers", [{}, {"X-API-Token": "wrong"}, {"X-API-Key": ""}, {**TOKEN, "X-API-Key": "wrong"}]
)
async def test_without_a_good_token_nothing_is_done(
    admin: Fixture, method: str, path: str, headers: dict[str, str]
) -> None:
    status, body, answer = await admin.ask(path, method, headers)
    assert status == 401
    assert "token" in body["error"]
    assert "wrong" not in str(body)
    assert answer.headers["WWW-Authenticate"]
    assert admin.reloads == 0


@pytest.mark.parametrize("field_name", ["X-API-Token", "X-API-Key", "x-api-key"])
@pytest.mark.parametrize("token", ["secret", "other"])
async def test_each_token_opens_in_each_header_field(
    admin: Fixture, field_name: str, token: str
) -> None:
    status, body, _ = await admin.ask("/-/config", headers={field_name: token})
    assert (status, body) == (200, {"key": "**"})


async def test_a_reload_answers_what_needs_a_restart(admin: Fixture) -> None:
    admin.notes = ["state_dir has changed"]
    status, body, _ = await admin.ask("/-/reload", "POST", TOKEN)
    assert (status, body) == (200, {"status": "reloaded", "notes": ["state_dir has changed"]})
    assert admin.reloads == 1


async def test_a_reload_that_fails_answers_every_reason(admin: Fixture) -> None:
    admin.reload_error = ReloadError(["workers: write auto", "listen: overlaps"])
    status, body, _ = await admin.ask("/-/reload", "POST", TOKEN)
    assert status == 422
    assert body["reasons"] == ["workers: write auto", "listen: overlaps"]


async def test_an_unknown_path_answers_what_exists(admin: Fixture) -> None:
    status, body, _ = await admin.ask("/metric")
    assert status == 404
    assert "GET /metrics" in body["paths"]
    assert "POST /-/reload" in body["paths"]


async def test_a_wrong_method_answers_the_right_one(admin: Fixture) -> None:
    status, body, answer = await admin.ask("/-/reload", "GET", TOKEN)
    assert status == 405
    assert answer.headers["Allow"] == "POST"
    assert "POST" in body["error"]


async def test_the_metrics_address_has_health_and_metrics_only(admin: Fixture) -> None:
    for path in ("/metrics", "/livez", "/readyz"):
        assert (await admin.ask(admin.public_url + path))[0] == 200
    status, body, _ = await admin.ask(admin.public_url + "/-/config", headers=TOKEN)
    assert status == 404
    assert body["paths"] == ["GET /metrics", "GET /livez", "GET /readyz"]


async def test_a_bug_in_a_handler_is_counted_and_answered_without_detail(admin: Fixture) -> None:
    status, body, _ = await admin.ask("/broken")
    assert status == 500
    assert "a bug" not in str(body)
    assert admin.errors == 1


async def test_answers_name_no_software_and_are_not_cached(admin: Fixture) -> None:
    _, _, answer = await admin.ask("/readyz")
    assert "Server" not in answer.headers
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "request_", [b"Content-Length: 9\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc"]
)
@pytest.mark.parametrize("is_reset", [False, True])
async def test_a_client_that_hangs_up_in_its_body_is_no_bug(
    admin: Fixture, request_: bytes, is_reset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    port = int(admin.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /body HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n" + request_)
    await reader.readline()  # its handler reads the body
    if is_reset:
        writer.transport.abort()
    else:
        writer.write_eof()
        await reader.read()
        writer.close()
    status, _, _ = await admin.ask("/livez")
    assert status == 200
    assert admin.errors == 0
    assert "Traceback" not in caplog.text


async def test_requests_are_not_logged(admin: Fixture) -> None:
    with capture_logs() as logs:
        await admin.ask("/metrics")
    assert logs == []
