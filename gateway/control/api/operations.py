"""What an operation of the API is, and how a request becomes a call of it.

An `Operation` says everything about itself: `openapi` writes it down, `route` makes aiohttp obey
it. So what is described is what is checked: parameters and bodies are read by the described types,
and an answer that is not described is a bug.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec
from aiohttp import web

from gateway.control.api.errors import Reply, bad_request, errors_response, reply_to
from gateway.control.api.shapes import encode
from gateway.control.web import JSON, WHO, Route, bytes_response
from gateway.keys.audit import Actor
from gateway.keys.errors import KeysError
from gateway.keys.material import InvalidKeyError

CONFIRMED: Final = "X-Gateway-Confirmed"
"""`true`: every worker on this host decides by the change; `false`: some may not yet."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter in the path or the query."""

    name: str
    place: Literal["path", "query"]
    type: Any
    """By which msgspec reads it."""
    description: str


@dataclass(frozen=True, slots=True)
class Call:
    """A request that an operation is to answer: everything in it has been read and is valid."""

    by: Actor
    parameters: Mapping[str, Any]
    body: Any
    """As `Operation.takes` says."""


@dataclass(frozen=True, slots=True)
class Pages:
    """A long list: parts that are read one after the other while it is sent."""

    parts: AsyncIterator[list[Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What an operation can answer with one status."""

    description: str
    type: Any = None
    """Of its body; None = no body."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Name → description."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that can be asked."""

    id: str
    method: str
    paths: Sequence[str]
    summary: str
    run: Callable[[Call], Awaitable[Reply | Pages]]
    answers: Mapping[int, Answer]
    parameters: Sequence[Parameter] = ()
    takes: Any = None
    """The type of the request's body; None = it is not read."""
    needs_token: bool = True

    def routes(self) -> list[Route]:
        """Make what `web.make_app` needs."""
        return [Route(self.method, path, self._handle, self.needs_token) for path in self.paths]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            call = await self._read(request)
            reply = await self.run(call) if isinstance(call, Call) else call
            if isinstance(reply, Pages):
                return await _send_pages(request, reply)
        except (KeysError, InvalidKeyError) as error:
            reply = reply_to(error)
        if reply.status not in self.answers:
            msg = f"operation {self.id} answered {reply.status}, which is not described"
            raise RuntimeError(msg)
        body = None if reply.value is None else encode(reply.value)
        return bytes_response(reply.status, body, reply.headers)

    async def _read(self, request: web.Request) -> Call | Reply:
        """Read the parameters and the body by their types; a `Reply` says what is wrong."""
        parameters: dict[str, Any] = {}
        for parameter in self.parameters:
            texts = _texts(request, parameter)
            if not texts:
                continue
            if len(texts) > 1:
                return bad_request(f"{parameter.name} is given more than once: give it once")
            try:
                value = msgspec.convert(texts[0], parameter.type, strict=False)
            except msgspec.ValidationError as error:
                return _wrong_parameter(parameter, error)
            parameters[parameter.name] = value
        body = None
        if self.takes is not None:
            try:
                body = msgspec.json.decode(await request.read(), type=self.takes)
            except msgspec.ValidationError as error:
                return bad_request(f"the body is not as described in openapi.json: {error}")
            except (msgspec.DecodeError, UnicodeDecodeError):
                return bad_request("the body is not JSON: send a JSON object")
        by = Actor(request.get(WHO, ""), request.remote or "")
        return Call(by, parameters, body)


def _texts(request: web.Request, parameter: Parameter) -> Sequence[str]:
    if parameter.place == "path":
        return [request.match_info[parameter.name]]
    return request.query.getall(parameter.name, [])


def _wrong_parameter(parameter: Parameter, error: msgspec.ValidationError) -> Reply:
    if parameter.place == "path":
        text = f"there is no key with this id: an id is a number ({error})"
        return Reply(404, errors_response(404, text))
    return bad_request(f"the parameter {parameter.name} cannot be so: {error}")


async def _send_pages(request: web.Request, pages: Pages) -> web.StreamResponse:
    """Send a list as one JSON array, holding one part at a time.

    A failure before anything is sent is an error like others; after it only the end of the
    connection can tell that the list is incomplete.
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
