"""A real worker process under the orders of a real channel."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest

from gateway import metrics
from gateway.channel import Applied, Drain, KeyChanges, Keys, Ready, Report, Unready
from gateway.dataplane.worker import KEYS_PER_STEP
from gateway.model import KeyState
from gateway.settings import ListenerSettings, TlsServerSettings
from gateway.worker_contract import FAILS_AGAIN, NOT_ACCEPTING
from tests.support.certs import Authority
from tests.support.clients import Http2Client, http1_request
from tests.support.exchange import PROTOBUF, Answer, Request
from tests.support.plane import KEY, entry, settings, sink_backends
from tests.support.polling import until
from tests.support.sink import RawSink
from tests.support.worker_process import (
    COMMAND,
    failing_worker,
    worker_processes,
)

MANY = 2 * KEYS_PER_STEP + 1
REST_BYTES = 45 * 1024 * 1024
TLS_CONNECTION_BYTES = 100_000
"""Measured: 49 kB; with asyncio's or uvloop's TLS 430 kB."""
WAIT_S = 20


def fields(key: str) -> tuple[tuple[str, str], ...]:
    return (("content-type", PROTOBUF), ("authorization", f"StackState {key}"))


async def status(port: int, key: str) -> int:
    """Send traces; without a backend 503 means that the key was accepted."""
    return (await http1_request(port, "/v1/traces", fields(key), b"x")).status


def is_open(port: int) -> bool:
    """Whether anybody listens."""
    try:
        with socket.create_connection(("127.0.0.1", port)):
            return True
    except ConnectionRefusedError:
        return False


async def test_a_worker_serves_only_when_it_has_all_keys() -> None:
    async with worker_processes() as workers:
        worker = workers.one
        waiting = asyncio.ensure_future(status(workers.port, "second"))
        worker.send(Keys(1, [entry("first")], first=True, last=False))
        await worker.next(Report)
        assert not worker.all(Ready)
        assert workers.counts.read() == [NOT_ACCEPTING]
        worker.send(Keys(1, [entry("second")], first=False, last=True))
        assert (await worker.next(Ready)).pid == worker.process.pid
        assert await waiting == 503
        assert await status(workers.port, "first") == 503
        assert await status(workers.port, "third") == 401


async def test_changes_of_keys_are_confirmed_when_they_count() -> None:
    async with worker_processes() as workers:
        worker = workers.one
        await worker.load([entry("old")], revision=7)
        assert await status(workers.port, "new") == 401
        revoked = entry("old", state=KeyState.REVOKED)
        worker.send(KeyChanges(8, [entry("new", "2"), revoked], []))
        await worker.next(Applied, lambda applied: applied.revision == 8)
        assert await status(workers.port, "new") == 503
        assert await status(workers.port, "old") == 401
        worker.send(KeyChanges(9, [], [entry("new").digest]))
        await worker.next(Applied, lambda applied: applied.revision == 9)
        assert await status(workers.port, "new") == 401


async def test_changes_too_large_for_one_turn_are_confirmed_once_in_order_and_whole() -> None:
    async with worker_processes() as workers:
        worker = workers.one
        await worker.load([])
        many = [entry(f"key-{number}", str(number)) for number in range(MANY)]
        worker.send(KeyChanges(2, many, []))
        worker.send(KeyChanges(3, [], [key.digest for key in many[1:]]))
        worker.send(KeyChanges(4, [many[-1]], []))
        await worker.next(Applied, lambda applied: applied.revision == 4)
        assert [applied.revision for applied in worker.all(Applied)] == [2, 3, 4]
        assert await status(workers.port, "key-0") == 503
        assert await status(workers.port, "key-1") == 401
        assert await status(workers.port, f"key-{MANY - 2}") == 401
        assert await status(workers.port, f"key-{MANY - 1}") == 503


async def test_all_keys_can_be_replaced_while_the_worker_serves() -> None:
    async with worker_processes() as workers:
        worker = workers.one
        await worker.load([entry("old")], revision=1)
        worker.send(Keys(5, [entry("new")], first=True, last=False))
        worker.send(Keys(5, [entry("newer")], first=False, last=True))
        await worker.next(Applied, lambda applied: applied.revision == 5)
        assert len(worker.all(Ready)) == 1
        assert await status(workers.port, "old") == 401
        assert await status(workers.port, "new") == 503
        assert await status(workers.port, "newer") == 503


async def test_what_is_counted_refused_and_used_is_reported_each_second() -> None:
    async with RawSink() as sink, worker_processes(backends=sink_backends(sink)) as workers:
        worker = workers.one
        await worker.load([entry(KEY, "42")])
        answer = await http1_request(workers.port, "/v1/traces", fields(KEY), b"abc")
        assert answer.status == 200
        assert await status(workers.port, "a-key-that-nobody-made") == 401
        await until(lambda: worker.count(metrics.REQUESTS.name) == 2)
        assert worker.count(metrics.REQUESTS.name, "http", "traces", "200", "accepted") == 1
        assert worker.count(metrics.REQUEST_BYTES.name, "http", "traces") >= 3
        (refused,) = (await worker.next(Report, lambda report: bool(report.refusals))).refusals
        assert (refused.reason, refused.count) == ("key_unknown", 1)
        (usage,) = (await worker.next(Report, lambda report: bool(report.usage))).usage
        assert (usage.key_id, usage.requests, usage.bytes) == ("42", 1, 3)
        gauges = {series.metric for series in worker.all(Report)[-1].gauges}
        assert {metrics.CONNECTIONS.name, metrics.BUFFER_BYTES.name} <= gauges
        assert "a-key-that-nobody-made" not in worker.log() + repr(worker.messages)
        assert KEY not in worker.log() + repr(worker.messages)


async def test_a_drain_finishes_what_is_open_reports_it_and_ends_the_process() -> None:
    release = asyncio.Event()

    def slowly(_: Request) -> Answer:
        return Answer(wait_for=release)

    async with RawSink(slowly) as sink, worker_processes(backends=sink_backends(sink)) as workers:
        worker = workers.one
        await worker.load([entry(KEY)])
        pending = asyncio.ensure_future(status(workers.port, KEY))
        await sink.wait_for(1)
        worker.send(Drain(WAIT_S))
        await until(lambda: workers.counts.read() == [NOT_ACCEPTING])
        assert worker.process.poll() is None
        release.set()
        assert await pending == 200
        assert await worker.exit_code() == 0
        assert worker.count(metrics.REQUESTS.name, "http", "traces", "200", "accepted") == 1


async def test_a_drain_ends_when_its_time_is_over() -> None:
    async with worker_processes() as workers:
        worker = workers.one
        await worker.load([])
        with socket.create_connection(("127.0.0.1", workers.port)) as client:
            client.sendall(b"POST /v1/traces HTTP/1.1\r\n")
            await until(lambda: workers.counts.read() == [1])
            worker.send(Drain(0.05))
            assert await worker.exit_code() == 0


async def test_a_worker_told_to_drain_before_it_has_keys_ends() -> None:
    async with worker_processes() as workers:
        workers.one.send(Drain(WAIT_S))
        assert await workers.one.exit_code() == 0
        assert not workers.one.all(Ready)


async def test_an_unready_worker_tells_probes_and_serves_on() -> None:
    async with worker_processes() as workers:
        await workers.one.load([entry(KEY)])
        workers.one.send(Unready())

        while (await http1_request(workers.port, "/readyz", (), method="GET")).status != 503:
            pass  # the order is on its way
        assert await status(workers.port, KEY) == 503


async def test_when_control_dies_the_address_is_free_at_once_and_open_requests_are_finished() -> (
    None
):
    release = asyncio.Event()

    def slowly(_: Request) -> Answer:
        return Answer(wait_for=release)

    async with RawSink(slowly) as sink, worker_processes(backends=sink_backends(sink)) as workers:
        worker = workers.one
        await worker.load([entry(KEY)])
        pending = asyncio.ensure_future(status(workers.port, KEY))
        await sink.wait_for(1)
        workers.sock.close()  # control's own descriptor goes with it
        worker.channel.close()
        await until(lambda: not is_open(workers.port))
        with socket.create_server(("127.0.0.1", workers.port)):
            pass
        assert worker.process.poll() is None
        release.set()
        assert await pending == 200
        assert await worker.exit_code() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_signals_to_the_whole_group_are_left_to_control(number: signal.Signals) -> None:
    async with worker_processes() as workers:
        await workers.one.load([entry(KEY)])
        workers.one.process.send_signal(number)
        assert await status(workers.port, KEY) == 503
        seen = len(workers.one.all(Report))
        await until(lambda: len(workers.one.all(Report)) > seen)


async def test_an_unusable_certificate_ends_the_worker_for_good_and_says_why() -> None:
    async with failing_worker(
        lambda fd, counts_fd: settings(
            [
                ListenerSettings(
                    fd, "0.0.0.0:443", TlsServerSettings("/nowhere.crt", "/nowhere.key")
                )
            ],
            counts_fd,
        )
    ) as worker:
        assert await worker.exit_code() == FAILS_AGAIN
        assert "cannot listen on 0.0.0.0:443" in worker.log()
        assert "/nowhere.crt" in worker.log()


async def test_descriptors_that_are_not_what_they_should_be_end_the_worker_for_good() -> None:
    async with failing_worker(
        lambda _, counts_fd: settings([ListenerSettings(99, "127.0.0.1:1")], counts_fd)
    ) as worker:
        assert await worker.exit_code() == FAILS_AGAIN
        assert "cannot listen on 127.0.0.1:1" in worker.log()
    async with failing_worker(
        lambda fd, _: settings([ListenerSettings(fd, "127.0.0.1:1")], 99)
    ) as worker:
        assert await worker.exit_code() == FAILS_AGAIN


@pytest.mark.parametrize("arguments", [[], ["x"], ["99"], ["0"]])
def test_a_worker_started_by_hand_says_that_it_is_not_meant_to_be(arguments: list[str]) -> None:
    ended = subprocess.run(
        [*COMMAND, *arguments],
        check=False,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=WAIT_S,
        text=True,
    )
    assert ended.returncode == FAILS_AGAIN
    assert "gateway serve" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\x01\xc1"])
async def test_a_worker_that_does_not_understand_control_ends(data: bytes) -> None:
    async with worker_processes() as workers:
        await workers.one.load([])
        workers.one.send_raw(data)
        await workers.one.exit_code()
        assert "channel" in workers.one.log()


async def test_running_out_of_descriptors_is_counted_and_no_connection_is_lost() -> None:
    async with worker_processes() as workers:
        worker = workers.one
        await worker.load([entry(KEY)])
        used = psutil.Process(worker.process.pid).num_fds()
        limit = resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE, (used + 2, limit[1]))
        socks = [socket.create_connection(("127.0.0.1", workers.port)) for _ in range(6)]
        await until(lambda: worker.count(metrics.CONNECTIONS_REFUSED.name, "descriptors") > 0)
        assert workers.counts.read()[0] < 6
        assert "LimitNOFILE" in worker.log()
        resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE, limit)
        await until(lambda: workers.counts.read() == [6])
        for sock in socks:
            sock.close()
        await until(lambda: workers.counts.read() == [0])
        assert await status(workers.port, KEY) == 503


async def test_a_worker_at_rest_is_small() -> None:
    async with RawSink() as sink, worker_processes(backends=sink_backends(sink)) as workers:
        worker = workers.one
        await worker.load([entry(f"key-{number}", str(number)) for number in range(100)])
        async with Http2Client(workers.port) as client:
            for number in range(100):
                answer = await client.request("/v1/traces", fields(f"key-{number}"), bytes(600))
                assert answer.status == 200
        assert worker.memory_bytes < REST_BYTES


async def test_a_tls_connection_holds_little_whatever_it_has_received(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    certificate = authority.issue("server", ["localhost"])
    tls = TlsServerSettings(str(certificate.cert_file), str(certificate.key_file))
    number = 40
    async with RawSink() as sink:
        backends = sink_backends(sink)
        async with (
            worker_processes(tls=tls, backends=backends) as workers,
            AsyncExitStack() as all_,
        ):
            worker = workers.one
            await worker.load([entry(KEY)])

            async def send() -> None:
                client = Http2Client(workers.port, authority.client_context())
                await all_.enter_async_context(client)
                answer = await client.request("/v1/traces", fields(KEY), bytes(500_000))
                assert answer.status == 200

            for _ in range(5):
                await send()
            before = worker.memory_bytes
            for _ in range(number):
                await send()
            assert (worker.memory_bytes - before) / number < TLS_CONNECTION_BYTES


def test_a_worker_does_not_load_what_only_control_needs() -> None:
    code = (
        "import sys; sys.argv = ['worker']; import runpy\n"
        "try: runpy.run_module('gateway.dataplane.worker_process', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(*sorted({name.partition('.')[0] for name, m in sys.modules.items() if m}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-P", "-c", code],
        check=True,
        capture_output=True,
        timeout=WAIT_S,
        text=True,
    ).stdout.split()
    assert "gateway" in loaded
    unwanted = {"pydantic", "aiohttp", "grpc", "aiosqlite", "prometheus_client", "rich", "yaml"}
    assert not unwanted & set(loaded)
