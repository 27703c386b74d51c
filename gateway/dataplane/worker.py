"""One worker: the data path behind the listening sockets, and the process that control starts.

`Worker` is everything but the process: tests run one inside their own event loop.
`python -m gateway.dataplane.worker FD` runs one under control's orders, see `WorkerProcess`.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # structlog imports rich for its own use, if it finds it: 5 MB that a worker never uses.
    sys.modules["rich"] = None  # type: ignore[assignment]  # Python's way to say: not installed

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

import structlog
import uvloop

from gateway import log, metrics
from gateway.channel import (
    Applied,
    Channel,
    ChannelError,
    Down,
    Drain,
    Forget,
    KeyChanges,
    Keys,
    LookedUp,
    Ready,
    Report,
    Start,
    Unready,
    Up,
    Watch,
    Watches,
)
from gateway.dataplane.counts import SharedCounts
from gateway.dataplane.front_door import FrontDoor
from gateway.dataplane.plane import DataPlane
from gateway.dataplane.tls import TlsFileError
from gateway.dataplane.trace import Tracer
from gateway.model import KeyEntry
from gateway.settings import WorkerSettings

SWEEP_S: Final = 1.0
KEYS_PER_STEP: Final = 2_000
"""Keys that one loop turn applies: about a millisecond."""
WILL_FAIL_AGAIN: Final = 3
"""Exit code: with these settings every worker fails."""
_LAST_WORDS_S: Final = 5.0
"""How long control may take to read what was sent last."""
_GC_THRESHOLDS: Final = (10_000, 20, 50)
"""Instead of Python's (700, 10, 10), with which 2 to 3 % of a request's time went into looking for
cycles that are seldom there.
"""
_CONTROLS_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_log = structlog.get_logger("gateway.worker")


class WorkerStartError(Exception):
    """The settings cannot be carried out; the text says what to do."""


class Worker:
    """One worker without its process. Made inside the event loop that it will run in.

    It owns the descriptors in its settings and closes them.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        """Take the sockets over, without accepting yet. Raises `WorkerStartError`."""
        self.settings = settings
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.on_sweep: Callable[[], None] = lambda: None
        """Called after each sweep."""
        self.send: Callable[[Up], bool] = lambda _: False
        """Passes a message to control; False where there is none, or it does not keep up."""
        self._tracer = Tracer(self._loop, self._send)
        try:
            self.plane = DataPlane(settings)
            counts = SharedCounts(settings.counts_fd, settings.index, settings.workers)
            self._door = FrontDoor(self.plane, counts)
            if self.plane.lookups is not None:
                self.plane.lookups.send = self._send
        except (TlsFileError, OSError, ValueError) as error:
            raise WorkerStartError(str(error)) from error
        for listener in settings.listeners:
            try:
                self._door.add_listener(listener)
            except (TlsFileError, OSError) as error:
                msg = f"cannot listen on {listener.address}: {error}"
                raise WorkerStartError(msg) from error

    @property
    def connections(self) -> int:
        """Client connections that are open."""
        return self._door.count

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
        self.plane.keyring.load(entries, revision, first=first, last=last, complete=complete)

    def apply_keys(self, changes: KeyChanges) -> Iterator[None]:
        """Apply a change of the keys in steps: run the loop between them. Done at the end."""
        keyring = self.plane.keyring
        upserts, removals = iter(changes.upserts), iter(changes.removals)
        parts = max(1, -(-(len(changes.upserts) + len(changes.removals)) // KEYS_PER_STEP))
        for part in range(1, parts + 1):
            some = list(islice(upserts, KEYS_PER_STEP))
            others = list(islice(removals, KEYS_PER_STEP - len(some)))
            is_last = changes.last and part == parts
            keyring.apply(some, others, changes.revision, last=is_last, complete=changes.complete)
            if part < parts:
                yield

    def begin_sweeping(self) -> None:
        """Sweep each second from now on."""
        self._timer = self._loop.call_later(SWEEP_S, self._tick)

    def start(self) -> None:
        """Begin to connect to the backends, and to accept."""
        self.plane.start()
        self._door.open()

    def sweep(self, now: float | None = None) -> None:
        """Keep all limits of time (monotonic seconds); called once a second."""
        self.plane.sweep(now)
        self._door.sweep(self.plane.tick)

    def take_report(self) -> Report:
        """Return what happened since the last call."""
        counters = self.plane.counters
        return Report(
            deltas=counters.take_deltas(),
            gauges=counters.take_gauges(),
            refusals=self.plane.refusals.take(),
            usage=counters.take_usage(),
        )

    def watch(self, watches: Iterable[Watch]) -> None:
        """Trace the requests that these watches match, and no others."""
        self.plane.tracer = self._tracer if self._tracer.watch(watches) else None

    def take_verdict(self, message: LookedUp | Forget) -> None:
        """Take what control says about keys of a remote authority."""
        lookups = self.plane.lookups
        if lookups is None:
            return
        if isinstance(message, LookedUp):
            lookups.answer(message)
        else:
            lookups.forget(message.digests)

    def flush(self) -> None:
        """Tell what traces have not been told yet."""
        self._tracer.flush()

    def become_unready(self) -> None:
        """Answer readiness probes with no; go on serving."""
        self.plane.local.become_unready()

    async def stop(self, timeout_s: float = 0.0) -> None:
        """Accept no more, let what is open finish within `timeout_s` seconds, close the rest."""
        self._door.close()
        self.plane.start_drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._door.wait_empty()
        if self._timer is not None:
            self._timer.cancel()
        await self._door.abort()
        await self.plane.close()

    def _send(self, message: Up) -> bool:
        return self.send(message)

    def _tick(self) -> None:
        self.begin_sweeping()
        try:
            self.sweep()
        except Exception:  # noqa: BLE001 - the next sweep must come
            self.plane.report_bug("connection")
        self.on_sweep()


class WorkerProcess:
    """Runs a worker under the orders that come over the channel, until control ends it.

    When the channel ends, control has died: the listeners are closed at once, so that its successor
    can have the addresses, and what is open is finished.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._channel = Channel.for_worker(self._on_message, self._on_channel_end)
        self._worker: Worker | None = None
        self._is_ready = False
        self._steps: deque[Iterator[None]] = deque()
        """Changes of keys that are being applied, in the order in which they came."""
        self._is_stepping = False
        self._exit_code: asyncio.Future[int] = self._loop.create_future()
        self._channel_ended = asyncio.Event()
        self._drain: asyncio.Task[None] | None = None

    async def run(self, fd: int) -> int:
        """Serve until told to stop; return the exit code."""
        self._loop.set_exception_handler(self._on_loop_error)
        try:
            sock = socket.socket(fileno=fd)
            await self._loop.create_unix_connection(lambda: self._channel, sock=sock)
        except (OSError, ValueError) as error:
            _log.error("a worker is started by 'gateway serve' only", fd=fd, error=str(error))
            return WILL_FAIL_AGAIN
        code = await self._exit_code
        self._channel.close()
        with contextlib.suppress(TimeoutError):  # control may hang, and take nothing
            async with asyncio.timeout(_LAST_WORDS_S):
                await self._channel_ended.wait()
        return code

    def _on_message(self, message: Down | Up) -> None:
        try:
            self._obey(message)
        except WorkerStartError as error:
            _log.error("the worker cannot start with this configuration", error=str(error))
            self._exit(WILL_FAIL_AGAIN)
        except Exception:  # noqa: BLE001 - control replaces a worker that does not know its keys
            self._fail()

    def _obey(self, message: Down | Up) -> None:
        if isinstance(message, Start):
            log.configure(message.settings.log_level, message.settings.log_format)
            self._worker = Worker(message.settings)
            self._worker.on_sweep = self._report
            self._worker.send = self._send
            self._worker.begin_sweeping()
            return
        worker = self._worker
        if worker is None:
            msg = "the first message on the channel is not Start"
            raise ChannelError(msg)
        match message:
            case Keys():
                self._do(self._load(worker, message))
            case KeyChanges():
                self._do(self._apply(worker, message))
            case Unready():
                worker.become_unready()
            case Watches(watches):
                worker.watch(watches)
            case LookedUp() | Forget():
                worker.take_verdict(message)
            case Drain(timeout_s):
                self._begin_drain(worker, timeout_s)
            case _:
                pass  # Up: the decoder lets none through

    def _do(self, steps: Iterator[None]) -> None:
        """Do one step now, the others one per turn, after those that were begun before.

        Meanwhile nothing is read from control, which could otherwise send more than a turn's work
        in one turn, and more than memory holds.
        """
        self._steps.append(steps)
        if not self._is_stepping:
            self._is_stepping = True
            self._channel.hold()
            self._step()

    def _step(self) -> None:
        if not self._steps:
            self._is_stepping = False
            self._channel.go_on()
            return
        try:
            next(self._steps[0])
        except StopIteration:
            self._steps.popleft()
        except Exception:  # noqa: BLE001 - control replaces a worker that does not know its keys
            self._fail()
            return
        self._loop.call_soon(self._step)

    def _load(self, worker: Worker, keys: Keys) -> Iterator[None]:
        worker.load_keys(
            keys.entries,
            keys.revision,
            first=keys.first,
            last=keys.last,
            complete=keys.complete,
        )
        yield
        if not keys.last:
            return
        if not self._is_ready:
            gc.collect()
        # A full collection over a million keys would stop the data path for 130 ms.
        gc.freeze()
        if self._is_ready:
            self._channel.send(Applied(keys.revision))
        elif self._drain is None:
            self._is_ready = True
            worker.start()
            self._channel.send(Ready(os.getpid()))

    def _apply(self, worker: Worker, changes: KeyChanges) -> Iterator[None]:
        yield from worker.apply_keys(changes)
        if changes.last:
            self._channel.send(Applied(changes.revision))

    def _report(self) -> None:
        """Send a report, unless control does not keep up: then the next one says more."""
        if self._worker is not None and self._channel.is_writable:
            self._channel.send(self._worker.take_report())

    def _send(self, message: Up) -> bool:
        """Send what may get lost, unless control does not keep up."""
        if self._channel.is_writable:
            self._channel.send(message)
            return True
        return False

    def _begin_drain(self, worker: Worker, timeout_s: float) -> None:
        if self._drain is None:
            self._drain = self._loop.create_task(self._finish(worker, timeout_s))

    async def _finish(self, worker: Worker, timeout_s: float) -> None:
        try:
            await worker.stop(timeout_s)
            worker.flush()
            self._channel.send(worker.take_report())
            self._exit(0)
        except Exception:  # noqa: BLE001 - a bug must not keep a worker that has drained
            self._fail()

    def _on_channel_end(self) -> None:
        self._channel_ended.set()
        if self._worker is None:
            self._exit(0)
        else:
            self._begin_drain(self._worker, self._worker.settings.limits.drain_timeout_s)

    def _fail(self) -> None:
        """End after the exception that is being handled."""
        _log.exception("a bug in the gateway: please report it", place="worker")
        self._exit(1)

    def _exit(self, code: int) -> None:
        if not self._exit_code.done():
            self._exit_code.set_result(code)

    def _on_loop_error(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what no one caught, but for broken connections, which are no bugs."""
        error = context.get("exception")
        if isinstance(error, OSError):
            return
        if self._worker is not None:
            self._worker.plane.counters.count(metrics.INTERNAL_ERRORS, "connection")
        _log.error("a bug in the gateway: please report it", place="loop", exc_info=error)


def main(arguments: Sequence[str]) -> int:
    """Run a worker on the channel whose descriptor is the only argument; return the exit code."""
    # A terminal's Ctrl-C and systemd's SIGTERM reach the whole group. Control, which started us
    # with them blocked, tells us what to do about them.
    for number in _CONTROLS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _CONTROLS_SIGNALS)
    gc.set_threshold(*_GC_THRESHOLDS)
    log.configure("info", "auto")
    if len(arguments) != 1 or not arguments[0].isdecimal():
        _log.error("a worker is started by 'gateway serve' only", arguments=arguments)
        return WILL_FAIL_AGAIN

    async def run() -> int:
        return await WorkerProcess().run(int(arguments[0]))

    return uvloop.run(run())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
