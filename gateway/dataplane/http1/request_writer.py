"""Requests to a backend over HTTP/1.1: their head, and a body framed for this hop."""

from __future__ import annotations

import asyncio
import re
from typing import Final

from gateway.dataplane.core.seams import UpstreamRequest
from gateway.dataplane.http1.output import Output
from gateway.dataplane.http1.request_head import Http1RequestHead
from gateway.settings import Target
from gateway.wire import http1

_NOT_VISIBLE: Final = re.compile(rb"[^!-~]")


class RequestWriter:
    """Writes one request after the other to a connection's output.

    A head goes out in one write with the first bytes of its body, or at the end of the loop's turn.
    """

    __slots__ = (
        "_head",
        "_host",
        "_is_chunked",
        "_left",
        "_loop",
        "_out",
        "_prefix",
        "_target",
        "has_ended",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, out: Output, target: Target, authority: str | None
    ) -> None:
        """`authority` is sent as Host instead of the target's own."""
        self._loop = loop
        self._out = out
        self._target = target
        self._host = b" HTTP/1.1\r\nhost: %b\r\n" % (authority or target.address).encode()
        self._prefix = target.prefix.encode()
        self._head = b""
        """The head while it waits for the first bytes of the body."""
        self._is_chunked = False
        self._left = 0
        """Body bytes that Content-Length has announced and that have not come."""
        self.has_ended = True
        """Whether the request was sent whole."""

    def begin(self, request: UpstreamRequest) -> None:
        """Begin a request: render its whole head (RFC 9112 §3)."""
        head = request.head
        self._is_chunked = head.content_length < 0
        self._left = head.content_length
        self.has_ended = False
        if self._is_chunked:
            framing = b"transfer-encoding: chunked\r\n\r\n"
        elif head.content_length or head.method == b"POST":
            framing = b"content-length: %d\r\n\r\n" % head.content_length
        else:
            framing = b"\r\n"
        body_follows = False
        if type(head) is Http1RequestHead:
            body_follows, head.body_follows = head.body_follows, False
            kept = head.forwarded
            if kept is None or kept[0] is not self._target or kept[1] is not request.path:
                kept = head.forwarded = (self._target, request.path, self._start(request))
            start = kept[2]
        else:
            start = self._start(request)
        self._head = start + request.fields.h1(head, request.principal, request.peer) + framing
        if not body_follows:
            self._loop.call_soon(self._flush_head)

    def _start(self, request: UpstreamRequest) -> bytes:
        """Render what is the same each time that a sender repeats its head."""
        head = request.head
        path = request.path
        if head.query is not None:
            path = _with_query(path, request.fields.query(head))
        return b"".join((head.method, b" ", self._prefix, path, self._host, head.encoded_h1()))

    def _flush_head(self) -> None:
        """Send a head whose body did not come at once."""
        head, self._head = self._head, b""
        if head:
            self._out.write(head, 0)

    def send_body(self, chunk: bytes, ended: bool) -> int:
        """Send body bytes; return how many have to wait.

        A body that is not as long as its head has announced resets the connection.
        """
        length = len(chunk)
        data = chunk
        if self._is_chunked:
            if length:
                data = b"%x\r\n%b\r\n" % (length, chunk)
            if ended:
                data += http1.LAST_CHUNK
        else:
            self._left -= length
            if self._left < 0 or (ended and self._left):
                self._out.reset()
                return 0
        self.has_ended = ended
        head = self._head
        if head:
            self._head = b""
            if data is chunk:
                return self._out.write_with_body(head, chunk)
            data = head + data
        return self._out.write(data, length) if data else 0

    def drop(self) -> None:
        """Let go of a head that was not sent."""
        self._head = b""


def _with_query(path: bytes, query: bytes | None) -> bytes:
    """Append a query; over HTTP/2 it may hold more than visible ASCII, which a request line may
    not.
    """
    if query is None:
        return path
    return b"%b?%b" % (path, _NOT_VISIBLE.sub(lambda match: b"%%%02X" % match[0][0], query))
