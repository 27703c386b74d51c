"""Every sender of the wire contract gets through, untouched: one case for each row of its table.

Over HTTP/1.1 keep-alive and pipelined, and over HTTP/2.
"""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

from gateway import metrics
from gateway.dataplane.http2.server import Http2Server
from gateway.model import Signal
from tests.support.clients import Http2Client, Response, http1_request
from tests.support.exchange import Answer, Request
from tests.support.intake import AGENT_HEADERS, SENT, Fields, Sent, http1_bytes
from tests.support.intake_gateway import gateway_before
from tests.support.plane import KEY, MIB, RunningWorker, limits
from tests.support.raw_http1 import raw_client
from tests.support.sink import RawSink

EACH: Final = pytest.mark.parametrize("sent", SENT, ids=lambda sent: sent.name)
ACCEPTED: Final = Answer(status=202, body=b'{"status":"ok"}', fields=(("x-receiver", "yes"),))
FRAMING: Final = {"content-length", "transfer-encoding", "host"}


def at_receiver(sent: Sent) -> str:
    """Give the target that a receiver sees."""
    return sent.target.removeprefix("/receiver")


def _fields_of(request: Request) -> list[tuple[str, str]]:
    return [(name, value) for name, value in request.fields if name not in FRAMING]


def _sent_fields(fields: Fields) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in fields]


def check_arrived(request: Request, sent: Sent) -> None:
    """What reached the receiver is what was sent: target, body, every field, in order."""
    assert (request.method, request.path) == (sent.method, at_receiver(sent))
    assert request.body == sent.body
    assert sorted(_fields_of(request)) == sorted(_sent_fields(sent.fields))
    assert (request.field("transfer-encoding") == "chunked") == sent.is_chunked


@EACH
async def test_each_sender_gets_through_on_a_connection_that_is_kept(sent: Sent) -> None:
    async with RawSink(lambda _: ACCEPTED) as sink, gateway_before(sink) as gateway:
        async with raw_client(gateway.port) as client:
            for count in (1, 2):
                await client.send(http1_bytes(sent))
                answer = await client.receive_answer(sent.method)
                assert (answer.start, answer.body) == ("202", ACCEPTED.body)
                assert answer.value("x-receiver") == "yes"
                assert len(sink.requests) == count
                check_arrived(sink.requests[-1], sent)
        counted = gateway.counted(metrics.INTAKE_REQUESTS)
        assert counted == {(sent.route, sent.sender, "accepted"): 2}
        requests = gateway.counted(metrics.REQUESTS)
        assert requests == {("intake", "intake", "202", "accepted"): 2}
        assert KEY not in repr(gateway.counted(metrics.AUTH_DECISIONS)) + repr(gateway.usage)


async def test_all_senders_may_share_one_pipelined_connection() -> None:
    async with RawSink(lambda _: ACCEPTED) as sink, gateway_before(sink) as gateway:
        async with raw_client(gateway.port) as client:
            await client.send(b"".join(map(http1_bytes, SENT)))
            for sent in SENT:
                assert (await client.receive_answer(sent.method)).start == "202"
        assert len(sink.requests) == len(SENT)
        for request, sent in zip(sink.requests, SENT, strict=True):
            check_arrived(request, sent)


@EACH
async def test_each_sender_gets_through_over_http2(sent: Sent) -> None:
    async with RawSink(lambda _: ACCEPTED) as sink, gateway_before(sink) as gateway:
        async with Http2Client(gateway.port) as client:
            fields = [(name.lower(), value) for name, value in sent.fields]
            for _ in range(2):
                answer = await client.request(sent.target, fields, sent.body, method=sent.method)
                assert (answer.status, answer.body) == (202, ACCEPTED.body)
        for request in sink.requests:
            assert (request.method, request.path) == (sent.method, at_receiver(sent))
            assert request.body == sent.body
            assert sorted(_fields_of(request)) == sorted(fields)
            assert sent.method == "POST" or request.field("transfer-encoding") is None
        assert len(sink.requests) == 2


async def test_no_key_in_a_query_is_remembered_by_the_heads_of_http2() -> None:
    """Fields that repeat are kept by their bytes; a path with a query is none of them."""
    async with RawSink(lambda _: ACCEPTED) as sink, gateway_before(sink) as gateway:
        async with Http2Client(gateway.port) as client:
            for _ in range(3):
                answer = await client.request(f"/intake?api_key={KEY}", (), b"{}")
                assert answer.status == 202
            (connection,) = gateway.context.connections
            assert isinstance(connection, Http2Server)
            kept = [field.pair for field in connection._heads._known.fields.values()]
        assert (b":path", f"/intake?api_key={KEY}".encode()) not in kept
        assert not any(KEY.encode() in value for _, value in kept)


PASSED_ON: Final = (
    *AGENT_HEADERS,
    ("Content-Type", "text/weird; charset=x"),
    ("Content-Encoding", "x-zip"),
    ("sts-hostname", "n"),
    ("sts-processagentversion", "1"),
    ("sts-time-format", "ms"),
    ("DD-Agent-Version", "7"),
    ("DD-Agent-Payload", "4.87.0"),
    ("X-Dd-Hostname", "n"),
    ("X-Dd-ContainerCount", "1"),
    ("X-Dd-Processagentversion", "1"),
    ("X-Datadog-Reported-Languages", "go"),
    ("X-Stackstate-Reported-Languages", "go"),
    ("X-Scope-OrgID", "a"),
    ("X-Prometheus-Remote-Write-Version", "0.1.0"),
    ("Accept", "application/json"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("tracestate", "a=b"),
)


async def test_every_header_of_the_agents_passes() -> None:
    async with RawSink() as sink, gateway_before(sink) as gateway:
        fields = (*PASSED_ON, ("sts-api-key", KEY), ("Content-Length", "2"))
        await http1_request(gateway.port, "/intake", fields, b"{}")
        (request,) = sink.requests
        assert [(name, request.values(name)) for name, _ in PASSED_ON] == [
            (name, [value]) for name, value in PASSED_ON
        ]


async def test_a_request_without_a_content_type_gets_none() -> None:
    async with RawSink() as sink, gateway_before(sink) as gateway:
        fields = (("sts-api-key", KEY), ("Content-Length", "2"))
        answer = await http1_request(gateway.port, "/api/v1/connections", fields, b"\x03\x02")
        assert answer.status == 200
        assert sink.requests[0].field("content-type") is None


async def _otlp(gateway: RunningWorker, path: str, *fields: tuple[str, str]) -> Response:
    head = (("content-type", "application/x-protobuf"), ("Content-Length", "2"), *fields)
    return await http1_request(gateway.port, path, head, b"\x0a\x00")


@pytest.mark.parametrize("signal", [Signal.TRACES, Signal.METRICS, Signal.LOGS])
@pytest.mark.parametrize("base", ["/receiver/stsAgent", "/stsAgent", ""])
async def test_otlp_below_the_agents_base_url_is_otlp_in_every_respect(
    signal: Signal, base: str
) -> None:
    path = f"{base}/otel/v1/{signal}"
    async with RawSink() as sink, gateway_before(sink) as gateway:
        right = ("authorization", f"SUSEObservability {KEY}")
        assert (await _otlp(gateway, path, right)).status == 200
        assert sink.requests[0].path == f"/v1/{signal}"
        # Its codes and its words: a denied key is 401, not 403.
        denied = await _otlp(gateway, path, ("authorization", "StackState nobody"))
        assert denied.status == 401
        assert denied.field("content-type") == "application/x-protobuf"
        assert gateway.count(metrics.REQUESTS, "http", signal.value) == 2
        assert gateway.count(metrics.INTAKE_REQUESTS) == 0


@pytest.mark.parametrize(
    "path, fields",
    [
        (f"/stsAgent/otel/v1/traces?api_key={KEY}", ()),
        (f"/v1/traces?api_key={KEY}", ()),
        ("/stsAgent/otel/v1/traces", (("dd-api-key", KEY),)),
        ("/stsAgent/otel/v1/traces", (("authorization", f"ApiKey {KEY}"),)),
    ],
)
async def test_otlp_paths_take_no_key_from_the_agents_other_carriers(
    path: str, fields: Fields
) -> None:
    async with RawSink() as sink, gateway_before(sink) as gateway:
        assert (await _otlp(gateway, path, *fields)).status == 401
        assert not sink.requests
        # Beside a good key they change nothing.
        right = ("sts-api-key", KEY)
        repeated = [field for field in fields if field[0] != "authorization"]
        assert (await _otlp(gateway, path, right, *repeated)).status == 200


async def test_fifty_megabytes_stream_through_without_being_held() -> None:
    """Whatever the receiver does not take at once, the agent does not send: little is held."""
    body = bytes(range(256)) * (50 * MIB // 256)
    small = limits(buffer_memory_bytes=4 * MIB)
    async with RawSink(lambda _: ACCEPTED) as sink, gateway_before(sink, limits=small) as gateway:
        fields = (("sts-api-key", KEY), ("Content-Length", str(len(body))))
        call = asyncio.create_task(http1_request(gateway.port, "/intake", fields, body))
        most = 0
        while not call.done():
            most = max(most, gateway.context.budget.used)
            await asyncio.sleep(0)
        assert (await call).status == 202
        assert sink.requests[0].body == body
        assert most < 4 * MIB


async def test_a_routes_own_limit_of_size_replaces_the_general_one() -> None:
    from gateway.settings import IntakeSettings  # noqa: PLC0415 - one use

    own = IntakeSettings(max_body={"/support/flare": 3000, "/api/v1/series": 10})
    async with (
        RawSink() as sink,
        gateway_before(sink, intake=own, limits=limits(max_body_bytes=1000)) as gateway,
    ):

        async def status_of(path: str, length: int) -> int:
            fields = (("sts-api-key", KEY), ("Content-Length", str(length)))
            return (await http1_request(gateway.port, path, fields, bytes(length))).status

        assert await status_of("/intake", 1000) == 200
        assert await status_of("/intake", 1001) == 413
        assert await status_of("/stsAgent/support/flare", 3000) == 200
        assert await status_of("/support/flare/9", 3000) == 200
        assert await status_of("/support/flare/9", 3001) == 413
        assert await status_of("/receiver/stsAgent/api/v1/series", 10) == 200
        assert await status_of("/receiver/stsAgent/api/v1/series", 11) == 413
        assert gateway.count(metrics.INTAKE_REQUESTS, "flare", "support", "too_large") == 1


async def test_versions_are_counted_for_good_keys_only_and_bounded() -> None:
    async with RawSink() as sink, gateway_before(sink) as gateway:

        async def send(version: str | None, key: str = KEY) -> None:
            fields = [("sts-api-key", key), ("Content-Length", "2")]
            if version is not None:
                fields.append(("STS-Agent-Version", version))
            await http1_request(gateway.port, "/api/v1/series", tuple(fields), b"{}")

        await send("3.51.0")
        await send("3.51.0-rc.1+git.17")
        await send("not a version")
        await send(None)
        await send("9.9.9", key="nobody-knows-it")
        assert gateway.counted(metrics.INTAKE_AGENTS) == {
            ("agent", "3.51.0"): 2,
            ("agent", "other"): 1,
            ("agent", "none"): 1,
        }
        for number in range(60):
            await send(f"1.0.{number}")
        versions = {labels[1] for labels in gateway.counted(metrics.INTAKE_AGENTS)}
        assert len(versions - {"other", "none"}) <= 50
        assert gateway.count(metrics.INTAKE_AGENTS, "agent") == 64
