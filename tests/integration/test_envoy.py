"""A real Envoy that asks the gateway: through it senders are told what the gateway tells."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from google.protobuf import json_format
from google.rpc import (  # type: ignore[import-untyped]  # no stubs are published
    error_details_pb2,
    status_pb2,
)

from tests.support.clients import Http2Client, Response, http1_request
from tests.support.envoy import Envoy, running_envoy
from tests.support.exchange import GRPC, JSON, PROTOBUF, Fields, GrpcMessage
from tests.support.key_feed import TOKEN, running_center
from tests.support.process import Gateway, free_ports, running_gateway
from tests.support.sink import RawSink

KEY: Final = "iapikey-0123456789abcdefghijklmnopqrstuv2Pxkvs"
MESSAGE: Final = GrpcMessage(compressed=False, data=b"\x0a\x00").to_bytes()
LOGS_GRPC: Final = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
WAYS: Final = ("grpc", "protobuf-h1", "json-h1", "protobuf-h2", "json-h2")
TYPES: Final = {"grpc": GRPC, "protobuf": PROTOBUF, "json": JSON}
RIGHT: Final = (("authorization", f"StackState {KEY}"),)


def _with(key: str) -> Fields:
    return (("authorization", f"StackState {key}"),)


CASES: Final[dict[str, Fields]] = {
    "KEY_MISSING": (),
    "SCHEME_BEARER": (("authorization", f"Bearer {KEY}"),),
    "SCHEME_UNKNOWN": (("authorization", f"SUSE Observability {KEY}"),),
    "KEY_PERCENT_ENCODED": (("authorization", f"StackState%20{KEY}"),),
    "KEY_PLUS_ENCODED": (("authorization", f"StackState+{KEY}"),),
    "KEY_QUOTED": (("authorization", f'StackState "{KEY}"'),),
    "KEY_EMPTY": (("authorization", "StackState"),),
    "KEY_TOO_LONG": _with("k" * 513),
    "KEY_CHARACTERS": _with("two words"),
    "AUTHORIZATION_REPEATED": RIGHT + RIGHT,
    "KEY_CONFLICT": (*RIGHT, ("sts-api-key", "another-key")),
    "KEY_UNKNOWN": _with("nobody-knows-it"),
    "KEY_TYPO": _with(f"{KEY[:-1]}A"),
    "KEY_EXPIRED": _with("expired"),
    "KEY_DISABLED": _with("disabled"),
    "SIGNAL_NOT_ALLOWED": _with("traces-only"),
}


def _digest(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Fronts:
    """A gateway and an Envoy before the same backend."""

    gateway: Gateway
    envoy: Envoy
    sink: RawSink


@asynccontextmanager
async def _fronts(folder: Path, **overrides: Any) -> AsyncIterator[Fronts]:
    entries = [
        {"digest": _digest(KEY), "name": "agent é", "id": 7},
        {"digest": _digest("expired"), "name": "expired", "expiration": "2001-01-01"},
        {"digest": _digest("disabled"), "name": "disabled", "enabled": False},
        {"digest": _digest("traces-only"), "name": "traces-only", "signals": ["traces"]},
    ]
    keys = folder / "keys.yaml"
    keys.write_text(yaml.safe_dump(entries))
    (port,) = free_ports(1)
    async with RawSink() as sink:
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
            running_envoy(folder, f"127.0.0.1:{port}", (ports[0], ports[1])) as envoy,
        ):
            yield Fronts(gateway, envoy, sink)
        sink.take_faults()


async def _send(port: int, way: str, fields: Fields, path: str | None = None) -> Response:
    encoding, _, version = way.partition("-")
    head = (("content-type", TYPES[encoding]), *fields)
    if encoding == "grpc":
        head += (("te", "trailers"),)
        async with Http2Client(port) as client:
            return await client.request(path or LOGS_GRPC, head, MESSAGE)
    if version == "h2":
        async with Http2Client(port) as client:
            return await client.request(path or "/v1/logs", head, MESSAGE)
    length = ("Content-Length", str(len(MESSAGE)))
    return await http1_request(port, path or "/v1/logs", (*head, length), MESSAGE)


ALLOWED: Final = re.compile(
    r'gateway_auth_decisions_total{(?=[^}]*outcome="allowed")(?=[^}]*signal="logs").*} [^0]'
)
DETAILS: Final = (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo)
"""Known by name to who reads them as JSON."""


def _told(response: Response) -> dict[str, Any]:
    """Return all of an answer that a sender goes by."""
    told: dict[str, Any] = {"status": response.status}
    for name in ("retry-after", "www-authenticate", "allow", "google.rpc.retryinfo-bin"):
        told[name] = response.field(name)
    if response.grpc_status is not None:
        details = response.field("grpc-status-details-bin") or ""
        raw = base64.b64decode(details + "=" * (-len(details) % 4))
        told["grpc"] = response.grpc_status, response.grpc_message
        told["details"] = status_pb2.Status.FromString(raw)
    elif response.status != 200:
        status = status_pb2.Status()
        if response.field("content-type") == JSON:
            json_format.Parse(response.body, status, ignore_unknown_fields=True)
        else:
            status = status_pb2.Status.FromString(response.body)
        told["details"] = status
    return told


async def test_each_refusal_through_envoy_is_the_gateways_own(tmp_path: Path) -> None:
    async with _fronts(tmp_path) as fronts:
        for reason, fields in CASES.items():
            for way in WAYS:
                own = _told(await _send(fronts.gateway.port, way, fields))
                through = _told(await _send(fronts.envoy.port, way, fields))
                assert through == own, (reason, way)
                assert reason in str(own["details"]), own
        assert not fronts.sink.requests


@pytest.mark.parametrize("path", ["/elsewhere", "/opentelemetry.proto.collector.X/Export"])
async def test_unknown_paths_and_methods_are_refused_alike(tmp_path: Path, path: str) -> None:
    async with _fronts(tmp_path) as fronts:
        for way in WAYS:
            own = _told(await _send(fronts.gateway.port, way, RIGHT, path))
            assert _told(await _send(fronts.envoy.port, way, RIGHT, path)) == own, way


async def test_what_cannot_be_told_now_is_retryable_in_every_way(tmp_path: Path) -> None:
    async with running_center(tmp_path / "center") as center:
        keys = {
            "stores": [*_file(tmp_path), f"gateway+grpc://{center.address}"],
            "feed": {"token": TOKEN},
        }
        async with _fronts(tmp_path, keys=keys) as fronts:
            await center.grpc.close()
            while "UNDECIDED" not in str(
                _told(await _send(fronts.gateway.port, "grpc", _with("nobody-knows-it")))
            ):
                await asyncio.sleep(0.05)
            await _check_undecided(fronts)


async def _check_undecided(fronts: Fronts) -> None:
    for way in WAYS:
        own = _told(await _send(fronts.gateway.port, way, _with("nobody-knows-it")))
        through = _told(await _send(fronts.envoy.port, way, _with("nobody-knows-it")))
        assert through == own, way
        assert own["status"] == (200 if way == "grpc" else 503)
        assert "UNDECIDED" in str(own["details"])


def _file(folder: Path) -> list[str]:
    return [f"file://{folder / 'keys.yaml'}"]


async def test_an_allowed_request_arrives_with_whose_key_it_is(tmp_path: Path) -> None:
    async with _fronts(tmp_path) as fronts:
        forged = (("x-gateway-key-id", "1"), ("x_gateway_key_name", "root"), ("x-scope-orgid", "a"))
        for way in WAYS:
            response = await _send(fronts.envoy.port, way, RIGHT + forged)
            assert response.status == 200
            request = fronts.sink.requests[-1]
            assert request.body == MESSAGE
            assert request.field("x-gateway-key-id") == "7"
            assert request.field("x-gateway-key-name") == "agent %C3%A9"
            assert request.field("authorization") == f"StackState {KEY}"
            assert request.field("x_gateway_key_name") is None
            assert request.field("x-scope-orgid") is None
        _, metrics = await fronts.gateway.get("/metrics")
        counted = [line for line in metrics.splitlines() if ALLOWED.match(line)]
        assert sorted(line.rpartition(" ")[2] for line in counted) == ["1.0", "4.0"], counted


async def test_the_backend_gets_the_key_that_forward_key_says(tmp_path: Path) -> None:
    forward = {"key": "gateway", "gateway_key": "backends-own"}
    async with _fronts(tmp_path, forward=forward) as fronts:
        for way in WAYS:
            fields = (("sts-api-key", KEY),)
            assert (await _send(fronts.envoy.port, way, fields)).status == 200
            request = fronts.sink.requests[-1]
            assert request.field("authorization") == "StackState backends-own"
            assert request.field("sts-api-key") is None


async def test_while_the_gateway_is_away_envoy_has_senders_try_again(tmp_path: Path) -> None:
    async with _fronts(tmp_path) as fronts:
        assert (await _send(fronts.envoy.port, "grpc", RIGHT)).grpc_status == 0
        await fronts.gateway.program.stop()
        for way in WAYS:
            response = await _send(fronts.envoy.port, way, RIGHT)
            if way == "grpc":
                assert response.grpc_status == 14
            else:
                assert response.status == 503
