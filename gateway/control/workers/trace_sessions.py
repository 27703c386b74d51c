"""Sessions of `gateway trace`: each receives the requests that match, from all workers.

A session holds a bounded number of requests until its reader takes them, and counts those that it
dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

from gateway.channel import Traced, TracedRequest, Watch, Watches
from gateway.control.workers.worker_handle import Sent, WorkerHandle, WorkerObserver
from gateway.control.workers.worker_set import WorkerSet

MAX_SESSIONS: Final = 16
"""At once."""
MAX_HELD: Final = 10_000
"""Requests that one session holds for its reader."""
BEGIN_S: Final = 1.0
"""How long workers may take to confirm that they watch."""


class TooManySessionsError(Exception):
    """As many sessions run as are allowed."""


class TraceSession:
    """One session: matching requests from all workers. Made by `TraceSessions.watching`."""

    def __init__(
        self, watch: Watch, waiting_for: Iterable[WorkerHandle], shows: Callable[[str], bool]
    ) -> None:
        self.watch = watch
        self.dropped = 0
        """Requests that matched and were not kept."""
        self._shows = shows
        self._requests: deque[TracedRequest] = deque()
        self._unconfirmed = set(waiting_for)
        self._changed = asyncio.Event()

    def take(self, worker: WorkerHandle, traced: Traced) -> None:
        """Take what a worker sent."""
        self._unconfirmed.discard(worker)
        self.dropped += traced.dropped
        for request in traced.requests:
            if not self._shows(request.key_id):
                continue
            if len(self._requests) >= MAX_HELD:
                self.dropped += 1
            else:
                self._requests.append(request)
        self._changed.set()

    async def begun(self) -> bool:
        """Wait until every worker watches; False if one has not confirmed within `BEGIN_S`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEGIN_S):
                while self._unconfirmed:
                    await self._wait()
        return not self._unconfirmed

    async def requests(self, within_s: float) -> list[TracedRequest]:
        """Wait for requests, at most `within_s` seconds, and return those there are."""
        if not self._requests:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    while not self._requests:
                        await self._wait()
        requests = list(self._requests)
        self._requests.clear()
        return requests

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class TraceSessions(WorkerObserver):
    """All trace sessions of this gateway. `workers` are those that report requests."""

    def __init__(self, workers: WorkerSet) -> None:
        self._workers = workers
        self._sessions: dict[int, TraceSession] = {}
        self._numbers = itertools.count(1)
        self._informed: set[WorkerHandle] = set()

    @contextlib.asynccontextmanager
    async def watching(
        self, key_id: str = "", network: str = "", shows: Callable[[str], bool] = lambda _: True
    ) -> AsyncIterator[TraceSession]:
        """Watch requests while the block runs. Raises `TooManySessionsError`.

        `shows`: whether those with a key's id are shown; "" is the id of those without a key.
        """
        if len(self._sessions) >= MAX_SESSIONS:
            msg = f"{MAX_SESSIONS} traces run already: end one of them"
            raise TooManySessionsError(msg)
        number = next(self._numbers)
        workers = [worker for worker in self._workers if worker.decides]
        trace = self._sessions[number] = TraceSession(
            Watch(number, key_id, network), workers, shows
        )
        try:
            self._inform_all()
            yield trace
        finally:
            del self._sessions[number]
            self._inform_all()

    def worker_sent(self, worker: WorkerHandle, message: Sent) -> None:
        """Give requests to their session, unless it has ended meanwhile (`WorkerObserver`)."""
        if isinstance(message, Traced) and message.watch in self._sessions:
            self._sessions[message.watch].take(worker, message)

    def worker_changed(self, worker: WorkerHandle) -> None:  # noqa: ARG002 - an observer's
        """Have workers that have started since watch, too (`WorkerObserver`)."""
        workers = set(self._workers)
        self._informed &= workers
        if self._sessions:
            for new in workers - self._informed:
                new.send(self._watches())
            self._informed = workers

    def _inform_all(self) -> None:
        self._informed = set(self._workers)
        self._workers.send_to_all(self._watches())

    def _watches(self) -> Watches:
        return Watches([trace.watch for trace in self._sessions.values()])
