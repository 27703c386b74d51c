"""The ASGI application: reads a whole request, decodes it, reports it and responds.

Back-pressure: the response is sent only after `on_request` has finished, so that a slow reader
slows the senders down instead of filling memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Final

from hypercorn.typing import (
    ASGIReceiveCallable,
    ASGISendCallable,
    HTTPScope,
    LifespanScope,
    Scope,
)

from gateway.intake import row_of
from gateway.otlp.encodings import MAX_BODY_BYTES
from gateway.receiver.agents import interpret_agent
from gateway.receiver.exports import Head, HttpResponse, interpret
from gateway.receiver.received import ReceivedRequest

OnRequest = Callable[[ReceivedRequest], Awaitable[None] | None]

_PREFIX_ROOM: Final = 5
"""A gRPC body is the message with a five-byte prefix."""


class ReceiverApp:
    """Accepts OTLP in every form and the agents' intake; calls `on_request` for each request."""

    def __init__(self, on_request: OnRequest) -> None:
        self._on_request = on_request
        self._requests: set[asyncio.Task[object]] = set()

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] == "http":
            with self._open_request():
                await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _live(scope, receive, send)

    async def settle(self, within_s: float) -> None:
        """Wait until all open requests have their response, at most `within_s`."""
        if self._requests:
            await asyncio.wait(self._requests, timeout=within_s)

    def give_up(self) -> None:
        """Cancel all requests that have no response yet, because the server stops."""
        for task in self._requests:
            task.cancel()

    @contextlib.contextmanager
    def _open_request(self) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - the server runs each request in a task
        self._requests.add(task)
        try:
            yield
        finally:
            self._requests.discard(task)

    async def _serve(
        self, scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        complete, body = await _read_body(receive)
        if not complete:
            return
        head, now = _head(scope), datetime.now(UTC)
        row = None if head.is_grpc else row_of(head.path.partition("?")[0])
        if row is not None:
            received, response = interpret_agent(head, row, body, now)
        else:
            received, response = interpret(head, body, now)
        waiting = self._on_request(received)
        if waiting is not None:
            await waiting
        await _send_response(send, response)


async def _live(
    _scope: LifespanScope, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    """Confirm startup and shutdown: there is nothing to set up."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return


async def _read_body(receive: ASGIReceiveCallable) -> tuple[bool, bytes | None]:
    """Read to the end: (whether the client stayed connected, the body or None if it is too large).

    A body that is too large is read and discarded, so that the client can read the response.
    """
    chunks: list[bytes] = []
    size, limit = 0, MAX_BODY_BYTES + _PREFIX_ROOM
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return False, None
        size += len(message["body"])
        if size <= limit:
            chunks.append(message["body"])
        else:
            chunks.clear()
        if not message["more_body"]:
            return True, b"".join(chunks) if size <= limit else None


def _head(scope: HTTPScope) -> Head:
    query = scope["query_string"].decode("latin-1")
    path = scope["raw_path"].decode("latin-1")
    client = scope["client"]
    return Head(
        http_version=scope["http_version"],
        method=scope["method"],
        path=f"{path}?{query}" if query else path,
        headers=tuple(
            (name.decode("latin-1").lower(), value.decode("latin-1"))
            for name, value in scope["headers"]
        ),
        peer=f"{client[0]}:{client[1]}" if client else "",
    )


async def _send_response(send: ASGISendCallable, response: HttpResponse) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": response.status,
            "headers": response.headers,
            "trailers": response.trailers is not None,
        }
    )
    await send({"type": "http.response.body", "body": response.body, "more_body": False})
    if response.trailers is not None:
        await send(
            {"type": "http.response.trailers", "headers": response.trailers, "more_trailers": False}
        )
