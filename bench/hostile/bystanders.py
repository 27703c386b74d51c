"""The well-behaved clients' process: `python -m bench.hostile.bystanders TARGET SECONDS CA_FILE`.

Each sends at fixed times, whether or not the answer before has come, and durations run from the
time that was due: a gateway that stands still for a second is late for all that it should have
answered in it, not for one request.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Final

from bench import bodies, keys
from bench.client import GrpcClient
from bench.hostile.attack import Target
from bench.report import RunFailedError, percentile

_TIMEOUT_S: Final = 5.0
_PROBE_TIMEOUT_S: Final = 1.0
"""Kubernetes' own for a probe (`timeoutSeconds`)."""
_REASONS_KEPT: Final = 3
KEY: Final = keys.key(0)
ATTACKERS_KEY: Final = keys.key(1)


@dataclass(slots=True)
class Report:
    """How one client fared; durations until the answer or the failure, in milliseconds."""

    requests: int = 0
    failed: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    reasons: list[str] = field(default_factory=list)

    def summarise(self, durations_s: list[float]) -> None:
        """Fill in the durations."""
        ordered = sorted(durations_s)
        if ordered:
            self.p50_ms = percentile(ordered, 0.50) * 1e3
            self.p99_ms = percentile(ordered, 0.99) * 1e3
            self.max_ms = ordered[-1] * 1e3


def reports_from_json(text: str) -> dict[str, Report]:
    """Read what this process has printed."""
    return {name: Report(**values) for name, values in json.loads(text).items()}


class FailedError(Exception):
    """A request was not answered as it should be."""


async def send_at(
    interval_s: float, seconds: float, request: Callable[[], Awaitable[None]]
) -> Report:
    """Make a request each `interval_s`, for `seconds`."""
    report = Report()
    durations_s: list[float] = []
    started_s = time.perf_counter()
    for number in range(int(seconds / interval_s)):
        due_s = started_s + number * interval_s
        now_s = time.perf_counter()
        if now_s - started_s > seconds:
            break
        if due_s > now_s:
            await asyncio.sleep(due_s - now_s)
        report.requests += 1
        try:
            await request()
        except (OSError, FailedError, RunFailedError, TimeoutError, EOFError) as error:
            report.failed += 1
            if len(report.reasons) < _REASONS_KEPT:
                report.reasons.append(f"{type(error).__name__}: {error}"[:200])
        durations_s.append(time.perf_counter() - due_s)
    report.summarise(durations_s)
    return report


class HttpClient:
    """OTLP/HTTP over one kept-alive connection, as long as the gateway keeps it."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None, *, keeps: bool = True) -> None:
        message = bodies.body("small").message
        close = "" if keeps else "Connection: close\r\n"
        self._request = (
            f"POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(message)}\r\n"
            f"Authorization: {keys.SCHEME} {KEY}\r\n{close}"
            "Content-Type: application/x-protobuf\r\n\r\n"
        ).encode() + message
        self._port = port
        self._tls = tls
        self._keeps = keeps
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def export(self) -> None:
        """Send one request and check its answer."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._export()
        except BaseException:
            self._drop()
            raise

    async def _export(self) -> None:
        if self._streams is None:
            name = "localhost" if self._tls else None
            self._streams = await asyncio.open_connection(
                "127.0.0.1", self._port, ssl=self._tls, server_hostname=name
            )
        reader, writer = self._streams
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length or b"0"))
        if not head.startswith(b"http/1.1 200"):
            raise FailedError(head.partition(b"\r\n")[0].decode())
        if not self._keeps or b"\r\nconnection: close" in head:
            self._drop()

    def _drop(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class KeptGrpc:
    """OTLP/gRPC over one connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._client: GrpcClient | None = None
        self._message = bodies.body("small").grpc

    async def export(self) -> None:
        """Send one request and check its answer."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                if self._client is None:
                    self._client = await GrpcClient.connect(self._port)
                code = await self._client.export(KEY, self._message)
        except BaseException:
            # What a connection was in the middle of is not to be waited for.
            self._client = None
            raise
        if code:
            message = f"grpc-status {code}"
            raise FailedError(message)


class Prober:
    """What the deployment files let Kubernetes and Docker ask."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._number = 0

    async def probe(self) -> None:
        """Ask once, over a connection of its own."""
        self._number += 1
        path = ("/livez", "/readyz")[self._number % 2]
        async with asyncio.timeout(_PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
                line = await reader.readuntil(b"\r\n")
            finally:
                writer.close()
        if b" 200 " not in line:
            message = f"{path}: {line.decode().strip()}"
            raise FailedError(message)


async def run(target: Target, seconds: float, ca_file: str) -> dict[str, Report]:
    """Let all of them send for `seconds`."""
    tls = ssl.create_default_context(cafile=ca_file)
    clients: dict[str, tuple[float, Callable[[], Awaitable[None]]]] = {
        "keep-alive": (0.020, HttpClient(target.plain).export),
        "grpc": (0.020, KeptGrpc(target.plain).export),
        "opens": (0.050, HttpClient(target.plain, keeps=False).export),
        "opens-tls": (0.050, HttpClient(target.tls, tls, keeps=False).export),
        "probes": (0.250, Prober(target.metrics).probe),
    }
    reports = await asyncio.gather(
        *(send_at(interval_s, seconds, request) for interval_s, request in clients.values())
    )
    return dict(zip(clients, reports, strict=True))


def main() -> int:
    """Run the command; prints one line of JSON with a report for each client."""
    target, seconds, ca_file = sys.argv[1:]
    reports = asyncio.run(run(Target.from_json(target), float(seconds), ca_file))
    print(json.dumps({name: asdict(report) for name, report in reports.items()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
