"""`POST /-/trace`: the requests that a trace session receives, as newline-delimited JSON."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import hdrs, web

from gateway.channel import TracedRequest
from gateway.config.units import parse_duration
from gateway.control.admin.http_app import CALLER, Route, json_response
from gateway.control.admin.roles import Role
from gateway.control.workers.trace_sessions import TooManySessionsError, TraceSession, TraceSessions
from gateway.keys.record import KeyRecord, KnownKey

MAX_S: Final = 3_600.0
DEFAULT_S: Final = 60.0
_POLL_S: Final = 1.0
"""How often a session without requests checks that its reader is still connected."""


class TraceApi:
    """`POST /-/trace`: newline-delimited JSON for as long as asked. `find` looks a key up by id."""

    def __init__(self, sessions: TraceSessions, find: Callable[[str], KnownKey | None]) -> None:
        self._sessions = sessions
        self._find = find

    def routes(self) -> list[Route]:
        """Return the routes for the admin address."""
        return [Route(hdrs.METH_POST, "/-/trace", self._trace, Role.READER, takes_scopes=True)]

    async def _trace(self, request: web.Request) -> web.StreamResponse:
        try:
            query = _Query.of(request.query)
        except ValueError as error:
            return json_response(400, {"error": str(error)})
        scope = request[CALLER].scope

        def shows(key_id: str) -> bool:
            if scope.is_everything:
                return True
            key = self._find(key_id)
            return isinstance(key, KeyRecord) and scope.covers(key.tenancy)

        try:
            async with self._sessions.watching(query.key_id, query.network, shows) as session:
                return await _stream(request, session, query.seconds)
        except TooManySessionsError as error:
            return json_response(503, {"error": str(error)})


@dataclass(frozen=True, slots=True)
class _Query:
    """What the query asks for."""

    key_id: str
    network: str
    seconds: float

    @classmethod
    def of(cls, query: Mapping[str, str]) -> _Query:
        """Read the query. Raises `ValueError` that says how to write it."""
        unknown = sorted(set(query) - {"key_id", "peer", "for"})
        if unknown:
            msg = f"unknown parameter {unknown[0]!r}: the parameters are key_id, peer and for"
            raise ValueError(msg)
        return cls(query.get("key_id", ""), _network(query.get("peer", "")), _seconds(query))


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False)) if text else ""
    except ValueError:
        msg = "peer: write an address or a network, such as 10.1.2.3 or 10.0.0.0/8"
        raise ValueError(msg) from None


def _seconds(query: Mapping[str, str]) -> float:
    if "for" not in query:
        return DEFAULT_S
    try:
        seconds = parse_duration(query["for"])
    except ValueError as error:
        msg = f"for: {error}"
        raise ValueError(msg) from None
    if not 0 < seconds <= MAX_S:
        msg = "for: write a time up to 1h, such as 60s"
        raise ValueError(msg)
    return seconds


async def _stream(
    request: web.Request, session: TraceSession, seconds: float
) -> web.StreamResponse:
    """Send lines until the time is over or the reader has disconnected."""
    response = web.StreamResponse(
        headers={hdrs.CONTENT_TYPE: "application/x-ndjson", hdrs.CACHE_CONTROL: "no-store"}
    )
    await response.prepare(request)
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):
        await _write(response, {"watching": await session.begun(), "for_s": seconds})
        end = loop.time() + seconds
        while (left := end - loop.time()) > 0 and _is_open(request):
            for traced in await session.requests(min(left, _POLL_S)):
                await _write(response, line_of(traced))
            if session.dropped:
                dropped, session.dropped = session.dropped, 0
                await _write(response, {"dropped": dropped})
        await response.write_eof()
    return response


def _is_open(request: web.Request) -> bool:
    return request.transport is not None and not request.transport.is_closing()


async def _write(response: web.StreamResponse, line: Mapping[str, Any]) -> None:
    await response.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")


def line_of(traced: TracedRequest) -> dict[str, Any]:
    """Return a request as JSON; fields that do not apply are left out."""
    ended = datetime.fromtimestamp(traced.ended_at_ms / 1000, UTC)
    line = {
        "time": ended.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "peer": traced.peer,
        "protocol": traced.protocol,
        "signal": traced.signal,
        "key_id": traced.key_id,
        "bytes": traced.bytes,
        "outcome": traced.outcome,
        "result": traced.result,
        "code": traced.code,
        "backend": traced.backend,
        "backend_code": traced.backend_code,
        "duration_ms": round(traced.duration_s * 1000, 3),
        "trace_id": traced.trace_id,
    }
    return {name: value for name, value in line.items() if value != ""}
