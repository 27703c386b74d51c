"""The data path's core without sockets: a caller's end, a backend's end, a connector.

`Core` builds what a request passes through, as `assembly` does, but for the two sides.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from gateway.channel import Up
from gateway.dataplane.auth.credentials import CredentialReader
from gateway.dataplane.auth.key_lookups import KeyLookups
from gateway.dataplane.auth.keyring import Keyring
from gateway.dataplane.auth.refusal_log import RefusalLog
from gateway.dataplane.core.budget import Budget
from gateway.dataplane.core.certificates import ClientCertificate
from gateway.dataplane.core.context import WorkerContext
from gateway.dataplane.core.counters import Counters
from gateway.dataplane.core.forwarded_fields import ForwardedFields, forwarded_fields
from gateway.dataplane.core.heads import FieldKinds, FieldSection, RequestHead
from gateway.dataplane.core.open_connections import OpenConnections
from gateway.dataplane.core.replies import Reply
from gateway.dataplane.core.routes import Route, Router
from gateway.dataplane.core.seams import (
    ConnectionOwner,
    Upstream,
    UpstreamConnection,
    UpstreamRequest,
)
from gateway.dataplane.dialects.otlp import (
    GrpcDialect,
    GrpcOverHttp1Dialect,
    OtlpHttpDialect,
    grpc_over_http1_route,
    otlp_routes,
)
from gateway.dataplane.exchange.backend_refusals import BackendRefusals
from gateway.dataplane.exchange.exchange import Exchange
from gateway.dataplane.exchange.item_sampler import ItemSampler
from gateway.dataplane.exchange.pipeline import RequestPipeline
from gateway.dataplane.exchange.quotas import Quotas
from gateway.dataplane.exchange.record import RequestObserver, RequestRecord
from gateway.dataplane.exchange.services import ExchangeServices
from gateway.dataplane.http1.request_head import KnownLines
from gateway.dataplane.http1.server import Http1Server
from gateway.dataplane.http2.request_head import KnownFields
from gateway.dataplane.http2.server import Http2Server
from gateway.dataplane.upstream.address import Where
from gateway.dataplane.upstream.connector import ConnectError
from gateway.dataplane.upstream.pool import Pool
from gateway.model import BackendName, KeyEntry
from gateway.outcome import REFUSALS, Refusal
from gateway.settings import (
    AuthoritySettings,
    ForwardSettings,
    LimitsSettings,
    PerKeyLimits,
    SamplingSettings,
    Target,
)
from gateway.wire import hpack, http2
from tests.support.plane import KEY, LIMITS, SCHEMES, backend

GRPC_PATH = b"/opentelemetry.proto.collector.trace.v1.TraceService/Export"
HTTP_PATH = b"/v1/traces"


def context(limits: LimitsSettings = LIMITS) -> WorkerContext:
    """Return a worker's context in the running event loop."""
    return WorkerContext(
        limits,
        asyncio.get_running_loop(),
        Budget(limits.buffer_memory_bytes),
        Counters(),
        OpenConnections(),
    )


@dataclass(slots=True)
class MemoryDownstream:
    """The caller's end (`seams.Downstream`): remembers what it is sent."""

    peer: str = "192.0.2.7:40000"
    certificate: ClientCertificate | None = None
    heads: list[FieldSection] = field(default_factory=list)
    body: bytes = b""
    trailers: FieldSection | None = None
    reply: Reply | None = None
    ended: bool = False
    is_withheld: bool = False
    broken_off: list[FieldSection | None] = field(default_factory=list)
    granted: int = 0
    may_send: int = 1 << 30
    """Bytes that it takes before they have to be queued."""
    accepted_body: bool = False

    def send_head(self, section: FieldSection, ended: bool) -> None:
        self.heads.append(section)
        self.ended |= ended

    def send_body(self, chunk: bytes, ended: bool) -> int:
        self.body += chunk
        self.ended |= ended
        taken = min(len(chunk), self.may_send)
        self.may_send -= taken
        return len(chunk) - taken

    def send_answer(
        self, section: FieldSection, body: bytes, trailers: FieldSection | None = None
    ) -> None:
        self.send_head(section, False)
        self.send_body(body, trailers is None)
        if trailers is not None:
            self.send_trailers(trailers)

    def send_trailers(self, section: FieldSection) -> None:
        self.trailers = section
        self.ended = True

    def send_reply(self, reply: Reply) -> None:
        self.reply = reply
        self.ended = True

    def withhold(self) -> None:
        self.is_withheld = self.ended = True

    def break_off(self, trailers: FieldSection | None) -> None:
        self.broken_off.append(trailers)
        self.ended = True

    def grant(self, length: int, keeps_up: bool) -> None:
        self.granted += length

    def accept_body(self) -> None:
        self.accepted_body = True


class MemoryTransport(asyncio.Transport):
    """A socket without a kernel: takes `room` bytes at once, the rest only when `drain` is called.

    `give` plays the event loop that has read bytes for a protocol.
    """

    def __init__(self, room: int = 1 << 40) -> None:
        super().__init__()
        self.room = room
        self.sent = bytearray()
        self.reads = True
        self.has_sent_eof = False
        self.is_over = False
        self._unsent = bytearray()
        self._protocol: asyncio.BufferedProtocol | None = None

    def begin(self, protocol: asyncio.BufferedProtocol) -> None:
        """Connect a protocol."""
        self._protocol = protocol
        protocol.connection_made(self)

    def give(self, data: bytes) -> bytes:
        """Give the protocol what has come, as long as it reads; return the rest."""
        assert self._protocol is not None
        while data and self.reads:
            buffer = memoryview(self._protocol.get_buffer(-1))
            length = min(len(data), len(buffer))
            buffer[:length] = data[:length]
            data = data[length:]
            self._protocol.buffer_updated(length)
        return data

    def lose(self) -> None:
        """Have the connection end."""
        assert self._protocol is not None
        self.is_over = True
        self._protocol.connection_lost(None)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        taken = min(len(data), self.room)
        self.room -= taken
        self.sent += data[:taken]
        self._unsent += data[taken:]
        if self._unsent and self._protocol is not None:
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Pause as soon as something waits, whatever the limits are."""

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.has_sent_eof = True

    def is_closing(self) -> bool:
        return self.is_over

    def close(self) -> None:
        self.is_over = True

    def abort(self) -> None:
        self.is_over = True


class MemoryUpstream:
    """The backend's end of one request (`seams.Upstream`)."""

    address = "backend.test:4317"

    def __init__(self, request: UpstreamRequest, connection: MemoryConnection) -> None:
        self.request = request
        self.fields = request.head.encoded_h1() + request.fields.h1(
            request.head, request.principal, request.peer
        )
        self.target = request.path, request.fields.query(request.head)
        self.body = b""
        self.ended = False
        self.is_canceled = False
        self.granted = 0
        self._connection = connection

    def send_body(self, chunk: bytes, ended: bool) -> int:
        self.body += chunk
        self.ended |= ended
        taken = min(len(chunk), self._connection.may_send)
        self._connection.may_send -= taken
        return len(chunk) - taken

    def cancel(self) -> None:
        self.is_canceled = True
        self._connection.release(self)

    def grant(self, length: int) -> None:
        self.granted += length

    def answer(self, status: int = 200, body: bytes = b"") -> None:
        """Answer over HTTP, whole."""
        self._connection.release(self)
        self.request.answer.whole(FieldSection(status, []), body or b"{}")

    def answer_grpc(self, status: int = 0) -> None:
        """Answer over gRPC, trailers only."""
        section = FieldSection(200, [(b"grpc-status", b"%d" % status)])
        section.grpc_status = status
        self._connection.release(self)
        self.request.answer.head(section, True)

    def lose(self, *, replayable: bool) -> None:
        """Break off before an answer."""
        self._connection.release(self)
        self.request.lost(replayable)


class MemoryConnection:
    """A connection to a backend (`seams.UpstreamConnection`) that carries `streams` requests."""

    def __init__(self, owner: ConnectionOwner, streams: int, host: str) -> None:
        self.owner = owner
        self.host = host
        self.streams = streams
        self.opened: list[MemoryUpstream] = []
        self.open_now: list[MemoryUpstream] = []
        self.is_closed = False
        self.may_send = 1 << 30

    @property
    def busy(self) -> int:
        return len(self.open_now)

    @property
    def capacity(self) -> int:
        return 0 if self.is_closed else self.streams - len(self.open_now)

    @property
    def requests(self) -> list[UpstreamRequest]:
        return [upstream.request for upstream in self.open_now]

    def open(self, request: UpstreamRequest) -> MemoryUpstream:
        upstream = MemoryUpstream(request, self)
        self.opened.append(upstream)
        self.open_now.append(upstream)
        if self.capacity <= 0:
            self.owner.capacity_changed(self, 0)
        return upstream

    def release(self, upstream: MemoryUpstream) -> None:
        """Note that a request has ended."""
        if upstream in self.open_now:
            self.open_now.remove(upstream)
            self.owner.capacity_changed(self, self.capacity)

    def sweep(self, now: float) -> None:
        """Find the backend well."""

    def close(self) -> None:
        self.is_closed = True
        self.owner.connection_lost(self)


class MemoryConnector:
    """Makes connections at once, or fails to (`upstream.Connector`)."""

    def __init__(self, streams: int = 100) -> None:
        self.shares_connections = streams > 1
        self.streams = streams
        self.connections: list[MemoryConnection] = []
        self.error: Exception | None = None
        self.attempts = 0
        self.names: dict[str, list[str]] = {}
        """Name → the addresses that it leads to, of those that are not just one of their own."""
        self.unknown: set[str] = set()
        """Names that cannot be resolved."""
        self.refused: set[str] = set()
        """Addresses that refuse connections."""
        self.lookups = 0
        self.may_resolve = asyncio.Event()
        """Whether the resolver answers; else it is waited for."""
        self.may_resolve.set()

    async def resolve(self, target: Target) -> list[Where]:
        self.lookups += 1
        await asyncio.sleep(0)
        await self.may_resolve.wait()
        if target.host in self.unknown:
            msg = "unknown in memory"
            raise OSError(msg)
        found = self.names.get(target.host, [target.host])
        return [Where(socket.AF_INET, (address, target.port)) for address in found]

    async def connect(self, owner: ConnectionOwner, where: Where) -> UpstreamConnection:
        self.attempts += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        if where.sockaddr[0] in self.refused:
            msg = "refused in memory"
            raise ConnectError(msg)
        connection = MemoryConnection(owner, self.streams, where.sockaddr[0])
        self.connections.append(connection)
        return connection

    def refuse(self) -> None:
        """Let every further attempt fail."""
        self.error = ConnectError("refused in memory")

    @property
    def requests(self) -> list[MemoryUpstream]:
        """All requests that have come, in the order of their connections."""
        return [each for connection in self.connections for each in connection.opened]


class BodilessRequest(UpstreamRequest):
    """A request as the backend's side sees it; nobody sends its body through it."""

    is_held = False

    def receive(self, chunk: bytes, ended: bool) -> None:
        raise NotImplementedError

    def answer_left(self, length: int) -> None:
        raise NotImplementedError

    def cancel(self) -> None:
        raise NotImplementedError

    def hold_again(self) -> bool:
        raise NotImplementedError

    def release(self) -> None:
        raise NotImplementedError


class PooledRequest(BodilessRequest):
    """A request as a pool sees it (`seams.UpstreamRequest`)."""

    sender = "1"
    is_upload = False
    received = 0
    is_held_up = False

    def __init__(self, sender: str = "1", *, is_upload: bool = False) -> None:
        self.sender = sender
        self.is_upload = is_upload
        self.head = RequestHead(b"POST", b"/", None, is_http2=True)
        self.fields = ForwardedFields(None, is_callers_key=True, identity=False)
        self.principal = None
        self.peer = "192.0.2.7:40000"
        self.path = b"/"
        self.upstream: Upstream | None = None
        self.refusal = ""

    def attach(self, upstream: Upstream) -> None:
        self.upstream = upstream

    def unavailable(self, refusal: Refusal) -> None:
        self.refusal = refusal.reason

    def lost(self, replayable: bool) -> None:
        raise NotImplementedError

    def body_left(self, length: int) -> None:
        raise NotImplementedError

    def body_dropped(self, length: int) -> None:
        raise NotImplementedError

    def note_progress(self, now: float) -> None:
        raise NotImplementedError

    def displace(self, refusal: Refusal) -> None:
        self.refusal = refusal.reason
        if isinstance(self.upstream, MemoryUpstream):
            self.upstream.cancel()


class Records(RequestObserver):
    """Keeps each request's record (`RequestObserver`)."""

    def __init__(self) -> None:
        self.all: list[RequestRecord] = []

    def on_end(self, record: RequestRecord) -> None:
        self.all.append(record)


class Core:
    """Pipeline, pools and dialects of OTLP on in-memory ends."""

    def __init__(
        self,
        *keys: KeyEntry,
        limits: LimitsSettings = LIMITS,
        per_key: PerKeyLimits | None = None,
        forward: ForwardSettings | None = None,
        authority: AuthoritySettings | None = None,
        sampling: SamplingSettings | None = None,
        rows: Callable[[Core], Iterable[Route]] = lambda _: (),
        streams: int = 100,
        **pool: Any,
    ) -> None:
        forward = forward or ForwardSettings("client", None, SCHEMES[0], identity_headers=False)
        self.context = context(limits)
        self.credentials = CredentialReader(SCHEMES, forward_scheme=forward.scheme)
        kinds = FieldKinds(forward.drop_headers)
        self._lines = KnownLines(self.credentials, kinds)
        self._fields = KnownFields(self.credentials, kinds)
        self.keyring = Keyring(kinds, is_partial=authority is not None)
        self.keyring.load(keys, 1, first=True, last=True)
        self.sent: list[Up] = []
        self.lookups = (
            KeyLookups(self.context, self.keyring, authority, self._send) if authority else None
        )
        self.connector = MemoryConnector(streams)
        self.records = Records()
        pools = {
            name: Pool(self.context, backend(name, "http://192.0.2.9:4317", **pool), connector)
            for name, connector in (
                (BackendName.OTLP_GRPC, self.connector),
                (BackendName.OTLP_HTTP, self.connector),
            )
        }
        self.pool = pools[BackendName.OTLP_GRPC]
        self.http_pool = pools[BackendName.OTLP_HTTP]
        fields = forwarded_fields(
            forward, b"authorization", forward.scheme, self.credentials.key_in
        )
        grpc = GrpcDialect(fields, limits.quota_status)
        http = OtlpHttpDialect(fields, limits.quota_status)
        counters = self.context.counters
        self.refusals = RefusalLog()
        self.item_sampler = (
            ItemSampler(sampling, self.context.budget, counters, self._send) if sampling else None
        )
        self.pipeline = RequestPipeline(
            ExchangeServices(
                self.context,
                (self.records,),
                BackendRefusals(counters, self.lookups, forward),
                None,
                self.item_sampler,
            ),
            Router(
                [*otlp_routes(grpc, http, counters, pools, limits.max_body_bytes), *rows(self)],
                [],
                not_found_grpc=_nowhere(grpc, counters, "grpc"),
                not_found_http=_nowhere(http, counters, "http"),
                grpc_over_http1=grpc_over_http1_route(
                    self.context, GrpcOverHttp1Dialect(fields, limits.quota_status)
                ),
            ),
            self.keyring,
            self.lookups,
            self.refusals,
            Quotas(per_key or PerKeyLimits(), None, counters),
        )

    def http1_client(self, transport: MemoryTransport) -> Http1Server:
        """Have a client connect that speaks HTTP/1.1."""
        server = Http1Server(self.context, self.pipeline, self._lines, "192.0.2.7:40000")
        transport.begin(server.protocol)
        return server

    def http2_client(self, transport: MemoryTransport, *settings: bytes) -> Http2Server:
        """Have a client connect that speaks HTTP/2."""
        server = Http2Server(self.context, self.pipeline, self._fields, "192.0.2.7:40000")
        transport.begin(server.protocol)
        transport.give(http2.PREFACE + (b"".join(settings) or http2.settings_frame({})))
        return server

    def _send(self, message: Up) -> bool:
        self.sent.append(message)
        return True

    def head(
        self, path: bytes = GRPC_PATH, *, key: str | None = KEY, length: int = -1
    ) -> RequestHead:
        """Return the head of a request as a server side reads it."""
        is_grpc = path == GRPC_PATH
        head = RequestHead(b"POST", path, None, is_http2=is_grpc)
        head.content_type = b"application/grpc" if is_grpc else b"application/x-protobuf"
        head.fields = [(b"content-type", head.content_type)]
        head.content_length = length
        if key is not None:
            pair = b"authorization", b"StackState " + key.encode()
            head.credentials.append(self.credentials.read(*pair))
            head.credentials_h2 = hpack.encode_field(*pair)
        return head

    def begin(self, head: RequestHead | None = None) -> tuple[Exchange, MemoryDownstream]:
        """Start a request; return it with its caller's end."""
        downstream = MemoryDownstream()
        exchange = self.pipeline.make(downstream, head or self.head())
        self.pipeline.start(exchange)
        return exchange, downstream

    async def connected(self) -> None:
        """Let the attempts to connect that are under way come to their end."""
        for _ in range(5):
            await asyncio.sleep(0)


def _nowhere(dialect: OtlpHttpDialect, counters: Counters, protocol: str) -> Route:
    return Route(b"", dialect, counters.unrouted(protocol), refusal=REFUSALS["NOT_FOUND"])
