"""The obvious build over HTTP/1.1, to compare with: an aiohttp server that sends on what it got.

`python -m bench.aiohttp_proxy PORT BACKEND_PORT` checks the caller's key against the bench's keys
and forwards any POST as it is, compressed or not.
"""

from __future__ import annotations

import asyncio
import sys

import aiohttp
import uvloop
from aiohttp import web

from bench import keys

_MOST_BYTES = 64 << 20
_FORWARDED = ("Content-Type", "Content-Encoding", "User-Agent")


class Relay:
    """Handles every path alike."""

    def __init__(self, session: aiohttp.ClientSession, backend_port: int) -> None:
        self._session = session
        self._backend = f"http://127.0.0.1:{backend_port}"
        self._known = frozenset(keys.authorizations())
        self._agents = frozenset(keys.keys())

    async def forward(self, request: web.Request) -> web.Response:
        """Check the key, gather the body, send it on, return what the backend says."""
        sender = request.headers
        known = sender.get("Authorization") in self._known
        if not known and sender.get("Sts-Api-Key") not in self._agents:
            return web.Response(status=401)
        body = await request.read()
        kept = {name: sender[name] for name in _FORWARDED if name in sender}
        target = self._backend + request.path_qs
        async with self._session.post(target, data=body, headers=kept) as answer:
            return web.Response(
                status=answer.status, body=await answer.read(), content_type=answer.content_type
            )


async def serve(port: int, backend_port: int) -> None:
    """Serve on 127.0.0.1:`port` until cancelled."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        application = web.Application(client_max_size=_MOST_BYTES)
        application.router.add_post("/{path:.*}", Relay(session, backend_port).forward)
        runner = web.AppRunner(application, access_log=None, auto_decompress=False)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
