"""How control answers HTTP: routes, tokens, and errors as JSON.

What the routes answer is in `handlers`, `trace_api` and `api`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiohttp import hdrs, web

from gateway.control.admin.connections import AdminConnections
from gateway.control.admin.console.sessions import Sessions, is_proof
from gateway.control.admin.known_hosts import REFUSED, KnownHosts
from gateway.control.admin.roles import Caller, Role
from gateway.control.admin.token_gate import Rejected, TokenGate, allowed
from gateway.control.core.errors import ErrorReporter

TOKEN_FIELDS: Final = ("X-API-Token", "X-API-Key")
"""The header fields that may carry a token: those of the `sts` CLI."""
PROOF_FIELD: Final = "X-Console-Proof"
"""The header field that shows that a request with a session's cookie is the console's own."""
MAX_BODY_BYTES: Final = 64 * 1024
_MISDIRECTED: Final = 421
"""RFC 9110 §15.5.20: not the server for this host."""
_SHOWN_HOST: Final = 100
"""Characters of a refused host in the log."""
_ERRORS_WITH_PATHS: Final = {404, 405}
"""Errors that list the paths there are."""

_log = structlog.get_logger("gateway.control")

CALLER: Final = web.RequestKey("caller", Caller)
"""Whose token or certificate a request to a route with `needs` was admitted with."""
JSON: Final = "application/json"
"""Exactly so, without a charset: the `sts` CLI shows errors of no other type."""
CONNECTIONS: Final = web.AppKey("connections", AdminConnections)
"""The connections that the application's requests come on, if they are watched."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ErrorBody = Callable[[str, int, str], object | None]
"""Makes the body of an error from path, status and text; None = the default form."""


@dataclass(frozen=True, slots=True)
class Route:
    """One kind of request. `path` may hold aiohttp's `{name}` parts."""

    method: str
    path: str
    handler: Handler
    needs: Role | None = None
    """The least role of whoever may ask; None = anyone, without a token."""
    takes_scopes: bool = False
    """Whether those may ask, too, who may see some keys only: the handler looks at their scope."""


def make_app(
    routes: Sequence[Route],
    gate: TokenGate,
    errors: ErrorReporter,
    error_body: ErrorBody = lambda *_: None,
    hosts: KnownHosts | None = None,
    sessions: Sessions | None = None,
) -> web.Application:
    """Make an application of `routes`.

    `gate` checks who makes requests to routes that need a role; `errors` gets unexpected
    exceptions; `error_body` makes the errors below some paths in another form; `hosts` are the
    names that the address may be called by; whoever has one of `sessions` needs no token.
    """
    guards = [
        _errors_as_json(routes, errors, error_body),
        _known_hosts_only(hosts or KnownHosts(), error_body),
    ]
    app = web.Application(middlewares=guards, client_max_size=MAX_BODY_BYTES)
    for route in routes:
        handler = route.handler
        if route.needs is not None:
            handler = _guarded(route, route.needs, gate, error_body, sessions)
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


def session_cookie(request: web.Request) -> str:
    """Return the name of the session's cookie: browsers keep one jar for all ports of a host."""
    return f"gateway_session_{request.url.port}"


def _guarded(
    route: Route,
    needs: Role,
    gate: TokenGate,
    error_body: ErrorBody,
    sessions: Sessions | None,
) -> Handler:
    async def guarded(request: web.Request) -> web.StreamResponse:
        presented = [token for field in TOKEN_FIELDS for token in request.headers.getall(field, ())]
        caller = None if presented else _signed_in(request, sessions)
        if caller is not None:
            admitted = allowed(caller, needs, takes_scopes=route.takes_scopes)
        else:
            transport = request.transport
            certificate = transport.get_extra_info("peercert") if transport is not None else None
            admitted = await gate.admit(
                request.remote or "",
                presented,
                needs,
                certificate,
                takes_scopes=route.takes_scopes,
            )
        if isinstance(admitted, Rejected):
            return _rejection(request, admitted, error_body)
        request[CALLER] = admitted
        return await route.handler(request)

    return guarded


def _signed_in(request: web.Request, sessions: Sessions | None) -> Caller | None:
    """Return who uses the console, if this is a request of the console's own."""
    if sessions is None:
        return None
    session = sessions.find(request.cookies.get(session_cookie(request), ""))
    if session is None or not is_proof(session, request.headers.get(PROOF_FIELD, "")):
        return None
    return session.caller


def _rejection(request: web.Request, rejected: Rejected, error_body: ErrorBody) -> web.Response:
    headers: dict[str, str] = {hdrs.WWW_AUTHENTICATE: TOKEN_FIELDS[0]}
    if rejected.caller is not None:
        headers, resource = {}, request.match_info.route.resource
        _log.warning(
            "a role does not allow this on the admin address",
            who=rejected.caller.name,
            role=str(rejected.caller.role),
            peer=request.remote,
            method=request.method,
            path=resource.canonical if resource is not None else "",
        )
    elif rejected.retry_after_s is not None:
        headers = {hdrs.RETRY_AFTER: str(rejected.retry_after_s)}
    body = error_body(request.path, rejected.status, rejected.text) or {"error": rejected.text}
    return json_response(rejected.status, body, headers)


def _errors_as_json(routes: Sequence[Route], errors: ErrorReporter, error_body: ErrorBody) -> Any:  # noqa: ANN401 - aiohttp's middleware type is private
    listed = [f"{route.method} {route.path}" for route in routes]

    def failed(
        request: web.Request, status: int, text: str, headers: Mapping[str, str] | None = None
    ) -> web.Response:
        own = {"error": text, "paths": listed} if status in _ERRORS_WITH_PATHS else {"error": text}
        return json_response(status, error_body(request.path, status, text) or own, headers)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        connections = request.app.get(CONNECTIONS)
        if connections is not None:
            connections.request_began(request)
        try:
            return await handler(request)
        except Exception as error:  # noqa: BLE001 - a bug in a handler gets an answer too
            if isinstance(error, ConnectionError) and _has_hung_up(request):
                return failed(request, 400, "the client has hung up")  # nobody gets it
            known = _explained(error)
            if known is not None:
                return failed(request, *known)
            errors.report(f"{request.method} {request.match_info.route.name or 'admin'}", error)
            return failed(request, 500, "the gateway failed on this request; see its log")
        finally:
            if connections is not None:
                connections.request_ended(request)

    return middleware


def _explained(error: Exception) -> tuple[int, str, Mapping[str, str] | None] | None:
    """Return status, text and header fields for what a client did wrong; None for a bug."""
    match error:
        case web.HTTPNotFound():
            return 404, "no such path", None
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return 405, f"this path allows only {allowed}", {hdrs.ALLOW: allowed}
        case web.HTTPRequestEntityTooLarge():
            return 413, f"the body is longer than {MAX_BODY_BYTES} bytes", None
        case web.HTTPException():
            return error.status, error.reason, None
        case web.RequestPayloadError():
            return 400, "the body is not encoded as its head says", None
        case _:
            return None


def _has_hung_up(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _known_hosts_only(hosts: KnownHosts, error_body: ErrorBody) -> Any:  # noqa: ANN401 - as above
    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        fields: list[str] = request.headers.getall(hdrs.HOST, [])
        if hosts.are_known(fields):
            return await handler(request)
        _log.warning(
            "a request to an admin address is refused: its Host is not in admin.hosts",
            host=fields[0][:_SHOWN_HOST],
            peer=request.remote,
        )
        body = error_body(request.path, _MISDIRECTED, REFUSED) or {"error": REFUSED}
        return json_response(_MISDIRECTED, body)

    return middleware


async def _hide_server(request: web.Request, response: web.StreamResponse) -> None:  # noqa: ARG001 - aiohttp's signature
    """Do not disclose versions to clients."""
    response.headers.pop(hdrs.SERVER, None)
