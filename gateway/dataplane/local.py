"""What the data listeners answer by themselves, without a key: `/livez`, `/readyz`, gRPC health.

No detail is given here, because anybody may ask: the admin endpoints say why. Source of the gRPC
part: grpc/health/v1/health.proto and "GRPC Health Checking Protocol" (grpc.io).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from gateway.dataplane.heads import FieldSection
from gateway.dataplane.replies import GRPC, JSON
from gateway.dataplane.routes import OTLP_SERVICES, Route
from gateway.model import Protocol, Signal
from gateway.outcome import REFUSALS, GrpcCode
from gateway.wire import health, status
from gateway.wire.health import HealthRequestError, ServingStatus

if TYPE_CHECKING:
    from gateway.dataplane.exchange import Exchange
    from gateway.dataplane.plane import DataPlane

WATCHES_PER_CONNECTION: Final = 8
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


class _Call:
    """One call of the health service: reads the request (`sides.Upstream`), then may stay open."""

    address = ""

    def __init__(
        self,
        exchange: Exchange,
        answer: Callable[[_Call], None],
        on_cancel: Callable[[_Call], None],
    ) -> None:
        self.exchange = exchange
        self.opened_at = exchange.plane.tick
        self.service: str | None = None
        """What was asked for; None: the request was none."""
        self.on_cancel = on_cancel
        self._answer = answer
        self._body = b""

    def send_body(self, chunk: bytes, ended: bool) -> int:
        self._body += chunk
        if len(self._body) > health.MAX_REQUEST_BYTES:
            self.exchange.refuse(REFUSALS["BODY_TOO_LARGE"])
        elif ended:
            with contextlib.suppress(HealthRequestError):
                self.service = health.decode_request(self._body)
            self._answer(self)
        return 0

    def cancel(self) -> None:
        self.on_cancel(self)

    def grant(self, length: int) -> None:
        """Nothing waits for room: a watch says two words in its life."""


class Local:
    """The handlers, and the open calls of one worker's health service."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._is_unready = False
        self._reading: dict[_Call, None] = {}
        self._watches: dict[_Call, None] = {}
        self._watches_of: Counter[str] = Counter()
        """Peer → its watches; a peer is one connection."""

    @property
    def is_ready(self) -> bool:
        """Whether a load balancer should send requests here."""
        return self._plane.keyring.is_loaded and not self._plane.draining and not self._is_unready

    def routes(self) -> list[Route]:
        """Return the rows of the routing table."""
        read = (b"GET", b"HEAD")
        counters = self._plane.counters
        http = counters.unrouted(Protocol.HTTP.value)
        grpc = counters.unrouted(Protocol.GRPC.value)
        # The signal is only for keys' verdicts, of which there are none here.
        signal = Signal.TRACES
        prefix = f"/{health.SERVICE}/".encode()
        post = (b"POST",)
        return [
            Route(b"/livez", Protocol.HTTP, signal, None, http, read, self._livez),
            Route(b"/readyz", Protocol.HTTP, signal, None, http, read, self._readyz),
            Route(prefix + b"Check", Protocol.GRPC, signal, None, grpc, post, self._check),
            Route(prefix + b"Watch", Protocol.GRPC, signal, None, grpc, post, self._watch),
        ]

    def become_unready(self) -> None:
        """Say no to probes from now on: a drain will follow when load balancers have noticed."""
        was_ready = self.is_ready
        self._is_unready = True
        if was_ready:
            self._tell_watches()

    def start_drain(self) -> None:
        """End all watches."""
        self.become_unready()
        for call in list(self._watches):
            self._forget_watch(call)
            call.exchange.end_locally(_DRAINING)

    def sweep(self, now: float) -> None:
        """End the calls whose request does not come."""
        patience_s = self._plane.settings.limits.header_timeout_s
        for call in list(self._reading):
            if now - call.opened_at > patience_s:
                call.exchange.refuse(REFUSALS["STALLED"])

    def _livez(self, exchange: Exchange) -> None:
        self._answer_http(exchange, is_well=True)

    def _readyz(self, exchange: Exchange) -> None:
        self._answer_http(exchange, is_well=self.is_ready)

    @staticmethod
    def _answer_http(exchange: Exchange, *, is_well: bool) -> None:
        section, body = _WELL if is_well else _UNWELL
        exchange.answer_locally(section, b"" if exchange.head.method == b"HEAD" else body)

    def _check(self, exchange: Exchange) -> None:
        self._read(exchange, self._answer_check)

    def _watch(self, exchange: Exchange) -> None:
        self._read(exchange, self._begin_watch)

    def _read(self, exchange: Exchange, answer: Callable[[_Call], None]) -> None:
        """Have the request read, then answered."""
        if not exchange.is_grpc:
            exchange.refuse(REFUSALS["GRPC_MEDIA_TYPE"])
            return
        call = _Call(exchange, answer, self._forget)
        self._reading[call] = None
        exchange.attach(call)

    def _forget(self, call: _Call) -> None:
        self._reading.pop(call, None)

    def _status_of(self, service: str | None) -> ServingStatus:
        if service not in _SERVICES:
            return ServingStatus.SERVICE_UNKNOWN
        return ServingStatus.SERVING if self.is_ready else ServingStatus.NOT_SERVING

    def _answer_check(self, call: _Call) -> None:
        self._forget(call)
        exchange = call.exchange
        if call.service is None:
            exchange.answer_locally(_BAD_REQUEST, b"")
            return
        serving = self._status_of(call.service)
        if serving == ServingStatus.SERVICE_UNKNOWN:
            exchange.answer_locally(_UNKNOWN_SERVICE, b"")
        else:
            exchange.answer_locally(_GRPC_HEAD, health.encode_response(serving), _OK)

    def _begin_watch(self, call: _Call) -> None:
        self._forget(call)
        exchange = call.exchange
        peer = exchange.downstream.peer
        if call.service is None:
            exchange.answer_locally(_BAD_REQUEST, b"")
        elif self._watches_of[peer] >= WATCHES_PER_CONNECTION or self._plane.draining:
            exchange.refuse(REFUSALS["OVERLOADED"])
        else:
            self._watches_of[peer] += 1
            self._watches[call] = None
            call.on_cancel = self._forget_watch
            exchange.downstream.send_head(_GRPC_HEAD, False)
            self._tell(call)

    def _forget_watch(self, call: _Call) -> None:
        del self._watches[call]
        peer = call.exchange.downstream.peer
        self._watches_of[peer] -= 1
        if not self._watches_of[peer]:
            del self._watches_of[peer]

    def _tell_watches(self) -> None:
        for call in self._watches:
            self._tell(call)

    def _tell(self, call: _Call) -> None:
        message = health.encode_response(self._status_of(call.service))
        call.exchange.downstream.send_body(message, False)
