"""Whose answer counts: the backend's does, that of a proxy or a login page does not."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest

from gateway import metrics
from gateway.model import BackendName
from tests.support.clients import Http2Client, Response, http1_request
from tests.support.exchange import GRPC, JSON, Answer, GrpcMessage
from tests.support.intake_gateway import ask, gateway_before
from tests.support.plane import KEY, backend, entry, running_worker, sink_backends
from tests.support.raw_http1 import raw_backend
from tests.support.sink import RawSink

EXPORT: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
KEYED: Final = ("authorization", f"StackState {KEY}")
MESSAGE: Final = GrpcMessage(compressed=False, data=b"\x0a\x00").to_bytes()
HTML: Final = (("content-type", "text/html; charset=utf-8"),)
PAGES: Final = (
    Answer(200, -1, fields=HTML, body=b"<html>sign in</html>"),
    Answer(302, -1, fields=(*HTML, ("location", "https://sso.test/login?state=secret"))),
    Answer(400, -1, fields=HTML, body=b"<html>plain HTTP was sent to an HTTPS port</html>"),
    Answer(403, -1, fields=HTML, body=b"<html>denied</html>"),
)
OLDER_TEXTS: Final = ("forbidden", "auth server unavailable", "internal error")


async def _over_http(port: int) -> Response:
    fields = (KEYED, ("content-type", JSON), ("Content-Length", "2"))
    return await http1_request(port, "/v1/traces", fields, b"{}")


async def _over_grpc(port: int) -> Response:
    async with Http2Client(port) as client:
        return await client.request(
            EXPORT, (KEYED, ("content-type", GRPC), ("te", "trailers")), MESSAGE
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.status))
async def test_a_page_in_the_backends_place_makes_senders_try_again(page: Answer) -> None:
    async with (
        RawSink(lambda _: page) as sink,
        running_worker(backends=sink_backends(sink), keys=[entry(KEY)]) as gateway,
    ):
        for count in (1, 2):
            answer = await _over_http(gateway.port)
            assert (answer.status, answer.field("retry-after")) == (503, "5")
            assert answer.field("location") is None
            assert gateway.count(metrics.BACKEND_FOREIGN_ANSWERS, "otlp_http") == count
        told = await _over_grpc(gateway.port)
        assert told.grpc_status == 14
        assert told.field("google.rpc.retryinfo-bin")
        assert gateway.count(metrics.BACKEND_FOREIGN_ANSWERS, "otlp_grpc") == 1
        assert gateway.count(metrics.BACKEND_REQUESTS, "otlp_http", str(page.status)) == 2
        assert gateway.count(metrics.BACKEND_AUTH_REFUSED) == 0


async def test_the_log_names_once_what_came_and_no_secret_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with (
        RawSink(lambda _: PAGES[1]) as sink,
        running_worker(backends=sink_backends(sink), keys=[entry(KEY)]) as gateway,
    ):
        for _ in range(3):
            assert (await _over_http(gateway.port)).status == 503
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "backend's place" in line]
    for what in ("otlp_http", "302", "text/html", "https://sso.test/login"):
        assert what in line
    assert "secret" not in line


async def test_a_plain_answer_to_a_tls_mistake_is_no_verdict() -> None:
    """Go's servers say so in HTTP/1.0, without a type."""
    async with (
        raw_backend() as sink,
        running_worker(
            backends=(backend(BackendName.OTLP_HTTP, f"http://127.0.0.1:{sink.port}"),),
            keys=[entry(KEY)],
        ) as gateway,
    ):
        asked = asyncio.create_task(_over_http(gateway.port))
        connection = await sink.connection()
        await connection.receive_request()
        await connection.send(
            b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
        )
        connection.close()
        assert (await asked).status == 503


@pytest.mark.parametrize("page", [PAGES[0], PAGES[1], PAGES[2]], ids=lambda page: str(page.status))
async def test_a_page_in_the_receivers_place_is_answered_as_each_agent_tries_again(
    page: Answer,
) -> None:
    async with RawSink(lambda _: page) as sink, gateway_before(sink) as gateway:
        answer = await ask(gateway.port, "/intake/")
        assert (answer.status, answer.field("retry-after")) == (503, "5")
        assert gateway.count(metrics.BACKEND_FOREIGN_ANSWERS, "intake") == 1


@pytest.mark.parametrize("status", [202, 400, 404, 413, 429, 500])
async def test_the_receivers_own_answers_stay(status: int) -> None:
    said = Answer(status, fields=(("content-type", "text/plain"),), body=b"the receiver's words")
    async with RawSink(lambda _: said) as sink, gateway_before(sink) as gateway:
        answer = await ask(gateway.port, "/intake/")
        assert (answer.status, answer.body) == (status, b"the receiver's words")
        assert gateway.count(metrics.BACKEND_FOREIGN_ANSWERS) == 0


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("text", OLDER_TEXTS)
async def test_an_older_collectors_refusal_of_our_key_is_retryable_and_alarmed(
    text: str, shared: bool
) -> None:
    """It says UNKNOWN, on which senders drop, even when it only could not ask."""
    refused = Answer(grpc_status=2, grpc_message=text)
    async with (
        RawSink(lambda _: refused) as sink,
        running_worker(backends=sink_backends(sink), keys=[entry(KEY, shared=shared)]) as gateway,
    ):
        answer = await _over_grpc(gateway.port)
        assert answer.grpc_status == 14
        assert answer.field("google.rpc.retryinfo-bin")
        assert gateway.count(metrics.BACKEND_AUTH_REFUSED, "otlp_grpc") == 1


@pytest.mark.parametrize("changes", [{"grpc_message": "disk full"}, {"grpc_status": 13}])
async def test_other_errors_of_a_collector_stay(changes: dict[str, Any]) -> None:
    said: dict[str, Any] = {"grpc_status": 2, "grpc_message": "internal error", **changes}
    async with (
        RawSink(lambda _: Answer(**said)) as sink,
        running_worker(backends=sink_backends(sink), keys=[entry(KEY)]) as gateway,
    ):
        assert (await _over_grpc(gateway.port)).grpc_status == said["grpc_status"]
        assert gateway.count(metrics.BACKEND_AUTH_REFUSED) == 0
