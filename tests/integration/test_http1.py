"""The caller's side of HTTP/1.1, against a backend that does only what each test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import structlog.testing

from gateway import metrics
from gateway.dataplane.core.context import IDLE_GRACE_S
from gateway.dataplane.core.throttled_log import MALFORMED_REQUEST
from gateway.dataplane.exchange.request_body import GATHERED_BYTES
from gateway.dataplane.http1.server import Http1Server
from gateway.model import BackendName
from tests.support.plane import KEY, RunningWorker, backend, entry, limits, running_worker
from tests.support.polling import until
from tests.support.raw_http1 import BrokenOffError, RawBackend, RawPeer, raw_backend, raw_client

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 2\r\n\r\nok"
KIB = 1024
UPLOAD = bytes(GATHERED_BYTES + 1)
"""The smallest body that reaches the backend before all of it has come."""


def post(
    body: bytes | None = b"hello",
    *lines: str,
    key: str | None = KEY,
    path: str = "/v1/traces",
    version: str = "1.1",
    length: int | None = None,
) -> bytes:
    """Return a request; without a body no framing is declared."""
    head = [f"POST {path} HTTP/{version}", "Host: gateway", "Content-Type: application/x-protobuf"]
    if key is not None:
        head.append(f"Authorization: StackState {key}")
    if body is not None:
        head.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*head, *lines, "", ""]).encode() + (body or b"")


def chunked(*chunks: bytes) -> bytes:
    """Return a request with a chunked body."""
    parts = [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks]
    return post(None, "Transfer-Encoding: chunked") + b"".join(parts) + b"0\r\n\r\n"


def connection_of(gateway: RunningWorker) -> Http1Server:
    """Return the only client connection."""
    (connection,) = gateway.context.connections
    assert isinstance(connection, Http1Server)
    return connection


def is_unread(connection: object) -> bool:
    """Return whether the gateway does not read from a client."""
    return isinstance(connection, Http1Server) and connection._state.gate.reasons != 0


async def until_unread(gateway: RunningWorker) -> None:
    """Wait until the gateway does not read from the client."""
    await gateway.until(lambda: all(map(is_unread, gateway.context.connections)))


async def until_unsent(gateway: RunningWorker) -> None:
    """Wait until the client does not take what the gateway sends."""

    def is_unsent() -> bool:
        (connection,) = gateway.context.connections
        return isinstance(connection, Http1Server) and connection._state.out.is_paused

    await gateway.until(is_unsent)


@pytest.fixture(name="sink")
async def _sink() -> AsyncIterator[RawBackend]:
    async with raw_backend() as sink:
        yield sink


@pytest.fixture(name="gateway")
async def _gateway(sink: RawBackend) -> AsyncIterator[RunningWorker]:
    url = f"http://127.0.0.1:{sink.port}"
    async with running_worker(
        backends=[backend(BackendName.OTLP_HTTP, url)], keys=[entry(KEY)], sweeping=False
    ) as gateway:
        yield gateway


@pytest.fixture(name="client")
async def _client(gateway: RunningWorker) -> AsyncIterator[RawPeer]:
    async with raw_client(gateway.port) as client:
        yield client


# What passes


async def test_a_request_and_its_answer_pass_with_the_fields_that_are_end_to_end(
    sink: RawBackend, client: RawPeer
) -> None:
    await client.send(
        post(b"hello", "X-Tenant: A", "TE: trailers", "Connection: X-Hop", "X-Hop: 1")
    )
    upstream = await sink.connection()
    request = await upstream.receive_request()
    assert request.start == "POST /v1/traces"
    assert request.body == b"hello"
    assert request.value("Host") == f"127.0.0.1:{sink.port}"
    assert sorted(request.names) == [
        "authorization",
        "content-length",
        "content-type",
        "host",
        "x-tenant",
    ]
    await upstream.send(
        b"HTTP/1.1 400 Bad Request\r\nX-Reason: b\xc3\xa4d\r\nX-Hop: 1\r\n"
        b"Content-Type: application/json\r\n"
        b"Connection: keep-alive, x-hop\r\nKeep-Alive: timeout=9\r\nContent-Length: 3\r\n\r\nbad"
    )
    answer = await client.receive_answer()
    assert (answer.start, answer.body) == ("400", b"bad")
    assert answer.fields == [
        (b"X-Reason", b"b\xc3\xa4d"),
        (b"Content-Type", b"application/json"),
        (b"content-length", b"3"),
    ]


@pytest.mark.parametrize("request_bytes", [post(), chunked(b"he", b"llo")])
async def test_a_request_that_arrives_byte_by_byte_is_the_same(
    sink: RawBackend, client: RawPeer, request_bytes: bytes
) -> None:
    await client.send_slowly(request_bytes)
    upstream = await sink.connection()
    assert (await upstream.receive_request()).body == b"hello"
    await upstream.send_slowly(OK)
    assert (await client.receive_answer()).body == b"ok"


async def test_requests_of_one_connection_follow_each_other_on_one_upstream_connection(
    sink: RawBackend, client: RawPeer
) -> None:
    upstream = await sink.connection()
    for number in range(3):
        body = b"%d" % number
        await client.send(post(body))
        assert (await upstream.receive_request()).body == body
        await upstream.send(OK)
        assert (await client.receive_answer()).start == "200"
    assert sink.accepted == 1


async def test_a_chunked_body_goes_on_chunked_without_extensions_and_trailers(
    sink: RawBackend, client: RawPeer
) -> None:
    await client.send(
        post(None, "Transfer-Encoding: chunked", "Trailer: X-Sum")
        + b"5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
    request = await (await sink.connection()).receive_request()
    assert request.body == b"hello world"
    assert request.value("Transfer-Encoding") == "chunked"
    assert request.value("Content-Length") is None


async def test_a_large_body_streams_to_the_backend_before_it_is_complete(
    sink: RawBackend, client: RawPeer
) -> None:
    await client.send(post(b"hel", length=len(UPLOAD)))
    upstream = await sink.connection()
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await upstream.read(1)
    assert await upstream.read(3) == b"hel"
    await client.send(b"lo")
    assert await upstream.read(2) == b"lo"


async def test_a_head_reaches_the_backend_before_any_byte_of_a_large_body_is_there(
    sink: RawBackend, client: RawPeer
) -> None:
    await client.send(post(b"", length=len(UPLOAD)))
    assert await (await sink.connection()).read(4) == b"POST"


async def test_empty_lines_before_a_request_are_passed_over(
    sink: RawBackend, client: RawPeer
) -> None:
    await client.send(b"\r\n\r\n" + post())
    assert (await (await sink.connection()).receive_request()).body == b"hello"


async def test_a_query_goes_on_as_it_came(sink: RawBackend, client: RawPeer) -> None:
    await client.send(post(path="/v1/traces?a=%20b&c"))
    assert (await (await sink.connection()).receive_request()).start == "POST /v1/traces?a=%20b&c"


async def test_the_backends_url_prefixes_every_path(sink: RawBackend) -> None:
    one = backend(BackendName.OTLP_HTTP, f"http://127.0.0.1:{sink.port}/otlp/", host="collector")
    async with (
        running_worker(backends=[one], keys=[entry(KEY)], sweeping=False) as gateway,
        raw_client(gateway.port) as client,
    ):
        await client.send(post())
        request = await (await sink.connection()).receive_request()
    assert request.start == "POST /otlp/v1/traces"
    assert request.value("host") == "collector"


# Pipelining


async def test_pipelined_requests_are_sent_on_and_answered_one_after_the_other(
    sink: RawBackend, client: RawPeer
) -> None:
    await client.send(post(b"first") + chunked(b"sec", b"ond") + post(b"third"))
    upstream = await sink.connection()
    for body in (b"first", b"second", b"third"):
        assert (await upstream.receive_request()).body == body
        assert upstream.has_nothing_unread
        await upstream.send(OK.replace(b"ok", body[:2]))
    assert [(await client.receive_answer()).body for _ in range(3)] == [b"fi", b"se", b"th"]


async def test_refused_and_admitted_requests_may_be_pipelined(
    sink: RawBackend, client: RawPeer
) -> None:
    await client.send(
        post(key=None) + post(b"good") + post(key="wrong") + post(path="/nowhere") + post(b"good")
    )
    upstream = await sink.connection()
    for _ in range(2):
        assert (await upstream.receive_request()).body == b"good"
        await upstream.send(OK)
    answers = [(await client.receive_answer()).start for _ in range(5)]
    assert answers == ["401", "200", "401", "404", "200"]


async def test_pipelined_requests_wait_unread_while_one_is_under_way(
    sink: RawBackend, gateway: RunningWorker, client: RawPeer
) -> None:
    count = 2_000
    sending = asyncio.create_task(client.send(post(b"x" * KIB) * count))
    upstream = await sink.connection()
    await upstream.receive_request()
    await gateway.until(lambda: gateway.context.budget.used > 0)
    assert gateway.context.budget.used <= 256 * KIB + 2 * KIB
    await upstream.send(OK)
    for _ in range(count - 1):
        await upstream.receive_request()
        await upstream.send(OK)
    await sending
    for _ in range(count):
        assert (await client.receive_answer()).start == "200"


async def test_a_client_that_pipelines_and_never_reads_is_not_read_either(
    gateway: RunningWorker, client: RawPeer
) -> None:
    sending = asyncio.create_task(client.send(post(key=None) * 100_000))
    await until_unsent(gateway)
    assert gateway.context.budget.used < 1024 * KIB
    for _ in range(1_000):
        assert (await client.receive_answer()).start == "401"
    sending.cancel()


# Expect, Upgrade, HTTP/1.0


async def test_100_continue_comes_only_when_the_request_is_admitted(
    sink: RawBackend, client: RawPeer
) -> None:
    await client.send(post(b"", "Expect: 100-continue", length=5))
    assert await client.read(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(b"hello")
    upstream = await sink.connection()
    request = await upstream.receive_request()
    assert request.body == b"hello"
    assert "expect" not in request.names
    await upstream.send(OK)
    answer = await client.receive_answer()
    assert (answer.start, answer.interim) == ("200", [])


async def test_a_client_that_does_not_wait_for_100_continue_needs_none(
    sink: RawBackend, client: RawPeer
) -> None:
    await client.send(post(b"hello", "Expect: 100-continue"))
    upstream = await sink.connection()
    await upstream.receive_request()
    await upstream.send(OK)
    answer = await client.receive_answer()
    assert (answer.start, answer.interim) == ("200", [])


async def test_a_refused_client_that_waits_for_100_continue_gets_the_refusal_and_the_end(
    client: RawPeer,
) -> None:
    await client.send(post(b"", "Expect: 100-continue", key=None, length=5))
    answer = await client.receive_answer()
    assert (answer.start, answer.interim) == ("401", [])
    assert answer.value("connection") == "close"
    assert await client.read_to_end() == b""


async def test_an_expectation_that_nobody_knows_is_ignored(
    sink: RawBackend, client: RawPeer
) -> None:
    await client.send(post(b"hello", "Expect: miracles"))
    assert (await (await sink.connection()).receive_request()).body == b"hello"


async def test_an_upgrade_to_h2c_is_ignored_politely(sink: RawBackend, client: RawPeer) -> None:
    lines = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    upstream = await sink.connection()
    for _ in range(2):
        await client.send(post(b"hello", *lines))
        request = await upstream.receive_request()
        assert request.body == b"hello"
        assert not {"upgrade", "http2-settings", "connection"} & set(request.names)
        await upstream.send(OK)
        assert (await client.receive_answer()).start == "200"


async def test_an_http_1_0_request_is_answered_and_the_connection_closed(
    sink: RawBackend, client: RawPeer
) -> None:
    await client.send(post(version="1.0"))
    upstream = await sink.connection()
    await upstream.receive_request()
    await upstream.send(OK)
    answer = await client.receive_answer()
    assert (answer.body, answer.value("connection")) == (b"ok", "close")
    assert await client.read_to_end() == b""


async def test_a_chunked_answer_goes_to_an_http_1_0_client_until_the_end_of_the_connection(
    sink: RawBackend, client: RawPeer
) -> None:
    await client.send(post(version="1.0"))
    upstream = await sink.connection()
    await upstream.receive_request()
    await upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    await upstream.send(b"3\r\ndef\r\n0\r\n\r\n")
    assert await client.read_to_end() == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabcdef"


async def test_a_chunked_answer_that_breaks_off_is_no_complete_one_to_an_http_1_0_client(
    sink: RawBackend, client: RawPeer
) -> None:
    await client.send(post(version="1.0"))
    upstream = await sink.connection()
    await upstream.receive_request()
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    await upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk)
    await client.read(0x10000)
    upstream.close()
    with pytest.raises(BrokenOffError):
        await client.read_to_end()


# Malformed


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"POST /v1/traces HTTP/1.1\r\n\r\n",
        b"POST /v1/traces HTTP/3.0\r\nHost: a\r\n\r\n",
        b"POST /v1/traces HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /v1/traces HTTP/1.1\r\nHost : a\r\n\r\n",
        b"POST /v1/traces HTTP/1.1\r\nHost: a\r\nX: y\r\n folded\r\n\r\n",
        b"POST /v1/traces HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /v1/traces HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST /v1/traces HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
async def test_a_malformed_head_is_answered_400_and_the_connection_ends(
    gateway: RunningWorker, client: RawPeer, data: bytes
) -> None:
    await client.send(data + b"smuggled")
    answer = await client.receive_answer()
    assert answer.start == "400"
    assert answer.value("content-type") == "application/json"
    status = json.loads(answer.body)
    assert (status["code"], status["details"][0]["reason"]) == (3, "MALFORMED")
    assert await client.read_to_end() == b""
    assert gateway.counted(metrics.REQUESTS) == {("http", "none", "400", "malformed"): 1}


async def test_malformed_heads_of_one_network_are_logged_once(gateway: RunningWorker) -> None:
    with structlog.testing.capture_logs() as events:
        for _ in range(3):
            async with raw_client(gateway.port) as client:
                await client.send(b"POST / HTTP/1.1\r\n\r\n")
                assert (await client.receive_answer()).start == "400"
    assert [event["event"] for event in events] == [MALFORMED_REQUEST]


@pytest.mark.parametrize("line", [b"INVALID CONNECTION PREFACE", b"OPTIONS * RTSP/1.0"])
async def test_a_client_of_another_protocol_is_disconnected_without_an_answer(
    gateway: RunningWorker, client: RawPeer, line: bytes
) -> None:
    """It could not read one. A line with a path, or with HTTP, is a malformed request."""
    await client.send(line + b"\r\n\r\n")
    assert await client.read_to_end() == b""
    assert gateway.count(metrics.CONNECTIONS_REFUSED, "preface") == 1
    assert not gateway.counted(metrics.REQUESTS)


async def test_a_malformed_request_does_not_harm_other_connections(
    sink: RawBackend, gateway: RunningWorker, client: RawPeer
) -> None:
    async with raw_client(gateway.port) as other:
        await other.send(post(b"hel", length=5))
        await client.send(b"nonsense\r\n\r\n")
        assert (await client.receive_answer()).start == "400"
        await other.send(b"lo")
        upstream = await sink.connection()
        assert (await upstream.receive_request()).body == b"hello"
        await upstream.send(OK)
        assert (await other.receive_answer()).start == "200"


@pytest.mark.parametrize(
    "data, kind",
    [
        (post(None, "X: " + "y" * 70_000), "application/x-protobuf"),
        (post(None, *[f"X-{number}: y" for number in range(201)]), "application/x-protobuf"),
        (b"POST /v1/traces HTTP/1.1\r\nX: " + b"y" * 70_000, "application/json"),
    ],
)
async def test_a_head_that_is_too_large_is_answered_431_in_its_encoding(
    client: RawPeer, data: bytes, kind: str
) -> None:
    await client.send(data)
    answer = await client.receive_answer()
    assert (answer.start, answer.value("connection")) == ("431", "close")
    assert answer.value("content-type") == kind
    assert b"HEAD_TOO_LARGE" in answer.body


async def test_chunks_that_cannot_be_read_are_answered_400_and_complete_nothing(
    sink: RawBackend, client: RawPeer
) -> None:
    await client.send(chunked(UPLOAD)[:-5])
    upstream = await sink.connection()
    await upstream.has_begun()
    await client.send(b"x\r\n\r\n")
    answer = await client.receive_answer()
    assert (answer.start, answer.value("connection")) == ("400", "close")
    with pytest.raises(BrokenOffError):
        await upstream.receive_request()


async def test_a_target_that_is_no_path_is_not_found(client: RawPeer) -> None:
    for target in ("ftp://gateway/v1/traces", "gateway:443", "*", "/v1/traces//", "/v1//traces"):
        await client.send(post(b"", path=target))
        assert (await client.receive_answer()).start == "404"


async def test_a_method_that_nobody_knows_is_not_allowed(client: RawPeer) -> None:
    await client.send(post(b"").replace(b"POST ", b"BREW "))
    answer = await client.receive_answer()
    assert (answer.start, answer.value("allow")) == ("405", "POST")


async def test_a_head_request_gets_no_body(client: RawPeer) -> None:
    await client.send(post(b"").replace(b"POST ", b"HEAD ") * 2)
    for _ in range(2):
        answer = await client.receive_answer("HEAD")
        assert (answer.start, answer.body) == ("405", b"")
        assert int(answer.value("content-length") or 0) > 0


# Ends


async def test_a_client_that_has_half_closed_still_gets_its_answer(
    sink: RawBackend, client: RawPeer
) -> None:
    await client.send(post() + post(b"second"))
    client.finish_sending()
    upstream = await sink.connection()
    for _ in range(2):
        await upstream.receive_request()
        await upstream.send(OK)
        assert (await client.receive_answer()).start == "200"
    assert await client.read_to_end() == b""


async def test_a_client_that_half_closes_while_its_answer_arrives_gets_all_of_it(
    sink: RawBackend, gateway: RunningWorker, client: RawPeer
) -> None:
    await client.send(post())
    upstream = await sink.connection()
    await upstream.receive_request()
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(50_000))
    await client.read(50_000)
    client.finish_sending()
    await gateway.until(lambda: connection_of(gateway)._state.has_eof)
    await upstream.send(bytes(50_000))
    assert (await client.read_to_end()).count(b"\x00") > 50_000
    await gateway.until(lambda: gateway.worker.connections == 0)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_goes_away_within_its_body_completes_nothing(
    sink: RawBackend, gateway: RunningWorker, client: RawPeer, how: str
) -> None:
    await client.send(post(b"hel", length=len(UPLOAD)))
    upstream = await sink.connection()
    await upstream.has_begun()
    client.close() if how == "close" else client.reset()
    with pytest.raises(BrokenOffError):
        await upstream.receive_request()
    await gateway.until(lambda: gateway.count(metrics.REQUESTS, "http", "traces", "499") == 1)


async def test_a_client_that_resets_while_it_waits_cancels_its_request(
    sink: RawBackend, gateway: RunningWorker, client: RawPeer
) -> None:
    await client.send(post())
    upstream = await sink.connection()
    await upstream.receive_request()
    client.reset()
    await upstream.closed()
    await gateway.until(lambda: gateway.count(metrics.REQUESTS, "http", "traces", "499") == 1)


async def test_a_connection_ends_when_the_client_asks_for_it(
    sink: RawBackend, client: RawPeer
) -> None:
    await client.send(post(b"hello", "Connection: close") + post(b"never read"))
    upstream = await sink.connection()
    await upstream.receive_request()
    await upstream.send(OK)
    assert (await client.receive_answer()).value("connection") == "close"
    assert await client.read_to_end() == b""
    assert upstream.has_nothing_unread


async def test_at_a_drain_an_idle_connection_is_closed_after_a_grace(
    sink: RawBackend, gateway: RunningWorker, client: RawPeer
) -> None:
    await client.send(post())
    upstream = await sink.connection()
    await upstream.receive_request()
    await upstream.send(OK)
    await client.receive_answer()
    gateway.worker.start_drain()
    gateway.sweep(IDLE_GRACE_S - 1)
    assert gateway.worker.connections == 1
    gateway.sweep(IDLE_GRACE_S + 1)
    assert await client.read_to_end() == b""


async def test_at_a_drain_the_answer_under_way_is_the_last(
    sink: RawBackend, gateway: RunningWorker, client: RawPeer
) -> None:
    await client.send(post())
    upstream = await sink.connection()
    await upstream.receive_request()
    gateway.worker.start_drain()
    await upstream.send(OK)
    answer = await client.receive_answer()
    assert (answer.start, answer.value("connection")) == ("200", "close")
    assert await client.read_to_end() == b""


async def test_when_the_drains_time_is_over_an_idle_connection_is_closed_without_a_reset(
    gateway: RunningWorker, client: RawPeer
) -> None:
    await client.send(post(key=None))
    await client.receive_answer()
    await gateway.worker.stop(0)
    assert await client.read_to_end() == b""


async def test_a_head_that_has_begun_at_a_drain_is_still_served(
    sink: RawBackend, gateway: RunningWorker, client: RawPeer
) -> None:
    request = post()
    await client.send(request[:10])
    await gateway.until(lambda: gateway.context.budget.used == 10)
    gateway.worker.start_drain()
    await client.send(request[10:])
    upstream = await sink.connection()
    await upstream.receive_request()
    await upstream.send(OK)
    assert (await client.receive_answer()).value("connection") == "close"


# Time


async def test_a_connection_past_its_age_ends_with_the_next_answer(
    sink: RawBackend, gateway: RunningWorker, client: RawPeer
) -> None:
    await client.send(post())
    upstream = await sink.connection()
    await upstream.receive_request()
    gateway.context.tick += 700
    connection_of(gateway).sweep(gateway.context.tick)
    gateway.context.tick -= 700
    await upstream.send(OK)
    assert (await client.receive_answer()).value("connection") == "close"
    assert await client.read_to_end() == b""


async def test_a_connection_is_closed_when_it_was_idle_for_too_long(
    gateway: RunningWorker, client: RawPeer
) -> None:
    await client.send(post(key=None))
    await client.receive_answer()
    gateway.sweep(630)
    assert await client.read_to_end() == b""


async def test_an_idle_connection_past_its_age_is_told_before_it_is_closed(
    gateway: RunningWorker, client: RawPeer
) -> None:
    for second in (200, 400, 535, 700):
        await client.send(post(key=None))
        assert (await client.receive_answer()).value("connection") is None
        gateway.sweep(second)
    await client.send(post(key=None))
    assert (await client.receive_answer()).value("connection") == "close"
    assert await client.read_to_end() == b""


async def test_a_connection_that_was_just_used_is_not_idle(
    gateway: RunningWorker, client: RawPeer
) -> None:
    await client.send(post(key=None))
    await client.receive_answer()
    gateway.sweep(200)
    await client.send(post(key=None))
    assert (await client.receive_answer()).start == "401"


async def test_a_head_that_does_not_come_to_its_end_closes_the_connection(
    gateway: RunningWorker, client: RawPeer
) -> None:
    await client.send(post()[:30])
    await gateway.until(lambda: gateway.context.budget.used == 30)
    gateway.sweep(4)
    assert gateway.worker.connections == 1
    gateway.sweep(6)
    assert await client.read_to_end() == b""


async def test_an_upload_that_stalls_is_told_to_try_again(
    sink: RawBackend, gateway: RunningWorker, client: RawPeer
) -> None:
    await client.send(post(b"hel", length=100_000))
    upstream = await sink.connection()
    await upstream.has_begun()
    gateway.sweep(29)
    gateway.sweep(60)
    answer = await client.receive_answer()
    assert (answer.start, answer.value("connection")) == ("503", "close")
    assert answer.value("retry-after") is not None
    with pytest.raises(BrokenOffError):
        await upstream.receive_request()


async def test_a_download_that_the_client_does_not_read_is_broken_off(
    sink: RawBackend, gateway: RunningWorker, client: RawPeer
) -> None:
    await client.send(post())
    upstream = await sink.connection()
    await upstream.receive_request()
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
    flood = asyncio.create_task(upstream.send(bytes(100_000_000)))
    await until_unsent(gateway)
    gateway.sweep(1)
    gateway.sweep(60)
    with pytest.raises(BrokenOffError):
        await client.receive_answer()
    await asyncio.gather(flood, return_exceptions=True)


async def test_answers_that_are_complete_but_not_read_are_given_up(
    gateway: RunningWorker, client: RawPeer
) -> None:
    sending = asyncio.create_task(client.send(post(key=None) * 100_000))
    await until_unsent(gateway)
    assert connection_of(gateway)._answers.exchange is None
    gateway.sweep(1)
    assert gateway.worker.connections == 1
    gateway.sweep(60)
    with pytest.raises(BrokenOffError):
        await client.read_to_end()
    await asyncio.gather(sending, return_exceptions=True)


# Back-pressure


async def test_an_upload_is_not_read_faster_than_the_backend_takes_it(
    sink: RawBackend, gateway: RunningWorker, client: RawPeer
) -> None:
    body = bytes(range(256)) * 4 * KIB * 20
    sending = asyncio.create_task(client.send(post(body)))
    upstream = await sink.connection()
    await until_unread(gateway)
    assert gateway.context.budget.used <= 512 * KIB
    assert (await upstream.receive_request()).body == body
    await sending
    await upstream.send(OK)
    assert (await client.receive_answer()).start == "200"


async def test_an_upload_that_waits_for_a_backend_holds_little(sink: RawBackend) -> None:
    one = backend(BackendName.OTLP_HTTP, f"http://127.0.0.1:{sink.port}", max_connections=1)
    async with (
        running_worker(backends=[one], keys=[entry(KEY)], sweeping=False) as gateway,
        raw_client(gateway.port) as busy,
        raw_client(gateway.port) as waiting,
    ):
        await busy.send(post())
        upstream = await sink.connection()
        await upstream.receive_request()
        await waiting.send(post(key=None))
        await waiting.receive_answer()
        body = bytes(range(256)) * 20 * KIB
        sending = asyncio.create_task(waiting.send(post(body)))
        await gateway.until(lambda: any(map(is_unread, gateway.context.connections)))
        assert gateway.context.budget.used <= 192 * KIB
        for peer, size in ((busy, 0), (waiting, len(body))):
            if size:
                assert (await upstream.receive_request()).body == body
            await upstream.send(OK)
            assert (await peer.receive_answer()).start == "200"
        await sending


async def test_a_download_is_not_read_faster_than_the_client_takes_it(
    sink: RawBackend, gateway: RunningWorker, client: RawPeer
) -> None:
    body = bytes(range(256)) * 4 * KIB * 20
    await client.send(post())
    upstream = await sink.connection()
    await upstream.receive_request()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    sending = asyncio.create_task(upstream.send(head + body))
    await until_unsent(gateway)
    await gateway.until(lambda: gateway.context.budget.used > 64 * KIB)
    assert gateway.context.budget.used <= 1024 * KIB
    assert (await client.receive_answer()).body == body
    await sending


async def test_nothing_is_read_while_the_worker_holds_as_much_as_it_may(
    sink: RawBackend, gateway: RunningWorker, client: RawPeer
) -> None:
    await client.send(post(b"h", length=5))
    upstream = await sink.connection()
    budget = gateway.context.budget
    await gateway.until(lambda: gateway.context.counters.in_flight["http"] == 1)
    budget.charge(budget.limit)
    await client.send(b"el")
    await until_unread(gateway)
    await client.send(b"lo")
    budget.release(budget.limit)
    await gateway.until(lambda: connection_of(gateway)._state.gate.reasons == 0)
    assert (await upstream.receive_request()).body == b"hello"


# Our own bugs


async def test_a_bug_of_ours_tells_the_caller_to_try_again_and_raises_the_alarm(
    gateway: RunningWorker, client: RawPeer
) -> None:
    gateway.path.keyring._keys.clear()  # no place to look a key up in
    gateway.path.keyring._in_use.clear()
    await client.send(post())
    answer = await client.receive_answer()
    assert (answer.start, answer.value("connection")) == ("503", "close")
    assert answer.value("retry-after") is not None
    assert gateway.count(metrics.INTERNAL_ERRORS, "connection") == 1
    gateway._counts.clear()


async def test_a_body_that_is_too_large_is_refused_by_its_declared_size_or_when_it_has_come(
    sink: RawBackend,
) -> None:
    url = f"http://127.0.0.1:{sink.port}"
    async with (
        running_worker(
            backends=[backend(BackendName.OTLP_HTTP, url)],
            keys=[entry(KEY)],
            sweeping=False,
            limits=limits(max_body_bytes=len(UPLOAD)),
        ) as gateway,
        raw_client(gateway.port) as client,
    ):
        await client.send(post(UPLOAD + b"1"))
        assert (await client.receive_answer()).start == "413"
        request = chunked(UPLOAD, b"1")
        await client.send(request[:-10])
        upstream = await sink.connection()
        await upstream.has_begun()
        await client.send(request[-10:-5])
        answer = await client.receive_answer()
        assert (answer.start, answer.value("connection")) == ("413", "close")
        with pytest.raises(BrokenOffError):
            await upstream.receive_request()


async def test_connections_are_forgotten_when_they_are_gone(gateway: RunningWorker) -> None:
    async with raw_client(gateway.port) as client:
        await client.send(post(b"hel", length=5))
        await gateway.until(lambda: gateway.context.counters.in_flight["http"] == 1)
    await until(lambda: gateway.worker.connections == 0)
    assert gateway.context.budget.used == 0
