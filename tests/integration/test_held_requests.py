"""Requests of the process agent wait in the gateway while the receiver is away: the agent sends
nothing a second time, whatever it is told (wire contract, reactions).
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from gateway import metrics
from gateway.model import BackendName
from gateway.settings import IntakeSettings
from tests.support.clients import Http2Client, Response
from tests.support.exchange import Answer, Break, Request
from tests.support.intake_gateway import ask
from tests.support.plane import KEY, MIB, RunningWorker, backend, entry, limits, running_worker
from tests.support.polling import WAIT_S, until
from tests.support.process import KEY as SERVED_KEY
from tests.support.process import Gateway, free_ports, running_gateway
from tests.support.raw_http1 import raw_client
from tests.support.sink import RawSink

BOTH: Final = pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
PATH: Final = "/receiver/stsAgent/api/v1/connections"
HOLDS: Final = IntakeSettings(hold_timeout_s=25.0)
OTHER_KEY: Final = "another-key"
MOST: Final = MIB // 4
"""What may be held of an account of 1 MiB."""


@asynccontextmanager
async def holding(port: int, **changes: Any) -> AsyncIterator[RunningWorker]:
    """Run a gateway whose receiver should be on `port`."""
    setting: dict[str, Any] = {
        "keys": [entry(KEY, "7"), entry(OTHER_KEY, "8")],
        "backends": (backend(BackendName.INTAKE, f"http://127.0.0.1:{port}"),),
        "intake": HOLDS,
        **changes,
    }
    async with running_worker(**setting) as gateway:
        yield gateway


def held(gateway: RunningWorker) -> int:
    return len(gateway.path.services.holding)


async def until_held(gateway: RunningWorker, count: int) -> None:
    await gateway.until(lambda: held(gateway) == count, f"{count} requests held")


async def until_ever_held(gateway: RunningWorker, count: int) -> None:
    await gateway.until(lambda: gateway.count(metrics.INTAKE_HELD_TOTAL) == count)


def asking(
    gateway: RunningWorker, body: bytes = b"{}", *, key: str = KEY, http2: bool = False
) -> asyncio.Task[Response]:
    """Begin to send a message of the process agent."""
    fields = (("sts-api-key", key),)
    return asyncio.create_task(ask(gateway.port, PATH, fields, body, http2=http2))


@BOTH
@pytest.mark.parametrize("body", [b"", b"{}", bytes(200_000)], ids=["empty", "small", "large"])
async def test_a_request_is_delivered_when_the_receiver_is_back(body: bytes, http2: bool) -> None:
    (port,) = free_ports(1)
    async with holding(port) as gateway:
        call = asking(gateway, body, http2=http2)
        await until_held(gateway, 1)
        async with RawSink(lambda _: Answer(202), ports=(0, port)) as sink:
            assert (await call).status == 202
            assert [request.body for request in sink.requests] == [body]
        assert gateway.count(metrics.INTAKE_HELD_TOTAL) == 1
        assert gateway.count(metrics.REQUESTS, "intake", "intake", "202", "accepted") == 1


async def test_many_requests_are_delivered_once_each() -> None:
    (port,) = free_ports(1)
    bodies = [b"message %d" % number for number in range(100)]
    async with holding(port) as gateway:
        calls = [asking(gateway, body) for body in bodies]
        await until_held(gateway, len(bodies))
        async with RawSink(lambda _: Answer(202), ports=(0, port)) as sink:
            assert {answer.status for answer in await asyncio.gather(*calls)} == {202}
            assert sorted(request.body for request in sink.requests) == sorted(bodies)


@BOTH
@pytest.mark.parametrize(
    "away",
    [
        Answer(breaks=Break("close")),
        Answer(breaks=Break("reset")),
        Answer(502),
        Answer(503, body=b"no healthy upstream", fields=(("content-type", "text/plain"),)),
        Answer(504, body=b"<html>", fields=(("content-type", "text/html"),)),
    ],
    ids=["closes", "resets", "502", "503", "504"],
)
async def test_a_receiver_that_goes_away_gets_the_request_again(away: Answer, http2: bool) -> None:
    """By itself, or with a proxy before it that stays."""
    answers = [Answer(202), away]

    def script(_: Request) -> Answer:
        return answers.pop() if len(answers) > 1 else answers[0]

    async with RawSink(script) as sink, holding(sink.http_port) as gateway:
        answer = await asking(gateway, b"data", http2=http2)
        assert answer.status == 202
        assert [request.body for request in sink.requests] == [b"data", b"data"]
        assert gateway.count(metrics.INTAKE_HELD_TOTAL) == 1
        sink.take_faults()


@BOTH
async def test_a_receiver_that_says_when_to_come_again_is_not_away(http2: bool) -> None:
    busy = Answer(503, body=b"busy", fields=(("retry-after", "9"),))
    async with RawSink(lambda _: busy) as sink, holding(sink.http_port) as gateway:
        answer = await asking(gateway, http2=http2)
        assert (answer.status, answer.body) == (503, b"busy")
        assert len(sink.requests) == 1


@BOTH
async def test_a_receiver_that_stays_away_is_given_up(http2: bool) -> None:
    async with holding(1, sweeping=False) as gateway:
        call = asking(gateway, http2=http2)
        await until_held(gateway, 1)
        gateway.sweep(24)
        await until_held(gateway, 1)
        gateway.sweep(26)
        answer = await call
        assert (answer.status, answer.field("retry-after")) == (503, "2")
        labels = "intake", "intake", "503", "backend_unreachable"
        assert gateway.count(metrics.REQUESTS, *labels) == 1


@BOTH
async def test_whoever_tries_again_by_itself_is_answered_at_once(http2: bool) -> None:
    async with holding(1) as gateway:
        for path in ("/intake", "/api/v1/series", "/logs/k8s"):
            assert (await ask(gateway.port, path, http2=http2)).status == 503
        assert gateway.count(metrics.INTAKE_HELD_TOTAL) == 0


async def test_zero_holds_nothing() -> None:
    async with holding(1, intake=IntakeSettings()) as gateway:
        assert (await asking(gateway)).status == 503
        assert gateway.count(metrics.INTAKE_HELD_TOTAL) == 0


@BOTH
async def test_a_drain_ends_the_waiting(http2: bool) -> None:
    async with holding(1) as gateway:
        call = asking(gateway, http2=http2)
        await until_held(gateway, 1)
        gateway.worker.start_drain()
        assert (await call).status == 503
        assert held(gateway) == 0


@BOTH
async def test_a_worker_that_is_replaced_goes_on_holding(http2: bool) -> None:
    (port,) = free_ports(1)
    async with holding(port) as gateway:
        call = asking(gateway, http2=http2)
        await until_held(gateway, 1)
        stopping = asyncio.create_task(gateway.worker.stop(WAIT_S, hold_s=WAIT_S))
        await gateway.until(lambda: gateway.context.is_draining)
        async with RawSink(lambda _: Answer(202), ports=(0, port)) as sink:
            assert (await call).status == 202
            assert len(sink.requests) == 1
            await stopping


@BOTH
async def test_who_is_held_is_answered_before_the_drain_ends(http2: bool) -> None:
    async with holding(1) as gateway:
        call = asking(gateway, http2=http2)
        await until_held(gateway, 1)
        stopping = asyncio.create_task(gateway.worker.stop(WAIT_S, hold_s=3.0))
        assert (await call).status == 503
        await stopping


@pytest.mark.parametrize("how", ["closes", "half-closes", "resets"])
async def test_an_agent_that_hangs_up_takes_no_room(how: str) -> None:
    async with holding(1) as gateway:
        async with raw_client(gateway.port) as client:
            head = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nsts-api-key: {KEY}\r\nContent-Length: 2"
            await client.send(f"{head}\r\n\r\n{{}}".encode())
            await until_held(gateway, 1)
            match how:
                case "closes":
                    client.close()
                case "half-closes":
                    client.finish_sending()
                case _:
                    client.reset()
            await until_held(gateway, 0)
        await gateway.until(lambda: gateway.context.budget.used == 0)
        result = "connections", "process_agent", "canceled"
        assert gateway.count(metrics.INTAKE_REQUESTS, *result) == 1


async def test_a_stream_that_is_reset_takes_no_room() -> None:
    async with holding(1) as gateway, Http2Client(gateway.port) as client:
        stream = await client.start(PATH, (("sts-api-key", KEY),), b"{}", end=True)
        await until_held(gateway, 1)
        client.reset(stream)
        await until_held(gateway, 0)


async def test_what_is_held_is_bounded_and_shared_by_sender() -> None:
    """The sender that holds most gives up its newest; another one still finds room."""
    body = bytes(30_000)
    async with holding(1, limits=limits(buffer_memory_bytes=MIB)) as gateway:
        calls = []
        for number in range(1, 13):
            calls.append(asking(gateway, body))
            await until_ever_held(gateway, number)
        most = held(gateway)
        assert most < 12
        assert gateway.context.budget.used <= MOST
        other = asking(gateway, body, key=OTHER_KEY)
        await until_ever_held(gateway, 13)
        await until_held(gateway, most)
        assert not other.done()
        refused = [call for call in calls if call.done()]
        assert {(await call).status for call in refused} == {503}
        assert calls[: most - 1] == [call for call in calls if not call.done()]
        assert gateway.count(metrics.REQUESTS, "intake", "intake", "503", "overloaded") == 13 - most
        gateway.worker.start_drain()
        await asyncio.gather(*calls, other)


async def test_how_many_are_held_now_is_a_gauge() -> None:
    async with holding(1, sweeping=False) as gateway:
        call = asking(gateway)
        await until_held(gateway, 1)
        gateway.sweep()
        gauges = gateway.context.counters.gauges
        assert gauges[metrics.INTAKE_HELD.name, ()] == 1
        gateway.worker.start_drain()
        await call
        gateway.sweep()
        assert gauges[metrics.INTAKE_HELD.name, ()] == 0


async def test_other_requests_do_not_wait_behind_those_that_are_held() -> None:
    (port,) = free_ports(1)
    async with RawSink() as sink:
        backends = (
            backend(BackendName.INTAKE, f"http://127.0.0.1:{port}"),
            backend(BackendName.OTLP_HTTP, sink.http_url),
        )
        async with holding(port, backends=backends) as gateway:
            call = asking(gateway)
            await until_held(gateway, 1)
            fields = (("sts-api-key", KEY), ("content-type", "application/x-protobuf"))
            assert (await ask(gateway.port, "/v1/traces", fields, b"")).status == 200
            gateway.worker.start_drain()
            await call


async def test_the_installed_gateway_holds_by_default(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    backends = {"backends": {"intake": {"urls": [f"http://127.0.0.1:{port}"]}}}
    async with running_gateway(tmp_path, backends) as gateway:
        fields = (("sts-api-key", SERVED_KEY),)
        call = asyncio.create_task(ask(gateway.port, PATH, fields, b"data"))
        await _until_holding(gateway, 1)
        async with RawSink(lambda _: Answer(202), ports=(0, port)) as sink:
            assert (await call).status == 202
            assert [request.body for request in sink.requests] == [b"data"]


async def test_a_reload_ends_no_waiting_and_the_end_of_the_gateway_does(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    settings = {
        "backends": {"intake": {"urls": [f"http://127.0.0.1:{port}"]}},
        "limits": {"drain_timeout": f"{WAIT_S:g}s"},
    }
    fields = (("sts-api-key", SERVED_KEY),)
    async with running_gateway(tmp_path, settings) as gateway:
        delivered = asyncio.create_task(ask(gateway.port, PATH, fields, b"before"))
        await _until_holding(gateway, 1)
        gateway.program.process.send_signal(signal.SIGHUP)
        await gateway.program.wait_line("the configuration was reloaded")
        async with RawSink(lambda _: Answer(202), ports=(0, port)) as sink:
            assert (await delivered).status == 202
            assert [request.body for request in sink.requests] == [b"before"]

        refused = asyncio.create_task(ask(gateway.port, PATH, fields, b"after"))
        await _until_holding(gateway, 1)
        gateway.program.process.send_signal(signal.SIGHUP)
        await until(lambda: gateway.program.output.count("the configuration was reloaded") == 2)
        gateway.program.process.send_signal(signal.SIGTERM)
        assert (await refused).status == 503
        assert await gateway.program.wait() == 0


async def _until_holding(gateway: Gateway, count: int) -> None:
    async with asyncio.timeout(WAIT_S):
        while f"\ngateway_intake_requests_held {count}" not in (await gateway.get("/metrics"))[1]:
            await asyncio.sleep(0.05)
