"""The HTTP/1.1 side of the test backend: aiohttp's server, with decompression off."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from aiohttp import web

from tests.support.exchange import Answer, Break, Request, http_body

if TYPE_CHECKING:
    from tests.support.sink_http2 import Recorder

_MAX_BODY_BYTES = 256 * 1024 * 1024
_CONNECTION = "tests.sink.connection"


class Http1Side:
    """All HTTP/1.1 connections of one sink."""

    def __init__(self, sink: Recorder) -> None:
        """`sink` records and decides."""
        self._sink = sink
        self._connections: dict[asyncio.BaseTransport, int] = {}
        application = web.Application(client_max_size=_MAX_BODY_BYTES)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(
            application,
            auto_decompress=False,
            access_log=None,
            shutdown_timeout=0.0,
            handler_cancellation=True,
        )
        self._listener: web.TCPSite | None = None

    async def start(self, port: int, tls: ssl.SSLContext | None, host: str) -> None:
        """Listen; port 0 lets the system choose."""
        await self._runner.setup()
        self._listener = web.TCPSite(self._runner, host, port, ssl_context=tls)
        await self._listener.start()

    async def stop(self) -> None:
        """Close every connection."""
        await self._runner.cleanup()

    @property
    def port(self) -> int:
        """The listening port."""
        port: int = self._runner.addresses[0][1]
        return port

    async def _handle(self, http: web.Request) -> web.StreamResponse:
        head = self._request(http, b"", complete=False)
        answer = self._sink.early_answer(head)
        if answer is not None:
            return await self._send(http, head, answer)
        body = bytearray()
        try:
            async for part in http.content.iter_any():
                body += part
        except (ConnectionError, web.RequestPayloadError, asyncio.CancelledError):
            self._sink.record(self._request(http, bytes(body), complete=False))
            raise
        request = self._request(http, bytes(body), complete=True)
        self._sink.record(request)
        try:
            return await self._send(http, request, self._sink.script(request))
        except (asyncio.CancelledError, ConnectionError):
            self._sink.cancel(request)
            raise
        except Exception as error:
            self._sink.fault(f"{type(error).__name__}: {error}")
            raise

    def _request(self, http: web.Request, body: bytes, *, complete: bool) -> Request:
        transport = http.transport
        number = -1
        if transport is not None:
            number = self._connections.setdefault(transport, len(self._connections))
        return Request(
            http_version="1.1",
            method=http.method,
            path=http.path_qs if http.raw_path.startswith("http") else http.raw_path,
            authority=http.headers.get("Host", ""),
            fields=tuple(
                (name.decode("latin-1").lower(), value.decode("latin-1"))
                for name, value in http.raw_headers
            ),
            body=body,
            connection=number,
            complete=complete,
        )

    async def _send(
        self, http: web.Request, request: Request, answer: Answer
    ) -> web.StreamResponse:
        if answer.wait_for is not None:
            await answer.wait_for.wait()
        fields, body = http_body(request, answer)
        response = web.StreamResponse(status=answer.status)
        for name, value in fields:
            response.headers.add(name, value)
        if not any(name == "transfer-encoding" for name, _ in fields):
            response.content_length = len(body)
        await _broken(http, answer.breaks, "nothing")
        await response.prepare(http)
        await _broken(http, answer.breaks, "head")
        middle = len(body) // 2
        await response.write(body[:middle])
        await _broken(http, answer.breaks, "half")
        await response.write(body[middle:])
        await _broken(http, answer.breaks, "body")
        await response.write_eof()
        return response


async def _broken(http: web.Request, breaks: Break | None, reached: str) -> None:
    """Break the connection if that is due here; then nothing more is sent, ever."""
    if breaks is None or breaks.after != reached:
        return
    transport = http.transport
    if transport is not None and breaks.how == "reset":
        transport.abort()
    elif transport is not None and breaks.how == "close":
        transport.close()
    elif breaks.how == "goaway":
        message = "HTTP/1.1 has no GOAWAY"
        raise ValueError(message)
    await asyncio.Event().wait()
