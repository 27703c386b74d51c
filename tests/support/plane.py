"""A `Worker` inside the test's own event loop, on real sockets, with the keys a test chooses.

`async with running_worker(backends=sink_backends(sink), keys=[entry(KEY)]) as gateway:` listens on
127.0.0.1; `gateway.port` is where. What it counts is summed up by `gateway.count`.
"""

from __future__ import annotations

import os
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from gateway import metrics
from gateway.channel import ItemTraffic, Refused, Up, Usage
from gateway.control.workers.connection_counts import ConnectionCounts
from gateway.dataplane.upstream.connector import Resolve, resolve_by_system
from gateway.dataplane.upstream.pool import Pool
from gateway.dataplane.worker import Worker
from gateway.metrics import Metric
from gateway.model import BackendName, KeyEntry, Principal, digest_of
from gateway.settings import (
    BackendSettings,
    ForwardSettings,
    LimitsSettings,
    ListenerSettings,
    Target,
    TlsClientSettings,
    TlsServerSettings,
    WorkerSettings,
)
from tests.support.polling import until
from tests.support.sink import RawSink

MIB: Final = 1024 * 1024
KEY: Final = "iapikey-0123456789abcdefghijklmnopqrstuv2Pxkvs"
"""Any key will do: a keyring holds digests."""
SCHEMES: Final = ("StackState", "SUSEObservability", "SUSE-Observability")

LIMITS: Final = LimitsSettings(
    max_body_bytes=64 * MIB,
    max_connections=50_000,
    max_connections_per_address=50_000,
    max_streams_per_connection=1_000,
    buffer_memory_bytes=256 * MIB,
    header_timeout_s=5,
    idle_timeout_s=620,
    linger_bytes=64 * MIB,
    linger_timeout_s=30,
    stall_timeout_s=30,
    min_upload_rate=1024,
    request_timeout_s=60,
    max_connection_age_s=600,
    drain_timeout_s=20,
)
"""The defaults of the configuration; `limits(name=value)` changes some."""


def limits(**changes: Any) -> LimitsSettings:
    """Return the default limits with some changed."""
    return msgspec.structs.replace(LIMITS, **changes)


def entry(key: str | bytes, key_id: str = "1", **principal: Any) -> KeyEntry:
    """Return a line of the keyring; further arguments are `Principal`'s."""
    raw = key.encode() if isinstance(key, str) else key
    return KeyEntry(digest_of(raw), Principal(key_id, **principal))


def backend(
    name: BackendName, *urls: str, tls: TlsClientSettings | None = None, **changes: Any
) -> BackendSettings:
    """Return a backend's settings with the configuration's defaults, some changed."""
    parts = [urlsplit(url) for url in urls]
    targets = [
        Target(part.hostname or "", part.port or 0, part.scheme == "https", part.path.rstrip("/"))
        for part in parts
    ]
    plain = BackendSettings(name.value, tuple(targets), tls, 2.0, 1, 8, 1_000)
    return msgspec.structs.replace(plain, **changes)


def sink_backends(
    sink: RawSink, *, tls: TlsClientSettings | None = None
) -> tuple[BackendSettings, ...]:
    """Return both OTLP backends, served by one sink."""
    return (
        backend(BackendName.OTLP_GRPC, sink.grpc_url, tls=tls),
        backend(BackendName.OTLP_HTTP, sink.http_url, tls=tls),
    )


def listening_socket(host: str = "127.0.0.1") -> socket.socket:
    """Bind a socket as control does, on a port that the system chooses."""
    return socket.create_server((host, 0), backlog=4096)


def settings(
    listeners: Sequence[ListenerSettings],
    counts_fd: int,
    *,
    backends: Iterable[BackendSettings] = (),
    index: int = 0,
    workers: int = 1,
    **changes: Any,
) -> WorkerSettings:
    """Return a worker's settings with the configuration's defaults, some changed."""
    plain = WorkerSettings(
        index=index,
        workers=workers,
        counts_fd=counts_fd,
        listeners=tuple(listeners),
        backends=tuple(backends),
        forward=ForwardSettings("client", None, SCHEMES[0], identity_headers=False),
        schemes=SCHEMES,
        limits=LIMITS,
    )
    return msgspec.structs.replace(plain, **changes)


class _Sent:
    """Where a worker's messages to control go: nowhere, until a test wants them."""

    def __init__(self) -> None:
        self.take: Callable[[Up], bool] | None = None

    def pass_on(self, message: Up) -> bool:
        return self.take is not None and self.take(message)


def open_connections(pool: Pool) -> int:
    """Count a pool's connections that may take requests, or are full."""
    return sum(len(address.connections) for address in pool._addresses)


class RunningWorker:
    """A worker that serves, and what it has reported so far."""

    def __init__(self, worker: Worker, ports: Sequence[int], sent: _Sent) -> None:
        self.worker = worker
        self._sent = sent
        self.path = worker.path
        self.context = worker.path.context
        self.ports = tuple(ports)
        """One for each listener, in the order in which they were asked for."""
        self.refusals: list[Refused] = []
        self.usage: list[Usage] = []
        self.items: list[ItemTraffic] = []
        self._counts: defaultdict[tuple[str, tuple[str, ...]], float] = defaultdict(float)

    def send_to(self, take: Callable[[Up], bool]) -> None:
        """Have `take` play control: it gets what the worker sends besides its reports."""
        self._sent.take = take

    @property
    def port(self) -> int:
        """The port of the first listener."""
        return self.ports[0]

    @property
    def address(self) -> str:
        """host:port of the first listener."""
        return f"127.0.0.1:{self.port}"

    def count(self, metric: Metric, *labels: str) -> float:
        """Return a counter's value since the start, summed over the labels not given."""
        self.collect()
        return sum(
            value
            for (name, values), value in self._counts.items()
            if name == metric.name and values[: len(labels)] == labels
        )

    def counted(self, metric: Metric) -> dict[tuple[str, ...], float]:
        """Return all series of a counter since the start: labels → value."""
        self.collect()
        return {
            labels: value for (name, labels), value in self._counts.items() if name == metric.name
        }

    def collect(self) -> None:
        """Take a report, as control does each second."""
        report = self.worker.take_report()
        for series in report.deltas:
            if isinstance(series.value, list):
                continue
            self._counts[series.metric, series.labels] += series.value
        self.refusals += report.refusals
        self.usage += report.usage
        self.items += report.items

    def sweep(self, in_s: float = 0.0) -> None:
        """Keep all limits of time as if `in_s` seconds had passed."""
        self.worker.sweep(self.context.now() + in_s)

    async def until(self, holds: Callable[[], bool], what: str = "") -> None:
        """Wait until `holds()`. Raises `TimeoutError`."""
        await until(holds, what)

    def load_keys(self, *keys: KeyEntry) -> None:
        """Replace all keys."""
        self.worker.load_keys(keys, self.path.keyring.revision + 1)


@asynccontextmanager
async def running_worker(
    *,
    keys: Iterable[KeyEntry] | None = (),
    tls: Sequence[TlsServerSettings | None] = (None,),
    proxy_protocol: bool = False,
    sweeping: bool = True,
    resolve: Resolve = resolve_by_system,
    **changes: Any,
) -> AsyncIterator[RunningWorker]:
    """Run a worker; one listener for each of `tls`.

    `keys=None`: not loaded yet, so that no verdict is possible. `sweeping=False`: limits of time
    are kept only by `sweep`. `resolve` finds the addresses of backends' names. Further arguments
    change `settings`. Nothing may be left over at the end: no bytes charged, no request in flight.
    """
    sockets = [listening_socket() for _ in tls]
    ports = [sock.getsockname()[1] for sock in sockets]
    listeners = [
        ListenerSettings(sock.detach(), f"127.0.0.1:{port}", one, proxy_protocol)
        for sock, port, one in zip(sockets, ports, tls, strict=True)
    ]
    counts = ConnectionCounts(1)
    sent = _Sent()
    worker = Worker(
        settings(listeners, os.dup(counts.fd), **changes), sent.pass_on, resolve=resolve
    )
    if keys is not None:
        worker.load_keys(list(keys))
    worker.start()
    if sweeping:
        worker.begin_sweeping()
    gateway = RunningWorker(worker, ports, sent)
    try:
        yield gateway
    finally:
        await worker.stop()
        counts.close()
    await until(lambda: not worker.connections, "all connections closed")
    gateway.collect()
    assert gateway.context.budget.used == gateway.context.budget.gathered == 0
    assert set(gateway.context.counters.in_flight.values()) == {0}
    assert not gateway.counted(metrics.INTERNAL_ERRORS)
