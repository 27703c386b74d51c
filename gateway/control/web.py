"""How control speaks HTTP: routes, tokens, errors as JSON, and the servers that listen.

What the routes answer does not belong here: `admin` has the gateway's own, other rooms bring theirs
as a list of `Route`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import hdrs, web

from gateway.control.sockets import BoundSocket

TOKEN_FIELDS: Final = ("X-API-Token", "X-API-Key")
"""The header fields that may carry a token: those of the `sts` CLI."""
MAX_BODY_BYTES: Final = 64 * 1024
MAX_CONNECTIONS: Final = 256
"""At once, on one of control's addresses."""
REQUEST_S: Final = 10.0
KEEPALIVE_S: Final = 75.0
"""Longer than scrapes lie apart."""
_SHUTDOWN_S: Final = 1.0
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

_SILENT: Final = web.AppKey("silent", set[web.RequestHandler])
"""Connections without a request so far."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


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
            app, access_log=None, shutdown_timeout=_SHUTDOWN_S, keepalive_timeout=KEEPALIVE_S
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
    accepts_token: Callable[[str], bool],
    on_bug: Callable[[str, Exception], None],
) -> web.Application:
    """Make an application of `routes`.

    `accepts_token` judges what routes with `needs_token` were sent; `on_bug` counts exceptions.
    """
    app = web.Application(
        middlewares=[_errors_as_json(routes, on_bug)], client_max_size=MAX_BODY_BYTES
    )
    app[_SILENT] = set()
    for route in routes:
        handler = _guarded(route.handler, accepts_token) if route.needs_token else route.handler
        if route.method == hdrs.METH_GET:
            app.router.add_get(route.path, handler)
        else:
            app.router.add_route(route.method, route.path, handler)
    app.on_response_prepare.append(_hide_server)
    return app


def json_response(status: int, body: object, headers: dict[str, str] | None = None) -> web.Response:
    """Answer with JSON; never cached."""
    fields = {hdrs.CACHE_CONTROL: "no-store", **(headers or {})}
    return web.json_response(body, status=status, headers=fields)


def _guarded(handler: Handler, accepts_token: Callable[[str], bool]) -> Handler:
    async def guarded(request: web.Request) -> web.StreamResponse:
        presented = [request.headers[field] for field in TOKEN_FIELDS if field in request.headers]
        if not presented:
            return _denied("no token: send it in the header X-API-Token")
        if not all([accepts_token(token) for token in presented]):  # noqa: C419 - judge each
            return _denied(
                "the token is not known here: see admin.tokens, or state_dir/admin-token"
            )
        return await handler(request)

    return guarded


def _denied(text: str) -> web.Response:
    return json_response(401, {"error": text}, {hdrs.WWW_AUTHENTICATE: "X-API-Token"})


Middleware = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]


def _errors_as_json(routes: Sequence[Route], on_bug: Callable[[str, Exception], None]) -> Any:  # noqa: ANN401 - aiohttp's middleware type is private
    listed = [f"{route.method} {route.path}" for route in routes]

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        request.app[_SILENT].discard(request.protocol)
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return json_response(404, {"error": "no such path here", "paths": listed})
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted(error.allowed_methods))
            text = f"this path takes only {allowed}"
            return json_response(405, {"error": text, "paths": listed}, {hdrs.ALLOW: allowed})
        except web.HTTPException as error:
            return json_response(error.status, {"error": error.reason})
        except Exception as error:  # noqa: BLE001 - a bug in a handler is an answer too
            on_bug(f"{request.method} {request.match_info.route.name or 'admin'}", error)
            return json_response(500, {"error": "the gateway failed on this request; see its log"})

    return middleware


async def _hide_server(request: web.Request, response: web.StreamResponse) -> None:  # noqa: ARG001 - aiohttp's signature
    """Name no versions to whoever asks."""
    response.headers.pop(hdrs.SERVER, None)
