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
from gateway.channel import Refused, Usage
from gateway.control.counts import Counts
from gateway.dataplane.worker import Worker
from gateway.metrics import Metric
from gateway.model import BackendName, KeyEntry, Principal, digest_of
from gateway.settings import (
    Backend,
    Forward,
    Limits,
    Listener,
    Target,
    TlsClient,
    TlsServer,
    WorkerSettings,
)
from tests.support.polling import until
from tests.support.sink import RawSink

MIB: Final = 1024 * 1024
KEY: Final = "iapikey-0123456789abcdefghijklmnopqrstuv2Pxkvs"
"""Any key will do: a keyring holds digests."""
SCHEMES: Final = ("StackState", "SUSEObservability", "SUSE-Observability")

LIMITS: Final = Limits(
    max_body_bytes=64 * MIB,
    max_connections=50_000,
    max_streams_per_connection=1_000,
    buffer_memory_bytes=256 * MIB,
    header_timeout_s=5,
    idle_timeout_s=300,
    linger_bytes=64 * MIB,
    linger_timeout_s=30,
    stall_timeout_s=30,
    request_timeout_s=60,
    max_connection_age_s=600,
    drain_timeout_s=20,
)
"""The defaults of the configuration; `limits(name=value)` changes some."""


def limits(**changes: Any) -> Limits:
    """Return the default limits with some changed."""
    return msgspec.structs.replace(LIMITS, **changes)


def entry(key: str | bytes, key_id: str = "1", **principal: Any) -> KeyEntry:
    """Return a line of the keyring; further arguments are `Principal`'s."""
    raw = key.encode() if isinstance(key, str) else key
    return KeyEntry(digest_of(raw), Principal(key_id, **principal))


def backend(name: BackendName, *urls: str, tls: TlsClient | None = None, **changes: Any) -> Backend:
    """Return a backend's settings with the configuration's defaults, some changed."""
    parts = [urlsplit(url) for url in urls]
    targets = [
        Target(part.hostname or "", part.port or 0, part.scheme == "https", part.path.rstrip("/"))
        for part in parts
    ]
    plain = Backend(name.value, tuple(targets), tls, 2.0, 1, 8, 1_000)
    return msgspec.structs.replace(plain, **changes)


def sink_backends(sink: RawSink, *, tls: TlsClient | None = None) -> tuple[Backend, ...]:
    """Return both OTLP backends, served by one sink."""
    return (
        backend(BackendName.OTLP_GRPC, sink.grpc_url, tls=tls),
        backend(BackendName.OTLP_HTTP, sink.http_url, tls=tls),
    )


def listening_socket(host: str = "127.0.0.1") -> socket.socket:
    """Bind a socket as control does, on a port that the system chooses."""
    return socket.create_server((host, 0), backlog=4096)


def settings(
    listeners: Sequence[Listener],
    counts_fd: int,
    *,
    backends: Iterable[Backend] = (),
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
        forward=Forward("client", None, SCHEMES[0], identity_headers=False),
        schemes=SCHEMES,
        limits=LIMITS,
    )
    return msgspec.structs.replace(plain, **changes)


class RunningWorker:
    """A worker that serves, and what it has reported so far."""

    def __init__(self, worker: Worker, ports: Sequence[int]) -> None:
        self.worker = worker
        self.plane = worker.plane
        self.ports = tuple(ports)
        """One for each listener, in the order in which they were asked for."""
        self.refusals: list[Refused] = []
        self.usage: list[Usage] = []
        self._counts: defaultdict[tuple[str, tuple[str, ...]], float] = defaultdict(float)

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

    def sweep(self, in_s: float = 0.0) -> None:
        """Keep all limits of time as if `in_s` seconds had passed."""
        self.worker.sweep(self.plane.now() + in_s)

    async def until(self, holds: Callable[[], bool], what: str = "") -> None:
        """Wait until `holds()`. Raises `TimeoutError`."""
        await until(holds, what)

    def load_keys(self, *keys: KeyEntry) -> None:
        """Replace all keys."""
        self.worker.load_keys(keys, self.plane.keyring.revision + 1)


@asynccontextmanager
async def running_worker(
    *,
    keys: Iterable[KeyEntry] | None = (),
    tls: Sequence[TlsServer | None] = (None,),
    proxy_protocol: bool = False,
    sweeping: bool = True,
    **changes: Any,
) -> AsyncIterator[RunningWorker]:
    """Run a worker; one listener for each of `tls`.

    `keys=None`: not loaded yet, so that no verdict is possible. `sweeping=False`: limits of time
    are kept only by `sweep`. Further arguments change `settings`. Nothing may be left over at the
    end: no bytes charged, no request in flight.
    """
    sockets = [listening_socket() for _ in tls]
    ports = [sock.getsockname()[1] for sock in sockets]
    listeners = [
        Listener(sock.detach(), f"127.0.0.1:{port}", one, proxy_protocol)
        for sock, port, one in zip(sockets, ports, tls, strict=True)
    ]
    counts = Counts(1)
    worker = Worker(settings(listeners, os.dup(counts.fd), **changes))
    if keys is not None:
        worker.load_keys(list(keys))
    worker.start()
    if sweeping:
        worker.begin_sweeping()
    gateway = RunningWorker(worker, ports)
    try:
        yield gateway
    finally:
        await worker.stop()
        counts.close()
    await until(lambda: not worker.connections, "all connections closed")
    gateway.collect()
    assert gateway.plane.budget.used == 0
    assert set(gateway.plane.counters.in_flight.values()) == {0}
    assert not gateway.counted(metrics.INTERNAL_ERRORS)
