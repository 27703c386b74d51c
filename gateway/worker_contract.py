"""What control and its workers agree on besides the messages of `channel`.

Exit codes, whose business signals are, and the map in which workers count their connections. Each
side imports it from here, so that the two cannot differ.
"""

from __future__ import annotations

import signal
from typing import Final

FAILS_AGAIN: Final = 3
"""A worker's exit code that says: with these settings every worker fails in the same way."""

WAITS: Final = "--wait"
"""A worker's argument that says: it gets its descriptors over the channel (`descriptors`), first of
all. Else it has inherited them.
"""

CONTROL_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that only control acts on. It starts workers with them blocked, and they ignore them: a
terminal's Ctrl-C and systemd's SIGTERM reach the whole process group.
"""

COUNT_BYTES: Final = 8
"""Size of one number in the map that control and its workers share: a signed 64-bit integer. First
come the workers' connection counts, then their signs of life, one number for each worker.
"""
COUNT_FORMAT: Final = "q"
"""The number as `memoryview.cast` names it."""
ALIVE: Final = 1
"""What a worker writes as its sign of life whenever it gets something done. Control takes it away,
and sees by its return that the worker is not stuck, however long its turns and its reports take.
"""
NOT_ACCEPTING: Final = -1
"""The count in the slot of a worker that does not accept connections."""
