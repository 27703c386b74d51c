"""One worker process as control sees it: started with exec, spoken to over a channel, ended.

A worker is *lost* as soon as its channel or its process ends: no message reaches it any more, and
another worker must take its place. It is *gone* when both have ended and its last report has been
read. The supervisor decides when a worker is started and what follows its end.
"""

from __future__ import annotations

import asyncio
import enum
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.channel import (
    SNAPSHOT_CHUNK,
    Applied,
    Channel,
    Down,
    Drain,
    KeyChanges,
    Keys,
    Lookup,
    Ready,
    Report,
    SenderSeen,
    Start,
    Traced,
    Up,
)
from gateway.control.core.errors import ErrorReporter
from gateway.control.workers.worker_start import WorkerStarter
from gateway.model import KeyEntry
from gateway.settings import WorkerSettings, descriptors_of

_CHANNEL_END_S: Final = 1.0
"""How long a dead process's channel may take to end: what it wrote last must be read."""
_LOST_GRACE_S: Final = 5.0
"""How long a process may live after its channel has ended: it finishes open requests, but receives
no more changes of keys.
"""


class WorkerState(enum.Enum):
    """Where a worker is in its life."""

    STARTING = "starting"
    LOADED = "loaded"
    """All keys have been sent: from now on it may become ready at any moment."""
    READY = "ready"
    DRAINING = "draining"
    LOST = "lost"


class WorkerObserver:
    """Is notified of what happens to workers; each part overrides the methods that it needs.

    Methods are called in the event loop and must not wait.
    """

    def worker_started(self, worker: WorkerHandle) -> None:
        """The process of a worker has been started."""

    def worker_changed(self, worker: WorkerHandle) -> None:
        """A worker has a new state, has applied a revision of the keys, or is gone."""

    def worker_reported(self, worker: WorkerHandle, report: Report) -> None:
        """A worker sent its report, due once a second."""

    def worker_sent(self, worker: WorkerHandle, message: Lookup | Traced | SenderSeen) -> None:
        """A worker asked about a key, sent requests that a trace matches, or a sender's name."""

    def worker_gone(self, worker: WorkerHandle) -> None:
        """A worker has ended and its last report has been read."""

    def worker_replaced(self, reason: str) -> None:
        """A worker must be replaced. `reason` is one of `metrics.RESTART_REASONS`."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class KeySnapshot:
    """All keys at one revision."""

    revision: int
    entries: Sequence[KeyEntry]
    complete: bool = True
    """As in `channel.KeyChanges`."""


class WorkerHandle:
    """A worker process, alive or gone. Made by `spawn`."""

    def __init__(
        self,
        index: int,
        process: subprocess.Popen[bytes],
        observer: WorkerObserver,
        errors: ErrorReporter,
        clock: Callable[[], float],
    ) -> None:
        self.index = index
        self.pid = process.pid
        self.state = WorkerState.STARTING
        self.applied = -1
        """The oldest revision that a request may be decided with."""
        self.is_hung = False
        """Whether it was killed because it got nothing done."""
        self.exit_code: int | None = None
        """As `subprocess.Popen.returncode`: negative = ended by that signal."""
        self.last_heard = clock()
        """When it last sent a message or was seen to get something done."""
        self.was_ready = False
        self.settled = asyncio.Event()
        """Set when it is ready, or lost before."""
        self.lost = asyncio.Event()
        self.gone = asyncio.Event()
        self._process = process
        self._observer = observer
        self._errors = errors
        self._clock = clock
        self._channel = Channel.for_control(self._on_message, self._on_channel_end)
        self._is_channel_open = True
        self._held: list[KeyChanges] = []

    @classmethod
    async def spawn(
        cls,
        starter: WorkerStarter,
        settings: WorkerSettings,
        observer: WorkerObserver,
        errors: ErrorReporter,
        clock: Callable[[], float],
    ) -> WorkerHandle:
        """Start a process and send `Start`.

        Raises `OSError` when the system cannot start a process.
        """
        process, ours = starter.start(descriptors_of(settings))
        worker = cls(settings.index, process, observer, errors, clock)
        try:
            worker._watch_process()
            ours.settimeout(0)
            loop = asyncio.get_running_loop()
            await loop.create_unix_connection(lambda: worker._channel, sock=ours)
        except BaseException:
            ours.close()
            worker.kill()
            raise
        worker.send(Start(settings))
        return worker

    @property
    def decides(self) -> bool:
        """Whether it decides on requests, now or at any moment, with the keys it received."""
        return self.state in (WorkerState.LOADED, WorkerState.READY, WorkerState.DRAINING)

    def send(self, message: Down) -> None:
        """Send a message; no effect once the worker is lost."""
        self._channel.send(message)

    async def load(self, take: Callable[[], KeySnapshot]) -> None:
        """Send all keys in parts, without holding up control or flooding the channel.

        `take` returns the keys as they are. Changes that arrive meanwhile go into the last part: a
        worker never becomes ready with a key that was revoked while it started.
        """
        while True:
            self._held = []
            snapshot = take()
            entries = snapshot.entries
            last_start = max(0, len(entries) - 1) // SNAPSHOT_CHUNK * SNAPSHOT_CHUNK
            for start in range(0, last_start, SNAPSHOT_CHUNK):
                await self._channel.drain()
                chunk = list(entries[start : start + SNAPSHOT_CHUNK])
                self.send(Keys(snapshot.revision, chunk, first=start == 0, last=False))
            await self._channel.drain()
            if not any(changes.removals for changes in self._held):
                break  # else from the start: a part can add a key, but not take one back
        last = list(entries[last_start:])
        for changes in self._held:
            last += changes.upserts
        self.applied = self._held[-1].revision if self._held else snapshot.revision
        complete = self._held[-1].complete if self._held else snapshot.complete
        self.send(Keys(self.applied, last, first=last_start == 0, last=True, complete=complete))
        self._enter(WorkerState.LOADED)

    def push(self, changes: KeyChanges) -> None:
        """Send a change of the keys, or hold it until the snapshot has been sent."""
        if self.state is WorkerState.STARTING:
            self._held.append(changes)
        else:
            self.send(changes)

    def drain(self, timeout_s: float, *, is_replaced: bool = False) -> None:
        """Have it stop accepting, finish open requests within `timeout_s` seconds, and exit.

        `is_replaced`: see `channel.Drain`.
        """
        is_draining = self.state is WorkerState.DRAINING
        if self.state is WorkerState.LOST or (is_draining and is_replaced):
            return
        if not is_draining:
            self._enter(WorkerState.DRAINING)
        self.send(Drain(timeout_s, is_replaced))

    def kill(self) -> None:
        """End the process at once (SIGKILL); no effect when it has ended."""
        if self.exit_code is None:
            self._process.kill()

    def kill_hung(self) -> None:
        """End a process that has been silent for too long."""
        self.is_hung = True
        self.kill()

    def _enter(self, state: WorkerState) -> None:
        if self.state is not WorkerState.LOST:
            self.state = state
            self._observer.worker_changed(self)

    def _on_message(self, message: Down | Up) -> None:
        self.last_heard = self._clock()
        try:
            self._handle(message)
        except Exception as error:  # noqa: BLE001 - a bug in control must not cost a worker
            self._errors.report("message of a worker", error)

    def _handle(self, message: Down | Up) -> None:
        match message:
            case Ready():
                self.was_ready = True
                if self.state is WorkerState.LOADED:
                    self._enter(WorkerState.READY)
                self.settled.set()
            case Applied(revision):
                self.applied = max(self.applied, revision)
                self._observer.worker_changed(self)
            case Report():
                self._observer.worker_reported(self, message)
            case Lookup() | Traced() | SenderSeen():
                self._observer.worker_sent(self, message)
            case _:
                pass  # Down: the decoder lets none through

    def _on_channel_end(self) -> None:
        self._is_channel_open = False
        asyncio.get_running_loop().call_later(_LOST_GRACE_S, self.kill)
        self._lose()

    def _watch_process(self) -> None:
        """Have the event loop watch the process's end, whichever loop it is."""
        pidfd = os.pidfd_open(self.pid)
        loop = asyncio.get_running_loop()

        def on_exit() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            self.exit_code = self._process.wait()
            loop.call_later(_CHANNEL_END_S, self._channel.close)
            self._lose()

        loop.add_reader(pidfd, on_exit)

    def _lose(self) -> None:
        if self.state is not WorkerState.LOST:
            self._enter(WorkerState.LOST)
            self.settled.set()
            self.lost.set()
        if self.exit_code is not None and not self._is_channel_open:
            self.gone.set()
            self._observer.worker_changed(self)
