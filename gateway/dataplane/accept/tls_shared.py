"""What all TLS connections of a worker share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.dataplane.accept.turns import ClientTurns
from gateway.dataplane.core.budget import Budget

SHARED_BYTES: Final = 256 * 1024
"""Size of the shared ciphertext buffer."""
HANDSHAKE_BYTES: Final = 64 * 1024
"""What a handshake under way takes, the certificates that a client may send included."""


class TlsShared:
    """The buffer to read through, in which nothing stays after a call, the account of memory, the
    turns of handshakes, the worker's sign of life, and what to tell which peer sends too many TLS
    records of no use.
    """

    __slots__ = ("budget", "buffer", "report_abuse", "sign_of_life", "turns")

    def __init__(
        self,
        buffer: memoryview,
        budget: Budget,
        turns: ClientTurns,
        sign_of_life: memoryview,
        report_abuse: Callable[[str], None],
    ) -> None:
        self.buffer = buffer
        self.budget = budget
        self.turns = turns
        self.sign_of_life = sign_of_life
        self.report_abuse = report_abuse
