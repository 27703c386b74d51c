"""Every way a request can end × every way to send it: code, body and headers.

The expected codes are those of the OTLP specification ("Failures", "OTLP/HTTP Response", "gRPC
status codes"), written out here and not taken from `gateway.outcome`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import pytest
import structlog
from google.protobuf import any_pb2, json_format
from google.rpc import (  # type: ignore[import-untyped]  # no stubs are published
    error_details_pb2,
    status_pb2,
)

from gateway import metrics
from gateway.channel import LookedUp, Lookup, Up
from gateway.dataplane.dialects.otlp import GRPC_OVER_HTTP1
from gateway.model import KeyState, Signal
from gateway.settings import AuthoritySettings, ForwardSettings, PerKeyLimits
from tests.support.clients import Http2Client, Response, http1_request
from tests.support.exchange import GRPC, JSON, PROTOBUF, Answer, Break, GrpcMessage
from tests.support.plane import KEY, RunningWorker, entry, limits, running_worker, sink_backends
from tests.support.raw_http1 import raw_client
from tests.support.sink import RawSink

SIGNALS: Final = {
    Signal.TRACES: ("trace.v1.TraceService", "/v1/traces"),
    Signal.METRICS: ("metrics.v1.MetricsService", "/v1/metrics"),
    Signal.LOGS: ("logs.v1.LogsService", "/v1/logs"),
    Signal.PROFILES: ("profiles.v1development.ProfilesService", "/v1development/profiles"),
}
RIGHT: Final = (("authorization", f"StackState {KEY}"),)
OTHER_KEY: Final = "another-key"
MESSAGE: Final = GrpcMessage(compressed=False, data=b"\x0a\x00").to_bytes()

Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Way:
    """How a request is sent: protocol, encoding, HTTP version."""

    name: str
    content_type: str
    is_http2: bool

    @property
    def is_grpc(self) -> bool:
        return self.content_type == GRPC


WAYS: Final = (
    Way("grpc", GRPC, is_http2=True),
    Way("protobuf-h1", PROTOBUF, is_http2=False),
    Way("json-h1", JSON, is_http2=False),
    Way("protobuf-h2", PROTOBUF, is_http2=True),
    Way("json-h2", JSON, is_http2=True),
)
EVERY_WAY: Final = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
GRPC_H2, PROTOBUF_H1, JSON_H2 = WAYS[0], WAYS[1], WAYS[4]
EVERY_PROTOCOL: Final = pytest.mark.parametrize(
    "way", [GRPC_H2, PROTOBUF_H1, JSON_H2], ids=lambda way: way.name
)
"""For what does not depend on the encoding: each protocol once, and each encoding."""


@dataclass(frozen=True)
class Case:
    """One refusal: how to provoke it, and what the caller must see."""

    reason: str
    """`google.rpc.ErrorInfo.reason`."""
    grpc: int
    http: int
    fields: Fields = RIGHT
    retry_after: int = 0
    result: str = "denied"
    setting: dict[str, Any] | None = None
    """Changes of the worker's settings."""
    answer: Answer | None = None
    """What the backend answers; None: it must not be asked."""
    body: bytes = MESSAGE


TOKENS: Final = AuthoritySettings(10, 10, 6.0, keys=False, tokens=True)
TOKEN: Final = "e30.secret-of-a-token.c2ln"


def _token(reason: str, token: str = TOKEN) -> Case:
    """Return the case of a token that is refused: by the worker, or by control."""
    fields = (("authorization", f"bearer  {token}"),)
    return Case(reason, 16, 401, fields, setting={"authority": TOKENS})


def _expired() -> dict[str, Any]:
    return {"keys": [entry(KEY, "7", expires_at_ms=1_000)]}


CASES: Final = (
    Case("KEY_MISSING", 16, 401, ()),
    Case("SCHEME_BEARER", 16, 401, (("authorization", f"Bearer {KEY}"),)),
    Case("SCHEME_UNKNOWN", 16, 401, (("authorization", f"SUSE Observability {KEY}"),)),
    Case("KEY_PERCENT_ENCODED", 16, 401, (("authorization", f"StackState%20{KEY}"),)),
    Case("KEY_PLUS_ENCODED", 16, 401, (("authorization", f"StackState+{KEY}"),)),
    Case("KEY_QUOTED", 16, 401, (("authorization", f'"StackState {KEY}"'),)),
    Case("KEY_QUOTED", 16, 401, (("authorization", f'StackState "{KEY}"'),)),
    Case("KEY_QUOTED", 16, 401, (("sts-api-key", f"'{KEY}'"),)),
    Case("KEY_EMPTY", 16, 401, (("authorization", "StackState "),)),
    Case("KEY_TOO_LONG", 16, 401, (("authorization", "StackState " + "k" * 513),)),
    Case("KEY_CHARACTERS", 16, 401, (("authorization", "StackState two words"),)),
    Case("AUTHORIZATION_REPEATED", 16, 401, RIGHT + RIGHT),
    Case("KEY_CONFLICT", 16, 401, (*RIGHT, ("sts-api-key", OTHER_KEY))),
    Case("KEY_UNKNOWN", 16, 401, (("authorization", "StackState nobody-knows-it"),)),
    Case("KEY_TYPO", 16, 401, (("authorization", f"StackState {KEY[:-1]}A"),)),
    Case("KEY_EXPIRED", 16, 401, setting=_expired()),
    Case("KEY_REVOKED", 16, 401, setting={"keys": [entry(KEY, state=KeyState.REVOKED)]}),
    Case("KEY_DISABLED", 16, 401, setting={"keys": [entry(KEY, state=KeyState.DISABLED)]}),
    _token("TOKEN_MALFORMED", "secret-of-a-token"),
    _token("TOKEN_MALFORMED", "two words"),
    _token("TOKEN_MALFORMED", ""),
    _token("TOKEN_TOO_LONG", "e30.e30." + "k" * 8_185),
    _token("TOKEN_ENCRYPTED", "e30.secret-of-a-token.e30.e30.e30"),
    _token("TOKEN_EXTENSION"),
    _token("TOKEN_ALGORITHM", "e30.secret-of-a-token."),
    _token("TOKEN_ISSUER"),
    _token("TOKEN_KEY"),
    _token("TOKEN_SIGNATURE"),
    _token("TOKEN_AUDIENCE"),
    _token("TOKEN_NOT_YET_VALID"),
    _token("TOKEN_CLAIMS"),
    _token("TOKEN_EXPIRED"),
    Case("SIGNAL_NOT_ALLOWED", 7, 403, setting={"keys": [entry(KEY, signals=0)]}),
    Case("UNDECIDED", 14, 503, setting={"keys": None}, retry_after=2, result="undecided"),
    Case(
        "OVERLOADED",
        14,
        503,
        setting={"limits": limits(buffer_memory_bytes=0)},
        retry_after=2,
        result="overloaded",
    ),
    Case(
        "BODY_TOO_LARGE",
        8,
        413,
        setting={"limits": limits(max_body_bytes=5)},
        result="too_large",
    ),
    Case(
        "BACKEND_REFUSED", 14, 503, answer=Answer(401, 16), retry_after=5, result="backend_refused"
    ),
    Case(
        "BACKEND_REFUSED", 14, 503, answer=Answer(403, 7), retry_after=5, result="backend_refused"
    ),
    Case(
        "BACKEND_FOREIGN",
        14,
        503,
        answer=Answer(302, -1, fields=(("content-type", "text/html"),)),
        retry_after=5,
        result="backend_unreachable",
    ),
    Case(
        "BACKEND_LOST",
        14,
        503,
        answer=Answer(breaks=Break("close")),
        retry_after=1,
        result="backend_unreachable",
    ),
    Case(
        "BACKEND_LOST",
        14,
        503,
        answer=Answer(breaks=Break("reset")),
        retry_after=1,
        result="backend_unreachable",
    ),
)


@asynccontextmanager
async def _setting(case: Case) -> AsyncIterator[tuple[RunningWorker, RawSink]]:
    """A gateway in front of a scripted backend."""
    async with RawSink() as sink:
        if case.answer is not None:
            sink.script = lambda _: case.answer or Answer()
        setting: dict[str, Any] = {"keys": [entry(KEY, "7")], **(case.setting or {})}
        async with running_worker(backends=sink_backends(sink), **setting) as gateway:
            gateway.send_to(lambda message: _refuse(gateway, case.reason, message))
            yield gateway, sink
        sink.take_faults()


def _refuse(gateway: RunningWorker, reason: str, message: Up) -> bool:
    """Answer a worker's question as control does."""
    assert isinstance(message, Lookup)
    assert message.is_token
    denied = LookedUp(message.digest, "denied", None, "authority", 30.0, refusal=reason)
    asyncio.get_running_loop().call_soon(gateway.worker.take_verdict, denied)
    return True


async def _send(port: int, way: Way, signal: Signal, fields: Fields, body: bytes) -> Response:
    service, http_path = SIGNALS[signal]
    path = f"/opentelemetry.proto.collector.{service}/Export" if way.is_grpc else http_path
    head = (("content-type", way.content_type), *fields)
    if way.is_grpc:
        head += (("te", "trailers"),)
    if way.is_http2:
        async with Http2Client(port) as client:
            return await client.request(path, head, body)
    return await http1_request(port, path, (*head, ("Content-Length", str(len(body)))), body)


def _status_of(response: Response) -> status_pb2.Status:
    """The google.rpc.Status of an HTTP answer, in whichever encoding it came."""
    if response.field("content-type") == JSON:
        status = status_pb2.Status()
        return json_format.Parse(response.body, status)
    assert response.field("content-type") == PROTOBUF
    return status_pb2.Status.FromString(response.body)


def _details(status: status_pb2.Status) -> tuple[error_details_pb2.ErrorInfo, int]:
    """ErrorInfo and the seconds of RetryInfo (0: none)."""
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    detail: any_pb2.Any
    for detail in status.details:
        _ = detail.Unpack(info) or detail.Unpack(retry)
    return info, retry.retry_delay.seconds


def _binary(response: Response, name: str) -> bytes:
    import base64  # noqa: PLC0415 - one use

    value = response.field(name)
    assert value is not None, f"{name} is missing"
    assert not value.endswith("=")
    return base64.b64decode(value + "=" * (-len(value) % 4))


def _check_grpc(response: Response, case: Case) -> None:
    assert response.status == 200
    assert response.grpc_status == case.grpc
    assert response.grpc_message.isprintable()
    status = status_pb2.Status.FromString(_binary(response, "grpc-status-details-bin"))
    assert (status.code, status.message) == (case.grpc, response.grpc_message)
    info, retry_s = _details(status)
    assert (info.reason, info.domain) == (case.reason, "otlp-gateway")
    assert retry_s == case.retry_after
    if case.retry_after:
        hint = _binary(response, "google.rpc.retryinfo-bin")
        assert error_details_pb2.RetryInfo.FromString(hint).retry_delay.seconds == retry_s
    else:
        assert response.field("google.rpc.retryinfo-bin") is None


def _check_http(response: Response, case: Case, way: Way) -> None:
    assert response.status == case.http
    assert response.field("content-type") == way.content_type
    status = _status_of(response)
    assert status.code == case.grpc
    info, retry_s = _details(status)
    assert (info.reason, info.domain) == (case.reason, "otlp-gateway")
    assert retry_s == case.retry_after
    assert response.field("retry-after") == (str(case.retry_after) if case.retry_after else None)
    challenge = response.field("www-authenticate")
    assert (challenge is not None) == (case.http == 401)
    assert challenge is None or challenge.startswith("StackState")


@EVERY_WAY
@pytest.mark.parametrize(
    "case",
    CASES,
    ids=lambda case: f"{case.reason}-{(case.answer or Answer(0)).status}-{CASES.index(case)}",
)
async def test_each_refusal_says_the_same_in_every_protocol(way: Way, case: Case) -> None:
    """Code, body, headers, and the metric.

    No refusal depends on the signal, so that each case has one of them.
    """
    signal = tuple(SIGNALS)[(CASES.index(case) + WAYS.index(way)) % len(SIGNALS)]
    async with _setting(case) as (gateway, sink):
        response = await _send(gateway.port, way, signal, case.fields, case.body)
        if way.is_grpc:
            _check_grpc(response, case)
            code = {16: "UNAUTHENTICATED", 7: "PERMISSION_DENIED", 14: "UNAVAILABLE"}.get(
                case.grpc, "RESOURCE_EXHAUSTED"
            )
        else:
            _check_http(response, case, way)
            code = str(case.http)
        protocol = "grpc" if way.is_grpc else "http"
        assert gateway.count(metrics.REQUESTS, protocol, signal.value, code, case.result) == 1
        assert gateway.count(metrics.REQUESTS) == 1
        if case.answer is None:
            assert not sink.requests
        text = repr(response) + repr(gateway.refusals) + repr(gateway.counted(metrics.REQUESTS))
        for secret in (KEY, OTHER_KEY, "nobody-knows-it", "secret-of-a-token"):
            assert secret not in text


@EVERY_PROTOCOL
@pytest.mark.parametrize("signal", SIGNALS, ids=str)
async def test_an_accepted_request_arrives_and_its_answer_comes_back(
    way: Way, signal: Signal
) -> None:
    """The backend's partial success is relayed byte for byte."""
    partial = b"\x0a\x04\x08\x01\x12\x00" if way.content_type != JSON else b'{"partialSuccess":{}}'
    async with (
        RawSink(lambda _: Answer(body=partial, fields=(("x-backend", "yes"),))) as sink,
        running_worker(backends=sink_backends(sink), keys=[entry(KEY)]) as gateway,
    ):
        response = await _send(gateway.port, way, signal, RIGHT, MESSAGE)
        (request,) = sink.requests
        assert request.body == MESSAGE
        assert request.field("authorization") == f"StackState {KEY}"
        assert response.status == 200
        assert response.field("x-backend") == "yes"
        if way.is_grpc:
            assert response.grpc_status == 0
            assert response.message == partial
        else:
            assert response.body == partial
        decisions = gateway.counted(metrics.AUTH_DECISIONS)
        protocol = "grpc" if way.is_grpc else "http"
        assert decisions == {(protocol, signal.value, "allowed", "keyring"): 1}


@EVERY_PROTOCOL
async def test_the_quota_of_a_key_is_told_apart_from_overload(way: Way) -> None:
    """Over gRPC 8 with RetryInfo, over HTTP 429 with Retry-After: both are retried."""
    quota = limits(per_key=PerKeyLimits(requests=0.001))
    async with (
        RawSink() as sink,
        running_worker(backends=sink_backends(sink), keys=[entry(KEY)], limits=quota) as gateway,
    ):
        first = await _send(gateway.port, way, Signal.LOGS, RIGHT, MESSAGE)
        second = await _send(gateway.port, way, Signal.LOGS, RIGHT, MESSAGE)
        case = Case("QUOTA", 8, 429, retry_after=1)
        assert first.grpc_status == 0 if way.is_grpc else first.status == 200
        if way.is_grpc:
            _check_grpc(second, case)
        else:
            _check_http(second, case, way)


async def test_a_quota_may_be_answered_with_503() -> None:
    """For SDKs that drop on 429."""
    quota = limits(per_key=PerKeyLimits(concurrent=1), quota_status=503)
    release = asyncio.Event()
    async with (
        RawSink(lambda _: Answer(wait_for=release)) as sink,
        running_worker(backends=sink_backends(sink), keys=[entry(KEY)], limits=quota) as gateway,
    ):
        slow = asyncio.create_task(_send(gateway.port, PROTOBUF_H1, Signal.LOGS, RIGHT, MESSAGE))
        await gateway.until(lambda: len(sink.requests) == 1)
        second = await _send(gateway.port, PROTOBUF_H1, Signal.LOGS, RIGHT, MESSAGE)
        release.set()
        assert second.status == 503
        assert second.field("retry-after") == "1"
        assert (await slow).status == 200


@EVERY_PROTOCOL
@pytest.mark.parametrize("backend_is", ["not configured", "closed"])
async def test_without_a_backend_requests_are_to_be_retried(way: Way, backend_is: str) -> None:
    """Never a 404: the route exists. The text names the setting."""
    async with RawSink() as sink:
        backends = sink_backends(sink)
    if backend_is == "not configured":
        backends = ()
    async with running_worker(backends=backends, keys=[entry(KEY)]) as gateway:
        response = await _send(gateway.port, way, Signal.TRACES, RIGHT, MESSAGE)
        kind = "OTLP_GRPC" if way.is_grpc else "OTLP_HTTP"
        reason = f"NO_BACKEND_{kind}" if backend_is == "not configured" else "BACKEND_UNREACHABLE"
        case = Case(reason, 14, 503, retry_after=2)
        if way.is_grpc:
            _check_grpc(response, case)
        else:
            _check_http(response, case, way)


@EVERY_PROTOCOL
async def test_a_silent_backend_is_a_timeout_that_is_retried(way: Way) -> None:
    """Code 4 or 504, when the time from the end of the body is over."""
    async with RawSink(lambda _: Answer(breaks=Break("silence"))) as sink:
        async with running_worker(
            backends=sink_backends(sink), keys=[entry(KEY)], sweeping=False
        ) as gateway:
            call = asyncio.create_task(_send(gateway.port, way, Signal.METRICS, RIGHT, MESSAGE))
            await gateway.until(lambda: len(sink.requests) == 1)
            gateway.sweep(59)
            assert not call.done()
            gateway.sweep(59 + 61)
            response = await call
            if way.is_grpc:
                assert response.grpc_status == 4
            else:
                assert response.status == 504
                assert _details(_status_of(response))[0].reason == "BACKEND_TIMEOUT"
        sink.take_faults()


@EVERY_PROTOCOL
async def test_unknown_paths_methods_and_types(way: Way) -> None:
    """404/12, 405 with Allow, 415: each after what stands before it in the order of checks."""
    async with (
        RawSink() as sink,
        running_worker(backends=sink_backends(sink), keys=[entry(KEY)]) as gateway,
    ):

        async def ask(method: str, path: str, *fields: tuple[str, str]) -> Response:
            if way.is_http2:
                async with Http2Client(gateway.port) as client:
                    return await client.request(path, fields, MESSAGE, method=method)
            return await http1_request(gateway.port, path, fields, MESSAGE, method=method)

        kind = ("content-type", way.content_type)
        path = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
        for missing in (
            "/v1/trace",
            "/v1//traces",
            "///v1/traces",
            "//v1/traces/",
            "/v1/traces//",
            "/v1/../v1/traces",
            "/V1/traces",
        ):
            response = await ask("POST", missing, kind)
            if way.is_grpc:
                assert response.grpc_status == 12
            else:
                assert response.status == 404
                assert _details(_status_of(response))[0].reason == "NOT_FOUND"
        # The method comes before the key, the key before the content type.
        response = await ask("GET", "/v1/logs", kind)
        assert (response.status, response.field("allow")) == (405, "POST")
        response = await ask("POST", "/v1/logs", ("content-type", "text/plain"))
        assert response.status == 401
        response = await ask("POST", "/v1/logs", ("content-type", "text/plain"), *RIGHT)
        assert response.status == 415
        response = await ask("POST", "/v1/logs", *RIGHT)
        assert response.status == 415
        response = await ask("POST", path, ("content-type", PROTOBUF), *RIGHT)
        assert response.status == 415
        upper = ("content-type", "Application/JSON; charset=utf-8")
        assert (await ask("POST", "/v1/logs", upper, *RIGHT)).status == 200
        assert len(sink.requests) == 1


HTTP_WAYS: Final = pytest.mark.parametrize("way", [PROTOBUF_H1, JSON_H2], ids=lambda way: way.name)


@HTTP_WAYS
@pytest.mark.parametrize("signal", SIGNALS, ids=str)
async def test_one_slash_too_many_is_let_through_and_goes_no_further(
    way: Way, signal: Signal
) -> None:
    """A base URL that ends in a slash gives one at the beginning, some senders add one behind."""
    path = SIGNALS[signal][1]
    async with (
        RawSink() as sink,
        running_worker(backends=sink_backends(sink), keys=[entry(KEY)]) as gateway,
    ):
        for spelling in (f"/{path}", f"{path}/", f"{path}/?a=1"):
            head = (("content-type", way.content_type), *RIGHT)
            if way.is_http2:
                async with Http2Client(gateway.port) as client:
                    response = await client.request(spelling, head, MESSAGE)
            else:
                response = await http1_request(gateway.port, spelling, head, MESSAGE)
            assert response.status == 200
            assert sink.requests[-1].path.partition("?")[0] == path
        assert gateway.count(metrics.REQUESTS, "http", signal.value, "200", "accepted") == 3


@pytest.mark.parametrize("start", ["http://gateway:4318", "https://[::1]", "HTTP://other"])
async def test_a_target_in_absolute_form_is_served_as_its_path(start: str) -> None:
    """As clients send it that take the gateway for a proxy (RFC 9112 §3.2.2); whatever the host."""
    async with (
        RawSink() as sink,
        running_worker(backends=sink_backends(sink), keys=[entry(KEY)]) as gateway,
    ):
        head = (("content-type", JSON), *RIGHT)
        response = await http1_request(gateway.port, f"{start}/v1/logs", head, b"{}")
        assert response.status == 200
        assert [request.path for request in sink.requests] == ["/v1/logs"]
        response = await http1_request(gateway.port, f"{start}/v1/log", head, b"{}")
        assert response.status == 404
        response = await http1_request(gateway.port, start, (), method="GET")
        assert (response.status, response.body) == (200, b'{"status":"ok"}')


@EVERY_WAY
@pytest.mark.parametrize("large", [(("x", "y" * 70_000),), (("x", "y"),) * 205])
async def test_a_head_that_is_too_large_is_told_so_in_every_protocol(
    way: Way, large: Fields
) -> None:
    """Code 8, or 431 with a Status: whatever else is wrong with the request. Over HTTP/2 the other
    requests of the connection are not touched.
    """
    case = Case("HEAD_TOO_LARGE", 8, 431)
    async with RawSink() as sink, running_worker(backends=sink_backends(sink)) as gateway:
        response = await _send(gateway.port, way, Signal.LOGS, (*RIGHT, *large), MESSAGE)
        if way.is_grpc:
            _check_grpc(response, case)
        else:
            _check_http(response, case, way)
        code = "RESOURCE_EXHAUSTED" if way.is_grpc else "431"
        assert gateway.count(metrics.REQUESTS) == 1
        signal = "logs" if way.is_http2 else "none"
        protocol = "grpc" if way.is_grpc else "http"
        assert gateway.count(metrics.REQUESTS, protocol, signal, code, "malformed") == 1
        assert not sink.requests


@pytest.mark.parametrize("way", [GRPC_H2, JSON_H2], ids=lambda way: way.name)
async def test_a_head_that_is_too_large_leaves_the_connection_in_use(way: Way) -> None:
    """Also when the beginning of the head is known from a request before."""
    service, path = SIGNALS[Signal.LOGS]
    path = f"/opentelemetry.proto.collector.{service}/Export" if way.is_grpc else path
    head = (("content-type", way.content_type), *RIGHT)
    async with (
        RawSink() as sink,
        running_worker(backends=sink_backends(sink), keys=[entry(KEY)]) as gateway,
        Http2Client(gateway.port) as client,
    ):
        for _ in range(3):
            large = await client.request(path, (*head, ("x", "y" * 90_000)), MESSAGE)
            good = await client.request(path, head, MESSAGE)
            if way.is_grpc:
                assert (large.grpc_status, good.grpc_status) == (8, 0)
            else:
                assert (large.status, good.status) == (431, 200)


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto; a=b"])
async def test_grpc_over_http1_is_told_so_in_grpc_and_logged_once(kind: str, version: str) -> None:
    """As nginx sends it with `proxy_pass`. It makes a trailers-only answer over HTTP/2 of this.
    The connection goes on, and neither key nor path matter.
    """
    async with (
        RawSink() as sink,
        running_worker(backends=sink_backends(sink), keys=[entry(KEY)]) as gateway,
        raw_client(gateway.port) as client,
    ):
        paths = (
            "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
            "/jaeger.api_v2.CollectorService/PostSpans",
            "/grpc.health.v1.Health/Check",
            "/v1/logs",
        )
        with structlog.testing.capture_logs() as events:
            for path in paths if version == "1.1" else paths[:1]:
                head = f"POST {path} HTTP/{version}\r\nHost: a\r\nContent-Type: {kind}\r\n"
                await client.send(f"{head}Content-Length: 7\r\n\r\n".encode() + MESSAGE)
                answer = await client.receive_answer()
                assert (answer.start, answer.body) == ("200", b"")
                assert answer.value("content-length") == "0"
                assert answer.value("content-type") == "application/grpc"
                assert answer.value("grpc-status") == "3"
                message = answer.value("grpc-message")
                assert message is not None
                assert message.startswith("gRPC needs HTTP/2 end to end")
        assert [event["event"] for event in events] == [GRPC_OVER_HTTP1]
        assert not sink.requests


async def test_what_is_no_grpc_over_http1_is_answered_in_http() -> None:
    """gRPC-Web is made for HTTP/1.1, and the agents' receiver takes any content type."""
    async with (
        RawSink() as sink,
        running_worker(backends=sink_backends(sink), keys=[entry(KEY)]) as gateway,
    ):
        for path, kind, status in (
            ("/v1/logs", "application/grpc-web+proto", 415),
            ("/v1/logs", "application/grpcx", 415),
            ("/intake", "application/grpc", 503),
        ):
            head = (("content-type", kind), *RIGHT)
            assert (await http1_request(gateway.port, path, head, MESSAGE)).status == status


_Check = tuple[str, int, dict[str, Any]]
_ORDER: Final[tuple[_Check, ...]] = (
    ("path", 404, {"path": "/nowhere"}),
    ("method", 405, {"method": "PUT"}),
    ("key", 401, {"fields": ()}),
    ("type", 415, {"kind": "text/plain"}),
    ("size", 413, {"body": b"x" * 101}),
    ("limits", 503, {"is_full": True}),
)


@pytest.mark.parametrize(
    "first, second",
    list(itertools.combinations(_ORDER, 2)),
    ids=lambda check: check[0],
)
async def test_the_first_check_that_fails_answers(first: _Check, second: _Check) -> None:
    """Pairwise: of two faults the one that stands first in the order is told."""
    faults: dict[str, Any] = {**first[2], **second[2]}
    expected = first[1]
    changed = limits(
        max_body_bytes=100, buffer_memory_bytes=0 if faults.get("is_full") else 1_000_000
    )
    async with (
        RawSink() as sink,
        running_worker(backends=sink_backends(sink), keys=[entry(KEY)], limits=changed) as gateway,
    ):
        body = faults.get("body", b"")
        response = await http1_request(
            gateway.port,
            faults.get("path", "/v1/traces"),
            (
                ("content-type", faults.get("kind", PROTOBUF)),
                ("Content-Length", str(len(body))),
                *faults.get("fields", RIGHT),
            ),
            body,
            method=faults.get("method", "POST"),
        )
        assert response.status == expected
        assert not sink.requests


@pytest.mark.parametrize("code", [1, 2, 3, 5, 8, 9, 10, 11, 13, 14, 15])
async def test_every_grpc_code_of_the_backend_is_relayed(code: int) -> None:
    """With message and details, as they are."""
    answer = Answer(
        grpc_status=code, grpc_message="why%20not", trailers=(("grpc-status-details-bin", "CAE"),)
    )
    async with (
        RawSink(lambda _: answer) as sink,
        running_worker(backends=sink_backends(sink), keys=[entry(KEY)]) as gateway,
    ):
        response = await _send(gateway.port, GRPC_H2, Signal.TRACES, RIGHT, MESSAGE)
        assert response.grpc_status == code
        assert response.field("grpc-message") == "why%20not"
        assert response.field("grpc-status-details-bin") == "CAE"


@pytest.mark.parametrize("code", [202, 204, 400, 408, 409, 413, 418, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("way", [PROTOBUF_H1, JSON_H2], ids=lambda way: way.name)
async def test_every_http_code_of_the_backend_is_relayed(way: Way, code: int) -> None:
    """With body and Retry-After, as they are: 502 and 504 stay what they are."""
    body = b"" if code == 204 else b"the backend's own words"
    answer = Answer(
        status=code, body=body, fields=(("retry-after", "17"), ("content-type", way.content_type))
    )
    async with (
        RawSink(lambda _: answer) as sink,
        running_worker(backends=sink_backends(sink), keys=[entry(KEY)]) as gateway,
    ):
        response = await _send(gateway.port, way, Signal.TRACES, RIGHT, MESSAGE)
        assert (response.status, response.body) == (code, body)
        assert response.field("retry-after") == "17"


@EVERY_PROTOCOL
async def test_a_signal_that_the_backend_does_not_know_raises_the_alarm(way: Way) -> None:
    """404 and 12 are relayed: the caller's data is not for this backend."""
    async with (
        RawSink(lambda _: Answer(404, 12)) as sink,
        running_worker(backends=sink_backends(sink), keys=[entry(KEY)]) as gateway,
    ):
        response = await _send(gateway.port, way, Signal.PROFILES, RIGHT, MESSAGE)
        assert response.grpc_status == 12 if way.is_grpc else response.status == 404
        assert gateway.count(metrics.BACKEND_ROUTE_MISSING) == 1


@EVERY_PROTOCOL
async def test_a_shared_keys_refusal_by_the_backend_is_relayed(way: Way) -> None:
    """A key that an authority allowed, forwarded as it came: the backend's no is the caller's."""
    async with (
        RawSink(lambda _: Answer(401, 16)) as sink,
        running_worker(backends=sink_backends(sink), keys=[entry(KEY, shared=True)]) as gateway,
    ):
        response = await _send(gateway.port, way, Signal.LOGS, RIGHT, MESSAGE)
        assert response.grpc_status == 16 if way.is_grpc else response.status == 401
        assert gateway.count(metrics.BACKEND_AUTH_REFUSED) == 0


@EVERY_PROTOCOL
@pytest.mark.parametrize("policy", ["client", "gateway", "none"])
async def test_the_backend_sees_the_credential_of_the_policy(way: Way, policy: str) -> None:
    """The caller's key under the backend's scheme, the gateway's, or none; identity is ours."""
    forward = ForwardSettings(
        policy,  # type: ignore[arg-type]  # parametrized
        "the-backends-key",
        "SUSEObservability",
        identity_headers=True,
    )
    sent = (
        ("authorization", f"sTaCkStAtE   {KEY}"),
        ("sts-api-key", KEY),
        ("x-gateway-key-id", "forged"),
        ("x-gateway-key-name", "forged"),
        ("user-agent", "sender/1"),
        ("traceparent", "00-1-2-01"),
        ("x-scope", "a b"),
    )
    async with (
        RawSink() as sink,
        running_worker(
            backends=sink_backends(sink), keys=[entry(KEY, "42", name="Küche 1%")], forward=forward
        ) as gateway,
    ):
        await _send(gateway.port, way, Signal.TRACES, sent, MESSAGE)
        (request,) = sink.requests
        expected = {
            "client": (f"SUSEObservability {KEY}", None),
            "gateway": ("SUSEObservability the-backends-key", None),
            "none": (None, None),
        }[policy]
        assert (request.field("authorization"), request.field("sts-api-key")) == expected
        assert request.values("x-gateway-key-id") == ["42"]
        assert request.values("x-gateway-key-name") == ["K%C3%BCche 1%25"]
        assert request.field("user-agent") == "sender/1"
        assert request.field("traceparent") == "00-1-2-01"
        assert request.field("x-scope") == "a b"


@EVERY_PROTOCOL
@pytest.mark.parametrize(
    "sent",
    [
        (("authorization", f"StackState {KEY}"),),
        (("authorization", f"stackstate {KEY}"),),
        (("authorization", f"StackState   {KEY}"),),
        (("authorization", f"SUSEObservability {KEY}"),),
        (("sts-api-key", KEY),),
        (("sts-api-key", KEY), ("authorization", f"StackState {KEY}")),
        (("dd-api-key", "no-carrier-of-otlp"), ("sts-api-key", KEY)),
    ],
    ids=str,
)
async def test_the_backend_gets_the_senders_key_in_one_spelling(way: Way, sent: Fields) -> None:
    """Whatever carrier the sender used: a backend knows one scheme, to the letter."""
    async with (
        RawSink() as sink,
        running_worker(backends=sink_backends(sink), keys=[entry(KEY)]) as gateway,
    ):
        for _ in range(2):
            await _send(gateway.port, way, Signal.TRACES, sent, MESSAGE)
        for request in sink.requests:
            carried = [request.values(name) for name in ("authorization", "sts-api-key")]
            assert carried == [[f"StackState {KEY}"], []]
            assert request.field("dd-api-key") is None
        assert len(sink.requests) == 2


def test_the_matrix_covers_every_answer_of_the_gateway() -> None:
    """A reason that no case provokes is a row that nobody has seen."""
    from gateway.outcome import REFUSALS  # noqa: PLC0415 - only for the names

    elsewhere = {
        "BACKEND_TIMEOUT", "BACKEND_UNREACHABLE", "CANCELED", "CONNECTION_LIMIT", "GRPC_MEDIA_TYPE",
        "GRPC_NEEDS_HTTP2", "TLS_NEEDED",
        "HEAD_TOO_LARGE", "INTERNAL", "MALFORMED", "MEDIA_TYPE", "METHOD_NOT_ALLOWED",
        "INTAKE_KEY_MISSING", "INTAKE_SCHEME", "KEY_BASIC", "SERVICE_BEARER",
        "NO_BACKEND_INTAKE", "NO_BACKEND_OTLP_GRPC", "NO_BACKEND_OTLP_HTTP", "NO_BACKEND_ROUTE",
        "NOT_FOUND", "QUOTA", "STALLED", "UPLOAD_TOO_SLOW",
        "CERTIFICATE_EXPIRED", "CERTIFICATE_MALFORMED", "CERTIFICATE_MISSING",
        "CERTIFICATE_REVOKED", "CERTIFICATE_UNKNOWN", "IDENTITY_MISSING",
    }  # fmt: skip
    assert {case.reason for case in CASES} | elsewhere == set(REFUSALS)
