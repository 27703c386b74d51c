"""What both roles of HTTP/2 share towards asyncio: one read buffer, writes gathered per turn,
back-pressure that is exact.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar, cast

from gateway.wire.h2connection import Connection
from gateway.wire.http2 import Setting, Stream

if TYPE_CHECKING:
    from gateway.dataplane.plane import DataPlane

StreamT = TypeVar("StreamT", bound=Stream)

_JOIN_BYTES: Final = 64 * 1024
"""Up to this many bytes one write is cheaper than one `writev` of many parts."""
_UNSENT_CONTROL_BYTES: Final = 256 * 1024
"""A client that does not read gets no more than this of answers to its own frames; then it is not
read either. A backend is always read: its WINDOW_UPDATEs and answers are what frees memory.
"""


class Http2Transport(asyncio.BufferedProtocol, Connection[StreamT]):
    """An HTTP/2 connection on an asyncio transport.

    `set_write_buffer_limits(high=0)`: uvloop writes inside `write` and calls `pause_writing` only
    if the kernel did not take everything.
    """

    bug_place = "connection"

    def __init__(self, plane: DataPlane, settings: dict[Setting, int]) -> None:
        Connection.__init__(self, settings)
        self.plane = plane
        self.transport: asyncio.Transport | None = None
        self._view = plane.receive_view
        self._flush_scheduled = False
        self._charged = 0
        self._reading_paused = False
        self.last_received = plane.tick

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin (asyncio)."""
        transport = cast("asyncio.Transport", transport)
        self.transport = transport
        is_tls = transport.get_extra_info("ssl_object") is not None
        # With 0, asyncio's TLS layer would pause before the first byte.
        transport.set_write_buffer_limits(high=1 if is_tls else 0)
        self.flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Give the worker's one buffer (asyncio): what it gets is parsed before anything else is
        read.
        """
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what has arrived (asyncio)."""
        self.last_received = self.plane.tick
        try:
            self.receive(bytes(self._view[:nbytes]))
        except Exception:  # noqa: BLE001 - data outlives our bugs: clients retry, the alarm is raised
            self.plane.report_bug(self.bug_place)
            self.abort()
            return
        if self.is_server and self.plane.budget.used >= self.plane.budget.limit:
            self._pause_for_budget()

    def eof_received(self) -> bool:
        """Close (asyncio): HTTP/2 has no half-closed connections."""
        return False

    def pause_writing(self) -> None:
        """Keep data in the streams' queues from now on (asyncio)."""
        self.writable = False
        transport = self.transport
        if transport is not None:
            unsent = transport.get_write_buffer_size()
            self.plane.budget.charge(unsent - self._charged)
            self._charged = unsent
            if self.is_server and unsent > _UNSENT_CONTROL_BYTES:
                self._pause_reading()

    def resume_writing(self) -> None:
        """Send what has waited (asyncio)."""
        self.writable = True
        charged, self._charged = self._charged, 0
        self.plane.budget.release(charged)
        self._resume_reading()
        self.pump()

    def lost(self) -> None:
        """Let go of everything; the role's `connection_lost` calls this first."""
        self.transport = None
        self.is_failed = True
        self.plane.budget.release(self._charged)
        self._charged = 0
        self.plane.budget.forget(self)

    # Output

    def output_pending(self) -> None:
        """Write at the end of this turn."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self.plane.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what there is, now."""
        self._flush_scheduled = False
        out = self.out
        transport = self.transport
        if not out or transport is None:
            return
        size = self.out_bytes
        self.out = []
        self.out_bytes = 0
        if len(out) == 1:
            transport.write(out[0])
        elif size < _JOIN_BYTES:
            transport.write(b"".join(out))
        else:
            transport.writelines(out)
        if not self.writable and self._charged:
            self.pause_writing()

    def close_transport(self) -> None:
        """Close after what was written has gone out."""
        self.flush()
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self.transport is not None:
            self.transport.abort()

    # Reading

    def _pause_for_budget(self) -> None:
        self._pause_reading()
        self.plane.budget.wait(self, self._resume_reading)

    def _pause_reading(self) -> None:
        if not self._reading_paused and self.transport is not None:
            self._reading_paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused and self.transport is not None:
            self._reading_paused = False
            self.transport.resume_reading()
