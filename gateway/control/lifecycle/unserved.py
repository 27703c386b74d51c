"""Connections that the kernel has taken and that nobody will serve, because no worker accepts.

The kernel completes connections as long as somebody holds the listening socket, and control does.
When no worker is left, one starts within a second, and serves what has come meanwhile. Where no
worker gets as far as accepting, clients would wait for their own timeouts: so they are
disconnected, and can try again, or go to another gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

import structlog

from gateway import metrics
from gateway.control.lifecycle.data_listeners import DataListeners
from gateway.control.metrics.metric_totals import MetricTotals
from gateway.control.workers.worker_handle import WorkerHandle, WorkerObserver
from gateway.control.workers.worker_set import WorkerSet

HOPELESS_S: Final = 3.0
"""How long no worker may accept, once one has ended before it was ready."""
DARK_S: Final = 10.0
"""How long no worker may accept in any case: a start takes a second, more on a busy machine."""
_LOOK_S: Final = 0.1
_MOST_AT_ONCE: Final = 512
"""Connections of one address that are ended in one turn of the loop."""
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: close with a reset, which no client takes for an orderly end."""

_log = structlog.get_logger("gateway.control")


class UnservedConnections(WorkerObserver):
    """See the module. `run` must run beside the workers; `clock` returns monotonic seconds."""

    def __init__(
        self,
        workers: WorkerSet,
        listeners: DataListeners,
        totals: MetricTotals,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workers = workers
        self._listeners = listeners
        self._totals = totals
        self._clock = clock
        self._served_at = clock()
        """When a worker was last seen to accept, or the start."""
        self._patience_s = DARK_S
        self._ended = 0
        self._is_dark = False

    async def run(self) -> None:
        """Look after them for ever."""
        self._served_at = self._clock()
        while True:
            await asyncio.sleep(_LOOK_S)
            self.look()

    def look(self) -> None:
        """End what is waiting, if no worker has accepted for too long."""
        now = self._clock()
        if self._workers.accepting():
            self._served_at = now
            self._patience_s = DARK_S
            if self._is_dark:
                self._is_dark = False
                _log.info("a worker accepts connections again", disconnected=self._ended)
        elif now - self._served_at > self._patience_s:
            if not self._is_dark:
                self._is_dark = True
                self._ended = 0
                _log.error(
                    "no worker accepts connections: clients are disconnected until one does; the"
                    " messages before this one say why workers end"
                )
            for sock in self._listeners.sockets:
                self._end_waiting(sock)

    def worker_gone(self, worker: WorkerHandle) -> None:
        """Hope for less after a worker that was never ready (`WorkerObserver`)."""
        if not worker.was_ready:
            self._patience_s = HOPELESS_S

    def _end_waiting(self, listener: socket.socket) -> None:
        for _ in range(_MOST_AT_ONCE):
            try:
                sock, _ = listener.accept()
            except OSError:
                return  # none is left, or there is no descriptor for it: the next look will do
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            sock.close()
            self._ended += 1
            self._totals.count(metrics.CONNECTIONS_REFUSED, ("no_worker",))
