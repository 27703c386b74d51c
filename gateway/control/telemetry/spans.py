"""Makes spans of the requests that workers hand over.

A request is a server span, in the course of its sender's span where that is known; its way to the
backend is a client span below. Attributes are those of OpenTelemetry's semantic conventions where
there are some, and `gateway.*`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

import gateway
from gateway.channel import SampledRequest
from gateway.control.telemetry.delivery import MAX_HELD, Delivery, WatchedSpanExporter

_NS: Final = 1_000_000_000
_GOOD: Final = "accepted"
"""The `result` of a request that the backend has taken."""


class Spans:
    """See the module. `key_name` returns the name of a key id, "" for an unknown one."""

    def __init__(
        self,
        resource: Resource,
        exporter: SpanExporter,
        delivery: Delivery,
        key_name: Callable[[str], str],
    ) -> None:
        self._delivery = delivery
        self._key_name = key_name
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False
        )
        watched = WatchedSpanExporter(exporter, delivery)
        self._provider.add_span_processor(
            BatchSpanProcessor(watched, max_queue_size=MAX_HELD, max_export_batch_size=512)
        )
        self._tracer = self._provider.get_tracer("gateway", gateway.__version__)

    def add(self, requests: Iterable[SampledRequest]) -> None:
        """Make their spans."""
        for sampled in requests:
            self._add(sampled)

    def shutdown(self) -> None:
        """Export what waits; may take as long as an export."""
        self._provider.shutdown()

    def _add(self, sampled: SampledRequest) -> None:
        request, ends_ns = sampled.request, sampled.ended_at_ns
        began_ns = ends_ns - int(request.duration_s * _NS)
        places = 2 if sampled.backend_name else 1
        if not all(self._delivery.take_place("traces") for _ in range(places)):
            return
        is_failure = request.result != _GOOD
        span = self._tracer.start_span(
            f"{request.protocol} {request.signal or 'other'}",
            _parent(request.trace_id, sampled.parent_id),
            SpanKind.SERVER,
            self._attributes(sampled),
            start_time=began_ns,
        )
        if is_failure:
            span.set_status(Status(StatusCode.ERROR, request.result))
        if sampled.backend_name:
            self._add_forwarding(sampled, trace.set_span_in_context(span), began_ns)
        span.end(ends_ns)

    def _add_forwarding(self, sampled: SampledRequest, context: Context, began_ns: int) -> None:
        request = sampled.request
        host, _, port = request.backend.rpartition(":")
        span = self._tracer.start_span(
            f"forward to {sampled.backend_name}",
            context,
            SpanKind.CLIENT,
            {
                "server.address": host,
                "server.port": int(port) if port.isdigit() else 0,
                "gateway.backend": sampled.backend_name,
                "gateway.code": request.backend_code or "none",
            },
            start_time=began_ns + int(sampled.backend_after_s * _NS),
        )
        if not request.backend_code:
            span.set_status(Status(StatusCode.ERROR, "no answer"))
        span.end(sampled.ended_at_ns)

    def _attributes(self, sampled: SampledRequest) -> dict[str, str | int]:
        request = sampled.request
        host, _, port = request.peer.rpartition(":")
        texts = {
            "url.path": sampled.path,
            "client.address": host.strip("[]"),
            "gateway.protocol": request.protocol,
            "gateway.signal": request.signal,
            "gateway.code": request.code,
            "gateway.result": request.result,
            "gateway.key.outcome": request.outcome,
            "gateway.key.id": request.key_id,
            "gateway.key.name": self._key_name(request.key_id) if request.key_id else "",
        }
        numbers = {
            "http.request.body.size": request.bytes,
            "http.response.body.size": sampled.response_bytes,
        }
        if port.isdigit():
            numbers["client.port"] = int(port)
        if request.code.isdigit():
            numbers["http.response.status_code"] = int(request.code)
        elif request.protocol == "grpc":
            texts["rpc.response.status_code"] = request.code
        return {name: text for name, text in texts.items() if text} | numbers


def _parent(trace_id: str, span_id: str) -> Context:
    """Return the context of a sender's span; without one, an empty one."""
    if not span_id:
        return Context()
    remote = SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(1)
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(remote), Context())
