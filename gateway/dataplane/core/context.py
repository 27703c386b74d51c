"""What everything in a worker shares: limits, time, memory, counters, the event loop.

A context is handed over ready made and builds nothing: `assembly` puts a worker together.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

import structlog

from gateway import metrics
from gateway.dataplane.core import peers
from gateway.dataplane.core.backlog import LARGE_READ_BYTES, Backlog
from gateway.dataplane.core.budget import Budget
from gateway.dataplane.core.counters import Counters
from gateway.dataplane.core.lingering import Lingering
from gateway.dataplane.core.memo import Memo
from gateway.dataplane.core.open_connections import OpenConnections
from gateway.dataplane.core.throttled_log import ThrottledLog
from gateway.settings import LimitsSettings
from gateway.worker_contract import ALIVE

RECEIVE_BUFFER_BYTES: Final = 256 * 1024
SMALL_READ_BYTES: Final = 64 * 1024
"""What is read at a time of a connection whose protocol is not known yet."""
TINY_READ_BYTES: Final = LARGE_READ_BYTES
"""What is read at a time while so much is held that it may have to be held, too, and when a turn of
the loop has read enough.
"""
_CLIENTS: Final = 1_000
"""Addresses whose clients are remembered."""
IDLE_GRACE_S: Final = 6.0
"""How long an idle HTTP/1.1 connection stays when a drain begins: OpenTelemetry's SDKs and agents
send every 5 s, so that most are told in an answer before it closes.
"""
_READS_PER_SIGN: Final = 16
_log = structlog.get_logger("gateway.worker")


class WorkerContext:
    """See the module. There is one per worker."""

    __slots__ = (
        "_clients",
        "_unshown",
        "backlog",
        "budget",
        "connections",
        "counters",
        "is_draining",
        "is_leaving",
        "limits",
        "lingering",
        "loop",
        "receive_buffer",
        "receive_view",
        "sign_of_life",
        "small_view",
        "throttled",
        "tick",
        "tiny_view",
    )

    def __init__(
        self,
        limits: LimitsSettings,
        loop: asyncio.AbstractEventLoop,
        budget: Budget,
        counters: Counters,
        connections: OpenConnections,
        sign_of_life: memoryview | None = None,
    ) -> None:
        """`sign_of_life` is a number that control reads, see `worker_contract.ALIVE`."""
        self.limits = limits
        self.loop = loop
        self.budget = budget
        self.backlog = Backlog(loop)
        self.counters = counters
        self._clients: Memo[str, str] = Memo(_CLIENTS)
        self.connections = connections
        self.sign_of_life = memoryview(bytearray(1)) if sign_of_life is None else sign_of_life
        self._unshown = 0
        """Reads since the last sign of life."""
        self.receive_buffer = bytearray(RECEIVE_BUFFER_BYTES)
        """All connections read through it: what a read brings is forwarded or copied at once."""
        self.receive_view = memoryview(self.receive_buffer)
        self.small_view = self.receive_view[:SMALL_READ_BYTES]
        """The beginning of `receive_view`."""
        self.tiny_view = self.receive_view[:TINY_READ_BYTES]
        """The same, for when much is held or a turn has read enough."""
        self.lingering = Lingering(loop, self.receive_view, self.backlog, connections)
        """Connections that only wait for their clients to have sent all."""
        self.throttled = ThrottledLog()
        """What goes wrong with peers, in the log."""
        self.is_draining = False
        self.is_leaving = False
        """Whether each answer over HTTP/1.1 announces the end of its connection: a drain will
        follow, or has begun.
        """
        self.tick = time.monotonic()
        """Monotonic seconds of the last sweep: precise enough for limits of seconds, and costs
        nothing to read.
        """

    @staticmethod
    def now() -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def show_life(self) -> None:
        """Tell control that the worker is not stuck; called with each read. Many connections may
        have something to read in one turn of the loop, and a few reads take milliseconds at most.
        """
        self._unshown += 1
        if self._unshown >= _READS_PER_SIGN:
            self._unshown = 0
            self.sign_of_life[0] = ALIVE

    def client_of(self, peer: str) -> str:
        """Return which client a peer is, as `peers.client_of` does, for those that it was asked of
        lately without reading the address again.
        """
        host = peers.host_of(peer)
        return self._clients.kept.get(host) or self._clients.add(host, peers.client_of(peer))

    def connection_age_limit(self) -> float:
        """Return after how many seconds a new connection is to end: ±10 %, so that connections
        made together do not end together.
        """
        return self.limits.max_connection_age_s * random.uniform(0.9, 1.1)

    def idle_grace(self) -> float:
        """Return for how many seconds an idle connection may stay when a drain begins: at most half
        of the drain's time, so that what comes in the end has time, too.
        """
        return min(IDLE_GRACE_S, self.limits.drain_timeout_s / 2)

    def report_bug(self, place: str) -> None:
        """Log the exception that is being handled and raise the alarm metric."""
        self.counters.count(metrics.INTERNAL_ERRORS, place)
        _log.exception("a bug in the gateway: please report it", place=place)
