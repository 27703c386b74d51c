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

from gateway.control.admin import Admin, ReloadError
from gateway.control.admin_token import Tokens
from gateway.control.exposition import Exposition
from gateway.control.health import Facts, Health
from gateway.control.sockets import ListenSockets
from gateway.control.token_gate import TokenGate
from gateway.control.totals import Totals
from gateway.control.usage import KeyTraffic
from gateway.control.web import HttpServers, Route, make_app

TOKEN = {"X-API-Token": "secret"}


@dataclass
class Fixture:
    """A running admin server and what it answers with."""

    accepting: int = 1
    reload_error: ReloadError | None = None
    reloads: int = 0
    notes: list[str] = field(default_factory=list)
    bugs: list[Exception] = field(default_factory=list)
    url: str = ""
    public_url: str = ""
    client: aiohttp.ClientSession | None = None

    def facts(self) -> Facts:
        return Facts(keys_loaded=True, accepting=self.accepting, wanted=1, stores=[], backends=[])

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


@pytest.fixture
async def admin() -> AsyncIterator[Fixture]:
    fixture = Fixture()
    exposition = Exposition(Totals(), KeyTraffic(), str, dict, list)
    handlers = Admin(exposition, Health(fixture.facts), fixture.reload, lambda: {"key": "**"})
    tokens = Tokens([("one", "secret"), ("two", "other")])
    gate = TokenGate(tokens.accept)

    def on_bug(place: str, error: Exception) -> None:  # noqa: ARG001
        fixture.bugs.append(error)

    servers, sockets = HttpServers(), ListenSockets()
    main, public = await sockets.bind(["127.0.0.1:0", "127.0.0.1:0"])
    routes = [*handlers.routes(), Route("GET", "/broken", fail)]
    await servers.serve(make_app(routes, gate, on_bug), main, None)
    await servers.serve(make_app(handlers.public_routes(), gate, on_bug), public, None)
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
    assert [str(error) for error in admin.bugs] == ["a bug"]


async def test_answers_name_no_software_and_are_not_cached(admin: Fixture) -> None:
    _, _, answer = await admin.ask("/readyz")
    assert "Server" not in answer.headers
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.fixture
async def small() -> AsyncIterator[tuple[str, int]]:
    """A server that takes two connections at a time and waits for requests only a moment."""
    exposition = Exposition(Totals(), KeyTraffic(), str, dict, list)
    handlers = Admin(exposition, Health(Fixture().facts), Fixture().reload, dict)
    servers, sockets = HttpServers(max_connections=2, request_s=0.2), ListenSockets()
    [[bound]] = await sockets.bind(["127.0.0.1:0"])
    app = make_app(handlers.public_routes(), TokenGate(lambda _: None), lambda *_: None)
    await servers.serve(app, [bound], None)
    host, _, port = bound.bound.rpartition(":")
    yield host, int(port)
    await servers.close()
    sockets.close()


async def test_connections_are_limited_in_number_and_idle_ones_make_room(
    small: tuple[str, int],
) -> None:
    idle = [await asyncio.open_connection(*small) for _ in range(2)]
    idle[0][1].write(b"GET /livez HTTP/1.1")  # and never the rest
    reader, one_too_many = await asyncio.open_connection(*small)
    assert await reader.read() == b""
    one_too_many.close()
    for reader, writer in idle:  # they end of themselves
        assert await reader.read() == b""
        writer.close()
    reader, writer = await asyncio.open_connection(*small)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: gateway\r\n\r\n")
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    writer.close()


async def test_requests_are_not_logged(admin: Fixture) -> None:
    with capture_logs() as logs:
        await admin.ask("/metrics")
    assert logs == []
