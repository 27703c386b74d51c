"""The bodies that the bench sends: OTLP trace exports of realistic content, and what agents post as
zlib streams; always the same.

The sizes: one span (0.6 kB), 100 spans (30 kB), 1,000 spans compressed (73 kB) and 8,192 spans, the
Collector's default batch, compressed (594 kB) and as they are (2.46 MB).
"""

from __future__ import annotations

import functools
import gzip
import json
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

_SPANS_PER_RESOURCE = 50
_EPOCH_NS = 1_732_000_000_000_000_000
_SERVICES = ("checkout", "cart", "payment", "frontend", "shipping", "email")
_OPERATIONS = ("GET /api/cart", "POST /api/checkout", "SELECT orders", "grpc.Charge")
_STATUS_CODES = (200, 200, 200, 404, 500)
_KINDS = (
    Span.SPAN_KIND_INTERNAL,
    Span.SPAN_KIND_SERVER,
    Span.SPAN_KIND_CLIENT,
    Span.SPAN_KIND_PRODUCER,
    Span.SPAN_KIND_CONSUMER,
)


@dataclass(frozen=True, slots=True)
class Body:
    """One message as it goes over the wire.

    Attributes:
        name: what tables and options call it.
        message: the OTLP message, compressed if `encoding` says so.
        encoding: the value of grpc-encoding or Content-Encoding, or None.
    """

    name: str
    message: bytes
    encoding: str | None = None

    @property
    def grpc(self) -> bytes:
        """The message behind gRPC's five bytes of compressed flag and length."""
        flag = b"\0" if self.encoding is None else b"\1"
        return flag + len(self.message).to_bytes(4, "big") + self.message


def _attribute(key: str, value: str | int) -> KeyValue:
    if isinstance(value, int):
        return KeyValue(key=key, value=AnyValue(int_value=value))
    return KeyValue(key=key, value=AnyValue(string_value=value))


def _address(chance: random.Random) -> str:
    return f"10.0.{chance.randrange(255)}.{chance.randrange(255)}"


def _span(chance: random.Random) -> Span:
    start_ns = _EPOCH_NS + chance.randrange(10**12)
    return Span(
        trace_id=chance.randbytes(16),
        span_id=chance.randbytes(8),
        parent_span_id=chance.randbytes(8),
        name=chance.choice(_OPERATIONS),
        kind=chance.choice(_KINDS),
        start_time_unix_nano=start_ns,
        end_time_unix_nano=start_ns + chance.randrange(10**9),
        attributes=[
            _attribute("http.request.method", "GET"),
            _attribute("http.response.status_code", chance.choice(_STATUS_CODES)),
            _attribute("url.path", f"/api/products/{chance.randrange(10**5)}"),
            _attribute("server.address", _address(chance)),
            _attribute("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64)"),
            _attribute("network.peer.port", chance.randrange(65535)),
        ],
    )


def _resource_spans(chance: random.Random, spans: int) -> ResourceSpans:
    service = chance.choice(_SERVICES)
    of_resource = ResourceSpans()
    of_resource.resource.attributes.extend(
        [
            _attribute("service.name", service),
            _attribute("service.namespace", "shop"),
            _attribute("k8s.pod.name", f"{service}-{chance.getrandbits(40):x}"),
            _attribute("k8s.node.name", f"node-{chance.randrange(20)}"),
            _attribute("telemetry.sdk.name", "opentelemetry"),
            _attribute("telemetry.sdk.language", "go"),
            _attribute("telemetry.sdk.version", "1.30.0"),
            _attribute("host.name", f"ip-{_address(chance).replace('.', '-')}"),
        ]
    )
    of_scope = of_resource.scope_spans.add()
    of_scope.scope.name = "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
    of_scope.scope.version = "0.55.0"
    of_scope.spans.extend(_span(chance) for _ in range(spans))
    return of_resource


def trace_export(spans: int) -> bytes:
    """Return a serialised ExportTraceServiceRequest of `spans` spans, the same each time."""
    chance = random.Random(spans)  # noqa: S311 -- made-up telemetry, no secret
    request = ExportTraceServiceRequest()
    for first in range(0, spans, _SPANS_PER_RESOURCE):
        request.resource_spans.append(
            _resource_spans(chance, min(_SPANS_PER_RESOURCE, spans - first))
        )
    return request.SerializeToString(deterministic=True)


def agent_payload(components: int) -> bytes:
    """Return a topology of so many components as the main forwarder posts it: JSON in zlib."""
    chance = random.Random(components)  # noqa: S311 -- made-up telemetry, no secret
    topology = {
        "start_snapshot": False,
        "instance": {"type": "kubernetes", "url": "bench"},
        "components": [
            {
                "externalId": f"urn:kubernetes:/bench:shop:pod/{chance.randbytes(24).hex()}",
                "type": {"name": "pod"},
                "data": {"labels": ["namespace:shop", f"node:{chance.randrange(20)}"]},
            }
            for _ in range(components)
        ],
        "relations": [],
    }
    content = {"collection_timestamp": 1_732_000_000, "topologies": [topology]}
    return zlib.compress(json.dumps(content).encode())


@functools.cache
def body(name: str) -> Body:
    """Return the body called `name`, one of `NAMES`.

    Raises:
        ValueError: there is no body of this name.
    """
    if name not in _MAKERS:
        message = f"no body {name!r}: choose one of {', '.join(NAMES)}"
        raise ValueError(message)
    return _MAKERS[name](name)


def _spans(count: int) -> Callable[[str], Body]:
    return lambda name: Body(name, trace_export(count))


def _compressed_spans(count: int) -> Callable[[str], Body]:
    return lambda name: Body(name, gzip.compress(trace_export(count), 6, mtime=0), "gzip")


def _components(count: int) -> Callable[[str], Body]:
    return lambda name: Body(name, agent_payload(count), "deflate")


_MAKERS: dict[str, Callable[[str], Body]] = {
    "small": _spans(1),
    "30k": _spans(100),
    "73k-gzip": _compressed_spans(1000),
    "594k-gzip": _compressed_spans(8192),
    "2.5M": _spans(8192),
    "intake-2k": _components(60),
    "intake-2M": _components(62_000),
}
NAMES = tuple(_MAKERS)
