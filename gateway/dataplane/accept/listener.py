"""Accepting connections so that the workers that share a socket share them evenly.

Before each `accept` a rule is asked, which says no for at most 20 ms while this worker has more
connections than the least loaded other one: `loop.create_server` takes all that is pending and gave
one of two workers 15 of 16 connections. What becomes of an accepted socket is `acceptor`'s
business.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from gateway.settings import ListenerSettings

PATIENCE_S: Final = 0.02
"""Longest time that a pending connection is left to a less loaded worker."""
LOOK_AGAIN_S: Final = 0.002
MAX_AT_ONCE: Final = 32
"""Connections taken in one turn of the loop. With one a turn, a busy worker let 800 clients that
came back at once wait for up to 10 s; with 128, turns became so long that all others waited.
"""
_TOLERANCE_SHIFT: Final = 4
SCARCITY_PAUSE_S: Final = 0.1
"""Pause of accepting when the system has no descriptor or no memory for one more."""
_SOCKET_OPTIONS: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 20),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    # Unacknowledged for so long (ms): the client has vanished. Longer than the stall limit, which
    # ends the request, shorter than the kernel's quarter of an hour.
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 120_000),
)
"""Set on the listening socket: accepted ones inherit them (tcp(7)), which saves six calls each."""
_SCARCITY: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_log = structlog.get_logger("gateway.worker")


class Balance:
    """The rule that spreads connections: whether to accept now. It knows no sockets and no clock.

    A lead of one sixteenth is no lead: two workers with hundreds of connections need not take turns
    one by one, each turn as long as all that they have to do.

    A worker that has fewer connections but takes none, because it hangs or is busy, is waited for
    once, and again only when the others' counts have changed: it must not slow down every accept.
    """

    def __init__(self) -> None:
        self._waiting_since: float | None = None
        self._in_vain: tuple[int, ...] | None = None
        """The others' counts when they were last waited for in vain."""

    def may_accept(self, mine: int, others: Sequence[int], now: float) -> bool:
        """Decide with this worker's count, those of the other live workers, and seconds.

        While it says no there must be a connection pending, and it must be asked again soon.
        """
        if mine - (mine >> _TOLERANCE_SHIFT) <= min(others, default=mine):
            self._in_vain = None
        elif self._in_vain != tuple(others):
            if self._waiting_since is None:
                self._waiting_since = now
            if now - self._waiting_since < PATIENCE_S:
                return False
            self._in_vain = tuple(others)
        self._waiting_since = None
        return True


class Listener:
    """Accepts on one socket, which it owns, from `open` to `close`.

    `take` gets each accepted socket, non-blocking, with its peer's address; `counts` returns this
    worker's count and the other live workers'; `on_scarcity` is told that descriptors ran out.
    """

    def __init__(
        self,
        settings: ListenerSettings,
        take: Callable[[socket.socket, tuple[str, int]], None],
        counts: Callable[[], tuple[int, Sequence[int]]],
        on_scarcity: Callable[[], None],
    ) -> None:
        """Take over the descriptor. Raises `OSError` when it is no listening socket."""
        self._sock = socket.socket(fileno=settings.fd)
        if not self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            self._sock.detach()  # it is something else, and not ours to close
            raise OSError(errno.EINVAL, "the descriptor is no listening socket")
        self._sock.settimeout(0)
        for option in _SOCKET_OPTIONS:
            self._sock.setsockopt(*option)
        self._address = settings.address
        self._take = take
        self._counts = counts
        self._on_scarcity = on_scarcity
        self._balance = Balance()
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._is_open = False

    def open(self) -> None:
        """Begin to accept."""
        self._is_open = True
        self._loop.add_reader(self._sock, self._on_pending)

    def close(self) -> None:
        """Accept no more. The socket stays open as long as another process has it."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._sock)
        if self._pause is not None:
            self._pause.cancel()
        self._sock.close()

    def _on_pending(self) -> None:
        """Accept what is pending, or leave it to another worker for a moment."""
        for _ in range(MAX_AT_ONCE):
            mine, others = self._counts()
            if not self._balance.may_accept(mine, others, self._loop.time()):
                self._stop_for(LOOK_AGAIN_S, self._on_pending)
                return
            self._listen_again()
            if not self._accept():
                return

    def _accept(self) -> bool:
        """Accept one connection; return whether there may be another."""
        try:
            sock, address = self._sock.accept()
        except (BlockingIOError, InterruptedError):
            return False  # none is left, or another worker was quicker
        except ConnectionAbortedError:
            return True  # the client has gone again
        except OSError as error:
            if error.errno in _SCARCITY:
                self._on_scarcity()
            else:  # a network error of the new connection (accept(2)); the listener is fine
                _log.warning("accept failed", address=self._address, error=error.strerror)
            self._stop_for(SCARCITY_PAUSE_S, self._listen_again)
            return False
        sock.settimeout(0)
        self._take(sock, address[:2])
        return True

    def _stop_for(self, seconds: float, then: Callable[[], None]) -> None:
        if self._pause is None:
            self._loop.remove_reader(self._sock)
        self._pause = self._loop.call_later(seconds, then)

    def _listen_again(self) -> None:
        if self._pause is not None and self._is_open:
            self._pause.cancel()
            self._pause = None
            self._loop.add_reader(self._sock, self._on_pending)
