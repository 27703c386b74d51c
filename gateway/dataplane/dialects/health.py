"""What the data listeners answer without a key: `/livez`, `/readyz`, `/`, gRPC health.

Answers carry no detail, because anybody may ask: the admin endpoints say why. Source of the gRPC
part: grpc/health/v1/health.proto and "GRPC Health Checking Protocol" (grpc.io).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Final

from gateway.dataplane.auth.keyring import Keyring
from gateway.dataplane.core.context import WorkerContext
from gateway.dataplane.core.heads import FieldSection
from gateway.dataplane.core.replies import GRPC, JSON
from gateway.dataplane.core.routes import POST, Route
from gateway.dataplane.core.seams import BodySink, Dialect, LocalRequest
from gateway.dataplane.dialects.otlp import OTLP_SERVICES
from gateway.model import Protocol
from gateway.outcome import REFUSALS, GrpcCode
from gateway.wire import health, status
from gateway.wire.health import HealthRequestError, ServingStatus

WATCHES_PER_CONNECTION: Final = 8
_PROBES: Final = (b"GET", b"HEAD")
_HTTP_OK: Final = 200
_HTTP_UNAVAILABLE: Final = 503
_SERVICES: Final = frozenset({"", *OTLP_SERVICES})
_GRPC_HEAD: Final = FieldSection(_HTTP_OK, [(b"content-type", GRPC)])


def _grpc_status(code: GrpcCode, text: str = "", *, is_whole: bool) -> FieldSection:
    """Make trailers, or with `is_whole` a trailers-only answer."""
    fields = [(b"grpc-status", b"%d" % code)]
    if text:
        fields.append((b"grpc-message", status.grpc_message(text)))
    if is_whole:
        fields.insert(0, (b"content-type", GRPC))
    section = FieldSection(_HTTP_OK if is_whole else 0, fields)
    section.grpc_status = int(code)
    return section


_OK: Final = _grpc_status(GrpcCode.OK, is_whole=False)
_UNKNOWN_SERVICE: Final = _grpc_status(
    GrpcCode.NOT_FOUND,
    "no such service here: ask for '' or an OTLP collector service",
    is_whole=True,
)
_BAD_REQUEST: Final = _grpc_status(
    GrpcCode.INVALID_ARGUMENT,
    "send exactly one grpc.health.v1.HealthCheckRequest, uncompressed",
    is_whole=True,
)
_DRAINING: Final = _grpc_status(
    GrpcCode.UNAVAILABLE, "the gateway is stopping: connect again", is_whole=False
)


def _http_answer(http_status: int, word: str) -> tuple[FieldSection, bytes]:
    body = b'{"status":"%b"}' % word.encode()
    fields = [(b"content-type", JSON), (b"content-length", b"%d" % len(body))]
    section = FieldSection(http_status, fields)
    section.content_length = len(body)
    return section, body


_WELL: Final = _http_answer(_HTTP_OK, "ok")
_UNWELL: Final = _http_answer(_HTTP_UNAVAILABLE, "unavailable")


class _Call(BodySink):
    """One call of the health service: reads the request, then may stay open."""

    __slots__ = ("_answer", "_body", "on_cancel", "opened_at", "request", "service")

    def __init__(
        self,
        request: LocalRequest,
        opened_at: float,
        answer: Callable[[_Call], None],
        on_cancel: Callable[[_Call], None],
    ) -> None:
        self.request = request
        self.opened_at = opened_at
        self.service: str | None = None
        """What was asked for; None: the request was none."""
        self.on_cancel = on_cancel
        self._answer = answer
        self._body = b""

    def receive(self, chunk: bytes, ended: bool) -> None:
        """See `BodySink`."""
        self._body += chunk
        if len(self._body) > health.MAX_REQUEST_BYTES:
            self.request.refuse(REFUSALS["BODY_TOO_LARGE"])
        elif ended:
            with contextlib.suppress(HealthRequestError):
                self.service = health.decode_request(self._body)
            self._answer(self)

    def cancel(self) -> None:
        """See `BodySink`."""
        self.on_cancel(self)

    def answer_left(self, length: int) -> None:
        """See `BodySink`: nothing waits for room, a watch is sent two words in its life."""

    def release(self) -> None:
        """See `BodySink`: nothing is held."""

    @property
    def is_held(self) -> bool:
        """See `BodySink`."""
        return False

    def hold_again(self) -> bool:
        """See `BodySink`: no backend is asked."""
        return False


class Readiness:
    """Whether a load balancer should send requests here."""

    __slots__ = ("_context", "_keyring", "is_withdrawn")

    def __init__(self, context: WorkerContext, keyring: Keyring) -> None:
        self._context = context
        self._keyring = keyring
        self.is_withdrawn = False
        """Whether a drain will follow, once load balancers have noticed."""

    def __bool__(self) -> bool:
        """Return whether the worker is ready."""
        return self._keyring.is_loaded and not self._context.is_draining and not self.is_withdrawn

    def livez(self, request: LocalRequest) -> None:
        """Answer that the worker runs."""
        _answer_http(request, is_well=True)

    def readyz(self, request: LocalRequest) -> None:
        """Answer whether the worker is ready."""
        _answer_http(request, is_well=bool(self))


def _answer_http(request: LocalRequest, *, is_well: bool) -> None:
    section, body = _WELL if is_well else _UNWELL
    request.answer_locally(section, b"" if request.head.method == b"HEAD" else body)


class HealthService:
    """The open calls of one worker's `grpc.health.v1.Health`."""

    def __init__(self, context: WorkerContext, readiness: Readiness) -> None:
        self.readiness = readiness
        self._context = context
        self._reading: dict[_Call, None] = {}
        self._watches: dict[_Call, None] = {}
        self._watches_of: Counter[str] = Counter()
        """Peer → its watches; a peer is one connection."""

    def check(self, request: LocalRequest) -> None:
        """Answer `Check`."""
        self._read(request, self._answer_check)

    def watch(self, request: LocalRequest) -> None:
        """Answer `Watch`: now, and whenever readiness changes."""
        self._read(request, self._begin_watch)

    def become_unready(self) -> None:
        """Say no to probes from now on: a drain will follow when load balancers have noticed."""
        was_ready = bool(self.readiness)
        self.readiness.is_withdrawn = True
        if was_ready:
            for call in self._watches:
                self._tell(call)

    def start_drain(self) -> None:
        """End all watches."""
        self.become_unready()
        for call in list(self._watches):
            self._forget_watch(call)
            call.request.end_locally(_DRAINING)

    def sweep(self, now: float) -> None:
        """End the calls whose request does not come."""
        patience_s = self._context.limits.header_timeout_s
        for call in list(self._reading):
            if now - call.opened_at > patience_s:
                call.request.refuse(REFUSALS["STALLED"])

    def _read(self, request: LocalRequest, answer: Callable[[_Call], None]) -> None:
        """Have the request read, then answered."""
        if not request.head.is_grpc:
            request.refuse(REFUSALS["GRPC_MEDIA_TYPE"])
            return
        call = _Call(request, self._context.tick, answer, self._forget)
        self._reading[call] = None
        request.sink = call

    def _forget(self, call: _Call) -> None:
        self._reading.pop(call, None)

    def _status_of(self, service: str | None) -> ServingStatus:
        if service not in _SERVICES:
            return ServingStatus.SERVICE_UNKNOWN
        return ServingStatus.SERVING if self.readiness else ServingStatus.NOT_SERVING

    def _answer_check(self, call: _Call) -> None:
        self._forget(call)
        request = call.request
        if call.service is None:
            request.answer_locally(_BAD_REQUEST, b"")
            return
        serving = self._status_of(call.service)
        if serving == ServingStatus.SERVICE_UNKNOWN:
            request.answer_locally(_UNKNOWN_SERVICE, b"")
        else:
            request.answer_locally(_GRPC_HEAD, health.encode_response(serving), _OK)

    def _begin_watch(self, call: _Call) -> None:
        self._forget(call)
        request = call.request
        peer = request.downstream.peer
        if call.service is None:
            request.answer_locally(_BAD_REQUEST, b"")
        elif self._watches_of[peer] >= WATCHES_PER_CONNECTION or self._context.is_draining:
            request.refuse(REFUSALS["OVERLOADED"])
        else:
            self._watches_of[peer] += 1
            self._watches[call] = None
            call.on_cancel = self._forget_watch
            request.downstream.send_head(_GRPC_HEAD, False)
            self._tell(call)

    def _forget_watch(self, call: _Call) -> None:
        del self._watches[call]
        peer = call.request.downstream.peer
        self._watches_of[peer] -= 1
        if not self._watches_of[peer]:
            del self._watches_of[peer]

    def _tell(self, call: _Call) -> None:
        message = health.encode_response(self._status_of(call.service))
        call.request.downstream.send_body(message, False)


def health_routes(
    service: HealthService, context: WorkerContext, *, grpc: Dialect, http: Dialect
) -> list[Route]:
    """Return the rows of the routing table; no key is asked for.

    `/` answers as `/readyz` does: it is what load balancers ask for unless told otherwise.
    """
    prefix = f"/{health.SERVICE}/".encode()
    readiness = service.readiness
    rows = (
        (b"/livez", http, Protocol.HTTP, readiness.livez, _PROBES),
        (b"/readyz", http, Protocol.HTTP, readiness.readyz, _PROBES),
        (b"/", http, Protocol.HTTP, readiness.readyz, (*_PROBES, b"OPTIONS")),
        (prefix + b"Check", grpc, Protocol.GRPC, service.check, POST),
        (prefix + b"Watch", grpc, Protocol.GRPC, service.watch, POST),
    )
    return [
        Route(
            path,
            dialect,
            context.counters.unrouted(protocol.value),
            methods=methods,
            max_body_bytes=context.limits.max_body_bytes,
            handler=handler,
            needs_key=False,
            # What is sent to `/` lacks a path, which is of more use to know than the methods.
            other_method=REFUSALS["NOT_FOUND" if path == b"/" else "METHOD_NOT_ALLOWED"],
        )
        for path, dialect, protocol, handler, methods in rows
    ]
