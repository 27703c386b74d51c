"""The backend's side of HTTP/1.1: a client that behaves, and a backend that does not always."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway import metrics
from gateway.dataplane.exchange.answer import HELD_ANSWER_BYTES
from gateway.dataplane.exchange.forwarding import Forwarding
from gateway.dataplane.exchange.request_body import GATHERED_BYTES
from gateway.dataplane.http1.upstream import Http1Upstream
from gateway.model import BackendName
from gateway.settings import TlsClientSettings
from tests.support.certs import Authority
from tests.support.clients import Http2Client
from tests.support.plane import KEY, RunningWorker, backend, entry, running_worker
from tests.support.raw_http1 import (
    BrokenOffError,
    Message,
    RawBackend,
    RawPeer,
    raw_backend,
    raw_client,
)

KIB = 1024
JSON = b"application/json"
UPLOAD = bytes(GATHERED_BYTES + 1)
"""The smallest body that reaches the backend before all of it has come."""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LARGE = b"abc" + b"." * HELD_ANSWER_BYTES
"""A part of a body that is larger than what is held until an answer is complete."""
_CHUNK = b"%x\r\n%b\r\n" % (len(LARGE), LARGE)
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SHORT_PARTS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc",
    _CHUNKED + b"3\r\nabc\r\n",
    _CHUNKED + b"3\r\nabc\r\n0\r\n",
]
LARGE_PARTS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(LARGE) + 3) + LARGE,
    _CHUNKED + _CHUNK,
    _CHUNKED + _CHUNK + b"0\r\n",
]
REASONS = (
    "BACKEND_FOREIGN",
    "BACKEND_LOST",
    "BACKEND_REFUSED",
    "BACKEND_TIMEOUT",
    "BACKEND_UNREACHABLE",
)
FIELDS = (("content-type", "application/x-protobuf"), ("authorization", f"StackState {KEY}"))


def post(body: bytes = b"hello", *, length: int | None = None) -> bytes:
    """Return a request; `length` is what it declares."""
    declared = len(body) if length is None else length
    lines = [f"{name}: {value}" for name, value in FIELDS]
    head = ["POST /v1/traces HTTP/1.1", "Host: gateway", f"Content-Length: {declared}", *lines]
    return "\r\n".join([*head, "", ""]).encode() + body


def reason(answer: Message) -> str:
    """Return why the gateway refused, from a body in protobuf."""
    return next((name for name in REASONS if name.encode() in answer.body), "")


def is_connected(gateway: RunningWorker) -> bool:
    """Whether the pool has a connection."""
    gauges = gateway.context.counters.gauges
    return any(
        name == metrics.BACKEND_CONNECTIONS.name and value > 0
        for (name, _), value in gauges.items()
    )


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


@pytest.fixture(name="upstream")
async def _upstream(sink: RawBackend, gateway: RunningWorker) -> RawPeer:
    """The first connection, ready before any request."""
    upstream = await sink.connection()
    await gateway.until(lambda: is_connected(gateway))
    return upstream


async def exchange(client: RawPeer, upstream: RawPeer, answer: bytes = OK) -> Message:
    """Send a request through, answer it, return what the client got."""
    await client.send(post())
    await upstream.receive_request()
    await upstream.send(answer)
    return await client.receive_answer()


# How answers are framed


async def test_an_answer_with_a_length_keeps_it(client: RawPeer, upstream: RawPeer) -> None:
    answer = await exchange(client, upstream)
    assert (answer.body, answer.value("content-length")) == (b"ok", "2")


async def test_a_chunked_answer_stays_chunked_without_extensions_and_trailers(
    client: RawPeer, upstream: RawPeer
) -> None:
    answer = await exchange(
        client,
        upstream,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
        b"3;x=y\r\nabc\r\n3\r\ndef\r\n0\r\nX-Sum: 1\r\n\r\n",
    )
    assert (answer.body, answer.names) == (b"abcdef", ["transfer-encoding"])
    assert (await exchange(client, upstream)).body == b"ok"


async def test_an_answer_that_ends_with_the_connection_is_chunked_to_the_client(
    sink: RawBackend, client: RawPeer, upstream: RawPeer
) -> None:
    await client.send(post())
    await upstream.receive_request()
    await upstream.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
    await upstream.send(b"def")
    upstream.close()
    answer = await client.receive_answer()
    assert (answer.body, answer.names) == (b"abcdef", ["transfer-encoding"])
    await client.send(post())
    other = await sink.connection()
    await other.receive_request()
    await other.send(OK)
    assert (await client.receive_answer()).body == b"ok"


async def test_an_answer_that_ends_with_a_reset_is_not_complete(
    client: RawPeer, upstream: RawPeer
) -> None:
    await client.send(post())
    await upstream.receive_request()
    await upstream.send(b"HTTP/1.1 200 OK\r\n\r\n" + LARGE)
    assert await client.read(15) == b"HTTP/1.1 200 OK"
    upstream.reset()
    with pytest.raises(BrokenOffError):
        await client.read_to_end()


async def test_an_answer_without_a_body_by_its_status_ends_with_its_head(
    sink: RawBackend, client: RawPeer, upstream: RawPeer
) -> None:
    for _ in range(2):
        not_modified = await exchange(
            client, upstream, b"HTTP/1.1 304 Not Modified\r\nX-A: b\r\n\r\n"
        )
        assert (not_modified.start, reason(not_modified)) == ("503", "BACKEND_FOREIGN")
        answer = await exchange(client, upstream, b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n")
        assert (answer.start, answer.body) == ("204", b"")
        assert "transfer-encoding" not in answer.names
        assert "content-length" not in answer.names
    assert sink.accepted == 1


async def test_an_empty_answer_says_that_it_is_empty(client: RawPeer, upstream: RawPeer) -> None:
    empty = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    for _ in range(3):
        answer = await exchange(client, upstream, empty)
        assert (answer.body, answer.value("content-length")) == (b"", "0")


async def test_interim_answers_are_passed_over(client: RawPeer, upstream: RawPeer) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    for _ in range(3):
        answer = await exchange(client, upstream, interim + OK)
        assert (answer.start, answer.interim, answer.names) == ("200", [], ["content-length"])
    await client.send(post())
    await upstream.receive_request()
    await upstream.send(interim)
    await upstream.send(OK)
    assert (await client.receive_answer()).start == "200"


async def test_a_large_answer_is_passed_on_before_its_end_is_there(
    client: RawPeer, upstream: RawPeer
) -> None:
    await client.send(post())
    await upstream.receive_request()
    length = len(LARGE) + 2
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + LARGE)
    assert await client.read(15) == b"HTTP/1.1 200 OK"
    await upstream.send(b"ok")
    await client.read_until(b"\r\n\r\n")
    assert await client.read(length) == LARGE + b"ok"


async def test_an_answer_that_repeats_is_passed_on_the_same_each_time(
    client: RawPeer, upstream: RawPeer
) -> None:
    full = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Type: %b\r\nContent-Length: 2\r\n\r\n{}" % JSON
    seen = [await exchange(client, upstream, full) for _ in range(3)]
    assert [(answer.start, answer.fields, answer.body) for answer in seen] == [
        (
            "200",
            [(b"Date", b"x"), (b"Content-Type", JSON), (b"content-length", b"2")],
            b"{}",
        )
    ] * 3
    await client.send(post())
    await upstream.receive_request()
    await upstream.send_slowly(full)
    assert (await client.receive_answer()).body == b"{}"
    await client.send(post().replace(b"HTTP/1.1", b"HTTP/1.0"))
    await upstream.receive_request()
    await upstream.send(full)
    assert (await client.receive_answer()).value("connection") == "close"


# Keeping connections


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + b"what is this?",
        OK + OK,
        OK + b"HTTP/1.1 2",
    ],
)
async def test_a_connection_that_cannot_be_used_again_is_closed_after_its_answer(
    sink: RawBackend, client: RawPeer, upstream: RawPeer, answer: bytes
) -> None:
    got = await exchange(client, upstream, answer)
    assert (got.body, got.value("connection")) == (b"ok", None)
    await upstream.closed()
    await client.send(post())
    other = await sink.connection()
    await other.receive_request()
    await other.send(OK)
    assert (await client.receive_answer()).body == b"ok"


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 408 Request Timeout\r\n\r\n", OK])
async def test_an_idle_connection_that_the_backend_ends_is_not_used_again(
    sink: RawBackend, gateway: RunningWorker, client: RawPeer, upstream: RawPeer, data: bytes
) -> None:
    await exchange(client, upstream)
    if data:
        await upstream.send(data)
    else:
        upstream.finish_sending()
    await upstream.closed()
    await client.send(post())
    other = await sink.connection()
    await other.receive_request()
    await other.send(OK)
    assert (await client.receive_answer()).start == "200"
    assert gateway.count(metrics.REQUESTS, "http", "traces", "200") == 2


async def test_many_requests_at_once_get_a_connection_each_and_keep_it(
    sink: RawBackend, gateway: RunningWorker
) -> None:
    async def serve() -> None:
        while True:
            asyncio.get_running_loop().create_task(answer_all(await sink.connection()))

    async def answer_all(upstream: RawPeer) -> None:
        with contextlib.suppress(BrokenOffError):
            while True:
                await upstream.receive_request()
                await upstream.send(OK)

    async def ask() -> None:
        async with raw_client(gateway.port) as client:
            for _ in range(20):
                await client.send(post())
                assert (await client.receive_answer()).body == b"ok"

    serving = asyncio.create_task(serve())
    await asyncio.gather(*(ask() for _ in range(20)))
    serving.cancel()
    assert sink.accepted <= 8


# Requests that are sent again


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_request_that_meets_a_stale_connection_is_sent_once_more_elsewhere(
    sink: RawBackend, gateway: RunningWorker, client: RawPeer, upstream: RawPeer, how: str
) -> None:
    await exchange(client, upstream)
    await client.send(post(b"once"))
    assert (await upstream.receive_request()).body == b"once"
    upstream.close() if how == "close" else upstream.reset()
    other = await sink.connection()
    assert (await other.receive_request()).body == b"once"
    await other.send(OK)
    assert (await client.receive_answer()).start == "200"
    assert gateway.count(metrics.REQUESTS, "http", "traces", "200") == 2


async def test_a_request_is_sent_again_only_once(
    sink: RawBackend, client: RawPeer, upstream: RawPeer
) -> None:
    await exchange(client, upstream)
    await client.send(post())
    await upstream.receive_request()
    upstream.close()
    other = await sink.connection()
    await other.receive_request()
    other.close()
    answer = await client.receive_answer()
    assert (answer.start, reason(answer)) == ("503", "BACKEND_LOST")
    assert sink.accepted == 2


async def test_a_request_that_met_a_fresh_connection_may_have_been_processed(
    sink: RawBackend, client: RawPeer, upstream: RawPeer
) -> None:
    await client.send(post())
    await upstream.receive_request()
    upstream.close()
    answer = await client.receive_answer()
    assert (answer.start, reason(answer)) == ("503", "BACKEND_LOST")
    assert answer.value("retry-after") is not None
    assert sink.accepted == 1


async def test_a_request_whose_answer_has_begun_is_not_sent_again(
    sink: RawBackend, client: RawPeer, upstream: RawPeer
) -> None:
    await exchange(client, upstream)
    await client.send(post())
    await upstream.receive_request()
    await upstream.send(b"HTTP/1.1 200")
    upstream.close()
    answer = await client.receive_answer()
    assert (answer.start, reason(answer)) == ("503", "BACKEND_LOST")
    assert sink.accepted == 1


async def test_a_body_that_is_too_long_to_be_held_is_not_sent_again(
    sink: RawBackend, client: RawPeer, upstream: RawPeer
) -> None:
    await exchange(client, upstream)
    body = bytes(100 * KIB)
    await client.send(post(body))
    assert (await upstream.receive_request()).body == body
    upstream.close()
    assert (await client.receive_answer()).start == "503"
    assert sink.accepted == 1


async def test_a_request_that_is_still_arriving_is_sent_again_whole(
    sink: RawBackend, client: RawPeer, upstream: RawPeer
) -> None:
    await exchange(client, upstream)
    await client.send(post(UPLOAD[:-2], length=len(UPLOAD)))
    await upstream.has_begun()
    upstream.reset()
    other = await sink.connection()
    await other.has_begun()
    await client.send(UPLOAD[-2:])
    assert (await other.receive_request()).body == UPLOAD
    await other.send(OK)
    assert (await client.receive_answer()).start == "200"


# Answers that break off, or cannot be read


@pytest.mark.parametrize(
    "part",
    [
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_an_answer_that_breaks_off_in_its_head_is_a_lost_backend(
    client: RawPeer, upstream: RawPeer, part: bytes, how: str
) -> None:
    await client.send(post())
    await upstream.receive_request()
    await upstream.send(part)
    upstream.close() if how == "close" else upstream.reset()
    answer = await client.receive_answer()
    assert (answer.start, reason(answer)) == ("503", "BACKEND_LOST")
    assert answer.value("retry-after") is not None


@pytest.mark.parametrize("part", SHORT_PARTS)
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_short_answer_that_breaks_off_has_never_begun(
    client: RawPeer, upstream: RawPeer, part: bytes, how: str
) -> None:
    """Real clients drop their data when a 200 breaks off; a 503 they retry on."""
    await client.send(post())
    await upstream.receive_request()
    await upstream.send(part)
    upstream.close() if how == "close" else upstream.reset()
    answer = await client.receive_answer()
    assert (answer.start, reason(answer)) == ("503", "BACKEND_LOST")


@pytest.mark.parametrize("part", LARGE_PARTS)
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_large_answer_that_breaks_off_in_its_body_is_never_complete(
    gateway: RunningWorker, client: RawPeer, upstream: RawPeer, part: bytes, how: str
) -> None:
    await client.send(post())
    await upstream.receive_request()
    await upstream.send(part)
    assert (await client.read_until(b"abc")).startswith(b"HTTP/1.1 200 OK\r\n")
    upstream.close() if how == "close" else upstream.reset()
    with pytest.raises(BrokenOffError):
        await client.read_to_end()
    assert gateway.counted(metrics.REQUESTS) == {
        ("http", "traces", "503", "backend_unreachable"): 1
    }


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 99 Low\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: \x00\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 400_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000,
    ],
)
async def test_an_answer_that_cannot_be_read_is_a_lost_backend(
    client: RawPeer, upstream: RawPeer, answer: bytes
) -> None:
    await client.send(post())
    await upstream.receive_request()
    sending = asyncio.create_task(upstream.send(answer))
    got = await client.receive_answer()
    assert (got.start, reason(got)) == ("503", "BACKEND_LOST")
    await upstream.closed()
    await asyncio.gather(sending, return_exceptions=True)


async def test_chunks_that_cannot_be_read_break_off_an_answer_that_has_begun(
    client: RawPeer, upstream: RawPeer
) -> None:
    await client.send(post())
    await upstream.receive_request()
    await upstream.send(_CHUNKED + _CHUNK)
    await client.read_until(b"abc")
    await upstream.send(b"nonsense\r\n")
    with pytest.raises(BrokenOffError):
        await client.read_to_end()


# Answers that come early


async def test_an_answer_before_the_end_of_the_body_is_relayed_and_the_upload_stopped(
    client: RawPeer, upstream: RawPeer
) -> None:
    await client.send(post(bytes(1_000), length=10_000_000))
    await upstream.has_begun()
    head = b"HTTP/1.1 413 Too Large\r\nContent-Type: application/json\r\n"
    await upstream.send(head + b"Content-Length: 3\r\n\r\nbig")
    answer = await client.receive_answer()
    assert (answer.start, answer.body, answer.value("connection")) == ("413", b"big", "close")
    assert await client.read_to_end() == b""
    with pytest.raises(BrokenOffError):
        await upstream.receive_request()


async def test_an_early_answer_to_a_small_body_keeps_the_clients_connection(
    sink: RawBackend, client: RawPeer, upstream: RawPeer
) -> None:
    await client.send(post(UPLOAD[:-2], length=len(UPLOAD)))
    await upstream.has_begun()
    await upstream.send(OK)
    assert (await client.receive_answer()).value("connection") is None
    await upstream.closed()
    await client.send(UPLOAD[-2:] + post())
    other = await sink.connection()
    assert (await other.receive_request()).body == b"hello"
    await other.send(OK)
    assert (await client.receive_answer()).start == "200"


async def test_an_early_answer_does_not_wait_for_a_body_that_the_backend_does_not_take(
    gateway: RunningWorker, client: RawPeer, upstream: RawPeer
) -> None:
    sending = asyncio.create_task(client.send(post(bytes(20_000 * KIB))))
    await gateway.until(lambda: gateway.context.budget.used > 64 * KIB)
    await upstream.send(OK)
    assert (await client.receive_answer()).start == "200"
    await sending
    assert gateway.context.budget.used == 0


async def test_an_early_answer_ends_a_connection_on_which_body_bytes_still_wait(
    gateway: RunningWorker, client: RawPeer, upstream: RawPeer
) -> None:
    head = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    await client.send(head + b"%x\r\n%b\r\n" % (len(UPLOAD), UPLOAD))
    await upstream.has_begun()
    (connection,) = gateway.path.pools[BackendName.OTLP_HTTP]._addresses[0].connections
    assert isinstance(connection, Http1Upstream)
    sent = len(UPLOAD)
    await gateway.until(lambda: bytes_taken(connection) == sent)
    while not connection._out.is_paused:
        await client.send(b"8000\r\n" + bytes(0x8000) + b"\r\n")
        sent += 0x8000
        await gateway.until(lambda: bytes_taken(connection) == sent)  # noqa: B023 - awaited here
    await client.send(b"0\r\n\r\n")
    await gateway.until(lambda: connection._writer.has_ended)
    assert connection._out.is_paused
    await upstream.send(OK)
    assert (await client.receive_answer()).value("connection") is None
    await gateway.until(lambda: connection.capacity == 0 and not connection._out.transport)
    assert gateway.context.budget.used == 0


def bytes_taken(connection: Http1Upstream) -> int:
    """Return how many body bytes the gateway has read from the client."""
    request = connection._request
    assert isinstance(request, Forwarding)
    return request._exchange.record.request_bytes


# What the backend may not decide


@pytest.mark.parametrize("status", [b"401 Unauthorized", b"403 Forbidden"])
async def test_a_backend_that_refuses_an_allowed_key_makes_the_caller_try_again(
    sink: RawBackend,
    gateway: RunningWorker,
    client: RawPeer,
    upstream: RawPeer,
    status: bytes,
) -> None:
    for _ in range(2):
        answer = await exchange(
            client, upstream, b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nno"
        )
        assert (answer.start, reason(answer)) == ("503", "BACKEND_REFUSED")
    assert sink.accepted == 1, "the answer was whole, so the connection is kept"
    assert gateway.count(metrics.BACKEND_AUTH_REFUSED, "otlp_http") == 2


async def test_a_refusal_of_the_backend_that_is_not_whole_ends_its_connection(
    client: RawPeer, upstream: RawPeer
) -> None:
    await client.send(post())
    await upstream.receive_request()
    await upstream.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n")
    assert (await client.receive_answer()).start == "503"
    await upstream.closed()


async def test_a_backend_that_is_silent_past_the_deadline_is_given_up(
    gateway: RunningWorker, client: RawPeer, upstream: RawPeer
) -> None:
    await client.send(post())
    await upstream.receive_request()
    gateway.sweep(59)
    gateway.sweep(61)
    answer = await client.receive_answer()
    assert (answer.start, reason(answer)) == ("504", "BACKEND_TIMEOUT")
    await upstream.closed()


async def test_an_idle_connection_beyond_the_least_number_is_closed_in_time(
    sink: RawBackend, gateway: RunningWorker, client: RawPeer, upstream: RawPeer
) -> None:
    async with raw_client(gateway.port) as other_client:
        await client.send(post(b"first"))
        assert (await upstream.receive_request()).body == b"first"
        await other_client.send(post(b"second"))
        other = await sink.connection()
        assert (await other.receive_request()).body == b"second"
        for peer in (upstream, other):
            await peer.send(OK)
        for one in (client, other_client):
            assert (await one.receive_answer()).start == "200"
        gateway.sweep(120)
        closed, _ = await asyncio.wait(
            [asyncio.create_task(peer.closed()) for peer in (upstream, other)],
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert len(closed) == 1


# Other roads to the same backend


async def test_a_request_over_http_2_reaches_an_http_1_1_backend(
    sink: RawBackend, gateway: RunningWorker
) -> None:
    upstream = await sink.connection()

    async def serve() -> None:
        request = await upstream.receive_request()
        assert (request.start, request.body) == ("POST /v1/traces?a=%C3%A4", b"hello")
        assert request.value("transfer-encoding") == "chunked"
        await upstream.send(
            b"HTTP/1.1 200 OK\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        )

    async with Http2Client(gateway.port) as client:
        serving = asyncio.create_task(serve())
        answer = await client.request("/v1/traces?a=\u00e4", FIELDS, b"hello")
        await serving
    assert (answer.status, answer.body, answer.field("x-a")) == (200, b"abc", "b")
    assert answer.field("transfer-encoding") is None


async def test_a_backend_behind_tls_is_reached_over_tls(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    server = authority.issue("backend", ["localhost", "127.0.0.1"]).server_context()
    async with raw_backend(server) as sink:
        one = backend(
            BackendName.OTLP_HTTP,
            f"https://localhost:{sink.port}",
            tls=TlsClientSettings(ca_file=str(authority.cert_file)),
        )
        async with (
            running_worker(backends=[one], keys=[entry(KEY)], sweeping=False) as gateway,
            raw_client(gateway.port) as client,
        ):
            upstream = await sink.connection()
            body = bytes(range(256)) * 4 * KIB
            await client.send(post(body))
            assert (await upstream.receive_request()).body == body
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
            await upstream.send(head + body)
            assert (await client.receive_answer()).body == body
