"""Sends a plan's requests, one after the other, and reports each one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import assert_never

from gateway.otlp import json_codec
from gateway.otlp.encodings import Transport, compress
from gateway.otlp.services import Service, item_count
from gateway.sender import agents
from gateway.sender.agents import AgentPath
from gateway.sender.explain import Explanation, Verdict, explain_failure, explain_response
from gateway.sender.grpc_client import GrpcConnection
from gateway.sender.http_client import HttpConnection
from gateway.sender.response import ExportResponse
from gateway.sender.target import Plan, SendProtocol
from gateway.sender.telemetry import Round, new_round
from gateway.sender.unreachable import (
    Cause,
    UnreachableError,
    cause_of,
    probe,
    speaks_cleartext,
    speaks_tls,
)

Connection = GrpcConnection | HttpConnection


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request and its result."""

    service: Service | AgentPath
    items: int
    bytes: int
    """Size of the message as sent, compressed."""
    explanation: Explanation
    duration_s: float


async def send(
    plan: Plan,
    clock_ns: Callable[[], int] = time.time_ns,
    stopwatch: Callable[[], float] = time.monotonic,
) -> AsyncGenerator[Attempt, None]:
    """Send `plan.count` rounds of every signal; stop early if the endpoint is unreachable.

    Raises:
        PlanError: the CA file is unusable.
    """
    connection: Connection | None = None
    try:
        for number in range(1, plan.count + 1):
            sample = new_round(number, clock_ns())
            for service in plan.services:
                payload, items = _payload(plan, service, sample)
                started_s = stopwatch()
                connection, explanation = await _export(plan, connection, service, payload)
                yield Attempt(
                    service,
                    items,
                    len(payload),
                    explanation,
                    stopwatch() - started_s,
                )
                if explanation.verdict is Verdict.UNREACHABLE:
                    return
    finally:
        if connection is not None:
            await connection.close()


def _payload(plan: Plan, service: Service | AgentPath, sample: Round) -> tuple[bytes, int]:
    """Build the body of one request, compressed, and count its items."""
    if isinstance(service, AgentPath):
        body, items = agents.sample(service, sample.number, sample.started_ns)
        return compress(plan.compression, body, "http"), items
    request = sample.request(service.signal)
    is_json = plan.protocol is SendProtocol.JSON
    data = json_codec.encode(request) if is_json else request.SerializeToString()
    transport: Transport = "grpc" if plan.protocol is SendProtocol.GRPC else "http"
    return compress(plan.compression, data, transport), item_count(request)


async def _export(
    plan: Plan, connection: Connection | None, service: Service | AgentPath, payload: bytes
) -> tuple[Connection | None, Explanation]:
    """Send one request within the plan's timeout, on the open connection if it is still usable."""
    try:
        async with asyncio.timeout(plan.timeout_s):
            if connection is not None:
                response = await _export_again(connection, service, payload)
                if response is not None:
                    return connection, explain_response(response, service)
                await connection.close()
            connection = await _connect(plan)
            response = await _exported(connection, service, payload)
    except (UnreachableError, TimeoutError) as error:
        return connection, explain_failure(await _diagnosed(plan, error), plan)
    return connection, explain_response(response, service)


async def _export_again(
    connection: Connection, service: Service | AgentPath, payload: bytes
) -> ExportResponse | None:
    """Use a connection once more; None if the server has sent GOAWAY meanwhile.

    A GOAWAY that was in flight is not a failure: the call was not processed (RFC 9113 §6.8).
    """
    if not connection.is_usable:
        return None
    try:
        return await _exported(connection, service, payload)
    except UnreachableError as error:
        if error.cause is Cause.GOING_AWAY:
            return None
        raise


async def _exported(
    connection: Connection, service: Service | AgentPath, payload: bytes
) -> ExportResponse:
    if isinstance(connection, HttpConnection):
        return await connection.export(service, payload)
    assert isinstance(service, Service)  # noqa: S101 - agents speak HTTP only
    return await connection.export(service, payload)


async def _connect(plan: Plan) -> Connection:
    match plan.protocol:
        case SendProtocol.GRPC:
            return await GrpcConnection.open(plan)
        case SendProtocol.HTTP | SendProtocol.JSON | SendProtocol.INTAKE:
            return await HttpConnection.open(plan)
        case _:
            assert_never(plan.protocol)


async def _diagnosed(plan: Plan, error: BaseException) -> UnreachableError:
    """Probe the port after a broken connection: it may speak another protocol."""
    failure = cause_of(error)
    if failure.cause not in {Cause.BROKEN_OFF, Cause.NOT_HTTP}:
        return failure
    if plan.endpoint.is_tls:
        if await speaks_tls(plan.endpoint) or not await speaks_cleartext(plan.endpoint):
            return failure
        return UnreachableError(Cause.NOT_TLS, failure.detail)
    wants_http2 = plan.protocol is SendProtocol.GRPC
    found = await probe(plan.endpoint, wants_http2=wants_http2)
    return failure if found is Cause.BROKEN_OFF else UnreachableError(found, failure.detail)
