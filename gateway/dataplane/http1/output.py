"""What one HTTP/1.1 connection, of either side, has still to send; an exact account of what waits.

`set_write_buffer_limits(high=0)` makes uvloop write inside `write` and call `pause_writing` only if
the kernel did not take everything, and `resume_writing` when it has taken all. uvloop's own TLS,
which backends are spoken to with, would pause before the first byte: there the limit is 1.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Final

from gateway.dataplane.core import chunks
from gateway.dataplane.core.budget import Budget

JOINED_BYTES: Final = 16 * 1024
"""Up to this, copying a body behind its head costs less than writing two parts."""
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with a time of 0: close sends RST (socket(7))."""


class Output:
    """Writes to a transport, or queues while the peer does not read. All that waits is charged."""

    __slots__ = (
        "_body",
        "_budget",
        "_charged",
        "_last_size",
        "_queue",
        "_queue_body",
        "_queue_bytes",
        "_write",
        "is_paused",
        "transport",
    )

    def __init__(self, budget: Budget) -> None:
        self.transport: asyncio.Transport | None = None
        self.is_paused = False
        self._write: Callable[[bytes], None] | None = None
        """The transport's method: looking it up by name takes as long as calling it."""
        self._budget = budget
        self._charged = 0
        """Bytes in the transport that the kernel has not taken."""
        self._body = 0
        """Body bytes among them."""
        self._queue: list[bytes] = []
        self._queue_bytes = 0
        self._queue_body = 0
        self._last_size = 0

    @property
    def held(self) -> int:
        """Bytes that wait for the peer."""
        return self._charged + self._queue_bytes

    def begin(self, transport: asyncio.Transport) -> None:
        """Take the transport over."""
        self.transport = transport
        self._write = transport.write
        transport.set_write_buffer_limits(high=0 if transport.can_write_eof() else 1)

    def write(self, data: bytes, body: int) -> int:
        """Write `data`, of which `body` bytes are body; return how many of these have to wait."""
        write = self._write
        if write is None:
            return 0
        if self.is_paused:
            chunks.append(self._queue, data)
            self._queue_bytes += len(data)
            self._queue_body += body
            self._budget.charge(len(data))
            return body
        write(data)
        return self._note_unsent(body)

    def write_with_body(self, head: bytes, chunk: bytes) -> int:
        """As `write`, of a head and the first bytes of its body."""
        transport = self.transport
        if len(chunk) < JOINED_BYTES or transport is None or self.is_paused:
            return self.write(head + chunk, len(chunk))
        transport.writelines((head, chunk))
        return self._note_unsent(len(chunk))

    def _note_unsent(self, body: int) -> int:
        """Charge what the kernel did not take; return how many of the `body` bytes that are."""
        transport = self.transport
        if not self.is_paused or transport is None:
            return 0
        unsent = transport.get_write_buffer_size()
        self._charged = unsent
        self._budget.charge(unsent)
        self._body = min(body, unsent)
        return self._body

    def pause(self) -> None:
        """Queue from now on (asyncio's `pause_writing`, which `write` itself may cause)."""
        self.is_paused = True

    def resume(self) -> int:
        """Send what waits (asyncio's `resume_writing`); return how many body bytes have left."""
        self.is_paused = False
        self._budget.release(self._charged)
        left = self._body
        self._charged = self._body = 0
        if self._queue:
            data, body = b"".join(self._queue), self._queue_body
            self._forget_queue()
            left += body - self.write(data, body)
        return left

    def drop(self) -> int:
        """Let go of everything, because it will not be sent; return how many body bytes it was."""
        self.transport = self._write = None
        dropped = self._body + self._queue_body
        self._budget.release(self._charged)
        self._charged = self._body = 0
        self._forget_queue()
        return dropped

    def _forget_queue(self) -> None:
        self._budget.release(self._queue_bytes)
        self._queue = []
        self._queue_bytes = self._queue_body = 0

    def has_moved(self) -> bool:
        """Whether the peer has taken bytes of what waits since the last call."""
        size = 0
        if self.is_paused and self.transport is not None:
            size = self.transport.get_write_buffer_size()
        last, self._last_size = self._last_size, size
        return size < last

    def reset(self) -> None:
        """Close with RST, so that nobody takes what was sent for complete."""
        transport, self.transport = self.transport, None
        self._write = None
        if transport is not None:
            sock: socket.socket | None = transport.get_extra_info("socket")
            if sock is not None and not transport.is_closing():
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()
