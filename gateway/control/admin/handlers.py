"""Metrics, health, reload and the effective configuration over HTTP.

Each handler asks one part of control and returns its answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import hdrs, web

from gateway.control.admin.health import Health
from gateway.control.admin.http_app import Route, json_response
from gateway.control.admin.roles import Role
from gateway.control.core.errors import ReloadError
from gateway.control.metrics.exposition import Exposition


@dataclass(frozen=True, slots=True)
class AdminHandlers:
    """Handlers and their routes.

    `reload` reads the configuration again and returns notes (what a restart is needed for), or
    raises `ReloadError`; `masked_config` returns all settings, secrets masked.
    """

    exposition: Exposition
    health: Health
    reload: Callable[[], Awaitable[Sequence[str]]]
    masked_config: Callable[[], Any]

    def public_routes(self) -> list[Route]:
        """Return the routes for Prometheus and the kubelet, on `admin.metrics_address` too."""
        return [
            Route(hdrs.METH_GET, "/metrics", self._metrics),
            Route(hdrs.METH_GET, "/livez", self._livez),
            Route(hdrs.METH_GET, "/readyz", self._readyz),
        ]

    def routes(self) -> list[Route]:
        """Return all routes for `admin.address`."""
        return [
            *self.public_routes(),
            Route(hdrs.METH_POST, "/-/reload", self._reload, Role.ADMINISTRATOR),
            Route(hdrs.METH_GET, "/-/config", self._config, Role.READER),
        ]

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = await self.exposition.render(request.headers.get(hdrs.ACCEPT, ""))
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
