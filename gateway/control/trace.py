"""Watching requests as they end: who looks, which workers have been told, lines as they come.

Any number of lines may come; each trace holds a bounded part of them until its reader has taken
them, and says how many it lost. What a line is made of belongs to the workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import hdrs, web

from gateway.channel import Down, Traced, TracedRequest, Watch, Watches
from gateway.config.units import parse_duration
from gateway.control.web import Route, json_response
from gateway.control.worker_handle import WorkerHandle

MAX_TRACES: Final = 16
"""At once."""
MAX_HELD: Final = 10_000
"""Lines that one trace holds for its reader."""
MAX_S: Final = 3_600.0
DEFAULT_S: Final = 60.0
BEGIN_S: Final = 1.0
"""How long workers may take to say that they watch."""
_LOOK_S: Final = 1.0
"""How often a silent trace looks whether its reader is still there."""


class TooManyTracesError(Exception):
    """As many traces run as are allowed."""


class Trace:
    """One trace: its lines from all workers. Made by `Traces.watching`."""

    def __init__(self, watch: Watch, waiting_for: Iterable[WorkerHandle]) -> None:
        self.watch = watch
        self.dropped = 0
        """Requests that matched and are not among the lines."""
        self._lines: deque[TracedRequest] = deque()
        self._unconfirmed = set(waiting_for)
        self._changed = asyncio.Event()

    def take(self, worker: WorkerHandle, traced: Traced) -> None:
        """Take what a worker says."""
        self._unconfirmed.discard(worker)
        self.dropped += traced.dropped
        for request in traced.requests:
            if len(self._lines) >= MAX_HELD:
                self.dropped += 1
            else:
                self._lines.append(request)
        self._changed.set()

    async def begun(self) -> bool:
        """Wait until every worker watches; False if one has not said so within `BEGIN_S`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEGIN_S):
                while self._unconfirmed:
                    await self._wait()
        return not self._unconfirmed

    async def lines(self, within_s: float) -> list[TracedRequest]:
        """Wait for lines, at most `within_s` seconds, and return those that there are."""
        if not self._lines:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    while not self._lines:
                        await self._wait()
        lines = list(self._lines)
        self._lines.clear()
        return lines

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class Traces:
    """All traces of this gateway.

    `workers` gives the workers there are; `send` sends to all of them.
    """

    def __init__(
        self, workers: Callable[[], Iterable[WorkerHandle]], send: Callable[[Down], None]
    ) -> None:
        self._workers = workers
        self._send = send
        self._traces: dict[int, Trace] = {}
        self._numbers = itertools.count(1)
        self._told: set[WorkerHandle] = set()

    @contextlib.asynccontextmanager
    async def watching(self, key_id: str = "", network: str = "") -> AsyncIterator[Trace]:
        """Watch requests while the block runs. Raises `TooManyTracesError`."""
        if len(self._traces) >= MAX_TRACES:
            msg = f"{MAX_TRACES} traces run already: end one of them"
            raise TooManyTracesError(msg)
        number = next(self._numbers)
        workers = [worker for worker in self._workers() if worker.decides]
        trace = self._traces[number] = Trace(Watch(number, key_id, network), workers)
        try:
            self._tell_all()
            yield trace
        finally:
            del self._traces[number]
            self._tell_all()

    def take(self, worker: WorkerHandle, traced: Traced) -> None:
        """Take what a worker says about one trace; it may have ended meanwhile."""
        trace = self._traces.get(traced.watch)
        if trace is not None:
            trace.take(worker, traced)

    def recheck(self) -> None:
        """Tell workers that have come since. Called whenever a worker changes its state."""
        workers = set(self._workers())
        self._told &= workers
        if self._traces:
            for worker in workers - self._told:
                worker.send(self._watches())
            self._told = workers

    def _tell_all(self) -> None:
        self._told = set(self._workers())
        self._send(self._watches())

    def _watches(self) -> Watches:
        return Watches([trace.watch for trace in self._traces.values()])


class TraceApi:
    """`POST /-/trace`: newline-delimited JSON for as long as asked."""

    def __init__(self, traces: Traces) -> None:
        self._traces = traces

    def routes(self) -> list[Route]:
        """Give the routes for the admin address."""
        return [Route(hdrs.METH_POST, "/-/trace", self._trace, needs_token=True)]

    async def _trace(self, request: web.Request) -> web.StreamResponse:
        try:
            wanted = _Wanted.of(request.query)
        except ValueError as error:
            return json_response(400, {"error": str(error)})
        try:
            async with self._traces.watching(wanted.key_id, wanted.network) as trace:
                return await _stream(request, trace, wanted.seconds)
        except TooManyTracesError as error:
            return json_response(503, {"error": str(error)})


class _Wanted:
    """What the query asks for."""

    def __init__(self, key_id: str, network: str, seconds: float) -> None:
        self.key_id = key_id
        self.network = network
        self.seconds = seconds

    @classmethod
    def of(cls, query: Mapping[str, str]) -> _Wanted:
        """Read the query. Raises `ValueError` that says how to write it."""
        unknown = sorted(set(query) - {"key_id", "peer", "for"})
        if unknown:
            msg = f"unknown parameter {unknown[0]!r}: there are key_id, peer and for"
            raise ValueError(msg)
        return cls(query.get("key_id", ""), _network(query.get("peer", "")), _seconds(query))


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False)) if text else ""
    except ValueError:
        msg = "peer: write an address or a network, such as 10.1.2.3 or 10.0.0.0/8"
        raise ValueError(msg) from None


def _seconds(query: Mapping[str, str]) -> float:
    if "for" not in query:
        return DEFAULT_S
    try:
        seconds = parse_duration(query["for"])
    except ValueError as error:
        msg = f"for: {error}"
        raise ValueError(msg) from None
    if not 0 < seconds <= MAX_S:
        msg = "for: write a time up to 1h, such as 60s"
        raise ValueError(msg)
    return seconds


async def _stream(request: web.Request, trace: Trace, seconds: float) -> web.StreamResponse:
    """Send lines until the time is over or the reader has gone."""
    response = web.StreamResponse(
        headers={hdrs.CONTENT_TYPE: "application/x-ndjson", hdrs.CACHE_CONTROL: "no-store"}
    )
    await response.prepare(request)
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):
        await _write(response, {"watching": await trace.begun(), "for_s": seconds})
        end = loop.time() + seconds
        while (left := end - loop.time()) > 0 and _is_open(request):
            for traced in await trace.lines(min(left, _LOOK_S)):
                await _write(response, line_of(traced))
            if trace.dropped:
                dropped, trace.dropped = trace.dropped, 0
                await _write(response, {"dropped": dropped})
        await response.write_eof()
    return response


def _is_open(request: web.Request) -> bool:
    return request.transport is not None and not request.transport.is_closing()


async def _write(response: web.StreamResponse, line: Mapping[str, Any]) -> None:
    await response.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")


def line_of(traced: TracedRequest) -> dict[str, Any]:
    """Write a request down as JSON; what does not apply is left out."""
    ended = datetime.fromtimestamp(traced.ended_at_ms / 1000, UTC)
    line = {
        "time": ended.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "peer": traced.peer,
        "protocol": traced.protocol,
        "signal": traced.signal,
        "key_id": traced.key_id,
        "bytes": traced.bytes,
        "outcome": traced.outcome,
        "result": traced.result,
        "code": traced.code,
        "backend": traced.backend,
        "backend_code": traced.backend_code,
        "duration_ms": round(traced.duration_s * 1000, 3),
        "trace_id": traced.trace_id,
    }
    return {name: value for name, value in line.items() if value != ""}
