"""The process of one worker: `python -m gateway.dataplane.worker_process [--wait] FD`.

Control starts it. It runs a `Worker` under the orders that come over the channel. Exit codes stand
in `gateway.worker_contract`.
"""

from __future__ import annotations

import sys

from gateway import lean_imports

if __name__ == "__main__":
    lean_imports.import_structlog()

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import structlog
import uvloop

from gateway import descriptors, log, metrics
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
    Revoked,
    Start,
    Unready,
    Up,
    Watches,
)
from gateway.dataplane.worker import Worker, WorkerStartError
from gateway.settings import WorkerSettings, with_descriptors
from gateway.worker_contract import CONTROL_SIGNALS, FAILS_AGAIN, WAITS

_LAST_WORDS_S: Final = 5.0
"""How long control may take to read what was sent last."""
_GC_THRESHOLDS: Final = (10_000, 20, 50)
"""Instead of Python's (700, 10, 10), with which 2 to 3 % of a request's time went into looking for
cycles that are seldom there.
"""

_log = structlog.get_logger("gateway.worker")


class WorkerProcess:
    """Runs a worker under the orders that come over the channel, until control ends it.

    When the channel ends, control has died: the listeners are closed at once, so that its successor
    can have the addresses, and what is open is finished. `numbers`: control's number of a
    descriptor → its number here; empty where they are the same.
    """

    def __init__(self, numbers: Mapping[int, int]) -> None:
        self._numbers = numbers
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
            return FAILS_AGAIN
        code = await self._exit_code
        self._channel.close()
        with contextlib.suppress(TimeoutError):  # control may hang, and take nothing
            async with asyncio.timeout(_LAST_WORDS_S):
                await self._channel_ended.wait()
        return code

    def _on_message(self, message: Down | Up) -> None:
        try:
            self._handle(message)
        except WorkerStartError as error:
            _log.error("the worker cannot start with this configuration", error=str(error))
            self._exit(FAILS_AGAIN)
        except Exception:  # noqa: BLE001 - control replaces a worker that does not know its keys
            self._fail()

    def _handle(self, message: Down | Up) -> None:
        if isinstance(message, Start):
            log.configure(message.settings.log_level, message.settings.log_format)
            self._worker = Worker(self._own(message.settings), self._send, self._report)
            self._worker.begin_sweeping()
            return
        worker = self._worker
        if worker is None:
            msg = "the first message on the channel is not Start"
            raise ChannelError(msg)
        match message:
            case Keys():
                self._run_steps(self._load(worker, message))
            case KeyChanges():
                self._run_steps(self._apply(worker, message))
            case Unready():
                worker.become_unready()
            case Watches(watches):
                worker.watch(watches)
            case LookedUp() | Forget():
                worker.take_verdict(message)
            case Revoked():
                worker.revoke(message)
            case Drain(timeout_s, is_replaced):
                self._begin_drain(worker, timeout_s, is_replaced=is_replaced)
            case _:
                pass  # Up: the decoder lets none through

    def _own(self, settings: WorkerSettings) -> WorkerSettings:
        """Return the settings with the numbers that descriptors have here."""
        return with_descriptors(settings, self._numbers) if self._numbers else settings

    def _run_steps(self, steps: Iterator[None]) -> None:
        """Take one step now, the others one per turn, after those that were begun before.

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
        log.tell_repeats()
        if self._worker is not None and (dropped := log.take_dropped()):
            self._worker.path.context.counters.plain[metrics.LOG_LINES_DROPPED.name, ()] += dropped
        if self._worker is not None and self._channel.is_writable:
            self._channel.send(self._worker.take_report())

    def _send(self, message: Up) -> bool:
        """Send what may get lost, unless control does not keep up."""
        if self._channel.is_writable:
            self._channel.send(message)
            return True
        return False

    def _begin_drain(self, worker: Worker, timeout_s: float, *, is_replaced: bool = False) -> None:
        if self._drain is None:
            hold_s = timeout_s if is_replaced else 0.0
            self._drain = self._loop.create_task(self._finish(worker, timeout_s, hold_s))
        elif not is_replaced:
            worker.end_holding()

    async def _finish(self, worker: Worker, timeout_s: float, hold_s: float) -> None:
        try:
            await worker.stop(timeout_s, hold_s)
            worker.flush_traces()
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
            self._worker.path.context.counters.count(metrics.INTERNAL_ERRORS, "connection")
        _log.error("a bug in the gateway: please report it", place="loop", exc_info=error)


def _await_descriptors(channel_fd: int) -> dict[int, int]:
    """Wait until control gives the descriptors, see `descriptors.receive`."""
    channel = socket.socket(fileno=channel_fd)
    try:
        return descriptors.receive(channel)
    finally:
        channel.detach()


def main(arguments: Sequence[str]) -> int:
    """Run a worker on the channel whose descriptor is the last argument; return the exit code."""
    # A terminal's Ctrl-C and systemd's SIGTERM reach the whole group. Control, which started us
    # with them blocked, tells us what to do about them.
    for number in CONTROL_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, CONTROL_SIGNALS)
    gc.set_threshold(*_GC_THRESHOLDS)
    log.configure("info", "auto")
    *options, fd = arguments or [""]
    if options not in ([], [WAITS]) or not fd.isdecimal():
        _log.error("a worker is started by 'gateway serve' only", arguments=arguments)
        return FAILS_AGAIN
    numbers: dict[int, int] = {}
    if options:
        try:
            numbers = _await_descriptors(int(fd))
        except OSError as error:
            _log.error("the worker has not got its sockets", fd=int(fd), error=str(error))
            return 1
        if not numbers:
            return 0  # control has ended

    async def run() -> int:
        return await WorkerProcess(numbers).run(int(fd))

    code = uvloop.run(run())
    log.tell_repeats(rest=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
