"""Operations of the API: their description, and how a request becomes a call.

An `Operation` describes everything about itself: `openapi` documents it, and `routes` has aiohttp
call it. So the description is what is checked: parameters and bodies are decoded by the described
types, and a response that is not described is a bug.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec
import structlog
from aiohttp import hdrs, web

from gateway.control.admin.address_budget import AddressBudget
from gateway.control.admin.api.errors import Reply, bad_request, errors_response, reply_to
from gateway.control.admin.api.members import check_members
from gateway.control.admin.api.shapes import encode
from gateway.control.admin.http_app import CALLER, JSON, Route, bytes_response
from gateway.control.admin.roles import Role
from gateway.keys.api_key import InvalidKeyError
from gateway.keys.audit import Actor
from gateway.keys.errors import KeysError

_OVER_BUDGET: Final = "an address sends more requests without a token than it may"

_log = structlog.get_logger("gateway.control")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter in the path or the query."""

    name: str
    place: Literal["path", "query"]
    type: Any
    """The type that msgspec converts it to."""
    description: str
    repeats: bool = False
    """Whether it may come several times; its value is a list then."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request to an operation: everything in it has been decoded and is valid."""

    by: Actor
    """Who asks; keys outside of its scope do not exist for it."""
    parameters: Mapping[str, Any]
    body: Any
    """As `Operation.takes` says."""


@dataclass(frozen=True, slots=True)
class Pages:
    """A long list, in parts that are read one after the other while it is sent."""

    parts: AsyncIterator[list[Any]]


@dataclass(frozen=True, slots=True)
class Response:
    """The response of an operation with one status."""

    description: str
    type: Any = None
    """Of its body; None = no body."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Name → description."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the API."""

    id: str
    method: str
    paths: Sequence[str]
    summary: str
    run: Callable[[Call], Awaitable[Reply | Pages]]
    responses: Mapping[int, Response]
    parameters: Sequence[Parameter] = ()
    takes: Any = None
    """The type of the request's body; None = the body is ignored."""
    needs: Role | None = Role.READER
    """The least role of whoever may ask; None = anyone, without a token."""
    takes_scopes: bool = False
    """As `Route.takes_scopes`; `run` looks at `Call.by`."""
    budget: AddressBudget | None = None
    """Of addresses that ask without a token; None = no limit."""

    def routes(self) -> list[Route]:
        """Return a route for each path."""
        return [
            Route(self.method, path, self._handle, self.needs, self.takes_scopes)
            for path in self.paths
        ]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self.budget is not None and (wait_s := self.budget.take(request.remote or "")):
            _log.warning(_OVER_BUDGET, peer=request.remote, operation=self.id)
            # No body, and none read: see `authorize`.
            return bytes_response(429, None, {hdrs.RETRY_AFTER: str(wait_s)})
        try:
            call = await self._read(request)
            reply = await self.run(call) if isinstance(call, Call) else call
            if isinstance(reply, Pages):
                return await _send_pages(request, reply)
        except (KeysError, InvalidKeyError) as error:
            reply = reply_to(error)
        if reply.status not in self.responses:
            msg = f"operation {self.id} replied {reply.status}, which is not described"
            raise RuntimeError(msg)
        body = None if reply.value is None else encode(reply.value)
        return bytes_response(reply.status, body, reply.headers)

    async def _read(self, request: web.Request) -> Call | Reply:
        """Decode the parameters and the body; return a `Reply` with the error if one is invalid."""
        parameters: dict[str, Any] = {}
        for parameter in self.parameters:
            texts = _texts(request, parameter)
            if not texts:
                continue
            if len(texts) > 1 and not parameter.repeats:
                return bad_request(f"the parameter {parameter.name} is repeated: send it once")
            given = list(texts) if parameter.repeats else texts[0]
            try:
                value = msgspec.convert(given, parameter.type, strict=False)
            except msgspec.ValidationError as error:
                return _wrong_parameter(parameter, error)
            parameters[parameter.name] = value
        body = None
        if self.takes is not None:
            raw = await request.read()
            try:
                value = msgspec.json.decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError):
                return bad_request("the body is not JSON: send a JSON object")
            try:
                body = msgspec.convert(value, type=self.takes)
            except msgspec.ValidationError as error:
                check_members(value, str(error))
                return bad_request(f"the body is not as openapi.json describes it: {error}")
        return Call(_author(request), parameters, body)


def _author(request: web.Request) -> Actor:
    caller = request.get(CALLER)
    if caller is None:
        return Actor("", request.remote or "")
    return Actor(caller.name, request.remote or "", caller.scope)


def _texts(request: web.Request, parameter: Parameter) -> Sequence[str]:
    if parameter.place == "path":
        return [request.match_info[parameter.name]]
    return request.query.getall(parameter.name, [])


def _wrong_parameter(parameter: Parameter, error: msgspec.ValidationError) -> Reply:
    if parameter.place == "path":
        text = f"there is no key with this id: an id is a number ({error})"
        return Reply(404, errors_response(404, text))
    return bad_request(f"the parameter {parameter.name} is invalid: {error}")


async def _send_pages(request: web.Request, pages: Pages) -> web.StreamResponse:
    """Send a list as one JSON array, holding one part at a time.

    An error before anything is sent is an error like others; afterwards only the end of the
    connection shows that the list is incomplete.
    """
    first: list[Any] = await anext(pages.parts, [])
    second = await anext(pages.parts, None)
    if second is None:
        return bytes_response(200, encode(first))
    response = web.StreamResponse(headers={"Content-Type": JSON, "Cache-Control": "no-store"})
    await response.prepare(request)
    try:
        await response.write(encode(first)[:-1])
        await response.write(b"," + encode(second)[1:-1])
        async for part in pages.parts:
            await response.write(b"," + encode(part)[1:-1])
        await response.write(b"]")
    except KeysError:
        if request.transport is not None:
            request.transport.abort()
        return response
    await response.write_eof()
    return response
