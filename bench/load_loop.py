"""The loop of the load: connections of one kind, requests begun as a plan says, answers counted.

Closed: each connection has its number of requests in flight until all are answered. Open: requests
are due at times that were drawn before, whatever the answers do, and a duration runs from the time
that was due. A proxy that stands still is late for all that came due meanwhile.
"""

from __future__ import annotations

import itertools
import random
import select
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from bench import keys
from bench.bodies import Body
from bench.link import Link
from bench.report import RunFailedError
from bench.running import Kind

_STALL_S = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A run of requests against one port.

    Attributes:
        kind: the protocol.
        port: where the proxy listens on 127.0.0.1.
        body: what each request carries.
        requests: how many are sent in all.
        connections: how many connections are held.
        streams: how many requests each connection has in flight, if the peer allows so many.
        key_count: how many keys are used in turn.
        authorizations: values of Authorization that are used in turn instead of keys.
        encoder: whose recorded header blocks are sent; None: grpc-go's, made here.
        bdp_pings: send a PING when a reply arrives and none is open, as grpc-go does to measure
            the path.
        is_tls: whether connections are made over TLS.
        reconnects: whether each request has a connection of its own.
        is_refused: whether keys are unknown ones, and every answer must be a refusal.
        rate: requests per second in an open loop; None: closed.
    """

    kind: Kind
    port: int
    body: Body
    requests: int
    connections: int
    streams: int = 1
    key_count: int = keys.COUNT
    authorizations: tuple[str, ...] = ()
    encoder: str | None = None
    bdp_pings: bool = False
    is_tls: bool = False
    reconnects: bool = False
    is_refused: bool = False
    rate: float | None = None


@dataclass(slots=True)
class Tally:
    """What all connections share: how long each answered request took, in seconds."""

    durations_s: list[float] = field(default_factory=list)


class Client(Protocol):
    """One connection."""

    link: Link

    @property
    def room(self) -> int:
        """How many more requests may be begun now."""

    @property
    def is_spent(self) -> bool:
        """Whether another connection must take its place."""

    def begin(self, number: int, due_s: float) -> None:
        """Begin a request whose duration runs from `due_s`."""

    def receive(self) -> None:
        """Handle what has arrived.

        Raises:
            RunFailedError: the peer refused, reset, closed or answered something unexpected.
        """

    def flush(self) -> None:
        """Send what has gathered."""


class LoadLoop:
    """One run."""

    def __init__(self, plan: Plan, connect: Callable[[Tally], Client]) -> None:
        self._plan = plan
        self._tally = Tally()
        self._make = connect
        self._by_descriptor: dict[int, Client] = {}
        self._opened_s: dict[int, float] = {}
        self._poll = select.epoll()
        self._started = 0
        self._is_open = False
        self._backlog: deque[float] = deque()
        self._due: deque[float] = deque()

    def run(self) -> tuple[float, list[float]]:
        """Send all requests; return the seconds they took and each one's duration in seconds.

        Raises:
            RunFailedError: any response was not the expected one, or nothing moved for 30 s.
            OSError: the proxy does not take connections.
        """
        try:
            for _ in range(self._plan.connections):
                self._connect()
            while not all(each.room for each in self._by_descriptor.values()):
                self._turn(_STALL_S)
            self._is_open = True
            start_s = time.perf_counter()
            self._due = _arrivals(self._plan, start_s)
            for client in list(self._by_descriptor.values()):
                self._begin(client)
                self._settle(client)
            while len(self._tally.durations_s) < self._plan.requests:
                self._turn(self._until_due())
            return time.perf_counter() - start_s, self._tally.durations_s
        finally:
            self._poll.close()
            for client in self._by_descriptor.values():
                client.link.close()

    def _connect(self) -> None:
        opened_s = time.perf_counter()
        client = self._make(self._tally)
        self._by_descriptor[client.link.descriptor] = client
        self._opened_s[client.link.descriptor] = opened_s
        client.flush()
        client.link.register(self._poll)
        if self._is_open:
            self._begin(client)
            self._settle(client)

    def _until_due(self) -> float:
        if self._plan.rate is None or not self._due:
            return _STALL_S
        return max(0.0, self._due[0] - time.perf_counter())

    def _turn(self, timeout_s: float) -> None:
        """Wait for the sockets, and handle what each has to say."""
        # `epoll` counts in milliseconds: what is due sooner is waited for by `select`.
        if timeout_s < _STALL_S:
            select.select([self._poll], [], [], timeout_s)
            events = self._poll.poll(0)
        else:
            events = self._poll.poll(timeout_s)
            if not events:
                done = f"{len(self._tally.durations_s)} of {self._plan.requests} answered"
                message = f"nothing moved for {_STALL_S:.0f} s, {done}"
                raise RunFailedError(message)
        for descriptor, event in events:
            client = self._by_descriptor.get(descriptor)
            if client is None:
                continue
            if event & ~select.EPOLLOUT:
                client.receive()
            if self._is_open:
                self._begin(client)
            self._settle(client)
        if self._plan.rate is not None and self._is_open:
            self._begin_what_is_due()

    def _settle(self, client: Client) -> None:
        """Send what a connection has to say; put another in its place when it is spent."""
        if not client.is_spent:
            client.flush()
            client.link.watch(self._poll)
            return
        descriptor = client.link.descriptor
        del self._by_descriptor[descriptor]
        self._poll.unregister(descriptor)
        client.link.close()
        if self._started < self._plan.requests:
            self._connect()

    def _begin(self, client: Client) -> None:
        """Begin as many requests as a connection has room for (closed loop)."""
        if self._plan.rate is not None:
            return
        while client.room and self._started < self._plan.requests:
            now_s = time.perf_counter()
            is_new = self._plan.reconnects
            due_s = self._opened_s[client.link.descriptor] if is_new else now_s
            client.begin(self._started, due_s)
            self._started += 1

    def _begin_what_is_due(self) -> None:
        now_s = time.perf_counter()
        while self._due and self._due[0] <= now_s:
            self._backlog.append(self._due.popleft())
        if not self._backlog:
            return
        # The connection that waited longest comes first: it is put behind the others again.
        for descriptor in list(self._by_descriptor):
            client = self._by_descriptor[descriptor]
            if not client.room:
                continue
            del self._by_descriptor[descriptor]
            self._by_descriptor[descriptor] = client
            client.begin(self._started, self._backlog.popleft())
            self._started += 1
            self._settle(client)
            if not self._backlog:
                return


def _arrivals(plan: Plan, start_s: float) -> deque[float]:
    """Draw when requests are due: gaps as of many independent senders, the same each time."""
    if plan.rate is None:
        return deque()
    rate = plan.rate
    chance = random.Random(plan.requests)  # noqa: S311 -- no secret
    gaps = (chance.expovariate(rate) for _ in range(plan.requests))
    return deque(start_s + each for each in itertools.accumulate(gaps))
