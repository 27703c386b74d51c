"""The gateway's own admin requests: metrics, health, reload, effective configuration.

Thin: each handler asks one part of control and writes down its answer. The management API of keys
brings its own routes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import hdrs, web

from gateway.control.exposition import Exposition
from gateway.control.health import Health
from gateway.control.web import Route, json_response


class ReloadError(Exception):
    """Nothing was changed; `reasons` says why, each with what to do."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = list(reasons)


@dataclass(frozen=True, slots=True)
class Admin:
    """What the handlers ask.

    `reload` reads the configuration again and returns notes (what a restart is needed for), or
    raises `ReloadError`; `masked_config` gives the effective configuration without its secrets.
    """

    exposition: Exposition
    health: Health
    reload: Callable[[], Awaitable[Sequence[str]]]
    masked_config: Callable[[], Any]

    def public_routes(self) -> list[Route]:
        """What Prometheus and the kubelet ask: all there is on `admin.metrics_address`."""
        return [
            Route(hdrs.METH_GET, "/metrics", self._metrics),
            Route(hdrs.METH_GET, "/livez", self._livez),
            Route(hdrs.METH_GET, "/readyz", self._readyz),
        ]

    def routes(self) -> list[Route]:
        """Everything on `admin.address`."""
        return [
            *self.public_routes(),
            Route(hdrs.METH_POST, "/-/reload", self._reload, needs_token=True),
            Route(hdrs.METH_GET, "/-/config", self._config, needs_token=True),
        ]

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = self.exposition.render(request.headers.get(hdrs.ACCEPT, ""))
        response = web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})
        response.enable_compression()
        return response

    async def _livez(self, request: web.Request) -> web.Response:  # noqa: ARG002 - a handler
        is_live, detail = self.health.live()
        return json_response(200 if is_live else 503, detail)

    async def _readyz(self, request: web.Request) -> web.Response:  # noqa: ARG002 - a handler
        is_ready, detail = self.health.ready()
        return json_response(200 if is_ready else 503, detail)

    async def _reload(self, request: web.Request) -> web.Response:  # noqa: ARG002 - a handler
        try:
            notes = await self.reload()
        except ReloadError as error:
            detail = {"error": "nothing was changed", "reasons": error.reasons}
            return json_response(422, detail)
        return json_response(200, {"status": "reloaded", "notes": list(notes)})

    async def _config(self, request: web.Request) -> web.Response:  # noqa: ARG002 - a handler
        return json_response(200, self.masked_config())
