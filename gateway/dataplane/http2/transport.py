"""An HTTP/2 connection on an asyncio transport: one read buffer, writes gathered per turn of the
loop, back-pressure that is exact.

What is received goes to the two halves of `wire`, and from there to the role: the caller's side
(`server`) or the backend's (`upstream`).
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Final, Generic, cast

from mypy_extensions import mypyc_attr

from gateway.dataplane.core.backlog import LARGE_READ_BYTES
from gateway.dataplane.core.context import WorkerContext
from gateway.dataplane.core.read_gate import (
    PAUSED_TURN,
    PAUSED_UNSENT,
    ReadGate,
)
from gateway.wire.http2 import ErrorCode, Setting
from gateway.wire.http2_receiver import Http2Receiver
from gateway.wire.http2_role import Role, StreamT_contra
from gateway.wire.http2_sender import Http2Sender, StreamT

_JOINED_PART: Final = 1_536
"""Parts of fewer bytes than this on average are joined: copying them costs less than `writev`."""
_UNSENT_CONTROL_BYTES: Final = 256 * 1024
"""A client that does not read gets no more than this of answers to its own frames; then it is not
read either. A backend is always read: its WINDOW_UPDATEs and answers are what frees memory.
"""
_HELD_WHEN_NEAR: Final = 4 * 1024
"""While the worker holds nearly as much as it may, a client may have no more than this held of what
it has not sent whole.
"""
FRAMES_OF_A_READ: Final = 6
"""Frames of a client that a read handles while pieces of others wait: a request or two. Many
connections may have something to read in one turn of the loop.
"""
FRAMES_OF_A_PIECE: Final = 32
"""Frames that a piece handles while others wait: two milliseconds. A well-behaved request
waits for a piece twice: when it comes, and when its answer does.
"""


@mypyc_attr(allow_interpreted_subclasses=True)
class TransportRole(Role[StreamT_contra]):
    """What a connection is for, as its transport sees it."""

    __slots__ = ()

    @property
    @abstractmethod
    def bug_place(self) -> str:
        """The label under which a bug of ours is counted."""

    @abstractmethod
    def opened(self, transport: asyncio.Transport) -> bool:
        """The connection is there; return whether to go on with it."""

    @abstractmethod
    def closed(self, error: Exception | None) -> None:
        """The connection is gone, and so is everything that was queued on it."""

    @abstractmethod
    def holds_bodies(self) -> bool:
        """Whether bodies that came on it wait for their backend."""


class Http2Transport(asyncio.BufferedProtocol, Generic[StreamT]):
    """See the module.

    `set_write_buffer_limits(high=0)`: uvloop writes inside `write` and calls `pause_writing` only
    if the kernel did not take everything.
    """

    def __init__(
        self,
        context: WorkerContext,
        role: TransportRole[StreamT],
        settings: dict[Setting, int],
        client: str = "",
        *,
        is_server: bool,
    ) -> None:
        self.client = client
        """Who takes turns with others."""
        self.sender: Http2Sender[StreamT] = Http2Sender(settings, self, role, is_server=is_server)
        self.receiver: Http2Receiver[StreamT] = Http2Receiver(
            settings, role, self.sender, is_server=is_server
        )
        self.last_received = context.tick
        """Monotonic seconds of the last read, as precise as a sweep is."""
        self._context = context
        self._role: TransportRole[StreamT] | None = role
        """None once the connection is closed."""
        self._is_server = is_server
        self._view = context.receive_view
        self._transport: asyncio.Transport | None = None
        self._is_flush_scheduled = False
        self._is_put_off = False
        """Whether a later turn goes on with what has come."""
        self._charged = 0
        self._held = 0
        """What is charged of the receiver's `held`."""
        self._gate = ReadGate(context.budget, context.backlog, client)

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin (asyncio)."""
        transport = cast("asyncio.Transport", transport)
        self._transport = transport
        self._gate.begin(transport)
        is_tls = transport.get_extra_info("ssl_object") is not None
        # With 0, asyncio's TLS layer would pause before the first byte.
        transport.set_write_buffer_limits(high=1 if is_tls else 0)
        if self._role is not None and self._role.opened(transport):
            self.flush()
        else:
            transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the worker's one buffer (asyncio): what it gets is parsed before anything else is
        read.
        """
        context = self._context
        if context.budget.used < context.budget.near and not context.backlog.is_sated:
            return self._view
        return context.tiny_view

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what has arrived (asyncio)."""
        frames = None
        if self._is_server and self._context.backlog.is_busy:
            frames = 0 if self._is_put_off else FRAMES_OF_A_READ
        if nbytes < LARGE_READ_BYTES:
            self._receive(self._view[:nbytes].tobytes(), frames)
        else:
            self._receive(self._view[:nbytes], frames)
            self._gate.count_read(nbytes)

    def eof_received(self) -> bool:
        """Close (asyncio): HTTP/2 has no half-closed connections."""
        return False

    def pause_writing(self) -> None:
        """Keep data in the streams' queues from now on (asyncio)."""
        self.sender.writable = False
        transport = self._transport
        if transport is not None:
            unsent = transport.get_write_buffer_size()
            self._context.budget.charge(unsent - self._charged)
            self._charged = unsent
            if self._is_server and unsent > _UNSENT_CONTROL_BYTES:
                self._gate.pause(PAUSED_UNSENT)

    def resume_writing(self) -> None:
        """Send what has waited (asyncio)."""
        self.sender.writable = True
        self._release_unsent()
        self._gate.resume(PAUSED_UNSENT)
        self.sender.pump()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything (asyncio)."""
        self._transport = None
        self.receiver.is_failed = True
        self._release_unsent()
        self.receiver.held = 0
        self._note_held()
        self._gate.end()
        role, self._role = self._role, None
        if role is not None:
            role.closed(exc)
        self.receiver.close()
        self.sender.close()

    def _release_unsent(self) -> None:
        charged, self._charged = self._charged, 0
        self._context.budget.release(charged)

    # wire.Outlet

    def output_pending(self) -> None:
        """See `Outlet`: write at the end of this turn."""
        if not self._is_flush_scheduled:
            self._is_flush_scheduled = True
            self._context.backlog.call_soon(self.flush)

    def flush(self) -> None:
        """See `Outlet`."""
        self._is_flush_scheduled = False
        sender = self.sender
        out = sender.out
        transport = self._transport
        if not out or transport is None:
            return
        size = sender.out_bytes
        sender.out = []
        sender.out_bytes = 0
        if len(out) == 1:
            transport.write(out[0])
        elif size < len(out) * _JOINED_PART:
            transport.write(b"".join(out))
        else:
            transport.writelines(out)
        if not sender.writable and self._charged:
            self.pause_writing()

    # Ends

    def close(self) -> None:
        """Close after what was written has gone out."""
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def sweep(self) -> None:
        """Once a second: read again where what was held has left."""
        if not self._holds_bodies():
            self._gate.holds_no_more()

    # Reading

    def _receive(self, data: bytes | memoryview, frames: int | None) -> None:
        """Parse what has arrived, or goes on; not more than so many frames of it. A large read
        comes as the view of its buffer.
        """
        context = self._context
        context.show_life()
        self.last_received = context.tick
        receiver = self.receiver
        try:
            if isinstance(data, bytes):
                receiver.receive(data, frames)
            else:
                receiver.receive_large(data, frames)
        except Exception:  # noqa: BLE001 - data outlives our bugs: clients retry, the alarm is raised
            if self._role is not None:
                context.report_bug(self._role.bug_place)
            self.abort()
            return
        if receiver.held != self._held:
            self._note_held()
        if receiver.has_more and not self._is_put_off:
            self._put_off()
        if self._is_server and context.budget.used >= context.budget.near:
            self._gate.wait_for_room(holds=self._holds_bodies())

    def _holds_bodies(self) -> bool:
        return self._role is not None and self._role.holds_bodies()

    def _note_held(self) -> None:
        """Charge what the receiver holds; end a client that has too much held when much is."""
        receiver = self.receiver
        budget = self._context.budget
        before, self._held = self._held, receiver.held
        if self._held > before:
            budget.charge(self._held - before)
        else:
            budget.release(before - self._held)
        is_too_much = self._held > _HELD_WHEN_NEAR and budget.is_near
        if is_too_much and self._is_server and not receiver.has_more:
            receiver.fail(ErrorCode.ENHANCE_YOUR_CALM, "no memory for a frame that comes in parts")
            self._note_held()

    def _put_off(self) -> None:
        """Go on in a later turn, and read nothing until then."""
        self._is_put_off = True
        self._gate.pause(PAUSED_TURN)
        if self._is_server:
            self._context.backlog.add(self.client, self._go_on)
        else:
            self._context.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._is_put_off = False
        if self._transport is None:
            return
        is_shared = self._is_server and self._context.backlog.is_busy
        self._receive(b"", FRAMES_OF_A_PIECE if is_shared else None)
        if not self.receiver.has_more:
            self._gate.resume(PAUSED_TURN)
