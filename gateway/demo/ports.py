"""Ports for the demo: the usual ones, or free ones where those are taken."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from typing import Final

HOST: Final = "127.0.0.1"


def choose_ports(wanted: Sequence[int]) -> list[int]:
    """Keep each wanted port that is free on 127.0.0.1, and replace each taken one by a free one.

    All are distinct. Nothing is held: whoever is quicker may still take one.
    """
    with contextlib.ExitStack() as held:
        return [_hold(port, held) for port in wanted]


def _hold(port: int, held: contextlib.ExitStack) -> int:
    """Bind a port, or a free one, until `held` ends, so that the next one is another."""
    for candidate in (port, 0):
        listener = socket.socket()
        # As servers bind: connections of an earlier run in TIME_WAIT do not count.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.callback(listener.close)
        try:
            listener.bind((HOST, candidate))
            listener.listen(1)
        except OSError:
            if not candidate:
                raise
            continue
        return int(listener.getsockname()[1])
    raise AssertionError  # a free port was found, or bind has said why there is none
