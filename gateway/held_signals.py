"""Signals of the first moments: the kernel holds them until the gateway can act on them.

Importing the gateway takes a few tenths of a second. A signal that came in that time would end it
in the default way; for process 1 of a container the kernel would discard it. A blocked signal waits
instead, also for process 1, and is delivered when the handlers are there.
"""

from __future__ import annotations

import signal
from typing import Final

HELD: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def hold() -> None:
    """Block the signals that the gateway acts on."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)


def release() -> None:
    """Deliver those that have come, and let later ones through."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
