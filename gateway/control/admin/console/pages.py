"""The console's files, and signing in and out.

The pages are static: they show what the management API, `/readyz`, `/metrics` and `/-/trace`
return. A strict policy lets browsers load nothing from elsewhere and run no script that stands in a
page (W3C, Content Security Policy Level 3).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from typing import Final

from aiohttp import hdrs, web

from gateway.control.admin.console.sessions import Session, Sessions
from gateway.control.admin.http_app import PROOF_FIELD, Route, json_response, session_cookie
from gateway.control.admin.roles import Role
from gateway.control.admin.token_gate import Rejected, TokenGate
from gateway.outcome import REFUSALS

_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
_PAGE: Final = "index.html"
_SECURITY: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_BODY: Final = 'the body is not as expected: send {"token": "…"}'


class Console:
    """`/ui/`. `gate` checks the tokens with which people sign in."""

    def __init__(self, gate: TokenGate, sessions: Sessions) -> None:
        self._gate = gate
        self._sessions = sessions
        self._advice: dict[str, list[str]] = {}
        for refusal in REFUSALS.values():
            self._advice.setdefault(refusal.outcome.name, []).append(refusal.text)

    def routes(self) -> list[Route]:
        """Return the routes for the admin address."""
        return [
            Route(hdrs.METH_GET, "/ui", _to_the_page),
            Route(hdrs.METH_GET, "/ui/", _page),
            Route(hdrs.METH_GET, "/ui/session", self._show),
            Route(hdrs.METH_POST, "/ui/session", self._sign_in),
            Route(hdrs.METH_DELETE, "/ui/session", self._sign_out),
            Route(hdrs.METH_GET, "/ui/{file}", _file),
        ]

    async def _show(self, request: web.Request) -> web.Response:
        session = self._sessions.find(request.cookies.get(session_cookie(request), ""))
        return json_response(200, {"who": None} if session is None else self._described(session))

    async def _sign_in(self, request: web.Request) -> web.Response:
        token = _token_in(await request.read())
        if token is None:
            return json_response(400, {"error": _BODY})
        admitted = await self._gate.admit(
            request.remote or "", [token], Role.READER, takes_scopes=True
        )
        if isinstance(admitted, Rejected):
            return json_response(admitted.status, {"error": admitted.text})
        cookie, session = self._sessions.open(admitted, token)
        response = json_response(200, self._described(session))
        response.set_cookie(
            session_cookie(request),
            cookie,
            httponly=True,
            samesite="Strict",
            secure=request.secure,
        )
        return response

    async def _sign_out(self, request: web.Request) -> web.Response:
        name = session_cookie(request)
        self._sessions.close(request.cookies.get(name, ""))
        response = web.Response(status=204)
        response.del_cookie(name)
        return response

    def _described(self, session: Session) -> dict[str, object]:
        return {
            "who": session.caller.name,
            "role": str(session.caller.role),
            "labels": dict(sorted(session.caller.scope.labels)),
            "proof": session.proof,
            "proofField": PROOF_FIELD,
            "advice": self._advice,
        }


async def _to_the_page(request: web.Request) -> web.Response:  # noqa: ARG001 - a handler
    return web.Response(status=308, headers={hdrs.LOCATION: "/ui/"})


async def _page(request: web.Request) -> web.Response:
    return _static(request, _PAGE)


async def _file(request: web.Request) -> web.Response:
    return _static(request, request.match_info["file"])


def _static(request: web.Request, name: str) -> web.Response:
    folder = resources.files(__package__ or "").joinpath("static")
    kind = _TYPES.get(name.rpartition(".")[2])
    if kind is None or name not in {file.name for file in folder.iterdir()}:
        raise web.HTTPNotFound
    content = folder.joinpath(name).read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {**_SECURITY, hdrs.CACHE_CONTROL: "no-cache", hdrs.ETAG: tag}
    if request.headers.get(hdrs.IF_NONE_MATCH) == tag:
        return web.Response(status=304, headers=headers)
    return web.Response(body=content, headers={**headers, hdrs.CONTENT_TYPE: kind})


def _token_in(body: bytes) -> str | None:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    token = value.get("token") if isinstance(value, dict) else None
    return token if isinstance(token, str) and token else None
