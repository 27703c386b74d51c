"""Sending from many connections at once, in one thread, with little memory.

A script says what one connection sends: bytes, seconds to wait, or `UNTIL_READ` to wait until the
peer has sent something. Scripts share their bytes, so a thousand uploads of 10 MB cost no more
memory than one frame.
"""

from __future__ import annotations

import contextlib
import heapq
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from bench.hostile.attack import SOURCE, Traffic

_READ_BYTES: Final = 1 << 16
_POLL_S: Final = 0.05
_OPENED_AT_ONCE: Final = 200
"""Connections opened per turn: in between those that are open go on sending."""
_REOPEN_AFTER_S: Final = 0.01

UNTIL_READ: Final = None
Step = bytes | float | None


class Inbox:
    """Takes what the peer sends. This one forgets it."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""


Script = Callable[[int, Inbox], Iterator[Step]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How an attack uses its connections.

    Attributes:
        ports: connection number `n` goes to the port `n` modulo their number.
        script: what connection number `n` sends.
        connections: how many are open at once.
        per_second: how many are opened per second; None opens all at once.
        tls: what encrypts them, or None.
        reads: whether what the gateway sends is read at all.
        reopens: whether a connection that has ended is followed by another one.
        closes: whether the attacker closes a connection at the end of its script; else it stays.
        inbox: makes what the script of a connection reads from.
    """

    ports: tuple[int, ...]
    script: Script
    connections: int
    per_second: float | None = None
    tls: ssl.SSLContext | None = None
    reads: bool = True
    reopens: bool = True
    closes: bool = False
    inbox: Callable[[], Inbox] = Inbox


class _Connection:
    """One connection of an attack."""

    def __init__(self, plan: Plan, number: int) -> None:
        self.inbox = plan.inbox()
        self.steps = plan.script(number, self.inbox)
        self.unsent = memoryview(b"")
        self.waits_for_bytes = False
        self.handshakes = plan.tls is not None
        self.socket: ssl.SSLSocket | socket.socket
        raw = socket.socket()
        try:
            raw.setblocking(False)  # noqa: FBT003 -- the standard library's signature
            raw.bind((SOURCE, 0))
            with contextlib.suppress(BlockingIOError):
                raw.connect(("127.0.0.1", plan.ports[number % len(plan.ports)]))
            self.socket = (
                raw
                if plan.tls is None
                else plan.tls.wrap_socket(raw, do_handshake_on_connect=False, server_hostname="x")
            )
        except OSError:
            raw.close()
            raise


class Flood:
    """An attack that is going on."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._poll = select.epoll()
        self._open: dict[int, _Connection] = {}
        self._timers: list[tuple[float, int, _Connection]] = []
        self._next = 0
        self._ended_early = 0
        self._reopen_at_s = 0.0
        self.traffic = Traffic()

    def run(self, seconds: float) -> Traffic:
        """Send for `seconds`, then close everything."""
        started_s = now_s = time.monotonic()
        while now_s - started_s < seconds:
            self._fill(now_s - started_s, now_s)
            self._wake(now_s)
            for number, events in self._poll.poll(self._wait_s(now_s)):
                connection = self._open.get(number)
                if connection is not None:
                    self._serve(connection, events)
            now_s = time.monotonic()
        for connection in list(self._open.values()):
            self._close(connection)
        self._poll.close()
        return self.traffic

    def _wait_s(self, now_s: float) -> float:
        if not self._timers:
            return _POLL_S
        return min(_POLL_S, max(0.0, self._timers[0][0] - now_s))

    def _fill(self, passed_s: float, now_s: float) -> None:
        """Open what is missing."""
        plan = self._plan
        if plan.per_second is not None:
            missing = int(plan.per_second * passed_s) - self._next
        elif plan.reopens:
            missing = plan.connections - len(self._open)
        else:
            missing = plan.connections - self._next
        if plan.reopens and self._ended_early and now_s < self._reopen_at_s:
            return
        self._ended_early = 0
        for _ in range(min(missing, _OPENED_AT_ONCE)):
            number = self._next
            self._next += 1
            try:
                connection = _Connection(plan, number)
            except OSError:
                self.traffic.failed += 1
                continue
            self._open[connection.socket.fileno()] = connection
            self._poll.register(connection.socket.fileno(), select.EPOLLOUT)
            self.traffic.opened += 1

    def _wake(self, now_s: float) -> None:
        while self._timers and self._timers[0][0] <= now_s:
            _, _, connection = heapq.heappop(self._timers)
            if connection.socket.fileno() in self._open:
                self._write(connection)

    def _serve(self, connection: _Connection, events: int) -> None:
        try:
            if connection.handshakes:
                self._shake_hands(connection)
                return
            if events & select.EPOLLIN and self._plan.reads:
                data = connection.socket.recv(_READ_BYTES)
                if not data:
                    self._end(connection)
                    return
                connection.inbox.feed(data)
                if connection.waits_for_bytes:
                    connection.waits_for_bytes = False
                    self._write(connection)
            elif events & (select.EPOLLHUP | select.EPOLLERR):
                self._end(connection)
                return
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:
            self._end(connection)
            return
        if events & select.EPOLLOUT:
            self._write(connection)

    def _shake_hands(self, connection: _Connection) -> None:
        assert isinstance(connection.socket, ssl.SSLSocket)  # noqa: S101 -- only with TLS
        try:
            connection.socket.do_handshake()
        except ssl.SSLWantReadError:
            self._poll.modify(connection.socket.fileno(), select.EPOLLIN)
            return
        connection.handshakes = False
        self._write(connection)

    def _write(self, connection: _Connection) -> None:
        """Send one piece, or take the next step."""
        if not connection.unsent and not self._step(connection):
            return
        try:
            sent = connection.socket.send(connection.unsent)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            sent = 0
        except OSError:
            self._end(connection)
            return
        self.traffic.sent_bytes += sent
        connection.unsent = connection.unsent[sent:]
        self._watch(connection, writes=True)

    def _step(self, connection: _Connection) -> bool:
        """Take the next step of the script; whether there is something to send now."""
        step = next(connection.steps, 1e9)
        if isinstance(step, bytes):
            connection.unsent = memoryview(step)
            return True
        if step is None:
            connection.waits_for_bytes = True
        elif step < 1e9:
            at_s = time.monotonic() + step
            heapq.heappush(self._timers, (at_s, id(connection), connection))
        elif self._plan.closes:
            self._close(connection)
            return False
        self._watch(connection, writes=False)
        return False

    def _watch(self, connection: _Connection, *, writes: bool) -> None:
        events = select.EPOLLIN if self._plan.reads else 0
        if writes:
            events |= select.EPOLLOUT
        self._poll.modify(connection.socket.fileno(), events)

    def _end(self, connection: _Connection) -> None:
        """The gateway, or its kernel, has ended a connection."""
        self.traffic.ended += 1
        self._ended_early += 1
        self._reopen_at_s = time.monotonic() + _REOPEN_AFTER_S
        self._close(connection)

    def _close(self, connection: _Connection) -> None:
        number = connection.socket.fileno()
        del self._open[number]
        self._poll.unregister(number)
        connection.socket.close()
