"""Cuts what an HTTP/1.1 client sends into heads and body chunks (RFC 9112 §2, §6, §7)."""

from __future__ import annotations

from typing import Final

from gateway.dataplane.core.context import WorkerContext
from gateway.dataplane.http1 import received
from gateway.dataplane.http1.connection import ConnectionState
from gateway.dataplane.http1.received import Received
from gateway.dataplane.http1.request_head import HeadReader, Http1RequestHead
from gateway.wire import http1

OVERLOADED: Final = "OVERLOADED"
"""The row of `outcome.REFUSALS` for what would have to be held while the worker holds too much."""
_SMALL_HEAD_BYTES: Final = 4 * 1024
"""As much of a head is held while there is any room."""
_CR: Final = 0x0D
_EMPTY_LINE: Final = b"\r\n"


class RequestReader:
    """Reads the requests of one connection from the worker's buffer.

    After each call `at` is the position behind what was taken.
    """

    __slots__ = ("_context", "_state", "at", "chunked", "ended", "head_bytes", "heads")

    def __init__(self, context: WorkerContext, state: ConnectionState, heads: HeadReader) -> None:
        self._context = context
        self._state = state
        self.heads = heads
        self.at = 0
        self.head_bytes = 0
        """Size of the last head."""
        self.chunked: http1.ChunkedBody | None = None
        """The chunked body under way; None: its length was declared."""
        self.ended = False
        """Whether the body is complete with what was read last."""

    def read_head(self, data: Received, at: int) -> Http1RequestHead | None:
        """Take a head, or its beginning: then None. Raises `Http1Error`."""
        if self._state.held:
            return self._read_rest(data, at)
        heads = self.heads
        start = data.start
        # Most senders repeat their head: it is where it ended the last time.
        stop = at + heads.last_bytes
        if at < stop <= len(start):
            known = heads.recognise(start[at:stop])
            if known is not None:
                self.at = stop
                self.head_bytes = stop - at
                return known
        end = data.end
        if len(start) <= at or start[at] == _CR:
            start = data.copy_all()
            while start.startswith(_EMPTY_LINE, at, end):
                at += 2  # empty lines before a request line (RFC 9112 §2.2)
            if at == end:
                self.at = at
                return None
        found = start.find(http1.HEAD_END, at)
        if found < 0 and len(start) < end:
            start = data.copy_all()
            found = start.find(http1.HEAD_END, at)
        if found < 0:
            self._state.since = self._context.tick
            self.at = end
            self._hold(start[at:end])
            return None
        stop = self.at = found + 4
        self.head_bytes = stop - at
        return self._read(start[at:stop])

    def _read_rest(self, data: Received, at: int) -> Http1RequestHead | None:
        held = self._state.take_held()
        whole = held + data.copy_all()[at:]
        if held == b"\r":  # maybe half of an empty line
            head = self.read_head(received.held(whole), 0)
            self.at += at - len(held)
            return head
        found = whole.find(http1.HEAD_END, max(0, len(held) - len(http1.HEAD_END) + 1))
        if found < 0:
            self.at = data.end
            self._hold(whole)
            return None
        length = found + len(http1.HEAD_END)
        self.at = at + length - len(held)
        self.head_bytes = length
        return self._read(whole[:length])

    def _read(self, raw: bytes) -> Http1RequestHead:
        try:
            return self.heads.read(raw)
        except http1.Http1Error as error:
            error.head = raw
            raise

    def _hold(self, data: bytes) -> None:
        if len(data) > http1.MAX_HEAD_BYTES:
            error = http1.Http1Error(http1.HEAD_TOO_LARGE)
            error.head = data
            raise error
        budget = self._context.budget
        if budget.is_near and (len(data) > _SMALL_HEAD_BYTES or budget.used >= budget.limit):
            raise http1.Http1Error(OVERLOADED)
        self._state.hold(data)

    def read_body(self, data: Received, at: int) -> bytes:
        """Take body bytes; `ended` says whether these are the last. Raises `Http1Error`."""
        chunked = self.chunked
        if chunked is not None:
            chunk, self.at = chunked.feed(data.buffer, at, data.end)
            self.ended = chunked.is_complete
            return chunk
        state = self._state
        stop = self.at = min(at + state.left, data.end)
        state.left -= stop - at
        self.ended = not state.left
        return data.cut(at, stop)
