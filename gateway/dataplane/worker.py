"""One worker without its process: the data path, and what control has it do.

Tests run one inside their own event loop. The process is `worker_process`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

from gateway import metrics
from gateway.channel import Forget, KeyChanges, LookedUp, Report, Revoked, Up, Watch
from gateway.dataplane.assembly import assemble
from gateway.dataplane.core.tls import TlsFileError
from gateway.dataplane.upstream.connector import Resolve, resolve_by_system
from gateway.model import KeyEntry
from gateway.settings import WorkerSettings
from gateway.worker_contract import ALIVE

SWEEP_S: Final = 1.0
ANSWER_S: Final = 2 * SWEEP_S
"""Held requests are answered so long before a drain ends: the sweep that does it may be late."""
KEYS_PER_STEP: Final = 2_000
"""Keys that one loop turn applies: about a millisecond."""
STEPS_S: Final = 0.0005
"""Seconds of a sweep that one loop turn does: there may be 50,000 connections or streams."""
MOST_STEPS: Final = 128
"""Steps of a sweep that one loop turn does: each may close a connection, whose end takes longer."""


def take_steps(steps: Iterator[None], clock: Callable[[], float] = time.perf_counter) -> bool:
    """Take steps for a while; return whether there may be more."""
    ends_at = clock() + STEPS_S
    for number, _ in enumerate(steps, start=1):
        if number >= MOST_STEPS or clock() >= ends_at:
            return True
    return False


class WorkerStartError(Exception):
    """The settings cannot be carried out; the text says what to do."""


class Worker:
    """See the module. Made inside the event loop that it will run in.

    It owns the descriptors in its settings and closes them.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        send: Callable[[Up], bool] = lambda _: False,
        on_sweep: Callable[[], None] = lambda: None,
        resolve: Resolve = resolve_by_system,
    ) -> None:
        """Take the sockets over, without accepting yet. Raises `WorkerStartError`.

        `send` passes a message to control; False where there is none, or it does not keep up.
        `on_sweep` is called after each sweep. `resolve` finds the addresses of a backend's name.
        """
        self.settings = settings
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._steps: Iterator[None] | None = None
        """The sweep that is going on."""
        self._on_sweep = on_sweep
        try:
            self.path = assemble(settings, self._loop, send, resolve)
        except (TlsFileError, OSError, ValueError) as error:
            raise WorkerStartError(str(error)) from error
        for listener in settings.listeners:
            try:
                self.path.acceptor.add_listener(listener)
            except (TlsFileError, OSError) as error:
                msg = f"cannot listen on {listener.address}: {error}"
                raise WorkerStartError(msg) from error

    @property
    def connections(self) -> int:
        """Client connections that are open."""
        return self.path.acceptor.count

    # Keys

    def load_keys(
        self,
        entries: Iterable[KeyEntry],
        revision: int = 0,
        *,
        first: bool = True,
        last: bool = True,
        complete: bool = True,
    ) -> None:
        """Take a part of a snapshot of all keys; they count from the last part on."""
        self.path.keyring.load(entries, revision, first=first, last=last, complete=complete)

    def revoke(self, revoked: Revoked) -> None:
        """Take a part of all client certificates that are revoked."""
        self.path.revocations.load(revoked.ids, first=revoked.first, last=revoked.last)

    def apply_keys(self, changes: KeyChanges) -> Iterator[None]:
        """Apply a change of the keys in steps: run the loop between them. Done at the end."""
        keyring = self.path.keyring
        upserts, removals = iter(changes.upserts), iter(changes.removals)
        parts = max(1, -(-(len(changes.upserts) + len(changes.removals)) // KEYS_PER_STEP))
        for part in range(1, parts + 1):
            some = list(islice(upserts, KEYS_PER_STEP))
            others = list(islice(removals, KEYS_PER_STEP - len(some)))
            is_last = changes.last and part == parts
            keyring.apply(some, others, changes.revision, last=is_last, complete=changes.complete)
            if part < parts:
                yield

    def take_verdict(self, message: LookedUp | Forget) -> None:
        """Take what control says about keys of a remote authority."""
        lookups = self.path.lookups
        if lookups is None:
            return
        if isinstance(message, LookedUp):
            lookups.answer(message)
        else:
            lookups.forget(message.digests)

    # Life

    def start(self) -> None:
        """Begin to connect to the backends, and to accept."""
        for pool in self.path.all_pools:
            pool.maintain()
        self.path.acceptor.open()

    def begin_sweeping(self) -> None:
        """Sweep each second from now on."""
        self._timer = self._loop.call_later(SWEEP_S, self._tick)

    def _tick(self) -> None:
        self.begin_sweeping()
        self.path.context.sign_of_life[0] = ALIVE
        if self._steps is None:
            self._steps = self.sweeping()
            self._sweep_on()

    def _sweep_on(self) -> None:
        """Go on with a sweep; leave what takes too long to a later turn of the loop."""
        if self._steps is None:
            return
        try:
            if take_steps(self._steps):
                self._loop.call_soon(self._sweep_on)
                return
        except Exception:  # noqa: BLE001 - the next sweep must come
            self.path.context.report_bug("connection")
        self._steps = None
        self._on_sweep()

    def sweep(self, now: float | None = None) -> None:
        """Keep all limits of time (monotonic seconds), and the gauges current."""
        for _ in self.sweeping(now):
            pass

    def sweeping(self, now: float | None = None) -> Iterator[None]:
        """Do the same in steps: run the loop between them. One connection is a step."""
        path = self.path
        context = path.context
        now = context.tick = context.now() if now is None else now
        for connection in context.connections:
            connection.sweep(now)
            yield
        for pool in path.all_pools:
            pool.sweep(now)
        path.services.holding.sweep(now)
        path.health.sweep(now)
        if path.lookups is not None:
            path.lookups.sweep(now)
        gauges = context.counters.gauges
        gauges[metrics.CONNECTIONS.name, ()] = len(context.connections)
        gauges[metrics.BUFFER_BYTES.name, ()] = context.budget.used
        path.acceptor.sweep(now)

    def become_unready(self) -> None:
        """Answer readiness probes with no, and announce the end of each HTTP/1.1 connection in its
        next answer; go on serving.
        """
        self.path.context.is_leaving = True
        self.path.health.become_unready()

    def start_drain(self, hold_s: float = 0.0) -> None:
        """Announce to every connection its end, and let it finish what it has begun.

        Requests that are held may wait for `hold_s` seconds, less what their answer takes.
        """
        path = self.path
        path.health.start_drain()
        path.context.is_draining = path.context.is_leaving = True
        self.end_holding(hold_s - ANSWER_S)
        for connection in path.context.connections:
            connection.start_drain()

    def end_holding(self, after_s: float = 0.0) -> None:
        """Hold no request for longer than `after_s` seconds from now."""
        self.path.services.holding.end(self.path.context.now() + after_s)

    async def stop(self, timeout_s: float = 0.0, hold_s: float = 0.0) -> None:
        """Accept no more, let what is open finish within `timeout_s` seconds, close the rest.

        `hold_s`: see `start_drain`.
        """
        path = self.path
        path.acceptor.close()
        self.start_drain(hold_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await path.acceptor.wait_empty()
        if self._timer is not None:
            self._timer.cancel()
        self._steps = None
        await path.acceptor.abort()
        for connection in path.context.connections:
            connection.abort()
        for pool in path.all_pools:
            await pool.close()
        await asyncio.sleep(0)  # the loop closes in its next turn what was aborted in this one
        path.context.backlog.finish()  # and what was open on it is ended now

    # What control is told

    def take_report(self) -> Report:
        """Return what happened since the last call."""
        counters = self.path.context.counters
        return Report(
            deltas=counters.take_deltas(),
            gauges=counters.take_gauges(),
            refusals=self.path.refusals.take(),
            usage=counters.take_usage(),
        )

    def watch(self, watches: Iterable[Watch]) -> None:
        """Trace the requests that these watches match, and no others."""
        tracer = self.path.tracer
        self.path.services.watch(tracer, is_wanted=tracer.watch(watches))

    def flush_traces(self) -> None:
        """Send control the traces that it has not been sent yet."""
        self.path.tracer.flush()
