"""What "try again" looks like on each path of the intake, whatever the reason.

503 with whole seconds of Retry-After. The process agent drops its data on every failure, broken
connections too (wire contract, reactions), so it gets the same; `no_answer: close` withholds it.
`tests/integration/test_held_requests.py` has what the gateway does so that it need not drop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import pytest

from gateway import metrics
from gateway.dataplane.exchange.request_body import GATHERED_BYTES
from gateway.model import BackendName
from gateway.settings import IntakeSettings, PerKeyLimits
from gateway.wire.http2 import ErrorCode
from tests.support.clients import Http2Client, Response
from tests.support.exchange import Answer, Break, Request
from tests.support.intake import SENT, Sent, http1_bytes
from tests.support.intake_gateway import CARRIED, ask, gateway_before
from tests.support.plane import KEY, RunningWorker, backend, entry, limits
from tests.support.raw_http1 import BrokenOffError, raw_backend, raw_client
from tests.support.sink import RawSink

BOTH: Final = pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
ANSWERED: Final = ("/intake/", "/intake", "/api/v1/series", "/logs/k8s", "/rbac/scope")
OF_PROCESS_AGENT: Final = ("/api/v1/connections", "/receiver/stsAgent/api/v1/collector")
EITHER: Final = pytest.mark.parametrize("path", [ANSWERED[0], OF_PROCESS_AGENT[0]])
"""A path of each kind."""
CLOSES: Final = pytest.mark.parametrize("closes", [False, True], ids=["answers", "closes"])
NOBODY: Final = (backend(BackendName.INTAKE, "http://127.0.0.1:1"),)


@dataclass(frozen=True)
class Trouble:
    """Why a request cannot be served now."""

    name: str
    retry_after: int
    result: str
    setting: Callable[[], dict[str, Any]]
    answer: Answer | None = None


TROUBLES: Final = (
    Trouble("undecided", 2, "undecided", lambda: {"keys": None}),
    Trouble("overloaded", 2, "overloaded", lambda: {"limits": limits(buffer_memory_bytes=0)}),
    Trouble("not configured", 2, "backend_unreachable", lambda: {"backends": ()}),
    Trouble("unreachable", 2, "backend_unreachable", lambda: {"backends": NOBODY}),
    Trouble("lost", 1, "backend_unreachable", dict, Answer(breaks=Break("close"))),
    Trouble("reset", 1, "backend_unreachable", dict, Answer(breaks=Break("reset"))),
    Trouble("refuses our key", 5, "backend_refused", dict, Answer(403)),
    Trouble("does not know us", 5, "backend_refused", dict, Answer(401)),
)


@asynccontextmanager
async def _troubled(trouble: Trouble, **more: Any) -> AsyncIterator[RunningWorker]:
    async with RawSink(lambda _: trouble.answer or Answer()) as sink:
        async with gateway_before(sink, **trouble.setting(), **more) as gateway:
            yield gateway
        sink.take_faults()


def check_withheld(answer: Response, *, http2: bool) -> None:
    """Nothing of an answer has come: an end of the connection, or of the one stream."""
    assert (answer.status, answer.ended) == (0, False)
    if http2:
        assert answer.reset == ErrorCode.REFUSED_STREAM


def _setting(*, closes: bool) -> dict[str, Any]:
    return {"intake": IntakeSettings(no_answer="close" if closes else "503")}


@CLOSES
@EITHER
@BOTH
@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.name)
async def test_each_trouble_is_told_as_the_paths_sender_retries(
    trouble: Trouble, path: str, http2: bool, closes: bool
) -> None:
    async with _troubled(trouble, **_setting(closes=closes)) as gateway:
        answer = await ask(gateway.port, path, http2=http2)
        code = "503"
        if closes and path in OF_PROCESS_AGENT:
            check_withheld(answer, http2=http2)
            code = "none"
        else:
            assert answer.status == 503
            assert answer.field("retry-after") == str(trouble.retry_after)
        assert gateway.count(metrics.REQUESTS, "intake", "intake", code, trouble.result) == 1
        assert gateway.count(metrics.REQUESTS) == 1


@CLOSES
@BOTH
async def test_only_the_process_agents_paths_may_be_left_without_an_answer(
    http2: bool, closes: bool
) -> None:
    setting = _setting(closes=closes)
    async with RawSink() as sink, gateway_before(sink, keys=None, **setting) as gateway:
        for path in ANSWERED:
            assert (await ask(gateway.port, path, http2=http2)).status == 503, path
        for path in OF_PROCESS_AGENT:
            answer = await ask(gateway.port, path, http2=http2)
            if closes:
                check_withheld(answer, http2=http2)
            else:
                assert (answer.status, answer.field("retry-after")) == (503, "2")


@CLOSES
@EITHER
@BOTH
async def test_a_quota_is_503_and_never_429(path: str, http2: bool, closes: bool) -> None:
    """429 makes the trace agent and others drop."""
    quota = limits(per_key=PerKeyLimits(requests=0.001))
    setting = _setting(closes=closes)
    async with RawSink() as sink, gateway_before(sink, limits=quota, **setting) as gateway:
        assert (await ask(gateway.port, path, http2=http2)).status == 200
        answer = await ask(gateway.port, path, http2=http2)
        if closes and path in OF_PROCESS_AGENT:
            check_withheld(answer, http2=http2)
        else:
            assert (answer.status, answer.field("retry-after")) == (503, "1")
        assert len(sink.requests) == 1


@CLOSES
@EITHER
@BOTH
async def test_a_silent_receiver_is_given_up_in_time(path: str, http2: bool, closes: bool) -> None:
    """504 is no answer that every agent retries."""
    setting = _setting(closes=closes)
    async with RawSink(lambda _: Answer(breaks=Break("silence"))) as sink:
        async with gateway_before(sink, sweeping=False, **setting) as gateway:
            call = asyncio.create_task(ask(gateway.port, path, http2=http2))
            await gateway.until(lambda: len(sink.requests) == 1)
            gateway.sweep(61)
            gateway.sweep(61)
            answer = await call
            if closes and path in OF_PROCESS_AGENT:
                check_withheld(answer, http2=http2)
            else:
                assert (answer.status, answer.field("retry-after")) == (503, "1")
        sink.take_faults()


@BOTH
@pytest.mark.parametrize(
    "fields, body, status",
    [
        ((), b"{}", 401),
        ((("sts-api-key", "nobody-knows-it"),), b"{}", 403),
        (CARRIED, b"x" * 101, 413),
    ],
)
async def test_a_definite_no_is_answered_to_the_process_agent_too(
    http2: bool, fields: tuple[tuple[str, str], ...], body: bytes, status: int
) -> None:
    async with (
        RawSink() as sink,
        gateway_before(sink, limits=limits(max_body_bytes=100)) as gateway,
    ):
        answer = await ask(gateway.port, OF_PROCESS_AGENT[0], fields, body, http2=http2)
        assert answer.status == status


async def test_the_receivers_own_answers_reach_the_process_agent() -> None:
    for status in (200, 202, 400, 413, 429, 500, 503):
        answer = Answer(status, body=b"own words", fields=(("retry-after", "9"),))
        async with RawSink() as sink, gateway_before(sink) as gateway:
            sink.script = partial(_always, answer)
            got = await ask(gateway.port, OF_PROCESS_AGENT[0])
            assert (got.status, got.body) == (status, b"own words")
            assert got.field("retry-after") == "9"


def _always(answer: Answer, _: Request) -> Answer:
    return answer


def _named(name: str) -> Sent:
    return next(sent for sent in SENT if sent.name == name)


async def test_answers_that_are_owed_go_out_before_the_connection_closes() -> None:
    """Pipelined: an accepted request, one that cannot be served now, and one behind it."""
    good = _named("process agent, processes")
    busy = Answer(breaks=Break("close"))
    async with RawSink() as sink:
        sink.script = lambda request: busy if "connections" in request.path else Answer(202)
        setting = _setting(closes=True)
        async with gateway_before(sink, **setting) as gateway, raw_client(gateway.port) as client:
            bad = _named("process agent, connections")
            await client.send(http1_bytes(good) + http1_bytes(bad) + http1_bytes(good))
            assert (await client.receive_answer()).start == "202"
            assert await client.read_to_end() == b""
            # What stands behind the one that got no answer is not processed: it will come again.
            paths = [request.path for request in sink.requests]
            assert paths.count("/stsAgent/api/v1/collector") == 1
        sink.take_faults()


async def test_over_http2_only_the_one_request_is_refused() -> None:
    busy = Answer(breaks=Break("close"))
    async with RawSink() as sink:
        sink.script = lambda request: busy if "connections" in request.path else Answer(202)
        setting = _setting(closes=True)
        async with gateway_before(sink, **setting) as gateway, Http2Client(gateway.port) as client:
            fields = (("sts-api-key", KEY),)
            refused = await client.request("/api/v1/connections", fields, b"{}")
            check_withheld(refused, http2=True)
            assert (await client.request("/api/v1/collector", fields, b"{}")).status == 202
        sink.take_faults()


async def test_an_agent_that_still_sends_its_body_sees_an_end_and_no_reset() -> None:
    """A reset could overtake answers; and a client that writes first would never read them."""
    body = bytes(3_000_000)
    setting = _setting(closes=True)
    async with RawSink() as sink, gateway_before(sink, keys=None, **setting) as gateway:
        async with raw_client(gateway.port) as client:
            head = f"POST /api/v1/collector HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
            await client.send(head.encode() + b"sts-api-key: k\r\n\r\n")
            assert await client.read_to_end() == b""
            await client.send(body)
        assert not sink.requests


@BOTH
async def test_a_receiver_that_breaks_off_its_answer_breaks_off_ours(http2: bool) -> None:
    """Never a clean end: the agent would take the half for the whole. A long answer has begun."""
    half = Answer(202, body=bytes(300_000), breaks=Break("close", after="half"))
    async with RawSink(lambda _: half) as sink:
        async with gateway_before(sink) as gateway:
            answer = await ask(gateway.port, "/intake", http2=http2)
            assert not answer.ended
        sink.take_faults()


async def test_an_agent_that_goes_away_completes_nothing_at_the_receiver() -> None:
    async with raw_backend() as receiver:
        backends = (backend(BackendName.INTAKE, f"http://127.0.0.1:{receiver.port}"),)
        async with RawSink() as sink, gateway_before(sink, backends=backends) as gateway:
            async with raw_client(gateway.port) as client:
                head = "POST /intake HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
                size = GATHERED_BYTES + 1  # a smaller body waits in the gateway for its rest
                chunk = f"{size:x}\r\n{'h' * size}\r\n"
                await client.send(f"{head}sts-api-key: {KEY}\r\n\r\n{chunk}".encode())
                upstream = await receiver.connection()
                assert (await upstream.read_until(b"h\r\n")).endswith(chunk.encode())
                client.reset()
            with pytest.raises(BrokenOffError):
                await upstream.read_to_end()
            gateway.collect()
            assert (
                gateway.count(metrics.INTAKE_REQUESTS, "intake", "transactional", "canceled") == 1
            )


async def test_a_key_that_only_an_authority_knows_is_refused_by_the_receiver_itself() -> None:
    """Forwarded as it came, its 403 is the caller's."""
    keys = [entry(KEY, "7", shared=True)]
    async with (
        RawSink(lambda _: Answer(403, body=b"no")) as sink,
        gateway_before(sink, keys=keys) as gateway,
    ):
        for path in ("/intake", "/api/v1/connections"):
            answer = await ask(gateway.port, path)
            assert (answer.status, answer.body) == (403, b"no")
