"""Browsers' senders: preflights, and answers that their pages may read."""

from __future__ import annotations

import pytest

from gateway.settings import CorsSettings
from tests.support.clients import Http2Client, Response, http1_request
from tests.support.exchange import JSON, Answer
from tests.support.plane import KEY, entry, running_worker, sink_backends
from tests.support.sink import RawSink

CORS = CorsSettings(("https://*.example.com", "http://localhost:3000"), ("X-Team",), 600)
PAGE = "https://shop.example.com"
SENT = (("content-type", JSON), ("authorization", f"StackState {KEY}"))


async def _ask(port: int, version: int, method: str, *fields: tuple[str, str]) -> Response:
    if version == 1:
        head = (*fields, ("Content-Length", "2"))
        return await http1_request(port, "/v1/traces", head, b"{}", method=method)
    async with Http2Client(port) as client:
        return await client.request("/v1/traces", fields, b"{}", method=method)


@pytest.mark.parametrize("version", [1, 2])
async def test_a_preflight_is_answered_before_the_key_is_asked_for(version: int) -> None:
    """It names the methods and headers that a page may use, and for how long that holds."""
    async with (
        RawSink() as sink,
        running_worker(backends=sink_backends(sink), cors=CORS) as gateway,
    ):
        response = await _ask(
            gateway.port,
            version,
            "OPTIONS",
            ("origin", PAGE),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,x-team"),
        )
        assert response.status == 204
        assert response.field("access-control-allow-origin") == PAGE
        assert response.field("access-control-allow-methods") == "POST"
        allowed = (response.field("access-control-allow-headers") or "").split(", ")
        assert {"authorization", "content-type", "x-team"} <= set(allowed)
        assert response.field("access-control-max-age") == "600"
        assert response.field("content-length") is None  # RFC 9110 §8.6
        assert not sink.requests


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("origin", ["https://example.org", "https://evil.com/.example.com", "null"])
async def test_other_origins_get_no_permission(version: int, origin: str) -> None:
    """Their preflight is an ordinary request with a method that is not allowed."""
    async with running_worker(cors=CORS) as gateway:
        response = await _ask(
            gateway.port,
            version,
            "OPTIONS",
            ("origin", origin),
            ("access-control-request-method", "POST"),
        )
        assert response.status == 405
        assert response.field("access-control-allow-origin") is None


@pytest.mark.parametrize("version", [1, 2])
async def test_a_page_may_read_answers_and_refusals(version: int) -> None:
    """A refusal that the browser hides cannot be understood."""
    async with (
        RawSink() as sink,
        running_worker(backends=sink_backends(sink), keys=[entry(KEY)], cors=CORS) as gateway,
    ):
        accepted = await _ask(gateway.port, version, "POST", ("origin", PAGE), *SENT)
        refused = await _ask(gateway.port, version, "POST", ("origin", PAGE), SENT[0])
        assert (accepted.status, refused.status) == (200, 401)
        for response in (accepted, refused):
            assert response.field("access-control-allow-origin") == PAGE
            assert response.field("vary") == "Origin"
        without = await _ask(gateway.port, version, "POST", *SENT)
        assert without.field("access-control-allow-origin") is None


@pytest.mark.parametrize("version", [1, 2])
async def test_a_backend_that_speaks_of_origins_itself_is_not_heard_twice(version: int) -> None:
    """Browsers refuse an answer with two values."""
    own = (("Access-Control-Allow-Origin", "*"), ("Vary", "Accept-Encoding"))
    async with (
        RawSink(lambda _: Answer(fields=own)) as sink,
        running_worker(backends=sink_backends(sink), keys=[entry(KEY)], cors=CORS) as gateway,
    ):
        response = await _ask(gateway.port, version, "POST", ("origin", PAGE), *SENT)
        values = [value for name, value in response.fields if name == "access-control-allow-origin"]
        assert values == [PAGE]
        other = await _ask(gateway.port, version, "POST", ("origin", "https://example.org"), *SENT)
        assert other.field("access-control-allow-origin") is None
        assert ("vary", "Accept-Encoding") in response.fields


async def test_without_origins_nothing_is_added() -> None:
    """CORS is off by default."""
    async with (
        RawSink() as sink,
        running_worker(backends=sink_backends(sink), keys=[entry(KEY)]) as gateway,
    ):
        response = await _ask(gateway.port, 1, "POST", ("origin", PAGE), *SENT)
        assert response.status == 200
        assert response.field("access-control-allow-origin") is None


LARGE = (("x", "y" * 70_000),)
BAD = {1: (("content-length", "x"),), 2: (("connection", "x"),)}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("origin, is_allowed", [(PAGE, True), ("https://example.org", False)])
async def test_a_page_may_read_that_its_request_cannot_be_read(
    version: int, origin: str, is_allowed: bool
) -> None:
    async with running_worker(keys=[entry(KEY)], cors=CORS) as gateway:
        for fields, status in ((BAD[version], 400), (LARGE, 431)):
            head = (("origin", origin), *SENT, *fields)
            response = await _ask(gateway.port, version, "POST", *head)
            assert response.status == status
            allowed = response.field("access-control-allow-origin")
            assert allowed == (PAGE if is_allowed else None)
