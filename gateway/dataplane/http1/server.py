"""The caller's side over HTTP/1.1: one request at a time, keep-alive, pipelining."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final, cast

from gateway.dataplane.core.backlog import LARGE_READ_BYTES
from gateway.dataplane.core.certificates import ClientCertificate
from gateway.dataplane.core.context import WorkerContext
from gateway.dataplane.core.read_gate import PAUSED_FLOW, PAUSED_PIPELINE
from gateway.dataplane.exchange.pipeline import RequestPipeline
from gateway.dataplane.http1.answers import WINDOW_BYTES, Http1Answers
from gateway.dataplane.http1.connection import (
    ANSWER,
    BODY,
    CLOSED,
    HEAD,
    LINGER,
    ConnectionState,
)
from gateway.dataplane.http1.received import Received, held, received
from gateway.dataplane.http1.request_head import HeadReader, Http1RequestHead, KnownLines
from gateway.dataplane.http1.request_reader import OVERLOADED, RequestReader
from gateway.outcome import REFUSALS
from gateway.wire import http1

REQUESTS_PER_PIECE: Final = 16
"""Pipelined requests that one piece of the backlog begins: about 2 ms of refusals. A read begins
one: senders wait for the answer before they send the next.
"""


class Http1Server(asyncio.BufferedProtocol):
    """One client connection (`seams.ServerConnection`): reads requests, has them answered.

    Over TLS too: the worker's own TLS transport can half-close.
    """

    __slots__ = (
        "_answers",
        "_context",
        "_pipeline",
        "_reader",
        "_state",
    )

    def __init__(
        self,
        context: WorkerContext,
        pipeline: RequestPipeline,
        known: KnownLines,
        peer: str,
        certificate: ClientCertificate | None = None,
    ) -> None:
        self._context = context
        self._pipeline = pipeline
        self._state = ConnectionState(context, self, peer, self._go_on)
        self._reader = RequestReader(context, self._state, HeadReader(known))
        self._answers = Http1Answers(context, self._state, self._reader, peer, certificate)

    @property
    def protocol(self) -> asyncio.BufferedProtocol:
        """What takes the connection's bytes."""
        return self

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin (asyncio)."""
        self._state.begin(cast("asyncio.Transport", transport))
        self._context.connections.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the worker's one buffer (asyncio): what it gets is forwarded or copied at once.

        Only a part of it when this turn has read enough, and while much is held: what the backend
        does not take must be held, too.
        """
        context = self._context
        budget = context.budget
        if (budget.used < budget.near or self._state.phase > ANSWER) and not (
            context.backlog.is_sated
        ):
            return context.receive_view
        return context.tiny_view

    def buffer_updated(self, nbytes: int) -> None:
        """Read what has arrived (asyncio)."""
        context = self._context
        context.show_life()
        is_body = self._state.phase == BODY
        try:
            self._receive(
                received(context.receive_buffer, context.receive_view, nbytes, is_body=is_body), 1
            )
        except Exception:  # noqa: BLE001 - data outlives our bugs: the caller retries, the alarm is raised
            self._report_bug()
        if nbytes >= LARGE_READ_BYTES and self._state.phase != CLOSED:
            self._state.gate.count_read(nbytes)

    def eof_received(self) -> bool:
        """The client sends no more (asyncio); a complete request still gets its answer.

        One that is held for its backend does not: its sender has given up, and needs no room.
        """
        state = self._state
        state.has_eof = True
        exchange = self._answers.exchange
        if exchange is not None and (state.phase == BODY or exchange.is_held):
            exchange.caller_gone()
            return False
        return state.phase == ANSWER

    def pause_writing(self) -> None:
        """The client does not read (asyncio)."""
        self._state.out.pause()

    def resume_writing(self) -> None:
        """The client has read everything (asyncio)."""
        state = self._state
        left = state.out.resume()
        state.since = self._context.tick
        exchange = self._answers.exchange
        if left and exchange is not None:
            exchange.answer_left(left)
        if state.phase == LINGER:
            state.leave()
        elif state.gate.reasons & PAUSED_PIPELINE:
            self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what is under way (asyncio)."""
        self._state.lost()
        self._context.connections.discard(self)
        self._answers.drop()

    # Reading

    def _receive(self, data: Received, requests: int) -> bool:
        """Read all of it, but begin no more than `requests`; return whether the rest waits for its
        turn.
        """
        state = self._state
        at = 0
        end = data.end
        while at < end:
            phase = state.phase
            if phase == HEAD and not state.out.is_paused:
                if not requests:
                    return self._put_off(data.cut(at, end))
                requests -= 1
                try:
                    head = self._reader.read_head(data, at)
                except http1.Http1Error as error:
                    self._refuse(error)
                    head = None
                at = self._begin(head, data) if head is not None else self._reader.at
            elif phase == BODY:
                at = self._read_body(data, at)
                if at < end and state.phase == BODY:
                    return self._put_off(data.cut(at, end))
            elif phase <= ANSWER:
                return self._hold_rest(data.cut(at, end))
            elif phase == CLOSED:
                return False
            else:
                at = state.throw_away(at, end)
        return False

    def _refuse(self, error: http1.Http1Error) -> None:
        """Answer a head that cannot be read; a browser's page may read that, too."""
        cors = self._pipeline.cors
        origin = http1.peek_field(error.head, b"origin") if cors is not None else b""
        extra = cors.fields_for(origin) if cors is not None else []
        self._answers.refuse_head(error.reason, error.head, extra)

    def _put_off(self, rest: bytes) -> bool:
        """Leave the rest to another turn; return whether it waits."""
        if self._state.phase == HEAD and self._context.budget.is_near:
            self._answers.refuse_head(OVERLOADED)
            return False
        self._context.backlog.add(self._state.client, self._work_off)
        return self._hold_rest(rest)

    def _hold_rest(self, rest: bytes) -> bool:
        """Hold what cannot be read now, and read no more; return whether it waits."""
        state = self._state
        if state.phase != BODY and self._context.budget.is_near:
            state.is_ending = True  # its sender sees that pipelined requests were not taken
            return False
        state.hold(rest)
        state.gate.pause(PAUSED_PIPELINE)
        return True

    def _begin(self, head: Http1RequestHead, data: Received) -> int:
        """Start the exchange of a complete head. A whole body that has come behind it is taken at
        once. Return the position behind what was taken.
        """
        reader, answers, state = self._reader, self._answers, self._state
        at = reader.at
        end = data.end
        answers.begin(head)
        length = state.left = head.content_length
        reader.chunked = http1.ChunkedBody() if head.is_chunked else None
        if length:
            state.phase = BODY
            head.body_follows = at < end
        else:
            state.phase = ANSWER
            head.body_follows = True
        pipeline = self._pipeline
        exchange = answers.exchange = pipeline.make(answers, head)
        if head.is_chunked:
            answers.look_ahead((data.buffer, at, end))
            pipeline.start(exchange)
            answers.look_ahead(None)
            return at
        pipeline.start(exchange)
        if length > end - at or exchange.is_over:
            return at
        state.phase = ANSWER
        state.left = 0
        answers.ungranted = length
        exchange.receive_body(data.cut(at, at + length), True)
        return at + length

    def _read_body(self, data: Received, at: int) -> int:
        """Take body bytes; return the position behind them."""
        reader, answers, state = self._reader, self._answers, self._state
        try:
            chunk = reader.read_body(data, at)
        except http1.Http1Error as error:
            # Nothing completes the request at the backend.
            answers.fail(REFUSALS[error.reason])
            return data.end
        answers.body_came(len(chunk))
        exchange = answers.exchange
        if reader.ended:
            state.phase = ANSWER
        stop = reader.at
        if exchange is not None:
            exchange.receive_body(chunk, reader.ended)
        if state.phase == BODY:
            if answers.ungranted > WINDOW_BYTES:
                state.gate.pause(PAUSED_FLOW)
            state.gate.wait_for_room(holds=answers.ungranted > 0)
        return stop

    def _go_on(self) -> None:
        """Take up what was pipelined, when its turn has come."""
        if self._state.phase == HEAD:
            self._take_up(1)

    def _work_off(self) -> None:
        """Take up what was too much for one turn."""
        if self._state.phase <= BODY:
            self._take_up(REQUESTS_PER_PIECE)

    def _take_up(self, requests: int) -> None:
        state = self._state
        if not state.held or (state.phase == HEAD and state.out.is_paused):
            return
        waits = False
        try:
            waits = self._receive(held(state.take_held()), requests)
        except Exception:  # noqa: BLE001 - as in `buffer_updated`
            self._report_bug()
        if not waits:
            state.gate.resume(PAUSED_PIPELINE)

    def _report_bug(self) -> None:
        """Report a bug of ours; the caller is told to try again, where that is still possible."""
        self._context.report_bug("connection")
        self._state.is_ending = True
        self._answers.fail(REFUSALS["INTERNAL"])

    # What `seams.ServerConnection` asks for

    def sweep(self, now: float) -> None:
        """See `ServerConnection`."""
        state = self._state
        state.sweep(now)
        exchange = self._answers.exchange
        if state.out.has_moved():
            state.since = now
            if exchange is not None:
                exchange.progress_at = now
        if exchange is not None:
            exchange.sweep(now)
        else:
            state.sweep_idle(now)

    def holdings(self) -> Iterator[tuple[str, int]]:
        """See `ServerConnection`."""
        exchange = self._answers.exchange
        if exchange is not None:
            state = self._state
            yield exchange.sender, exchange.body.held + len(state.held) + state.out.held

    def start_drain(self) -> None:
        """See `ServerConnection`."""
        self._state.start_drain()

    def abort(self) -> None:
        """See `ServerConnection`: in order, when no one waits for an answer."""
        if self._state.is_idle:
            self._state.close()
        else:
            self._answers.break_off(None)
