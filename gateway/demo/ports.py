"""Ports for the demo: the usual ones, or free ones if those are in use."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from typing import Final

HOST: Final = "127.0.0.1"


def choose_ports(wanted: Sequence[int]) -> list[int]:
    """Return each wanted port that is free on 127.0.0.1, and a free port for each one in use.

    All are distinct. They are not reserved: another process may still take one.
    """
    with contextlib.ExitStack() as held:
        return [_hold(port, held) for port in wanted]


def _hold(port: int, held: contextlib.ExitStack) -> int:
    """Bind a port, or a free one, until `held` is closed, so that the next port is different."""
    for candidate in (port, 0):
        listener = socket.socket()
        # As servers do: ignore connections of an earlier run in TIME_WAIT.
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
    raise AssertionError  # a free port was found, or bind has raised
