"""The life of a gRPC request when its backend or its caller does not behave."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, cast

import pytest
from h2.settings import SettingCodes

from gateway import metrics
from gateway.dataplane.upstream.address import Where
from gateway.model import BackendName
from tests.support.clients import Http2Client, Response
from tests.support.exchange import GRPC, Answer, Break, GrpcMessage, Request
from tests.support.plane import (
    KEY,
    RunningWorker,
    backend,
    entry,
    limits,
    open_connections,
    running_worker,
    sink_backends,
)
from tests.support.sink import RawSink

PATH: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
HEAD: Final = (("content-type", GRPC), ("te", "trailers"), ("authorization", f"StackState {KEY}"))
MESSAGE: Final = GrpcMessage(compressed=False, data=b"\x0a\x00").to_bytes()
KEYS: Final = (entry(KEY),)
LONG_ANSWER: Final = b"\x0a\x04\x08\x01\x12\x00" * 50


async def _export(port: int, *fields: tuple[str, str], body: bytes = MESSAGE) -> Response:
    async with Http2Client(port) as client:
        return await client.request(PATH, (*HEAD, *fields), body)


async def _until_connected(gateway: RunningWorker, count: int) -> None:
    """Wait until the worker has so many connections to the gRPC backend."""
    gauges = gateway.context.counters.gauges

    def holds() -> bool:
        found = [
            value
            for (name, labels), value in gauges.items()
            if name == metrics.BACKEND_CONNECTIONS.name and labels[0] == "otlp_grpc"
        ]
        return bool(found) and sum(found) == count

    await gateway.until(holds, f"{count} connections to the backend")


async def _exports(port: int, count: int) -> Sequence[asyncio.Task[Response]]:
    return [asyncio.create_task(_export(port)) for _ in range(count)]


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("after", ["nothing", "head", "half", "body"])
async def test_an_answer_that_breaks_off_is_never_taken_for_an_end(how: Any, after: Any) -> None:
    """The caller gets 14 and retries: no RST_STREAM that reads as INTERNAL, no status 0."""
    broken = Answer(body=LONG_ANSWER, breaks=Break(how, after, processed=True))
    async with RawSink(lambda _: broken) as sink:
        async with running_worker(backends=sink_backends(sink), keys=KEYS) as gateway:
            response = await _export(gateway.port)
            assert response.ended
            assert response.grpc_status == 14
            assert len(sink.requests) == 1
            assert gateway.count(metrics.BACKEND_REQUESTS, "otlp_grpc", "none") == 1
        sink.take_faults()


async def test_an_answer_too_large_to_be_held_arrives_whole() -> None:
    """It streams, within the caller's windows."""
    large = bytes(range(256)) * 4_000
    async with (
        RawSink(lambda _: Answer(body=large)) as sink,
        running_worker(backends=sink_backends(sink), keys=KEYS) as gateway,
    ):
        response = await _export(gateway.port)
        assert (response.grpc_status, response.message) == (0, large)


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_an_answer_too_large_to_be_held_that_breaks_off_has_no_good_end(how: Any) -> None:
    """The caller is told so in the trailers, or by a reset that it takes for a cancellation."""
    broken = Answer(body=bytes(1_000_000), breaks=Break(how, "half"))
    async with (
        RawSink(lambda _: broken) as sink,
        running_worker(backends=sink_backends(sink), keys=KEYS) as gateway,
    ):
        response = await _export(gateway.port)
        assert response.grpc_status == 14 or (response.grpc_status, response.reset) == (None, 8)
        assert gateway.count(metrics.REQUESTS, "grpc", "traces", "UNAVAILABLE") == 1


async def test_a_backend_that_goes_away_still_answers_what_it_has_taken() -> None:
    """A graceful GOAWAY ends nothing that is open; what comes later goes to a new connection."""
    release = asyncio.Event()
    async with (
        RawSink(lambda _: Answer(wait_for=release)) as sink,
        running_worker(backends=sink_backends(sink), keys=KEYS) as gateway,
    ):
        first = asyncio.create_task(_export(gateway.port))
        await gateway.until(lambda: len(sink.requests) == 1)
        sink.http2_connections[0].goaway(2**31 - 1)
        await _until_connected(gateway, 0)
        second = asyncio.create_task(_export(gateway.port))
        await gateway.until(lambda: len(sink.requests) == 2)
        release.set()
        assert (await first).grpc_status == 0
        assert (await second).grpc_status == 0
        assert [request.connection for request in sink.requests] == [0, 1]


@pytest.mark.parametrize(
    "refusal",
    [Break("reset", code=7), Break("goaway", code=0)],
    ids=["REFUSED_STREAM", "GOAWAY below the stream"],
)
async def test_a_request_that_was_not_processed_is_sent_again_once(refusal: Break) -> None:
    """The body is still held, so the caller does not notice."""
    answers = [Answer(breaks=refusal), Answer(), Answer(breaks=refusal), Answer(breaks=refusal)]
    async with RawSink(lambda _: answers.pop(0)) as sink:
        async with running_worker(backends=sink_backends(sink), keys=KEYS) as gateway:
            assert (await _export(gateway.port)).grpc_status == 0
            assert [request.body for request in sink.requests] == [MESSAGE, MESSAGE]
            assert (await _export(gateway.port)).grpc_status == 14
            assert len(sink.requests) == 4
        sink.take_faults()


async def test_a_body_too_large_to_be_held_is_not_sent_again() -> None:
    """The caller retries instead."""
    body = GrpcMessage(compressed=False, data=b"x" * 300_000).to_bytes()
    async with RawSink(lambda _: Answer(breaks=Break("reset", code=7))) as sink:
        async with running_worker(backends=sink_backends(sink), keys=KEYS) as gateway:
            response = await _export(gateway.port, body=body)
            assert response.grpc_status == 14
            assert len(sink.requests) == 1
        sink.take_faults()


async def test_the_pool_grows_when_the_backends_streams_run_out() -> None:
    """Never more streams on a connection than the backend allows."""
    release = asyncio.Event()
    announced = {SettingCodes.MAX_CONCURRENT_STREAMS: 2}
    async with (
        RawSink(lambda _: Answer(wait_for=release), settings=announced) as sink,
        running_worker(backends=sink_backends(sink), keys=KEYS) as gateway,
    ):
        calls = await _exports(gateway.port, 9)
        await gateway.until(lambda: len(sink.requests) == 9)
        by_connection = [request.connection for request in sink.requests]
        assert sorted(map(by_connection.count, set(by_connection))) == [1, 2, 2, 2, 2]
        release.set()
        assert {(await call).grpc_status for call in calls} == {0}


async def test_requests_that_cannot_wait_either_are_overload() -> None:
    """`max_waiting` bounds the queue; who waits gets the connection in turn."""
    release = asyncio.Event()
    announced = {SettingCodes.MAX_CONCURRENT_STREAMS: 1}
    async with RawSink(lambda _: Answer(wait_for=release), settings=announced) as sink:
        small = backend(BackendName.OTLP_GRPC, sink.grpc_url, max_connections=1, max_waiting=2)
        async with running_worker(backends=(small,), keys=KEYS) as gateway:
            await _until_connected(gateway, 1)
            first = asyncio.create_task(_export(gateway.port))
            await gateway.until(lambda: len(sink.requests) == 1)
            calls = {asyncio.create_task(_export(gateway.port)) for _ in range(4)}
            done: set[asyncio.Task[Response]] = set()
            while len(done) < 2:
                more, calls = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
                done |= more
            assert {call.result().grpc_status for call in done} == {14}
            labels = ("grpc", "traces", "UNAVAILABLE", "overloaded")
            assert gateway.count(metrics.REQUESTS, *labels) == 2
            release.set()
            assert [(await call).grpc_status for call in (first, *calls)] == [0, 0, 0]


async def test_the_least_busy_address_gets_the_request() -> None:
    """Two backends, one of them full of slow requests."""
    release = asyncio.Event()
    slow = lambda _: Answer(wait_for=release)  # noqa: E731 - a script
    async with RawSink(slow) as first, RawSink(slow) as second:
        both = backend(BackendName.OTLP_GRPC, first.grpc_url, second.grpc_url)
        async with running_worker(backends=(both,), keys=KEYS) as gateway:
            await _until_connected(gateway, 2)
            calls = await _exports(gateway.port, 10)
            await gateway.until(lambda: len(first.requests) + len(second.requests) == 10)
            assert (len(first.requests), len(second.requests)) == (5, 5)
            release.set()
            await asyncio.gather(*calls)


async def test_an_address_that_is_down_costs_nothing_while_another_is_up() -> None:
    """Every request reaches the one that answers."""
    async with RawSink() as gone, RawSink() as alive:
        both = backend(BackendName.OTLP_GRPC, gone.grpc_url, alive.grpc_url)
        await gone.__aexit__(None, None, None)
        async with running_worker(backends=(both,), keys=KEYS) as gateway:
            codes = [(await _export(gateway.port)).grpc_status for _ in range(10)]
            assert codes == [0] * 10
            await gone.__aenter__()


async def test_a_backend_that_comes_back_is_used_again() -> None:
    """While it is away requests are to be retried; nobody has to restart anything."""
    async with RawSink() as sink:
        port = sink.grpc_port
        async with running_worker(backends=sink_backends(sink), keys=KEYS) as gateway:
            assert (await _export(gateway.port)).grpc_status == 0
            await sink.__aexit__(None, None, None)
            await _until_connected(gateway, 0)
            assert (await _export(gateway.port)).grpc_status == 14
            async with RawSink(ports=(port, 0)) as again:
                with contextlib.suppress(StopAsyncIteration):
                    while (await _export(gateway.port)).grpc_status != 0:
                        await asyncio.sleep(0)
                assert len(again.requests) == 1
            await sink.__aenter__()


async def test_the_backends_name_is_resolved_again_when_its_connections_are_lost() -> None:
    """A backend that has moved is found without a restart."""
    named = backend(BackendName.OTLP_GRPC, "http://backend.test:4317", min_connections=0)
    asked: list[tuple[str, int]] = []
    async with RawSink() as old, RawSink() as new:
        port = old.grpc_port

        async def resolve(host: str, named_port: int) -> list[Where]:
            asked.append((host, named_port))
            return [Where(socket.AF_INET, ("127.0.0.1", port))]

        async with running_worker(backends=(named,), keys=KEYS, resolve=resolve) as gateway:
            codes = [(await _export(gateway.port)).grpc_status for _ in range(2)]
            assert (codes, len(old.requests), asked) == ([0, 0], 2, [("backend.test", 4317)])
            port = new.grpc_port
            old.http2_connections[0].abort()
            await _until_connected(gateway, 0)
            await gateway.until(lambda: len(asked) == 2)
            assert (await _export(gateway.port)).grpc_status == 0
            assert (len(new.requests), len(old.requests)) == (1, 2)


async def test_a_caller_that_goes_away_cancels_its_request() -> None:
    """By RST_STREAM or by closing; the backend hears of it, other streams do not."""
    release = asyncio.Event()
    async with RawSink(lambda _: Answer(wait_for=release)) as sink:
        async with running_worker(backends=sink_backends(sink), keys=KEYS) as gateway:
            async with Http2Client(gateway.port) as client:
                first = await client.start(PATH, HEAD, MESSAGE, end=True)
                second = await client.start(PATH, HEAD, MESSAGE, end=True)
                await gateway.until(lambda: len(sink.requests) == 2)
                client.reset(first)
                await gateway.until(lambda: len(sink.canceled) == 1)
                async with Http2Client(gateway.port) as other:
                    await other.start(PATH, HEAD, MESSAGE, end=True)
                    await gateway.until(lambda: len(sink.requests) == 3)
                await gateway.until(lambda: len(sink.canceled) == 2)
                release.set()
                assert (await client.answer(second)).grpc_status == 0
            assert gateway.count(metrics.REQUESTS, "grpc", "traces", "CANCELLED", "canceled") == 2
        sink.take_faults()


async def test_an_upload_that_is_given_up_is_never_completed_at_the_backend() -> None:
    """Half a body does not become a whole one."""
    async with RawSink() as sink:
        async with running_worker(backends=sink_backends(sink), keys=KEYS) as gateway:
            pool = gateway.path.pools[BackendName.OTLP_GRPC]
            await gateway.until(lambda: open_connections(pool) == 1)
            async with Http2Client(gateway.port) as client:
                stream = await client.start(PATH, HEAD, b"\0\0\0\1\0half")
                await gateway.until(lambda: gateway.context.counters.in_flight["grpc"] == 1)
                client.reset(stream)
                await gateway.until(lambda: len(sink.aborted) == 1)
            assert not sink.requests
        sink.take_faults()


async def test_the_callers_deadline_is_kept_and_passed_on() -> None:
    """grpc-timeout: 4 when it is over, and the backend knows it too."""
    async with RawSink(lambda _: Answer(breaks=Break("silence"))) as sink:
        async with running_worker(
            backends=sink_backends(sink), keys=KEYS, sweeping=False
        ) as gateway:
            call = asyncio.create_task(_export(gateway.port, ("grpc-timeout", "4S")))
            await gateway.until(lambda: len(sink.requests) == 1)
            assert sink.requests[0].field("grpc-timeout") == "4S"
            gateway.sweep(3)
            assert not call.done()
            gateway.sweep(5)
            assert (await call).grpc_status == 4
        sink.take_faults()


async def test_a_backend_that_vanished_is_noticed_while_a_stream_waits() -> None:
    """Asked by PING after 10 s of silence; given up after 10 s more."""
    accepted = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\0\0\0\4\0\0\0\0\0")
        accepted.set()
        while await reader.read(65_536):
            pass
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with running_worker(
        backends=(backend(BackendName.OTLP_GRPC, url),), keys=KEYS, sweeping=False
    ) as gateway:
        await accepted.wait()
        call = asyncio.create_task(_export(gateway.port))
        await gateway.until(lambda: gateway.context.counters.in_flight["grpc"] == 1)
        gateway.sweep(11)
        gateway.sweep(15)
        assert not call.done()
        gateway.sweep(22)
        assert (await call).grpc_status == 14
    server.close()


async def test_one_connection_may_carry_many_keys() -> None:
    """The verdict is each request's own."""
    keys = [f"key-number-{number}" for number in range(20)]
    async with RawSink() as sink:
        known = [entry(key, str(number)) for number, key in enumerate(keys[::2])]
        async with running_worker(backends=sink_backends(sink), keys=known) as gateway:
            async with Http2Client(gateway.port) as client:
                codes = [
                    (
                        await client.request(
                            PATH, (*HEAD[:2], ("authorization", f"StackState {key}")), MESSAGE
                        )
                    ).grpc_status
                    for key in keys * 2
                ]
            assert codes == [0, 16] * 20
            gateway.collect()
            assert {usage.key_id for usage in gateway.usage} == {str(n) for n in range(10)}


async def test_a_refused_body_gets_no_credit_and_no_internal_error() -> None:
    """Trailers, then RST_STREAM(NO_ERROR): at most the first window is ever read."""
    async with running_worker(keys=KEYS) as gateway:
        async with Http2Client(gateway.port) as client:
            head = (*HEAD[:2], ("authorization", "StackState nobody"))
            stream = await client.start(PATH, head, b"x" * 16_000)
            response = await client.answer(stream)
            assert (response.grpc_status, response.reset) == (16, 0)
            again = await client.request(PATH, head, b"x" * 5_000_000)
            assert again.grpc_status == 16
            assert gateway.context.budget.used == 0
        assert gateway.count(metrics.REQUEST_BYTES) <= 256 * 1024


async def test_a_body_that_grows_beyond_the_limit_is_refused_midway() -> None:
    """The backend's stream is reset, never completed."""
    async with RawSink() as sink:
        async with running_worker(
            backends=sink_backends(sink), keys=KEYS, limits=limits(max_body_bytes=100_000)
        ) as gateway:
            response = await _export(gateway.port, body=b"\0" * 200_000)
            assert response.grpc_status == 8
            assert response.field("google.rpc.retryinfo-bin") is None
            await gateway.until(lambda: len(sink.aborted) == 1)
            assert not sink.requests
        sink.take_faults()


class _Deaf(asyncio.Protocol):
    """A backend whose windows are as wide as can be, and who reads nothing: only its socket's
    buffers hold the gateway back.
    """

    transports: ClassVar[list[asyncio.Transport]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        opened = cast("asyncio.Transport", transport)
        self.transports.append(opened)
        opened.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        asyncio.get_running_loop().call_soon(opened.pause_reading)
        opened.write(b"\0\0\6\4\0\0\0\0\0" + b"\0\4\x7f\xff\xff\xff")
        opened.write(b"\0\0\4\x08\0\0\0\0\0" + b"\x7f\xfe\0\0")

    @classmethod
    def abort(cls) -> None:
        """Reset all connections."""
        while cls.transports:
            cls.transports.pop().abort()


async def test_a_stalled_backend_leaves_the_workers_memory_bounded() -> None:
    """Forty clients with a megabyte each: what is held stays in bounds, who comes later is told
    to retry, and all of it is let go when the backend has been given up.
    """
    bound = 4 * 1024 * 1024
    server = await asyncio.get_running_loop().create_server(_Deaf, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with running_worker(
        backends=(backend(BackendName.OTLP_GRPC, url),),
        keys=KEYS,
        limits=limits(buffer_memory_bytes=bound),
        sweeping=False,
    ) as gateway:
        budget = gateway.context.budget
        peaks = [0]
        async with Http2Client(gateway.port) as early:
            nobody = (*HEAD[:2], ("authorization", "StackState nobody"))
            assert (await early.request(PATH, nobody, MESSAGE)).grpc_status == 16
            body = b"\0" * 1_000_000
            calls = [asyncio.create_task(_export(gateway.port, body=body)) for _ in range(40)]
            while not budget.is_near:
                await asyncio.sleep(0)
                peaks.append(budget.used)
            assert (await early.request(PATH, HEAD, MESSAGE)).grpc_status == 14
            assert gateway.count(metrics.REQUESTS, "grpc", "traces", "UNAVAILABLE", "overloaded")
            # Nothing moves any more: what is held now is the most there will be.
            await _until_still(lambda: budget.used, peaks)
            # A connection notices that the account is full after what it has just read: one window.
            assert max(peaks) <= bound + 40 * 65_536
            while not all(call.done() for call in calls):
                gateway.sweep(61)
                gateway.sweep(122)
                await asyncio.sleep(0)
            assert {call.result().grpc_status for call in calls} <= {4, 14}
        _Deaf.abort()  # what its socket has not taken is held until then, and counted
        await gateway.until(lambda: budget.used == 0)
    server.close()


async def _until_still(read: Callable[[], int], values: list[int], turns: int = 200) -> None:
    """Note values until they have been the same for many turns of the loop."""
    same = 0
    while same < turns:
        await asyncio.sleep(0)
        values.append(read())
        same = same + 1 if values[-1] == values[-2] else 0


async def test_the_first_use_of_a_backend_waits_for_its_settings() -> None:
    """A request that comes before the backend's SETTINGS is not lost."""
    release = asyncio.Event()

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(b"\0\0\0\4\0\0\0\0\0")
        with contextlib.suppress(ConnectionError):
            while await reader.read(65_536):
                pass
        writer.close()

    server = await asyncio.start_server(late, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with running_worker(
        backends=(backend(BackendName.OTLP_GRPC, url),), keys=KEYS, sweeping=False
    ) as gateway:
        call = asyncio.create_task(_export(gateway.port))
        await gateway.until(lambda: gateway.context.counters.in_flight["grpc"] == 1)
        release.set()
        await _until_connected(gateway, 1)
        gateway.sweep(100)
        assert (await call).grpc_status == 4
    server.close()


async def test_alarms_name_the_backend_once_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The metric counts every refusal of an allowed key."""
    async with (
        RawSink(lambda _: Answer(401, 16)) as sink,
        running_worker(backends=sink_backends(sink), keys=KEYS) as gateway,
    ):
        for _ in range(3):
            assert (await _export(gateway.port)).grpc_status == 14
        assert gateway.count(metrics.BACKEND_AUTH_REFUSED, "otlp_grpc") == 3
    assert KEY not in caplog.text


def _script_of_trailers(code: int) -> Any:
    def script(_: Request) -> Answer:
        return Answer(grpc_status=code, body=LONG_ANSWER)

    return script


@pytest.mark.parametrize("code", [16, 7])
async def test_a_refusal_in_the_trailers_is_retryable_too(code: int) -> None:
    """Whether or not a message came before it."""
    async with (
        RawSink(_script_of_trailers(code)) as sink,
        running_worker(backends=sink_backends(sink), keys=KEYS) as gateway,
    ):
        response = await _export(gateway.port)
        assert response.grpc_status == 14
        assert response.field("google.rpc.retryinfo-bin")


def _is_quiet(gateway: RunningWorker) -> bool:
    return not any(gateway.context.counters.in_flight.values())


async def test_draining_lets_open_requests_finish() -> None:
    """GOAWAY first; the answer still comes; then the connection closes."""
    release = asyncio.Event()
    async with (
        RawSink(lambda _: Answer(wait_for=release)) as sink,
        running_worker(backends=sink_backends(sink), keys=KEYS) as gateway,
    ):
        async with Http2Client(gateway.port) as client:
            stream = await client.start(PATH, HEAD, MESSAGE, end=True)
            await gateway.until(lambda: len(sink.requests) == 1)
            gateway.worker.start_drain()
            await client.until_goaway()
            release.set()
            assert (await client.answer(stream)).grpc_status == 0
            await gateway.until(lambda: not gateway.context.connections)
        assert _is_quiet(gateway)
