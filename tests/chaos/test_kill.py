"""Processes of the installed gateway die during traffic: no acknowledged request is lost, clients
see only ends that they retry on, and memory stays flat in front of a backend that has stalled.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import psutil
import yaml

from tests.support.clients import Http2Client, http1_request
from tests.support.exchange import GRPC, PROTOBUF, Answer, GrpcMessage, Request
from tests.support.numbered_senders import RETRYABLE_GRPC, RETRYABLE_HTTP, RETRYABLE_RESETS
from tests.support.polling import until
from tests.support.process import (
    COMMAND,
    KEY,
    Gateway,
    Program,
    configuration,
    free_ports,
    merge,
    running,
    running_gateway,
    workers_of,
)
from tests.support.sink import RawSink

PATH: Final = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
SMALL: Final = GrpcMessage(compressed=False, data=b"\x0a\x00").to_bytes()
AUTH: Final = ("authorization", f"StackState {KEY}")
GRPC_HEAD: Final = (("content-type", GRPC), ("te", "trailers"), AUTH)


def _overrides(sink: RawSink, **changes: Any) -> dict[str, Any]:
    backends = {"otlp_grpc": {"urls": [sink.grpc_url]}, "otlp_http": {"urls": [sink.http_url]}}
    return {"backends": backends, **changes}


def _workers(gateway: Gateway) -> list[psutil.Process]:
    return workers_of(gateway.program.process.pid)


class Traffic:
    """Clients that send numbered bodies for as long as they are let, and note every end."""

    def __init__(self, port: int) -> None:
        self.accepted: set[bytes] = set()
        self.retryable = 0
        self.wrong: list[object] = []
        self._port = port
        self._number = 0
        self._stopped = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, with four clients of each protocol."""
        for send in (self._grpc, self._http) * 4:
            self._tasks.append(asyncio.create_task(self._run(send)))

    async def stop(self) -> None:
        """End after the requests that are open."""
        self._stopped.set()
        await asyncio.gather(*self._tasks)

    async def _run(self, send: Callable[[], Awaitable[None]]) -> None:
        while not self._stopped.is_set():
            try:
                await send()
            except (ConnectionError, asyncio.IncompleteReadError):
                self.retryable += 1  # a connection that breaks or is refused: every client retries
                await asyncio.sleep(0.01)

    def _body(self) -> bytes:
        self._number += 1
        return GrpcMessage(compressed=False, data=b"%08d" % self._number).to_bytes()

    def _note(self, body: bytes, *, accepted: bool, retryable: bool, what: object) -> None:
        if accepted:
            self.accepted.add(body)
        elif retryable:
            self.retryable += 1
        else:
            self.wrong.append(what)

    async def _grpc(self) -> None:
        """Send a few requests on one connection, as long as they are accepted."""
        async with Http2Client(self._port) as client:
            for _ in range(20):
                body = self._body()
                response = await client.request(PATH, GRPC_HEAD, body)
                code = response.grpc_status
                accepted = response.ended and code == 0
                broken = code is None and response.reset in RETRYABLE_RESETS
                retryable = broken or code in RETRYABLE_GRPC
                self._note(body, accepted=accepted, retryable=retryable, what=response)
                if not accepted:
                    return

    async def _http(self) -> None:
        """Send one request on a connection of its own."""
        body = self._body()
        head = (("content-type", PROTOBUF), AUTH, ("content-length", str(len(body))))
        response = await http1_request(self._port, "/v1/logs", head, body)
        accepted = response.ended and response.status == 200
        retryable = not response.status or response.status in RETRYABLE_HTTP
        self._note(body, accepted=accepted, retryable=retryable, what=response)


def _bodies(sink: RawSink) -> set[bytes]:
    return {request.body for request in sink.requests}


@asynccontextmanager
async def _traffic(gateway: Gateway, sink: RawSink) -> AsyncIterator[Traffic]:
    """Run traffic for the length of a block, and check at its end what the clients have seen."""
    sink.aborts_are_faults = False
    traffic = Traffic(gateway.port)
    traffic.start()
    await until(lambda: len(traffic.accepted) > 50, "traffic")
    yield traffic
    await traffic.stop()
    assert not traffic.wrong
    assert traffic.accepted <= _bodies(sink)


async def test_killed_workers_lose_no_request_that_was_acknowledged(tmp_path: Path) -> None:
    """Each worker in turn, by kill -9; another takes its place."""
    async with (
        RawSink() as sink,
        running_gateway(tmp_path, _overrides(sink)) as gateway,
        _traffic(gateway, sink) as traffic,
    ):
        for _ in range(3):
            await _kill_one(gateway)
            await _until_more(traffic)


async def _kill_one(gateway: Gateway) -> None:
    victim = min(_pids(gateway))
    os.kill(victim, signal.SIGKILL)
    await until(lambda: len(_pids(gateway)) == 2 and victim not in _pids(gateway), "another worker")


async def _until_more(traffic: Traffic) -> None:
    count = len(traffic.accepted)
    await until(lambda: len(traffic.accepted) > count + 50, "traffic goes on")


def _pids(gateway: Gateway) -> set[int]:
    return {worker.pid for worker in _workers(gateway)}


async def test_a_killed_control_loses_no_request_that_was_acknowledged(tmp_path: Path) -> None:
    """The workers finish what is open and go; a second gateway takes over the same addresses."""
    async with RawSink() as sink:
        program, gateway = await _started(tmp_path, sink)
        try:
            async with _traffic(gateway, sink) as traffic:
                workers = _pids(gateway)
                program.process.kill()
                await program.wait()
                async with running([COMMAND, "serve", "--config", gateway.config_file]) as second:
                    await second.wait_line('"event": "ready"')
                    await _until_more(traffic)
                    await traffic.stop()
                await until(
                    lambda: not any(map(psutil.pid_exists, workers)), "the old workers' end"
                )
        finally:
            await program.kill()


async def _started(folder: Path, sink: RawSink) -> tuple[Program, Gateway]:
    """Start a gateway that will not be stopped in order."""
    ports = free_ports(3)
    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump(merge(configuration(folder, ports, None), _overrides(sink))))
    program = await Program.start([COMMAND, "serve", "--config", file], cwd=folder)
    await program.wait_line('"event": "ready"')
    return program, Gateway(program, file, ports[0], None, ports[2])


async def test_memory_stays_flat_in_front_of_a_stalled_backend(tmp_path: Path) -> None:
    """Two hundred clients with a megabyte each, and a worker that may hold 16 MiB of it."""
    bound = 16 * 1024 * 1024
    release = asyncio.Event()
    async with RawSink(lambda _: Answer(wait_for=release)) as sink:
        sink.aborts_are_faults = False
        changes = {"workers": 1, "limits": {"buffer_memory": "16MiB", "drain_delay": "0s"}}
        async with running_gateway(tmp_path, _overrides(sink, **changes)) as gateway:
            (worker,) = _workers(gateway)
            sink.early = _hold_credit(sink)
            before = worker.memory_info().rss
            body = GrpcMessage(compressed=False, data=bytes(1_000_000)).to_bytes()
            calls = [asyncio.create_task(_one(gateway.port, body)) for _ in range(200)]
            peak = await _peak(worker, lambda: sum(call.done() for call in calls) > 0)
            # What is accounted for, and what Python and 200 connections need besides.
            assert peak - before < bound + 200 * 65_536 + 32 * 1024 * 1024
            release.set()
            for side in sink.http2_connections:
                side.give_credit()
            sink.early = None
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            assert await _one(gateway.port, SMALL) == 0
        sink.take_faults()


def _hold_credit(sink: RawSink) -> Callable[[Request], None]:
    def early(_: Request) -> None:
        for side in sink.http2_connections:
            side.hold_credit = True

    return early


async def _one(port: int, body: bytes) -> int | None:
    async with Http2Client(port) as client:
        return (await client.request(PATH, GRPC_HEAD, body)).grpc_status


async def _peak(worker: psutil.Process, holds: Callable[[], bool]) -> int:
    """Return the most memory that the worker has had until `holds` and it grows no more."""
    sizes = [worker.memory_info().rss]
    while not holds() or len(sizes) < 50 or max(sizes[-25:]) > max(sizes[:-25]):
        await asyncio.sleep(0.02)
        sizes.append(worker.memory_info().rss)
    return max(sizes)
