"""A backend for tests: it records every request exactly and answers what a script says.

`RawSink` listens on two sockets: HTTP/2 with prior knowledge (the `h2` library, an HTTP/2
implementation independent of ours) and HTTP/1.1 (aiohttp, decompression off). It takes any
`grpc-encoding` and any `content-encoding`, because it never opens a body.

Whatever no test expects is a *fault*: a protocol error, a request broken off, bad gRPC framing.
Leaving the sink with faults that no test has taken fails the test.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Self

from h2.settings import SettingCodes

from tests.support.exchange import (
    Answer,
    Break,
    EarlyScript,
    FramingError,
    GrpcMessage,
    Request,
    Script,
    accept,
)
from tests.support.sink_http1 import Http1Side
from tests.support.sink_http2 import Http2Side

__all__ = ["Answer", "Break", "GrpcMessage", "RawSink", "Request", "Script"]

WAIT_S = 20.0
"""How long `wait_for` waits for what must come; only failing tests take it."""


class RawSink:
    """The scripted backend. Use it as an asynchronous context manager.

    Attributes:
        requests: complete requests in the order of their ends.
        aborted: requests that the peer broke off; each is also a fault, if `aborts_are_faults`.
        canceled: complete requests that the peer gave up before it had the whole answer.
        faults: what went wrong, for people. Tests that provoke one call `take_faults`.
        script: decides each answer; may be replaced at any time.
        early: as `script`, but asked at the head, before the body.

    """

    def __init__(
        self,
        script: Script = accept,
        *,
        tls: ssl.SSLContext | None = None,
        settings: dict[SettingCodes, int] | None = None,
        ports: tuple[int, int] = (0, 0),
        host: str = "127.0.0.1",
    ) -> None:
        """`settings` are HTTP/2 settings to announce (RFC 9113 §6.5.2).

        `ports` are those of HTTP/2 and HTTP/1.1; 0 lets the system choose.
        """
        self.script = script
        self.early: EarlyScript | None = None
        self.requests: list[Request] = []
        self.aborts_are_faults = True
        self.aborted: list[Request] = []
        self.canceled: list[Request] = []
        self.faults: list[str] = []
        self.http2_connections: list[Http2Side] = []
        self.http1_connections = 0
        self._tls = tls
        self._settings = settings or {}
        self._ports = ports
        self._host = host
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._http1 = Http1Side(self)
        self._http2: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        """Listen."""
        loop = asyncio.get_running_loop()
        if self._tls is not None:
            self._tls.set_alpn_protocols(["h2", "http/1.1"])
        http2_port, http1_port = self._ports
        self._http2 = await loop.create_server(
            self._new_http2, self._host, http2_port, ssl=self._tls
        )
        await self._http1.start(http1_port, self._tls, self._host)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close everything; fail on faults unless the test fails already."""
        faults = self.take_faults()
        await self._close()
        if error is None and faults:
            raise AssertionError("the sink met with:\n" + "\n".join(faults))

    async def _close(self) -> None:
        assert self._http2 is not None
        self._http2.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self.http2_connections:
            connection.abort()
        await self._http2.wait_closed()
        await self._http1.stop()

    def _new_http2(self) -> Http2Side:
        side = Http2Side(self, len(self.http2_connections), self._settings)
        self.http2_connections.append(side)
        return side

    @property
    def grpc_port(self) -> int:
        """The port that speaks HTTP/2."""
        assert self._http2 is not None
        port: int = self._http2.sockets[0].getsockname()[1]
        return port

    @property
    def http_port(self) -> int:
        """The port that speaks HTTP/1.1."""
        return self._http1.port

    @property
    def grpc_url(self) -> str:
        """What goes into `backends.otlp_grpc.urls`."""
        return f"{self._scheme}://{self._host}:{self.grpc_port}"

    @property
    def http_url(self) -> str:
        """What goes into `backends.otlp_http.urls`."""
        return f"{self._scheme}://{self._host}:{self.http_port}"

    @property
    def _scheme(self) -> str:
        return "https" if self._tls is not None else "http"

    def take_faults(self) -> list[str]:
        """Return the faults so far and forget them."""
        faults, self.faults = self.faults, []
        return faults

    async def wait_for(self, count: int) -> list[Request]:
        """Return the requests as soon as there are at least `count` complete ones.

        Raises:
            TimeoutError: they did not come; the text says what did.

        """
        await self.wait_until(lambda: len(self.requests) >= count, f"{count} requests")
        return self.requests

    async def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        """Return as soon as `holds()`, which is asked again after everything that arrives.

        Raises:
            TimeoutError: it never held; the text says what had come.

        """
        try:
            async with asyncio.timeout(WAIT_S):
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            seen = [f"{request.method} {request.path}" for request in self.requests]
            message = f"waited for {what}; came: {seen}; faults: {self.faults}"
            raise TimeoutError(message) from None

    # What follows is for the two protocol sides.

    def early_answer(self, head: Request) -> Answer | None:
        """Return the answer that is due before the body, if any."""
        return self.early(head) if self.early is not None else None

    def record(self, request: Request) -> None:
        """Take in a request that has ended, whole or not."""
        if request.complete:
            self.requests.append(request)
            if request.is_grpc:
                self._check_framing(request)
        else:
            self.aborted.append(request)
            if self.aborts_are_faults:
                so_far = f"{len(request.body)} bytes in"
                self.fault(f"{request.method} {request.path} broken off, {so_far}")
        self.announce()

    def cancel(self, request: Request) -> None:
        """Note that the peer no longer waits for the answer."""
        self.canceled.append(request)
        self.announce()

    def _check_framing(self, request: Request) -> None:
        try:
            count = len(request.messages)
        except FramingError as error:
            self.fault(f"{request.path}: {error}")
        else:
            if count != 1:
                self.fault(f"{request.path}: {count} messages in a unary call")

    def fault(self, text: str) -> None:
        """Note what no test expects."""
        self.faults.append(text)
        self.announce()

    def announce(self) -> None:
        """Wake the waiters."""
        self._changed.set()

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run `work` until it ends or the sink closes; what it raises is a fault."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fault(f"{type(error).__name__}: {error}")
