"""How control speaks HTTP: routes, tokens, errors as JSON, and the servers that listen.

What the routes answer does not belong here: `admin` has the gateway's own, other rooms bring theirs
as a list of `Route`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from gateway.control.sockets import BoundSocket
from gateway.control.token_gate import TokenGate, Turned

TOKEN_FIELDS: Final = ("X-API-Token", "X-API-Key")
"""The header fields that may carry a token: those of the `sts` CLI."""
MAX_BODY_BYTES: Final = 64 * 1024
MAX_CONNECTIONS: Final = 256
"""At once, on one of control's addresses."""
REQUEST_S: Final = 10.0
KEEPALIVE_S: Final = 75.0
"""Longer than scrapes lie apart."""
_SHUTDOWN_S: Final = 1.0
_TELL_EVERY_S: Final = 60.0
_OF_PATHS: Final = {404, 405}
"""Errors that say which paths there are."""
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

WHO: Final = web.RequestKey("who", str)
"""The name of the token that a request with `needs_token` was let in by."""
JSON: Final = "application/json"
"""Exactly so, without a charset: the `sts` CLI shows errors of no other type."""
_SILENT: Final = web.AppKey("silent", set[web.RequestHandler])
"""Connections without a request so far."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ErrorBody = Callable[[str, int, str], object | None]
"""Makes the body of an error from path, status and text; None = the admin's own form."""


@dataclass(frozen=True, slots=True)
class Route:
    """One request that is answered. `path` may hold aiohttp's `{name}` parts."""

    method: str
    path: str
    handler: Handler
    needs_token: bool = False


class TlsFiles:
    """An SSL context that can read its certificate again: new handshakes get the new one."""

    def __init__(
        self, cert_file: str, key_file: str, client_ca_file: str | None, min_version: str
    ) -> None:
        """Raise `OSError` (`ssl.SSLError`) where a file cannot be used."""
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca_file)
        self.context.minimum_version = _VERSIONS[min_version]
        if client_ca_file is not None:
            self.context.verify_mode = ssl.CERT_REQUIRED
        self.read(cert_file, key_file)

    def read(self, cert_file: str, key_file: str) -> None:
        """Take certificate and key from these files."""
        self.context.load_cert_chain(cert_file, key_file)


class NoRawRequests(logging.Filter):
    """Keeps what is no HTTP/1.1 out of the log.

    aiohttp logs such a request with a traceback and its raw bytes: a gRPC client that was pointed
    at an admin address would fill the log, and put its credential there, Huffman-coded so that no
    redaction sees it. One line a minute says the same.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._told_at = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything else pass (logging)."""
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError):
            return True
        if self._clock() - self._told_at < _TELL_EVERY_S:
            return False
        self._told_at = self._clock()
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.msg = "a client of an admin address does not speak HTTP/1.1: senders belong on the "
        record.msg += "addresses of `listen`"
        record.args = ()
        record.exc_info = record.exc_text = None
        return True


_http_log = logging.getLogger("gateway.control.http")
_http_log.addFilter(NoRawRequests())


class HttpServers:
    """Listening servers of control, closed together.

    Whoever may reach the metrics must not be able to use up control's descriptors: connections are
    limited in number, and those are closed whose first request has not come after `request_s`
    seconds, or whose next one after `KEEPALIVE_S`.
    """

    def __init__(
        self, max_connections: int = MAX_CONNECTIONS, request_s: float = REQUEST_S
    ) -> None:
        self._max_connections = max_connections
        self._request_s = request_s
        self._runners: list[web.AppRunner] = []
        self._servers: list[asyncio.Server] = []

    async def serve(
        self, app: web.Application, sockets: Sequence[BoundSocket], tls: TlsFiles | None
    ) -> None:
        """Answer on `sockets`, which the servers close at their end."""
        runner = web.AppRunner(
            app,
            access_log=None,
            logger=_http_log,
            shutdown_timeout=_SHUTDOWN_S,
            keepalive_timeout=KEEPALIVE_S,
        )
        await runner.setup()
        self._runners.append(runner)
        loop = asyncio.get_running_loop()
        for bound in sockets:
            server = await loop.create_server(
                lambda: self._accept(runner.server, app[_SILENT]),
                sock=bound.sock,
                ssl=tls.context if tls is not None else None,
            )
            self._servers.append(server)

    async def close(self) -> None:
        """Stop listening, let requests finish for a second."""
        while self._servers:
            self._servers.pop().close()
        while self._runners:
            await self._runners.pop().cleanup()

    def _accept(
        self, server: web.Server | None, silent: set[web.RequestHandler]
    ) -> asyncio.Protocol:
        if server is None or len(server.connections) >= self._max_connections:
            return _TurnedAway()
        handler = server()
        silent.add(handler)
        asyncio.get_running_loop().call_later(self._request_s, _close_silent, handler, silent)
        return handler


def _close_silent(handler: web.RequestHandler, silent: set[web.RequestHandler]) -> None:
    if handler in silent:
        silent.discard(handler)
        handler.force_close()


class _TurnedAway(asyncio.Protocol):
    """A connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it (asyncio)."""
        transport.close()


def make_app(
    routes: Sequence[Route],
    gate: TokenGate,
    on_bug: Callable[[str, Exception], None],
    error_body: ErrorBody = lambda *_: None,
) -> web.Application:
    """Make an application of `routes`.

    `gate` judges what routes with `needs_token` were sent; `on_bug` counts exceptions;
    `error_body` lets other rooms have errors under their paths in their own form.
    """
    app = web.Application(
        middlewares=[_errors_as_json(routes, on_bug, error_body)], client_max_size=MAX_BODY_BYTES
    )
    app[_SILENT] = set()
    for route in routes:
        handler = _guarded(route.handler, gate, error_body) if route.needs_token else route.handler
        if route.method == hdrs.METH_GET:
            app.router.add_get(route.path, handler)
        else:
            app.router.add_route(route.method, route.path, handler)
    app.on_response_prepare.append(_hide_server)
    return app


def json_response(
    status: int, body: object, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Answer with JSON; never cached."""
    text = json.dumps(body, ensure_ascii=False)
    return bytes_response(status, text.encode(), headers)


def bytes_response(
    status: int, body: bytes | None, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Answer with JSON that is encoded already, or with no body at all; never cached."""
    fields = {hdrs.CACHE_CONTROL: "no-store", **(headers or {})}
    if body is not None:
        fields[hdrs.CONTENT_TYPE] = JSON
    return web.Response(body=body, status=status, headers=fields)


def _guarded(handler: Handler, gate: TokenGate, error_body: ErrorBody) -> Handler:
    async def guarded(request: web.Request) -> web.StreamResponse:
        presented = [token for field in TOKEN_FIELDS for token in request.headers.getall(field, ())]
        admitted = await gate.admit(request.remote or "", presented)
        if isinstance(admitted, Turned):
            return _turned_away(request, admitted, error_body)
        request[WHO] = admitted
        return await handler(request)

    return guarded


def _turned_away(request: web.Request, turned: Turned, error_body: ErrorBody) -> web.Response:
    headers: dict[str, str] = {hdrs.WWW_AUTHENTICATE: TOKEN_FIELDS[0]}
    if turned.retry_after_s is not None:
        headers = {hdrs.RETRY_AFTER: str(turned.retry_after_s)}
    body = error_body(request.path, turned.status, turned.text) or {"error": turned.text}
    return json_response(turned.status, body, headers)


Middleware = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]


def _errors_as_json(
    routes: Sequence[Route], on_bug: Callable[[str, Exception], None], error_body: ErrorBody
) -> Any:  # noqa: ANN401 - aiohttp's middleware type is private
    listed = [f"{route.method} {route.path}" for route in routes]

    def failed(
        request: web.Request, status: int, text: str, headers: Mapping[str, str] | None = None
    ) -> web.Response:
        own = {"error": text, "paths": listed} if status in _OF_PATHS else {"error": text}
        return json_response(status, error_body(request.path, status, text) or own, headers)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        request.app[_SILENT].discard(request.protocol)
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return failed(request, 404, "no such path here")
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted(error.allowed_methods))
            return failed(request, 405, f"this path takes only {allowed}", {hdrs.ALLOW: allowed})
        except web.HTTPRequestEntityTooLarge:
            return failed(request, 413, f"the body is longer than {MAX_BODY_BYTES} bytes")
        except web.HTTPException as error:
            return failed(request, error.status, error.reason)
        except Exception as error:  # noqa: BLE001 - a bug in a handler is an answer too
            on_bug(f"{request.method} {request.match_info.route.name or 'admin'}", error)
            return failed(request, 500, "the gateway failed on this request; see its log")

    return middleware


async def _hide_server(request: web.Request, response: web.StreamResponse) -> None:  # noqa: ARG001 - aiohttp's signature
    """Name no versions to whoever asks."""
    response.headers.pop(hdrs.SERVER, None)
