"""What real clients do with each answer: deliver, retry or drop.

The codes are only half of a contract; the other half is what the Collector's two exporters and the
Python SDK (versions pinned) make of them. A retryable outcome is healed after the first attempt,
so that "retried" means that every item has arrived, once.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import pytest_asyncio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]  # no stubs
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # no stubs
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from tests.interop.fleet import AUTHORIZATION, Fleet, counted, running_fleet, until_counted
from tests.support.certs import Authority, Certificate
from tests.support.collector import DROPPED, running_collector
from tests.support.decode import batch_of, numbers
from tests.support.exchange import accept
from tests.support.process import free_ports, running_gateway
from tests.support.sdk import SdkSender
from tests.support.sink import Answer, Break, RawSink, Request, Script

pytestmark = pytest.mark.asyncio(loop_scope="module")

Tool = Callable[[str], Path]
Reaction = Literal["delivered", "retried", "dropped"]

SENDERS = ("otlp", "otlphttp", "sdk-grpc", "sdk-http")
ITEMS = range(10)
TOO_MANY = range(5000)
"""More than `limits.max_body` holds."""


def _retry_details() -> tuple[tuple[str, str], ...]:
    """Return RetryInfo of a second in `grpc-status-details-bin`, where grpc-go looks for it."""
    status = Status(code=8, message="slow down")
    detail = AnyMessage()
    detail.Pack(RetryInfo(retry_delay=Duration(seconds=1)))
    status.details.append(detail)
    encoded = base64.b64encode(status.SerializeToString()).decode().rstrip("=")
    return (("grpc-status-details-bin", encoded),)


def _partial_success() -> bytes:
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = 1
    response.partial_success.error_message = "one was bad"
    return response.SerializeToString()


@dataclass(frozen=True, slots=True)
class Case:
    """One outcome: how it comes about, and what each sender must do then."""

    reaction: Reaction
    grpc: Answer = field(default_factory=Answer)
    """The backend's first answer; `http` likewise."""
    http: Answer = field(default_factory=Answer)
    authorization: str = AUTHORIZATION
    items: range = ITEMS
    reaches_backend: bool = True
    but: Mapping[str, Reaction] = field(default_factory=dict)
    """Senders that react in another way."""

    def reaction_of(self, sender: str) -> Reaction:
        return self.but.get(sender, self.reaction)

    def attempts(self, sender: str) -> int:
        """Return how many requests the backend sees in all."""
        return 2 if self.reaction_of(sender) == "retried" else int(self.reaches_backend)


CASES = {
    "accepted": Case("delivered"),
    "accepted in part": Case(
        "delivered", grpc=Answer(body=_partial_success()), http=Answer(body=_partial_success())
    ),
    "key missing": Case("dropped", authorization="", reaches_backend=False),
    "key malformed": Case("dropped", authorization="Bearer some-key", reaches_backend=False),
    "key unknown": Case("dropped", authorization="StackState unknown", reaches_backend=False),
    "body too large": Case("dropped", items=TOO_MANY, reaches_backend=False),
    "the backend refuses the key that we allowed": Case(
        "retried", grpc=Answer(grpc_status=16), http=Answer(status=401)
    ),
    "the backend forbids the key that we allowed": Case(
        "retried", grpc=Answer(grpc_status=7), http=Answer(status=403)
    ),
    "the backend is overloaded": Case(
        "retried",
        grpc=Answer(grpc_status=14, grpc_message="busy"),
        http=Answer(status=503, fields=(("retry-after", "1"),)),
    ),
    "the backend throttles with a hint": Case(
        "retried",
        grpc=Answer(grpc_status=8, trailers=_retry_details()),
        http=Answer(status=429, fields=(("retry-after", "1"),)),
    ),
    "the backend throttles without a hint": Case(
        "retried",
        grpc=Answer(grpc_status=8),
        http=Answer(status=429),
        but={"otlp": "dropped"},  # RESOURCE_EXHAUSTED without RetryInfo (OTLP, "Failures")
    ),
    "the backend times out": Case("retried", grpc=Answer(grpc_status=4), http=Answer(status=504)),
    "the backend never answers": Case(
        "retried", grpc=Answer(breaks=Break("silence")), http=Answer(breaks=Break("silence"))
    ),
    "the backend finds the data bad": Case(
        "dropped", grpc=Answer(grpc_status=3), http=Answer(status=400)
    ),
    "the backend has no such route": Case(
        "dropped", grpc=Answer(grpc_status=12), http=Answer(status=404)
    ),
    "the backend closes before its answer": Case(
        "retried", grpc=Answer(breaks=Break("close")), http=Answer(breaks=Break("close"))
    ),
    "the backend resets before its answer": Case(
        "retried", grpc=Answer(breaks=Break("reset")), http=Answer(breaks=Break("reset"))
    ),
    "the backend goes away": Case(
        "retried", grpc=Answer(breaks=Break("goaway", code=0)), http=Answer(breaks=Break("close"))
    ),
    "the backend breaks off after its head": Case(
        "retried",
        grpc=Answer(breaks=Break("reset", after="head")),
        http=Answer(body=b"unfinished", breaks=Break("close", after="head")),
    ),
    "the backend breaks off in its body": Case(
        "retried",
        grpc=Answer(body=b"unfinished", breaks=Break("close", after="half")),
        http=Answer(body=b"unfinished", breaks=Break("close", after="half")),
    ),
    "the backend breaks off after its body": Case(
        "retried",
        grpc=Answer(breaks=Break("reset", after="body")),
        http=Answer(
            body=b"unfinished",
            fields=(("transfer-encoding", "chunked"),),
            breaks=Break("close", after="body"),
        ),
    ),
}


@pytest_asyncio.fixture(loop_scope="module", scope="module", name="fleet")
async def _fleet(
    tmp_path_factory: pytest.TempPathFactory, server_certificate: Certificate, authority: Authority
) -> AsyncIterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    overrides = {"limits": {"max_body": "64KiB", "request_timeout": "3s"}}
    async with running_fleet(folder, server_certificate, authority.cert_file, overrides) as fleet:
        fleet.sink.aborts_are_faults = False
        yield fleet


@dataclass(slots=True)
class Sending:
    """A batch on its way, in the hands of a real client."""

    until_dropped: Callable[[], Awaitable[object]]
    dropped: bool = False
    """Whether the client has given it up; known at the end of the block."""


def _exporter(kind: str, port: int, authorization: str) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "compression": "none",
        "retry_on_failure": {"initial_interval": "100ms", "randomization_factor": 0},
    }
    if authorization:
        settings["headers"] = {"Authorization": authorization}
    if kind == "otlp":
        return settings | {"endpoint": f"127.0.0.1:{port}", "tls": {"insecure": True}}
    return settings | {"endpoint": f"http://127.0.0.1:{port}"}


@dataclass(frozen=True, slots=True)
class Client:
    """One of SENDERS, ready to send through a gateway."""

    kind: str
    tool: Tool
    folder: Path
    port: int
    authorization: str = AUTHORIZATION

    @asynccontextmanager
    async def sending(self, *batches: range) -> AsyncIterator[Sending]:
        """Have the client send batches, and let it end with the block."""
        if self.kind.startswith("sdk-"):
            async with self._sdk_sending(batches) as sending:
                yield sending
            return
        part = {"exporters": {self.kind: _exporter(self.kind, self.port, self.authorization)}}
        binary = self.tool("otelcol")
        async with running_collector(binary, self.folder, part, ["traces"]) as collector:
            for batch in batches:
                await collector.send("traces", batch)
            sending = Sending(lambda: collector.program.wait_line(DROPPED))
            try:
                yield sending
            except TimeoutError as error:
                pytest.fail(f"{error}; the Collector says:\n{collector.program.output}")
            sending.dropped = collector.logged(DROPPED) > 0

    @asynccontextmanager
    async def _sdk_sending(self, batches: tuple[range, ...]) -> AsyncIterator[Sending]:
        protocol = cast("Literal['grpc', 'http']", self.kind.removeprefix("sdk-"))
        sender = SdkSender(protocol, self.port, self.authorization)

        async def send_all() -> bool:
            return all([await sender.send("traces", batch) for batch in batches])

        task = asyncio.create_task(send_all())
        sending = Sending(lambda: asyncio.wait([task]))
        try:
            yield sending
        finally:
            sending.dropped = not await task


async def first_of(*waiting: Awaitable[object]) -> None:
    """Return as soon as one of these is over; what it raises is raised."""
    tasks = [asyncio.ensure_future(each) for each in waiting]
    done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    for task in done:
        task.result()


def once(case: Case) -> Script:
    """Return a script that answers a case's way once and accepts ever after."""
    asked: list[Request] = []

    def script(request: Request) -> Answer:
        asked.append(request)
        if len(asked) > 1:
            return Answer()
        return case.grpc if request.is_grpc else case.http

    return script


@pytest.mark.parametrize("kind", SENDERS)
@pytest.mark.parametrize("name", CASES)
async def test_a_real_client_reacts_as_the_outcome_intends(
    fleet: Fleet, tool: Tool, tmp_path: Path, name: str, kind: str
) -> None:
    case = CASES[name]
    fleet.forget()
    fleet.sink.script = once(case)
    client = Client(kind, tool, tmp_path, fleet.port, case.authorization)

    async with client.sending(case.items) as sending:
        if case.reaction_of(kind) == "dropped":
            await sending.until_dropped()
        else:
            await first_of(fleet.sink.wait_for(case.attempts(kind)), sending.until_dropped())

    fleet.sink.script = accept
    requests = fleet.sink.requests
    # A second attempt is a retry, whoever made it: the gateway asks once more by itself where the
    # backend has certainly not begun.
    kept: Reaction = "retried" if len(requests) > 1 else "delivered"
    assert ("dropped" if sending.dropped else kept) == case.reaction_of(kind)
    assert len(requests) == case.attempts(kind)
    assert [sorted(numbers(batch_of(r))) for r in requests] == [list(case.items)] * len(requests)
    fleet.check()
    # A gRPC body declares no length: what is too large is broken off when that shows, rightly.
    assert [len(request.body) for request in fleet.sink.aborted if len(request.body) < 16_000] == []


@pytest.mark.parametrize("kind", SENDERS)
async def test_an_unreachable_backend_costs_a_real_client_nothing(
    tool: Tool, tmp_path: Path, kind: str
) -> None:
    http2_port, http1_port = free_ports(2)
    backends = {
        "otlp_grpc": {"urls": [f"http://127.0.0.1:{http2_port}"]},
        "otlp_http": {"urls": [f"http://127.0.0.1:{http1_port}"]},
    }
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(running_gateway(tmp_path, {"backends": backends}))
        client = Client(kind, tool, tmp_path, gateway.port)
        async with client.sending(ITEMS) as sending:
            await until_counted(gateway, "gateway_requests_total", result="backend_unreachable")
            sink = await stack.enter_async_context(RawSink(ports=(http2_port, http1_port)))
            await sink.wait_for(1)
        assert not sending.dropped
        assert [sorted(numbers(batch_of(request))) for request in sink.requests] == [list(ITEMS)]


@pytest.mark.parametrize("kind", SENDERS)
async def test_a_real_client_over_its_quota_is_slowed_down_and_loses_nothing(
    server_certificate: Certificate, authority: Authority, tool: Tool, tmp_path: Path, kind: str
) -> None:
    overrides = {"limits": {"per_key": {"requests": 1}}, "workers": 1}
    batches = [range(start, start + 10) for start in (0, 10, 20)]
    async with running_fleet(tmp_path, server_certificate, authority.cert_file, overrides) as fleet:
        client = Client(kind, tool, tmp_path, fleet.port)
        async with client.sending(*batches) as sending:
            await fleet.sink.wait_for(len(batches))
        assert not sending.dropped
        assert fleet.seen("traces") == dict.fromkeys(range(30), 1)
        assert await counted(fleet.gateway, "gateway_requests_total", result="quota") > 0
        fleet.check()
