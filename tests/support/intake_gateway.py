"""A gateway in front of a receiver that a test scripts, and an agent's plain requests to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway.model import BackendName
from tests.support.clients import Http2Client, Response, http1_request
from tests.support.plane import KEY, RunningWorker, backend, entry, running_worker
from tests.support.sink import RawSink

Fields = tuple[tuple[str, str], ...]
CARRIED: Fields = (("sts-api-key", KEY),)


@asynccontextmanager
async def gateway_before(sink: RawSink, **changes: Any) -> AsyncIterator[RunningWorker]:
    """Run a gateway whose receiver, and OTLP/HTTP backend, is the sink."""
    backends = (
        backend(BackendName.INTAKE, sink.http_url),
        backend(BackendName.OTLP_HTTP, sink.http_url),
    )
    setting: dict[str, Any] = {"keys": [entry(KEY, "7")], "backends": backends, **changes}
    async with running_worker(**setting) as gateway:
        yield gateway


async def ask(
    port: int,
    target: str,
    fields: Fields = CARRIED,
    body: bytes = b"{}",
    *,
    method: str = "POST",
    http2: bool = False,
) -> Response:
    """Send one request on a connection of its own; return what came back."""
    if http2:
        async with Http2Client(port) as client:
            lower = [(name.lower(), value) for name, value in fields]
            return await client.request(target, lower, body, method=method)
    framing = (("Content-Length", str(len(body))),) if body or method == "POST" else ()
    return await http1_request(port, target, (*fields, *framing), body, method=method)
