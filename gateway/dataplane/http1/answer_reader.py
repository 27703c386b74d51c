"""Answers from HTTP/1.1 bytes, read by llhttp (httptools).

A backend's answers repeat, byte for byte but for the date: a head that llhttp has read before, with
its whole body in the same read, is known by its bytes and does not go through llhttp again.
"""

from __future__ import annotations

from typing import Final

import httptools

from gateway.dataplane.core.heads import ANSWER_HOP_BY_HOP, FieldSection, Pair
from gateway.dataplane.core.memo import Memo
from gateway.dataplane.http1.request_head import SIMPLE_OPTIONS
from gateway.wire import http1

_HEADS_KEPT: Final = 500
_LONGEST_KEPT: Final = 512
_STARTED: Final = 1024
"""What is looked at of an answer before llhttp does."""
_NAMES_KEPT: Final = 1_000
_LONGEST_NAME_KEPT: Final = 64
_KEPT_NAMES: Final = frozenset(
    {b"connection", b"content-length", b"content-type", b"date", b"keep-alive", b"server", b"vary"}
)
"""Heads of other fields than these are not kept: they might hold anything."""
_FIRST_FINAL: Final = 200


class Http1AnswerHead(FieldSection):
    """An answer's head that was read from HTTP/1.1. May be shared: it is not changed when made."""

    __slots__ = ("h1", "whole")

    def __init__(self, status: int, fields: list[Pair], h1: bytes, content_length: int) -> None:
        super().__init__(status, fields)
        self.h1 = h1
        """The fields but Content-Length, as lines."""
        self.content_length = content_length
        self.whole: bytes | None = None
        """All of the head as it goes to a caller whose connection is kept, where it is known."""


class KnownAnswers:
    """What the backends of a worker have answered before: whole heads, and field names."""

    __slots__ = ("_heads", "_names", "heads", "names")

    def __init__(self) -> None:
        self._heads: Memo[bytes, Http1AnswerHead] = Memo(_HEADS_KEPT)
        self._names: Memo[bytes, tuple[bytes, bool]] = Memo(_NAMES_KEPT)
        self.heads = self._heads.kept
        self.names = self._names.kept
        """Field name as sent → in lower case, and whether it stays on its connection."""

    def learn_head(self, raw: bytes, head: Http1AnswerHead) -> None:
        """Keep a head by its bytes."""
        self._heads.add(raw, head)

    def learn_name(self, name: bytes) -> tuple[bytes, bool]:
        """Read a field name, and keep it."""
        lower = name.lower()
        known = lower, lower in ANSWER_HOP_BY_HOP
        return self._names.add(name, known) if len(name) <= _LONGEST_NAME_KEPT else known


def render_fields(fields: list[Pair]) -> bytes:
    """Render fields as lines; Content-Length is left out, because framing is each hop's own."""
    return b"".join(
        [b"%b: %b\r\n" % pair for pair in fields if pair[0].lower() != b"content-length"]
    )


class AnswerReader:
    """Reads one answer after the other. `on_…` are llhttp's callbacks."""

    __slots__ = (
        "_content_length",
        "_ends_at_eof",
        "_fields",
        "_head_bytes",
        "_hop_by_hop",
        "_is_chunked",
        "_is_common",
        "_known",
        "_last",
        "_method",
        "_parser",
        "chunks",
        "has_begun",
        "has_ended",
        "has_head",
        "head",
        "keeps",
    )

    def __init__(self, known: KnownAnswers) -> None:
        self._known = known
        self._parser = httptools.HttpResponseParser(self)
        self._method = b""
        self._last = b""
        """The last head that was known, which the next answer may begin with as well."""
        self.has_begun = False
        """Whether a byte of the answer has come."""
        self.has_head = False
        """Whether its head is complete; interim heads do not count."""
        self.has_ended = False
        self.keeps = False
        """Whether the connection can be used again after the answer."""
        self.head: Http1AnswerHead | None = None
        """The head, if it came with the last read."""
        self.chunks: list[bytes] = []
        """What came of the body with the last read; whoever takes it leaves an empty list."""
        self._ends_at_eof = False
        self._head_bytes = 0
        """Bytes read before the head was complete."""
        self._forget_fields()

    def begin(self, method: bytes) -> None:
        """Expect the answer to a request with this method."""
        self._method = method
        self.has_begun = self.has_head = self.has_ended = self._ends_at_eof = False
        self._head_bytes = 0

    def feed(self, view: memoryview, length: int) -> None:
        """Read the first `length` bytes. Raises `Http1Error`."""
        is_first = not self.has_begun
        self.has_begun = True
        raw = b""
        if is_first:
            start = view[: min(_STARTED, length)].tobytes()
            raw = self._last
            if not raw or not start.startswith(raw):
                raw = start[: start.find(http1.HEAD_END, 0, _LONGEST_KEPT) + len(http1.HEAD_END)]
            head = self._known.heads.get(raw)
            body_bytes = length - len(raw)
            if head is not None and head.content_length == body_bytes and self._method != b"HEAD":
                self._last = raw
                if body_bytes:
                    whole = length == len(start)
                    body = start[len(raw) :] if whole else view[len(raw) : length].tobytes()
                    self.chunks.append(body)
                self.head = head
                self.has_head = self.has_ended = self.keeps = True
                return
        at = 0
        if not self.has_head:
            room = http1.MAX_HEAD_BYTES - self._head_bytes
            self._head_bytes += length
            if length > room:
                self._parse_last_of_head(view[:room])
                at = room
        self._parse(view[at:length])
        if self.head is not None and len(raw) > len(http1.HEAD_END):
            self._learn(raw, self.head)

    def _parse(self, data: memoryview) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            raise error.__context__ or error from None
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            raise http1.Http1Error from None

    def _parse_last_of_head(self, data: memoryview) -> None:
        """Parse as much as a head may have: it must end there, whatever else has come."""
        self._parse(data)
        if not self.has_head:
            raise http1.Http1Error

    def _learn(self, raw: bytes, head: Http1AnswerHead) -> None:
        """Keep a head that stands for itself: of an answer with a known length, and no interim."""
        is_whole = raw[9:12] == b"%d" % head.status and not http1.is_bodiless(head.status)
        if not (is_whole and self._is_common and self.keeps and head.content_length >= 0):
            return
        known = Http1AnswerHead(head.status, head.fields, head.h1, head.content_length)
        framing = b"content-length: %d\r\n\r\n" % head.content_length
        known.whole = http1.status_line(head.status) + head.h1 + framing
        self._known.learn_head(raw, known)

    def end_of_stream(self) -> bool:
        """Note that nothing more comes; return whether that completes the answer."""
        if self.has_head and self._ends_at_eof:
            self.has_ended = True
        return self.has_ended

    def _forget_fields(self) -> None:
        self._fields: list[Pair] = []
        self._hop_by_hop: list[bytes] = []
        self._content_length = -1
        self._is_chunked = False
        self._is_common = True

    def on_message_begin(self) -> None:
        """Refuse what nobody has asked for behind the answer."""
        if self.has_ended:
            raise http1.Http1Error
        self._forget_fields()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head; trailers' are dropped."""
        if self.has_head:
            return
        lower, stays = self._known.names.get(name) or self._known.learn_name(name)
        value = value.rstrip(b" \t")
        if lower not in _KEPT_NAMES:
            self._is_common = False
        if not stays:
            self._fields.append((name, value))
            if lower == b"content-length":
                self._content_length = http1.parse_content_length(value)
        elif lower == b"connection":
            options = http1.connection_options(value)
            self._hop_by_hop += [option for option in options if option not in SIMPLE_OPTIONS]
        elif lower == b"transfer-encoding":
            if not http1.is_chunked(value):
                raise http1.Http1Error
            self._is_chunked = True

    def on_headers_complete(self) -> None:
        """Take a head; interim ones are passed over (RFC 9110 §15.2), and llhttp refuses a 101."""
        status = self._parser.get_status_code()
        if status < _FIRST_FINAL:
            return
        fields = self._fields
        if self._hop_by_hop:
            fields = [pair for pair in fields if pair[0].lower() not in self._hop_by_hop]
        self.head = Http1AnswerHead(status, fields, render_fields(fields), self._content_length)
        self.has_head = True
        self.keeps = self._parser.should_keep_alive()
        if self._method == b"HEAD":
            # llhttp does not know what was asked, and would wait for a body.
            self.has_ended = True
            self.keeps = False
        elif self._content_length < 0 and not self._is_chunked:
            self._ends_at_eof = not http1.is_bodiless(status)

    def on_body(self, chunk: bytes) -> None:
        """Take body bytes."""
        if self.has_ended:
            raise http1.Http1Error
        self.chunks.append(chunk)

    def on_message_complete(self) -> None:
        """The answer, or an interim head, is complete."""
        if self.has_head:
            self.has_ended = True
