"""What is held of a request's body: what waits for the backend's connection, and what is kept to be
sent again.

All of it is charged to the worker's memory account, once.
"""

from __future__ import annotations

from typing import Final

from gateway.dataplane.core import chunks
from gateway.dataplane.core.budget import Budget

REPLAY_BYTES: Final = 64 * 1024
"""Largest body that is kept until the backend answers, to be sent again when the backend did not
process it.
"""
GATHERED_BYTES: Final = 48 * 1024
"""Largest body that is gathered before it takes a place at a backend; less than any window, so that
none fills meanwhile.
"""


class RequestBody:
    """The body of one request, as far as this process holds it."""

    __slots__ = (
        "_budget",
        "_replay_bytes",
        "has_ended",
        "held",
        "is_gathering",
        "replay",
        "waiting",
    )

    def __init__(self, budget: Budget) -> None:
        self.has_ended = False
        """Whether all of it has come."""
        self.held = 0
        """Bytes that have come and not left for the backend, wherever they wait."""
        self.is_gathering = False
        """Whether it has no place at the backend yet, because not all of it has come."""
        self._budget = budget
        self.waiting: list[bytes] | None = None
        """What waits for a connection; None: nothing."""
        self.replay: list[bytes] | None = None
        """What is kept to be sent again; None: nothing is."""
        self._replay_bytes = 0

    def wait(self, chunk: bytes) -> None:
        """Hold bytes until there is a connection to send them on."""
        if self.waiting is None:
            self.waiting = []
        chunks.append(self.waiting, chunk)
        self.held += len(chunk)
        self._budget.charge(len(chunk))

    def begin_gathering(self) -> bool:
        """Wait for the rest of what waits already; return whether there is room for that."""
        budget = self._budget
        if self.held > GATHERED_BYTES or budget.gathered >= budget.most_gathered:
            return False
        self.is_gathering = True
        budget.gathered += self.held
        return True

    def gather(self, chunk: bytes) -> bool:
        """Hold bytes until the rest has come; return False where it is not to be waited for."""
        self.wait(chunk)
        budget = self._budget
        budget.gathered += len(chunk)
        return self.held <= GATHERED_BYTES and budget.gathered <= budget.most_gathered

    def end_gathering(self) -> None:
        """What has been gathered takes its place, or is given up."""
        if self.is_gathering:
            self.is_gathering = False
            self._budget.gathered -= self.held

    def take_waiting(self) -> bytes:
        """Return what waits, to be sent now; it is kept to be sent again, if it may be."""
        waiting, self.waiting = self.waiting or [], None
        chunk = waiting[0] if len(waiting) == 1 else b"".join(waiting)
        length = len(chunk)
        self.held -= length
        budget = self._budget
        if self.replay is not None and length <= REPLAY_BYTES and not budget.is_near:
            self.replay.append(chunk)  # and stays charged
            self._replay_bytes = length
        else:
            self.replay = None
            budget.release(length)
        return chunk

    def keep(self, chunk: bytes) -> None:
        """Keep bytes to be sent again, unless the body has become too large for that."""
        replay = self.replay
        if replay is None:
            return
        length = len(chunk)
        budget = self._budget
        if self._replay_bytes + length <= REPLAY_BYTES and budget.used < budget.near:
            if replay:
                chunks.append(replay, chunk)
            else:
                replay.append(chunk)
            self._replay_bytes += length
            budget.used += length
        else:
            self.end_replay()

    def end_replay(self) -> None:
        """Let go of what was kept: it will not be sent again."""
        if self.replay is not None:
            self.replay = None
            length, self._replay_bytes = self._replay_bytes, 0
            budget = self._budget
            budget.used -= length
            if budget.waiting or budget.holding:
                budget.release(0)

    def rewind(self) -> bool:
        """Have all that was kept wait once more; return False where it was not kept."""
        replay = self.replay
        if replay is None:
            return False
        self.replay = None
        if replay or self.has_ended:
            self.held += self._replay_bytes
            self.waiting = replay or [b""]
        self._replay_bytes = 0
        return True

    def release(self) -> None:
        """Let go of everything."""
        self.end_gathering()
        self.end_replay()
        if self.waiting is not None:
            self.take_waiting()
