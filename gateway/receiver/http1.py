"""The receiver's HTTP/1.1 side, on aiohttp."""

from __future__ import annotations

import logging
from typing import Final

from aiohttp import web

from gateway import __version__
from gateway.receiver.app import Body, ReceiverApp
from gateway.receiver.exports import Head, HttpResponse
from gateway.wire import http1

_IDLE_S: Final = 3600.0
"""Gateways and SDKs keep connections open; closing one during a request costs a retry."""
_SERVER: Final = f"gateway-receive/{__version__}"

# aiohttp would log a malformed request with a traceback; its sender is told with a 400.
_silent = logging.getLogger("gateway.receiver.http1")
_silent.disabled = True


def http1_server(app: ReceiverApp) -> web.Server:
    """Return what makes a protocol for each connection and, at the end, shuts them down."""

    async def handle(request: web.BaseRequest) -> web.Response:
        with app.open_request():
            return await _handle(app, request)

    return web.Server(
        handle,
        access_log=None,
        auto_decompress=False,
        keepalive_timeout=_IDLE_S,
        logger=_silent,
        max_field_size=http1.MAX_HEAD_BYTES,
        max_headers=http1.MAX_FIELDS,
        max_line_size=http1.MAX_HEAD_BYTES,
    )


async def _handle(app: ReceiverApp, request: web.BaseRequest) -> web.Response:
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(http1.CONTINUE)
        request.writer.output_size = 0  # what counts is whether the response has begun
    body = Body()
    try:
        async for chunk in request.content.iter_any():
            body.add(chunk)
    except web.RequestPayloadError:
        refusal = web.Response(status=400, text="the body is malformed or truncated")
        refusal.force_close()
        return refusal
    return _response(await app.answer(_head(request), body.content))


def _head(request: web.BaseRequest) -> Head:
    peer = request.get_extra_info("peername")
    return Head(
        http_version=f"{request.version.major}.{request.version.minor}",
        method=request.method,
        path=request.raw_path,
        headers=tuple(
            (name.decode("latin-1").lower(), value.decode("latin-1"))
            for name, value in request.raw_headers
        ),
        peer=f"{peer[0]}:{peer[1]}" if peer else "",
    )


def _response(response: HttpResponse) -> web.Response:
    headers = [(name.decode(), value.decode()) for name, value in response.headers]
    return web.Response(
        status=response.status, headers=[*headers, ("Server", _SERVER)], body=response.body
    )
