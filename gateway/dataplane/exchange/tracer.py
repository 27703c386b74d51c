"""What `gateway trace` sees: requests that somebody watches, told to control as they end.

While nobody watches there is no `Tracer`, and a request costs one look at an attribute. What is not
yet told is bounded: a trace of a busy gateway says how many requests it left out.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import time
from collections.abc import Callable, Iterable
from typing import Final

from gateway.channel import Traced, TracedRequest, Watch
from gateway.dataplane.core import peers
from gateway.dataplane.core.heads import RequestHead
from gateway.dataplane.exchange.record import RequestObserver, RequestRecord

FLUSH_S: Final = 0.1
"""How long a line waits for others, to travel with them."""
MAX_HELD: Final = 200
"""Lines per trace between two flushes: at most 2,000 a second from each worker."""
_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-|\Z)")
_NO_TRACE: Final = b"0" * 32
_NO_SPAN: Final = b"0" * 16
_SAMPLED: Final = 1


class _Watched:
    """One trace's filter, and what it has not been told yet."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.held: list[TracedRequest] = []
        self.dropped = 0
        self._network = ipaddress.ip_network(watch.network) if watch.network else None

    def matches(self, record: RequestRecord) -> bool:
        """Whether the trace wants to see a request."""
        if self.watch.key_id and self.watch.key_id != _key_id_of(record):
            return False
        if self._network is None:
            return True
        address = peers.parse(peers.host_of(record.peer))
        return address is not None and address in self._network


class Tracer(RequestObserver):
    """All traces that run now. `send` passes a message to control, or returns False: it does not
    keep up.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, send: Callable[[Traced], bool]) -> None:
        self._loop = loop
        self._send = send
        self._watched: dict[int, _Watched] = {}
        self._flushing: asyncio.TimerHandle | None = None

    def watch(self, watches: Iterable[Watch]) -> bool:
        """Replace the traces; each new one is answered without lines. False: there are none."""
        before, self._watched = self._watched, {}
        for watch in watches:
            kept = before.get(watch.number)
            if kept is None:
                kept = _Watched(watch)
                self._send(Traced(watch.number, []))
            self._watched[watch.number] = kept
        return bool(self._watched)

    def on_end(self, record: RequestRecord) -> None:
        """See `RequestObserver`."""
        wanting = [one for one in self._watched.values() if one.matches(record)]
        if not wanting:
            return
        if self._flushing is None:
            self._flushing = self._loop.call_later(FLUSH_S, self.flush)
        traced: TracedRequest | None = None
        for one in wanting:
            if len(one.held) >= MAX_HELD:
                one.dropped += 1
                continue
            traced = traced or describe(record)
            one.held.append(traced)

    def flush(self) -> None:
        """Tell control what has been taken down."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        for number, one in self._watched.items():
            if not one.held and not one.dropped:
                continue
            if self._send(Traced(number, one.held, one.dropped)):
                one.dropped = 0
            else:
                one.dropped += len(one.held)
            one.held = []


def _key_id_of(record: RequestRecord) -> str:
    return record.principal.key_id if record.principal is not None else ""


def describe(record: RequestRecord) -> TracedRequest:
    """Return what control is told of a request."""
    route = record.route
    return TracedRequest(
        ended_at_ms=time.time_ns() // 1_000_000,
        peer=record.peer,
        protocol=route.counters.protocol,
        signal=route.signal.value if route.signal is not None else "",
        key_id=_key_id_of(record),
        bytes=record.request_bytes,
        outcome=record.auth_outcome,
        result=record.result,
        code=record.code,
        backend=record.backend_address,
        backend_code=record.backend_code,
        duration_s=record.duration_s,
        trace_id=trace_id_of(record.head),
    )


class Parent:
    """What a valid `traceparent` says (W3C Trace Context §3.2)."""

    __slots__ = ("is_sampled", "span_id", "trace_id")

    def __init__(self, trace_id: str, span_id: str, is_sampled: bool) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.is_sampled = is_sampled


def parent_of(head: RequestHead) -> Parent | None:
    """Return the span in whose course a request was sent, None if it does not say. Only the form
    is believed: the texts cannot hold anything but hex digits.
    """
    for name, value in head.fields:
        if len(name) == 11 and name.lower() == b"traceparent":
            found = _TRACEPARENT.match(value)
            if found is not None and found[1] != _NO_TRACE and found[2] != _NO_SPAN:
                is_sampled = bool(int(found[3], 16) & _SAMPLED)
                return Parent(found[1].decode(), found[2].decode(), is_sampled)
    return None


def trace_id_of(head: RequestHead) -> str:
    """Return the trace id of a request's `traceparent`, "" if it has none."""
    parent = parent_of(head)
    return "" if parent is None else parent.trace_id
