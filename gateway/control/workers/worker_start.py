"""How the process of a worker is started: now, or early, while control itself still starts.

A worker needs as long as control to import what it consists of. One that is started early does so
meanwhile, then waits for its descriptors. Imported before everything else of control, so it must
import little.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from gateway import descriptors
from gateway.worker_contract import CONTROL_SIGNALS, WAITS

WORKER_COMMAND: Final = (sys.executable, "-P", "-m", "gateway.dataplane.worker_process")
"""`-P`: modules come from the installation, never from the folder the gateway is started in."""
_NOT_FOR_CHILDREN: Final = ("LISTEN_", "NOTIFY_", "WATCHDOG_")
"""Beginnings of variables by which a service manager speaks to control."""


class StartedProcess(NamedTuple):
    """A process, and control's end of the channel to it."""

    process: subprocess.Popen[bytes]
    channel: socket.socket

    def end(self) -> None:
        """Kill the process and close the channel; return when it has ended."""
        self.process.kill()
        self.process.wait()
        self.channel.close()


class WorkerStarter:
    """Starts the processes of workers. `close` is due.

    `command` gets the number of its end of the channel as its last argument.
    """

    def __init__(self, command: Sequence[str] = WORKER_COMMAND) -> None:
        self._command = tuple(command)
        self._waiting: deque[StartedProcess] = deque()

    def start_early(self, count: int) -> None:
        """Start `count` processes that wait for their descriptors, or as many as can be."""
        with contextlib.suppress(OSError):  # whoever needs one tries again
            for _ in range(count):
                self._waiting.append(_start((*self._command, WAITS), ()))

    def start(self, numbers: Sequence[int]) -> StartedProcess:
        """Return a process that has these descriptors; one that was started early if there is one.

        Raises `OSError` when the system cannot start a process.
        """
        while self._waiting:
            started = self._waiting.popleft()
            if _takes(started, numbers):
                return started
            started.end()
        return _start(self._command, numbers)

    def close(self) -> None:
        """End the processes that still wait."""
        while self._waiting:
            self._waiting.pop().end()


def _start(command: Sequence[str], inherited: Sequence[int]) -> StartedProcess:
    ours, theirs = socket.socketpair()
    number = theirs.fileno()
    try:
        with theirs, _signals_blocked():
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [*command, str(number)],
                stdin=subprocess.DEVNULL,
                pass_fds=(number, *inherited),
                env=_environ(),
            )
    except BaseException:
        ours.close()
        raise
    return StartedProcess(process, ours)


def _takes(started: StartedProcess, numbers: Sequence[int]) -> bool:
    """Give descriptors to a process that waits; return whether it runs, and can have as many."""
    if len(numbers) > descriptors.MOST or started.process.poll() is not None:
        return False
    try:
        descriptors.send(started.channel, numbers)
    except OSError:
        return False  # it has ended just now
    return True


def _environ() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if not name.startswith(_NOT_FOR_CHILDREN)
    }


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block control's signals while a child starts, which inherits the mask over exec.

    A terminal's Ctrl-C and systemd's SIGTERM reach the whole process group, but only control acts
    on them and drains its workers in order. Signals to control arrive when the block ends.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, CONTROL_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
