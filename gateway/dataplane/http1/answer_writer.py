"""Answers over HTTP/1.1: the head to send, and how each hop's framing becomes the caller's own."""

from __future__ import annotations

from typing import Final

from gateway.dataplane.core.heads import FieldSection
from gateway.dataplane.core.replies import Reply
from gateway.dataplane.http1.answer_reader import Http1AnswerHead, render_fields
from gateway.dataplane.http1.output import Output
from gateway.dataplane.http1.request_head import Http1RequestHead
from gateway.wire import http1

_END: Final = b"\r\n"
_CLOSE: Final = b"connection: close\r\n"
_NO_CONTENT: Final = 204


# How the body of an answer is delimited (RFC 9112 §6); plain numbers, because enums are slow.
_NONE: Final = 0
"""There is none: HEAD, 204, 304."""
_LENGTH: Final = 1
_CHUNKED: Final = 2
_BY_CLOSE: Final = 3
"""HTTP/1.0 knows no chunks."""


class AnswerWriter:
    """Writes one answer after the other to a connection's output.

    A head goes out in one write with the first bytes of its body, which follow it at once: the
    exchange sends no head before there is a body to send.
    """

    __slots__ = ("_framing", "_head", "_left", "_out", "has_begun")

    def __init__(self, out: Output) -> None:
        self._out = out
        self._framing: int = _NONE
        self._left = 0
        """Body bytes that Content-Length has announced and that have not come."""
        self._head = b""
        """The head while it waits for the first bytes of its body."""
        self.has_begun = False
        """Whether the current request's answer has begun; reset by the connection."""

    def send_whole(
        self, section: FieldSection, body: bytes, request: Http1RequestHead, keeps: bool
    ) -> None:
        """Send a whole answer of a backend's; see `send_head`."""
        if (
            type(section) is Http1AnswerHead
            and section.whole is not None
            and section.content_length == len(body)
            and keeps
            and request.method != b"HEAD"
        ):
            self.has_begun = True
            self._out.write(section.whole + body, len(body))
            return
        self.send_head(section, request, keeps, False)
        self.send_body(body, True)

    def send_head(
        self, section: FieldSection, request: Http1RequestHead, keeps: bool, ended: bool
    ) -> None:
        """Send a backend's head; `keeps`: the connection goes on after this answer."""
        self.has_begun = True
        if type(section) is not Http1AnswerHead:
            head = self._render(section, render_fields(section.fields), request, keeps, ended)
        elif section.whole is not None and keeps and request.method != b"HEAD":
            self._framing = _LENGTH
            self._left = section.content_length
            head = section.whole
        else:
            head = self._render(section, section.h1, request, keeps, ended)
        if ended:
            self._out.write(head, 0)
        else:
            self._head = head

    def _render(
        self,
        section: FieldSection,
        fields: bytes,
        request: Http1RequestHead,
        keeps: bool,
        ended: bool,
    ) -> bytes:
        framing = self._frame(section, request, ended)
        end = _END if keeps else b"connection: close\r\n\r\n"
        return b"".join((http1.status_line(section.status), fields, framing, end))

    def _frame(self, section: FieldSection, request: Http1RequestHead, ended: bool) -> bytes:
        """Decide how the body is delimited; return the field that says so."""
        length = section.content_length
        if request.method == b"HEAD" or http1.is_bodiless(section.status):
            self._framing = _NONE
            if length < 0 or section.status == _NO_CONTENT:  # RFC 9110 §8.6
                return b""
        elif length >= 0 or ended:
            self._framing = _LENGTH
            length = self._left = max(length, 0)
        elif request.is_http10:
            self._framing = _BY_CLOSE
            return b""
        else:
            self._framing = _CHUNKED
            return b"transfer-encoding: chunked\r\n"
        return b"content-length: %d\r\n" % length

    def send_body(self, chunk: bytes, ended: bool) -> int:
        """Send body bytes; return how many have to wait.

        A body that is not as long as its head has announced resets the connection.
        """
        framing = self._framing
        length = len(chunk)
        data = chunk
        if framing == _LENGTH:
            self._left -= length
            if self._left < 0 or (ended and self._left):
                self._out.reset()
                return 0
        elif framing == _CHUNKED:
            if length:
                data = b"%x\r\n%b\r\n" % (length, chunk)
            if ended:
                data += http1.LAST_CHUNK
        elif framing == _NONE:
            data = b""
        head = self._head
        if head:
            self._head = b""
            if data is chunk:
                return self._out.write_with_body(head, chunk)
            data = head + data
        return self._out.write(data, length) if data else 0

    def send_reply(self, reply: Reply, *, keeps: bool, is_head: bool) -> None:
        """Send an answer of the gateway's own, whole; `is_head`: to a HEAD request."""
        self.has_begun = True
        lines = [b"%b: %b\r\n" % pair for pair in reply.section.fields]
        if not keeps:
            lines.append(_CLOSE)
        head = b"".join([http1.status_line(reply.section.status), *lines, _END])
        self._out.write(head if is_head else head + reply.body, 0)
