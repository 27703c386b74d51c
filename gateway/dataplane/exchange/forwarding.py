"""A request on its way to the backend: its connection, its body, a second attempt.

The pool and the backend's connection see it as `seams.UpstreamRequest`, the exchange as
`seams.BodySink`. What the backend answers is `answer`'s.
"""

from __future__ import annotations

import time
from typing import Final

from gateway.dataplane.core.forwarded_fields import ForwardedFields
from gateway.dataplane.core.seams import RequestPool, Upstream, UpstreamRequest
from gateway.dataplane.exchange.answer import AnswerRelay
from gateway.dataplane.exchange.exchange import Exchange
from gateway.dataplane.exchange.request_body import GATHERED_BYTES
from gateway.outcome import Refusal

_monotonic: Final = time.monotonic


class Forwarding(UpstreamRequest):
    """See the module. The body is kept until the backend answers, as long as it is small.

    Where each request takes a whole connection, a small body is gathered before it takes one: a
    connection waits for the backend, not for a slow sender. Where they share connections, a request
    goes to the backend with its first bytes while more has come than the worker has done: thousands
    that are only begun are kept from the backend.
    """

    __slots__ = (
        "_exchange",
        "_pool",
        "losses",
        "relay",
        "was_held",
    )

    def __init__(self, exchange: Exchange, pool: RequestPool, fields: ForwardedFields) -> None:
        self.head = exchange.head
        self.relay = self.answer = AnswerRelay(exchange)
        self._exchange = exchange
        self._pool = pool
        self.fields = fields
        self.principal = exchange.record.principal
        self.peer = exchange.record.peer
        self.path = exchange.route.target
        self.losses = 0
        """How often an attempt has been lost."""
        self.was_held = False
        """Whether it has waited for its backend to come back."""
        exchange.body.replay = []

    def begin(self) -> None:
        """Take a place at the backend, at once or when the body has been gathered."""
        body = self._exchange.body
        pool = self._pool
        if body.has_ended:
            pool.open(self)
        elif pool.shares_connections:
            if self._exchange.services.context.backlog.is_busy and not body.held:
                body.is_gathering = True
            else:
                pool.open(self)
        elif self.head.content_length > GATHERED_BYTES:
            pool.open_upload(self)
        elif not body.held:
            body.is_gathering = True
        elif not body.begin_gathering():
            pool.open_upload(self)

    # seams.UpstreamRequest

    def attach(self, upstream: Upstream) -> None:
        """See `UpstreamRequest`: what has waited of the body follows."""
        exchange = self._exchange
        answer = self.relay
        answer.upstream = upstream
        answer.started = _monotonic()
        if exchange.services.is_tracing:
            exchange.record.backend_address = upstream.address
            exchange.record.backend_started = answer.started
        body = exchange.body
        if body.waiting is None:
            return
        chunk = body.take_waiting()
        ended = body.has_ended
        queued = upstream.send_body(chunk, ended)
        body.held += queued
        left = len(chunk) - queued
        if left and not ended:
            exchange.downstream.grant(left, False)

    def unavailable(self, refusal: Refusal) -> None:
        """See `UpstreamRequest`."""
        exchange = self._exchange
        if not (exchange.route.hold_s and exchange.services.holding.hold(self, was_sent=False)):
            exchange.refuse(refusal)

    def lost(self, replayable: bool) -> None:
        """See `UpstreamRequest`."""
        self.relay.upstream = None
        exchange = self._exchange
        if exchange.is_over:
            return
        if replayable and not self.losses and exchange.body.rewind():
            self.losses = 1
            self.send_again()
        elif self.hold_again():
            exchange.services.context.counters.backend(exchange.route.backend).count("none")
        else:
            self.relay.cut_short()

    def body_left(self, length: int) -> None:
        """See `UpstreamRequest`."""
        exchange = self._exchange
        exchange.body.held -= length
        exchange.progress_at = exchange.services.context.tick
        if not exchange.is_over:
            exchange.downstream.grant(length, False)

    def body_dropped(self, length: int) -> None:
        """See `UpstreamRequest`."""
        self._exchange.body.held -= length

    def note_progress(self, now: float) -> None:
        """See `UpstreamRequest`."""
        self._exchange.progress_at = now

    @property
    def sender(self) -> str:
        """See `UpstreamRequest`."""
        return self._exchange.sender

    @property
    def is_upload(self) -> bool:
        """See `UpstreamRequest`."""
        return not self._exchange.body.has_ended

    @property
    def received(self) -> int:
        """See `UpstreamRequest`."""
        return self._exchange.record.request_bytes

    @property
    def is_held_up(self) -> bool:
        """See `UpstreamRequest`."""
        exchange = self._exchange
        budget = exchange.services.context.budget
        return exchange.body.held > 0 or budget.used >= budget.limit

    def displace(self, refusal: Refusal) -> None:
        """See `UpstreamRequest`."""
        self._exchange.fail(refusal)

    # seams.BodySink

    def receive(self, chunk: bytes, ended: bool) -> None:
        """See `BodySink`."""
        exchange = self._exchange
        body = exchange.body
        upstream = self.relay.upstream
        if upstream is None:
            may_begin = ended or self._pool.shares_connections
            if not (may_begin and body.is_gathering and body.waiting is None):
                self._receive_early(chunk, ended)
                return
            body.is_gathering = False  # the usual case: a whole body at once
            self._pool.open(self)
            upstream = self.relay.upstream
            if upstream is None:
                if not exchange.is_over:
                    body.wait(chunk)
                return
        if body.replay is not None:
            body.keep(chunk)
        queued = upstream.send_body(chunk, ended)
        if queued:
            body.held += queued
        if not ended and (left := len(chunk) - queued):
            exchange.downstream.grant(left, not queued)

    def _receive_early(self, chunk: bytes, ended: bool) -> None:
        """Take body bytes while there is no place to send them to."""
        body = self._exchange.body
        if not body.is_gathering:
            body.wait(chunk)
        elif ended:
            body.end_gathering()
            body.wait(chunk)
            self._pool.open(self)
        elif not body.gather(chunk):
            body.end_gathering()
            self._pool.open_upload(self)

    def answer_left(self, length: int) -> None:
        """See `BodySink`."""
        if self.relay.upstream is not None:
            self.relay.upstream.grant(length)

    def cancel(self) -> None:
        """See `BodySink`."""
        upstream, self.relay.upstream = self.relay.upstream, None
        if upstream is not None:
            upstream.cancel()
        else:
            self._pool.forget(self)
            if self.was_held:
                self._exchange.services.holding.forget(self)

    def hold_again(self) -> bool:
        """See `BodySink`."""
        exchange = self._exchange
        body = exchange.body
        if not (exchange.route.hold_s and body.has_ended and body.rewind()):
            return False
        return exchange.services.holding.hold(self, was_sent=True)

    @property
    def is_held(self) -> bool:
        """See `BodySink`."""
        return self.was_held and self._exchange.services.holding.is_holding(self)

    # exchange.holding.Holdable

    @property
    def hold_until(self) -> float:
        """See `Holdable`."""
        exchange = self._exchange
        return exchange.record.started + exchange.route.hold_s

    @property
    def has_backend(self) -> bool:
        """See `Holdable`."""
        return self._pool.has_connection

    def send_again(self) -> None:
        """See `Holdable`: take a place at the backend."""
        body = self._exchange.body
        if self._exchange.route.hold_s:
            body.replay = []
        if body.has_ended:
            self._pool.open(self)
        else:
            self._pool.open_upload(self)

    def release(self) -> None:
        """See `BodySink`."""
        self.relay.release()
