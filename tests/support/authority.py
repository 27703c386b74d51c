"""A scripted authority: an HTTP server that answers questions about keys as a test decides.

`async with ScriptedAuthority() as authority:` listens on 127.0.0.1. `answer` decides about each
question; what was asked is in `asked`.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Final, Literal, Self

from aiohttp import web

Behaviour = int | bytes | Literal["hang", "close"]
"""A status, raw bytes that are no HTTP, silence, or a closed connection."""
YES: Final = 204
NO: Final = 403


class ScriptedAuthority:
    """Speaks both dialects, whichever it is asked in."""

    def __init__(
        self,
        answer: Callable[[str], Behaviour] = lambda _: YES,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._tls = tls
        self.answer = answer
        self.asked: list[str] = []
        """The keys, in the order of the questions."""
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        """Method, path with query, headers."""
        self.most_at_once = 0
        self.most_per_key = 0
        self.wait_for: asyncio.Event | None = None
        """Nothing is answered before this is set."""
        self._under_way: Counter[str] = Counter()
        self._runner: web.ServerRunner | None = None
        self._released = asyncio.Event()
        self.port = 0

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Go away; entering again comes back on the same port."""
        self._released.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self._released = asyncio.Event()

    def url(self, path: str = "/internal/api/security/ingestion/authorize") -> str:
        """Where it is asked."""
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        key = json.loads(body)["apiKey"] if body else request.headers.get("sts-api-key", "")
        self.asked.append(key)
        self.requests.append((request.method, request.path_qs, dict(request.headers)))
        self._under_way[key] += 1
        self.most_per_key = max(self.most_per_key, self._under_way[key])
        self.most_at_once = max(self.most_at_once, self._under_way.total())
        try:
            if self.wait_for is not None:
                await self.wait_for.wait()
            return await self._do(self.answer(key), request)
        finally:
            self._under_way[key] -= 1

    async def _do(self, behaviour: Behaviour, request: web.BaseRequest) -> web.StreamResponse:
        if isinstance(behaviour, int):
            return web.Response(status=behaviour, headers={"Location": "/elsewhere"})
        transport = request.transport
        assert transport is not None
        if behaviour == "hang":
            await self._released.wait()
        elif isinstance(behaviour, bytes):
            transport.write(behaviour)
        transport.close()
        return web.Response(status=500)
