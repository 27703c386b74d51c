"""Exports the gateway's own traces, metrics and logs by opentelemetry-sdk, from control alone.

Workers hand over a sample of their requests and the lines that they log; the metrics are those of
`/metrics`. What the endpoint does not take in time is dropped and counted: nothing waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Final

from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.resources import Resource
from prometheus_client.core import Metric as Family

import gateway
from gateway import log, metrics
from gateway.channel import Logged, LogLine, Sampled
from gateway.config import Config
from gateway.control.metrics.metric_totals import MetricTotals
from gateway.control.telemetry.delivery import Delivery
from gateway.control.telemetry.exporters import make_exporters
from gateway.control.telemetry.logs import Logs
from gateway.control.telemetry.points import metrics_data
from gateway.control.telemetry.spans import Spans
from gateway.control.workers.worker_handle import Sent, WorkerHandle, WorkerObserver

_OWN_LOGGER: Final = "opentelemetry"
"""Lines of the library about its own exports are not exported."""


class OwnTelemetry(WorkerObserver):
    """See the module. Made inside the event loop, where an endpoint is configured.

    `families` returns what a scrape shows, `key_name` the name of a key id. Raises `OSError`: a
    file for TLS cannot be read.
    """

    def __init__(
        self,
        config: Config,
        families: Callable[[], Iterator[Family]],
        key_name: Callable[[str], str],
        totals: MetricTotals,
    ) -> None:
        telemetry = config.telemetry
        endpoint = telemetry.endpoint or ""
        self._interval_s = telemetry.metrics_interval
        self._families = families
        self._totals = totals
        self._loop = asyncio.get_running_loop()
        self._started_ns = time.time_ns()
        self._resource = _resource(config.admin.address)
        self._exporters = make_exporters(telemetry, endpoint)
        self._delivery = Delivery(endpoint, self._count)
        self._spans = Spans(self._resource, self._exporters.traces, self._delivery, key_name)
        self._logs = (
            Logs(self._resource, self._exporters.logs, self._delivery) if telemetry.logs else None
        )
        self._stop_listening: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Begin to export what control logs."""
        self._delivery.open()
        if self._logs is not None:
            self._stop_listening = log.listen(self._take_line)

    def worker_sent(self, worker: WorkerHandle, message: Sent) -> None:  # noqa: ARG002 - an observer's
        """Export what a worker hands over (`WorkerObserver`)."""
        if isinstance(message, Sampled):
            self._delivery.drop("traces", "limit", message.dropped)
            self._spans.add(message.requests)
        elif isinstance(message, Logged) and self._logs is not None:
            self._delivery.drop("logs", "limit", message.dropped)
            for line in message.lines:
                self._logs.add(line)

    async def run(self) -> None:
        """Export the metrics, again and again, for ever."""
        while self._interval_s:
            await asyncio.sleep(self._interval_s)
            await self._export_metrics()
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Export what waits, unless the endpoint is away; no longer than an export may take."""
        self._stop_listening()
        last = [asyncio.to_thread(self._spans.shutdown)]
        if self._logs is not None:
            last.append(asyncio.to_thread(self._logs.shutdown))
        if self._delivery.is_failing:
            self._give_up()
        elif self._interval_s:
            last.append(self._export_metrics())
        await asyncio.gather(*last)
        self._exporters.metrics.shutdown()
        self._delivery.close()

    async def _export_metrics(self) -> None:
        families = []
        for family in self._families():
            families.append(family)
            await asyncio.sleep(0)  # senders of keys' changes and probes are not held up
        await asyncio.to_thread(self._send_metrics, families)

    def _send_metrics(self, families: list[Family]) -> None:
        now_ns = time.time_ns()
        data: MetricsData = metrics_data(self._resource, families, self._started_ns, now_ns)
        exporter = self._exporters.metrics
        self._delivery.export("metrics", 1, lambda: exporter.export(data))

    def _give_up(self) -> None:
        """End what the exporters wait for, so that nothing of theirs takes long."""
        self._exporters.traces.shutdown()
        self._exporters.logs.shutdown()  # type: ignore[no-untyped-call]  # it says no types

    def _take_line(self, line: LogLine) -> None:
        if self._logs is not None and not line.logger.startswith(_OWN_LOGGER):
            self._logs.add(line)

    def _count(self, signal: str, reason: str, number: int) -> None:
        """Count what was dropped; called in any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(
                self._totals.count, metrics.TELEMETRY_DROPPED, (signal, reason), number
            )


def _resource(admin_address: str) -> Resource:
    """Describe this gateway. `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` add to it."""
    host = socket.gethostname()
    port = admin_address.rpartition(":")[2]
    own = {
        "service.name": "otlp-gateway",
        "service.version": gateway.__version__,
        "service.instance.id": f"{host}:{port}",
        "host.name": host,
    }
    from_environment = Resource.create().attributes
    named = {
        name: value
        for name, value in from_environment.items()
        if not (name == "service.name" and str(value).startswith("unknown_service"))
    }
    return Resource({**own, **named})
