"""What becomes of a whole request, over any version of HTTP: decode it, report it, respond.

Back-pressure: the response is sent only after `on_request` has finished, so that a slow reader
slows the senders down instead of filling memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Final

from gateway.intake import row_of
from gateway.otlp.encodings import MAX_BODY_BYTES
from gateway.receiver.agents import interpret_agent
from gateway.receiver.exports import Head, HttpResponse, interpret
from gateway.receiver.received import ReceivedRequest

OnRequest = Callable[[ReceivedRequest], Awaitable[None] | None]

_PREFIX_ROOM: Final = 5
"""A gRPC body is the message with a five-byte prefix."""

_log = logging.getLogger("gateway.receiver")


class Body:
    """A request's body, as it arrives.

    What is too large is discarded as it is read, so that the client can read the response.
    """

    def __init__(self) -> None:
        self.size = 0
        self._chunks: list[bytes] = []

    def add(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self.size += len(chunk)
        if self._is_too_large:
            self._chunks.clear()
        else:
            self._chunks.append(chunk)

    @property
    def content(self) -> bytes | None:
        """All of it; None if it was too large."""
        return None if self._is_too_large else b"".join(self._chunks)

    @property
    def _is_too_large(self) -> bool:
        return self.size > MAX_BODY_BYTES + _PREFIX_ROOM


class ReceiverApp:
    """Accepts OTLP in every form and the agents' intake; calls `on_request` for each request."""

    def __init__(self, on_request: OnRequest) -> None:
        self._on_request = on_request
        self._requests: set[asyncio.Task[object]] = set()

    async def settle(self, within_s: float) -> None:
        """Wait until all open requests have their response, at most `within_s`."""
        if self._requests:
            await asyncio.wait(self._requests, timeout=within_s)

    def give_up(self) -> None:
        """Cancel all requests that have no response yet, because the server stops."""
        for task in self._requests:
            task.cancel()

    @contextlib.contextmanager
    def open_request(self) -> Iterator[None]:
        """Let `settle` and `give_up` know of a request, which the current task serves."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a server runs each request in a task
        self._requests.add(task)
        try:
            yield
        finally:
            self._requests.discard(task)

    async def answer(self, head: Head, body: bytes | None) -> HttpResponse:
        """Report a request and return the response; `body` is None if it was too large."""
        try:
            received, response = _interpret(head, body)
            waiting = self._on_request(received)
            if waiting is not None:
                await waiting
        except Exception:  # noqa: BLE001 - whatever is wrong with one request, the others go on
            _log.exception("a request could not be handled: please report this bug")
            return HttpResponse(500, [(b"content-length", b"0")], b"")
        return response


def _interpret(head: Head, body: bytes | None) -> tuple[ReceivedRequest, HttpResponse]:
    now = datetime.now(UTC)
    row = None if head.is_grpc else row_of(head.path.partition("?")[0])
    if row is not None:
        return interpret_agent(head, row, body, now)
    return interpret(head, body, now)
