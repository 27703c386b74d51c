"""A gateway and an Envoy that asks it, before one backend: what senders are told by each."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from google.protobuf import json_format
from google.rpc import (  # type: ignore[import-untyped]  # no stubs are published
    error_details_pb2,
    status_pb2,
)

from tests.support.clients import Http2Client, Response, http1_request
from tests.support.envoy import Envoy, running_envoy
from tests.support.exchange import GRPC, JSON, PROTOBUF, Fields, GrpcMessage, accept
from tests.support.process import Gateway, free_ports, running_gateway
from tests.support.sink import RawSink, Script

MESSAGE: Final = GrpcMessage(compressed=False, data=b"\x0a\x00").to_bytes()
LOGS_GRPC: Final = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
WAYS: Final = ("grpc", "protobuf-h1", "json-h1", "protobuf-h2", "json-h2")
TYPES: Final = {"grpc": GRPC, "protobuf": PROTOBUF, "json": JSON}
_DETAILS: Final = (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo)
"""Known by name to who reads them as JSON."""


def key_fields(key: str) -> Fields:
    """Return what a sender presents a key with."""
    return (("authorization", f"StackState {key}"),)


def digest_text(key: str) -> str:
    """Return a key's digest as a file of keys has it."""
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Fronts:
    """A gateway and an Envoy before the same backend."""

    gateway: Gateway
    envoy: Envoy
    sink: RawSink


@asynccontextmanager
async def running_fronts(
    folder: Path,
    entries: list[dict[str, Any]],
    script: Script = accept,
    *,
    grpc_ports: Sequence[int] = (),
    **overrides: Any,
) -> AsyncIterator[Fronts]:
    """Run both with the keys of a file with `entries`; `script` gives the backend's answers.

    `grpc_ports` are those of other gateways that Envoy asks, too.
    """
    keys = folder / "keys.yaml"
    keys.write_text(yaml.safe_dump(entries))
    (port,) = free_ports(1)
    async with RawSink(script) as sink:
        tree = {
            "backends": {
                "otlp_grpc": {"urls": [sink.grpc_url]},
                "otlp_http": {"urls": [sink.http_url]},
            },
            "keys": {"stores": [f"file://{keys}"]},
            "admin": {"grpc_address": f"127.0.0.1:{port}"},
            **overrides,
        }
        ports = tuple(int(url.rpartition(":")[2]) for url in (sink.grpc_url, sink.http_url))
        async with (
            running_gateway(folder, tree) as gateway,
            running_envoy(folder, [port, *grpc_ports], (ports[0], ports[1])) as envoy,
        ):
            yield Fronts(gateway, envoy, sink)
        sink.take_faults()


async def send(
    port: int, way: str, fields: Fields, path: str | None = None, *, body: bytes = MESSAGE
) -> Response:
    """Send some logs in one of `WAYS`."""
    encoding, _, version = way.partition("-")
    head = (("content-type", TYPES[encoding]), *fields)
    if encoding == "grpc":
        head += (("te", "trailers"),)
        async with Http2Client(port) as client:
            return await client.request(path or LOGS_GRPC, head, body)
    if version == "h2":
        async with Http2Client(port) as client:
            return await client.request(path or "/v1/logs", head, body)
    length = ("Content-Length", str(len(body)))
    return await http1_request(port, path or "/v1/logs", (*head, length), body)


def told(response: Response) -> dict[str, Any]:
    """Return all of an answer that a sender goes by."""
    found: dict[str, Any] = {"status": response.status}
    for name in ("retry-after", "www-authenticate", "allow", "google.rpc.retryinfo-bin"):
        found[name] = response.field(name)
    if response.grpc_status is not None:
        details = response.field("grpc-status-details-bin") or ""
        raw = base64.b64decode(details + "=" * (-len(details) % 4))
        found["grpc"] = response.grpc_status, response.grpc_message
        found["details"] = status_pb2.Status.FromString(raw)
    elif response.status != 200:
        status = status_pb2.Status()
        if response.field("content-type") == JSON:
            json_format.Parse(response.body, status, ignore_unknown_fields=True)
        else:
            status = status_pb2.Status.FromString(response.body)
        found["details"] = status
    return found
