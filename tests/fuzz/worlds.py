"""Both sides of the data path on transports in memory, for inputs that nobody has thought of.

A world feeds bytes to one side as a socket would, in pieces, and checks at its end that nothing is
left over and no bug was met.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvloop

from gateway import metrics
from gateway.dataplane.core.context import WorkerContext
from gateway.dataplane.core.forwarded_fields import ForwardedFields
from gateway.dataplane.core.heads import FieldKinds, FieldSection, RequestHead
from gateway.dataplane.core.seams import (
    AnswerSink,
    ConnectionOwner,
    Upstream,
    UpstreamConnection,
)
from gateway.dataplane.http1.answer_reader import KnownAnswers
from gateway.dataplane.http1.request_head import KnownLines
from gateway.dataplane.http1.server import Http1Server
from gateway.dataplane.http1.upstream import Http1Upstream
from gateway.dataplane.http2.answer_sections import AnswerSections
from gateway.dataplane.http2.request_head import KnownFields
from gateway.dataplane.http2.server import Http2Server
from gateway.dataplane.http2.upstream import Http2Upstream
from gateway.dataplane.upstream.connector import ConnectError
from gateway.outcome import Refusal
from gateway.settings import Target
from tests.support.in_memory import (
    GRPC_PATH,
    HTTP_PATH,
    BodilessRequest,
    Core,
    MemoryUpstream,
)
from tests.support.plane import KEY, entry

PEER = "192.0.2.7:40000"
_TURNS = 20
"""More turns of the loop than any input's consequences take."""

_loop = uvloop.new_event_loop()


T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run one input's world in the one loop of the process: making a loop costs more than that."""
    return _loop.run_until_complete(main)


async def server_world(*, is_http2: bool) -> ServerWorld:
    """Make one where no loop runs."""
    return ServerWorld(is_http2=is_http2)


async def upstream_world(*, is_http2: bool) -> UpstreamWorld:
    """Make one where no loop runs."""
    return UpstreamWorld(is_http2=is_http2)


class MemoryTransport(asyncio.Transport):
    """A socket's end. `takes`: whether the peer reads; what it does not take waits here."""

    def __init__(self, protocol: asyncio.BufferedProtocol | asyncio.Protocol) -> None:
        super().__init__()
        self.written = bytearray()
        self.takes = True
        self.is_paused = False
        self.has_eof = False
        self._protocol = protocol
        self._unsent = bytearray()
        self._is_closing = False
        self._is_lost = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.has_eof, "written after the end of the stream"
        if self._is_lost:
            return
        if self.takes:
            self.written += data
            return
        was_empty = not self._unsent
        self._unsent += data
        if was_empty and self._unsent:
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def take(self) -> None:
        """Let the peer read what waits, and what comes."""
        self.takes = True
        if self._unsent and not self._is_lost:
            self.written += self._unsent
            self._unsent.clear()
            self._protocol.resume_writing()

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Pause is at the first byte that waits, whatever is asked for."""

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.has_eof = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def is_reading(self) -> bool:
        return not self.is_paused

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        """Close when everything has left."""
        if not self._is_closing:
            self._is_closing = True
            asyncio.get_running_loop().call_soon(self._lose)

    def abort(self) -> None:
        self._unsent.clear()
        self.close()

    def _lose(self) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._protocol.connection_lost(None)

    @property
    def is_open(self) -> bool:
        """Whether the gateway still wants to hear of it."""
        return not self._is_closing


@dataclass(slots=True)
class Wire:
    """A protocol of the gateway's with its transport."""

    protocol: asyncio.BufferedProtocol
    transport: MemoryTransport

    @classmethod
    def to(cls, protocol: asyncio.BufferedProtocol) -> Wire:
        """Connect one."""
        wire = cls(protocol, MemoryTransport(protocol))
        protocol.connection_made(wire.transport)
        return wire

    def feed(self, data: bytes) -> int:
        """Give it what it reads; return how much it has taken before it paused or closed."""
        at = 0
        while at < len(data) and self.transport.is_open and not self.transport.is_paused:
            view = memoryview(self.protocol.get_buffer(-1))
            length = min(len(view), len(data) - at)
            assert length, "no room to read into"
            view[:length] = data[at : at + length]
            self.protocol.buffer_updated(length)
            at += length
        return at

    def end(self) -> None:
        """The peer sends no more, then goes away."""
        if self.transport.is_open and not self.protocol.eof_received():
            self.transport.close()


async def turns(count: int = _TURNS) -> None:
    """Let everything happen that is due."""
    for _ in range(count):
        await asyncio.sleep(0)


def check_at_rest(context: WorkerContext) -> None:
    """Check that nothing is held and no bug was met."""
    bugs = [name for name, _ in context.counters.plain if name == metrics.INTERNAL_ERRORS.name]
    assert not bugs
    assert context.budget.used == 0
    assert set(context.counters.in_flight.values()) == {0}
    assert not len(context.connections)


class ServerWorld:
    """A client's connection, in front of backends that answer each whole request at once."""

    def __init__(self, *, is_http2: bool, may_send: int = 1 << 30) -> None:
        self.core = Core(entry(KEY))
        core = self.core
        server: Http1Server | Http2Server
        if is_http2:
            server = Http2Server(
                core.context, core.pipeline, KnownFields(core.credentials, FieldKinds()), PEER
            )
        else:
            server = Http1Server(
                core.context, core.pipeline, KnownLines(core.credentials, FieldKinds()), PEER
            )
        self.server = server
        self.wire = Wire.to(server.protocol)
        self._may_send = may_send
        self._answered: set[MemoryUpstream] = set()

    @property
    def forwarded(self) -> list[MemoryUpstream]:
        """What has reached a backend, in the order of the connections."""
        return self.core.connector.requests

    async def send(self, data: bytes) -> None:
        """Send bytes, as far as they are read."""
        at = 0
        while True:
            taken = self.wire.feed(data[at:])
            at += taken
            await turns(3)
            self.answer()
            await turns(1)
            if at == len(data) or not taken:
                return

    def answer(self) -> None:
        """Let the backends answer what is whole."""
        for connection in self.core.connector.connections:
            connection.may_send = min(connection.may_send, self._may_send)
        for upstream in self.forwarded:
            if upstream.ended and not upstream.is_canceled and upstream not in self._answered:
                self._answered.add(upstream)
                if upstream.request.head.path == GRPC_PATH:
                    upstream.answer_grpc()
                else:
                    upstream.answer()

    async def end(self) -> None:
        """Hang up, and check that nothing is left."""
        self.wire.transport.take()
        await turns(2)
        self.answer()
        await turns(2)
        self.wire.end()
        await turns(2)
        self.server.abort()
        await turns()
        check_at_rest(self.core.context)


@dataclass(slots=True)
class AnswerNotes:
    """Where an answer goes (`seams.AnswerSink`): keeps it, and notes what must not be."""

    sections: list[FieldSection] = field(default_factory=list)
    body: bytes = b""
    ended: bool = False

    def _check(self) -> None:
        assert not self.ended, "more after the end of the answer"

    def head(self, section: FieldSection, ended: bool) -> None:
        self._check()
        assert not self.sections, "two heads"
        assert 200 <= section.status <= 999
        self.sections.append(section)
        self.ended = ended

    def whole(self, section: FieldSection, body: bytes) -> None:
        self.head(section, False)
        self.body = body
        self.ended = True

    def body_(self, chunk: bytes, ended: bool) -> None:
        self._check()
        assert self.sections, "a body before the head"
        self.body += chunk
        self.ended = ended

    def trailers(self, section: FieldSection) -> None:
        self._check()
        assert self.sections, "trailers before the head"
        self.sections.append(section)
        self.ended = True


class Requested(BodilessRequest):
    """One request at a backend (`seams.UpstreamRequest`), and how it ended."""

    sender = "1"
    is_upload = False
    received = 0
    is_held_up = False

    def __init__(self, head: RequestHead) -> None:
        self.head = head
        self.path = head.path
        self.fields = ForwardedFields(None, is_callers_key=True, identity=False)
        self.principal = None
        self.peer = PEER
        self.notes = AnswerNotes()
        self.answer = _Answer(self.notes)
        self.losses: list[bool] = []
        self.left = 0
        self.dropped = 0

    def attach(self, upstream: Upstream) -> None:
        """Not asked for: no pool is in between."""

    def unavailable(self, refusal: Refusal) -> None:
        """Not asked for: no pool is in between."""

    def lost(self, replayable: bool) -> None:
        assert not self.notes.ended, "lost after the end of the answer"
        assert not self.losses, "lost twice"
        assert not (replayable and self.notes.sections), "an answer has begun: it was processed"
        self.losses.append(replayable)

    def body_left(self, length: int) -> None:
        self.left += length

    def body_dropped(self, length: int) -> None:
        self.dropped += length

    def note_progress(self, now: float) -> None:
        """Time is of no interest here."""

    def displace(self, refusal: Refusal) -> None:
        """Not asked for: no pool is in between."""


class _Answer(AnswerSink):
    def __init__(self, notes: AnswerNotes) -> None:
        self.notes = notes

    def head(self, section: FieldSection, ended: bool) -> None:
        self.notes.head(section, ended)

    def whole(self, section: FieldSection, body: bytes) -> None:
        self.notes.whole(section, body)

    def body(self, chunk: bytes, ended: bool) -> None:
        self.notes.body_(chunk, ended)

    def trailers(self, section: FieldSection) -> None:
        self.notes.trailers(section)


class Owner(ConnectionOwner):
    """One address of a pool (`seams.ConnectionOwner`) with one connection."""

    def __init__(self) -> None:
        self.target = Target("backend.test", 4317)
        self.is_lost = False
        self.needs_proof = False
        self.heard_at = 0.0

    def capacity_changed(self, connection: UpstreamConnection, capacity: int) -> None:
        """Nobody waits."""

    def connection_lost(self, connection: UpstreamConnection) -> None:
        self.is_lost = True

    def is_surplus(self, connection: UpstreamConnection) -> bool:
        return False

    def doubt(self, connection: UpstreamConnection) -> None:
        """There is no other connection."""

    def trust(self, connection: UpstreamConnection) -> None:
        """There was no doubt."""

    def silent(self, connection: UpstreamConnection, now: float) -> None:
        """There is no other connection."""


class UpstreamWorld:
    """A backend's connection; the input is what the backend sends."""

    def __init__(self, *, is_http2: bool) -> None:
        self.core = Core(entry(KEY))
        self.owner = Owner()
        context = self.core.context
        self.connection: Http1Upstream | Http2Upstream
        if is_http2:
            self.connection = Http2Upstream(context, self.owner, None, AnswerSections())
        else:
            self.connection = Http1Upstream(context, self.owner, None, KnownAnswers())
        self._is_http2 = is_http2
        self.wire = Wire.to(self.connection.protocol)
        self.requests: list[Requested] = []
        self.upstreams: list[Upstream] = []

    def request(self, body: bytes = b"hello", *, ended: bool = True) -> Requested | None:
        """Send a request, where the connection takes one."""
        if self.connection.capacity < 1 or self.owner.is_lost:
            return None
        path = GRPC_PATH if self._is_http2 else HTTP_PATH
        request = Requested(self.core.head(path, length=-1 if self._is_http2 else len(body)))
        upstream = self.connection.open(request)
        self.requests.append(request)
        self.upstreams.append(upstream)
        upstream.send_body(body, ended)
        return request

    async def send(self, data: bytes) -> None:
        """Let the backend send bytes; its answers are read on as fast as they come."""
        at = 0
        while True:
            taken = self.wire.feed(data[at:])
            at += taken
            for request, upstream in zip(self.requests, self.upstreams, strict=True):
                if request.notes.body and not request.notes.ended and not request.losses:
                    upstream.grant(len(request.notes.body))
            await turns(2)
            if at == len(data) or not taken:
                return

    async def end(self) -> None:
        """Hang up, and check that each request has exactly one end."""
        self.wire.transport.take()
        self.wire.end()
        await turns(3)
        self.wire.transport.abort()
        await turns()
        for request in self.requests:
            assert request.notes.ended or request.losses
        check_at_rest(self.core.context)
        if isinstance(self.connection, Http2Upstream):
            await _settle(self.connection)


async def _settle(connection: Http2Upstream) -> None:
    """Take the exception that says why a connection never became ready."""
    with contextlib.suppress(ConnectError):
        await connection.ready()


class Reader:
    """Takes decisions off the front of an input, and what remains is content."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        """Return the next byte, 0 at the end."""
        if self._at >= len(self._data):
            return 0
        self._at += 1
        return self._data[self._at - 1]

    def number(self, length: int) -> int:
        """Return a number of so many bytes."""
        return int.from_bytes(self.take(length), "big")

    def take(self, length: int) -> bytes:
        """Return the next bytes, fewer at the end."""
        taken = self._data[self._at : self._at + length]
        self._at += len(taken)
        return taken

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take(len(self._data))

    @property
    def is_empty(self) -> bool:
        return self._at >= len(self._data)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """Cut into pieces of `size`; 0: all at once."""
    if not size:
        yield data
        return
    for at in range(0, len(data), size):
        yield data[at : at + size]
