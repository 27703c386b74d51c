"""HTTP/1.1 messages as bytes: lines and fields of a head, framing, chunks (RFC 9112). Strict.

No I/O, no policy: what becomes of a field, and which targets there are, is not said here.
"""

from __future__ import annotations

import http
import re
from typing import Final

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_FIELDS: Final = 200
HEAD_END: Final = b"\r\n\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"
MALFORMED: Final = "MALFORMED"
HEAD_TOO_LARGE: Final = "HEAD_TOO_LARGE"
NOT_HTTP: Final = "NOT_HTTP"
"""The first line is of another protocol: an answer in HTTP would be no use."""

_CRLF: Final = b"\r\n"
_MAX_CHUNK_LINE: Final = 256
"""Longest chunk-size line with its extensions: senders of telemetry use none."""
_MAX_CHUNK_DIGITS: Final = 15
LINES_AT_ONCE: Final = 256
"""Lines between chunks that are read at a time: about half a millisecond."""
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_TARGET: Final = re.compile(rb"[!-~]+\Z")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]*)(/[^?]*)?(?:\?(.*))?\Z", re.IGNORECASE)
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*\Z")
_FIELD_LINE: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\Z")
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]+)[\t ]*(?:;[\t\x20-\x7e\x80-\xff]*)?\Z")
_HOST: Final = re.compile(
    rb"(?:[A-Za-z0-9\-._~%!$&'()*+,;=]*|\[[0-9A-Fa-f:.]+\]|\[v[0-9A-Fa-f]+\.[!-Z\\^-~]+\])(?::[0-9]*)?\Z"
)
"""`uri-host [":" port]` (RFC 9110 §7.2, RFC 3986 §3.2.2); empty where a target has no authority."""


class Http1Error(Exception):
    """The peer's message cannot be read; `reason` is a row of `outcome.REFUSALS`, or `NOT_HTTP`."""

    def __init__(self, reason: str = MALFORMED) -> None:
        super().__init__(reason)
        self.reason = reason
        self.head = b""
        """The head that cannot be read, as far as it has come."""


def parse_request_line(line: bytes) -> tuple[bytes, bytes, bool]:
    """Read a request line (RFC 9112 §3) without its CRLF: method, target, whether it is HTTP/1.0.

    The target comes as it is, of visible ASCII: which form it may have is for the routes to say.
    Raises `Http1Error`.
    """
    parts = line.split(b" ")
    if len(parts) != 3:
        raise Http1Error
    method, target, version = parts
    if version != b"HTTP/1.1" and version != b"HTTP/1.0":  # noqa: PLR1714 - the usual one first
        is_http = target.startswith(b"/") or version.upper().startswith(b"HTTP")
        raise Http1Error(MALFORMED if is_http else NOT_HTTP)
    if not _TOKEN.match(method) or not _TARGET.match(target):
        raise Http1Error
    return method, target, version == b"HTTP/1.0"


def split_target(target: bytes) -> tuple[bytes, bytes | None]:
    """Split a target into its path and its query; None if there is none.

    Of the absolute form, as clients send it to a proxy, these are left (RFC 9112 §3.2.2). Its host
    is checked, and read no further: nothing here depends on it. A target that is of another scheme,
    or in no form at all, is returned as a path that no route has. Raises `Http1Error` where the
    host is empty or none, as with a user name before it (RFC 9110 §4.2.1, §4.2.4).
    """
    if not target.startswith(b"/") and (absolute := _ABSOLUTE.match(target)) is not None:
        host, path, query = absolute.groups()
        if host[:1] in {b"", b":"} or not is_valid_host(host):
            raise Http1Error
        return path or b"/", query
    path, mark, query = target.partition(b"?")
    return path, query if mark else None


def split_field_line(line: bytes) -> tuple[bytes, bytes]:
    """Split a field line into its name, unchecked, and its value (RFC 9112 §5).

    Raises `Http1Error` where the value holds what no value may (RFC 9110 §5.5).
    """
    name, colon, value = line.partition(b":")
    value = value.strip(b" \t")
    if not colon or not _VALUE.match(value):
        raise Http1Error
    return name, value


def peek_field(head: bytes, name: bytes) -> bytes:
    """Find a field in a head that cannot be read as a whole, or has not come as a whole; `name` in
    lower case. Empty where it is not there, is cut off, or holds what no value may.
    """
    at = head.lower().find(b"\r\n%b:" % name)
    value, end, _ = head[at + len(name) + 3 :].partition(_CRLF)
    value = value.strip(b" \t")
    return value if at >= 0 and end and _VALUE.match(value) else b""


def check_field_name(name: bytes) -> None:
    """Check that a field name is a token (RFC 9110 §5.1).

    Whitespace before the colon, and a folded line's before its text, is none. Raises `Http1Error`.
    """
    if not _TOKEN.match(name):
        raise Http1Error


def is_valid_host(value: bytes) -> bool:
    """Whether this may be the value of Host."""
    return _HOST.match(value) is not None


def is_chunked(value: bytes) -> bool:
    """Whether a Transfer-Encoding is exactly `chunked`: no other coding is accepted."""
    return value.lower() == b"chunked"


def parse_content_length(value: bytes) -> int:
    """Read a Content-Length. Raises `Http1Error`."""
    if not value.isdigit() or len(value) > 18:
        raise Http1Error
    return int(value)


def connection_options(value: bytes) -> list[bytes]:
    """Split a Connection field into its options, in lower case (RFC 9110 §7.6.1)."""
    return [option for part in value.lower().split(b",") if (option := part.strip(b" \t"))]


class ChunkedBody:
    """Decodes one chunked body (RFC 9112 §7.1), strictly, and knows where it ends.

    Chunk extensions are read over, trailer fields are checked and dropped.
    """

    __slots__ = ("_left", "_line", "_needs_crlf", "_trailer_bytes", "is_complete")

    def __init__(self) -> None:
        self.is_complete = False
        self._left = 0
        """Bytes of the current chunk that are still to come."""
        self._needs_crlf = False
        """Whether the current chunk's data must be followed by CRLF."""
        self._line = b""
        """A line's beginning whose end has not arrived."""
        self._trailer_bytes = -1
        """Size of the trailer section so far; -1 = the last chunk has not come."""

    def feed(self, buffer: bytes | bytearray, at: int, end: int) -> tuple[bytes, int]:
        """Decode `buffer[at:end]`; return the data, and where it stopped.

        It stops before `end` when the body is complete, and after many tiny chunks: the rest is
        for another call. Raises `Http1Error`.
        """
        view = memoryview(buffer)
        parts: list[memoryview] = []
        for _ in range(2 * LINES_AT_ONCE):
            if at >= end or self.is_complete:
                break
            if self._left:
                stop = min(at + self._left, end)
                parts.append(view[at:stop])
                self._left -= stop - at
                at = stop
            else:
                line, at = self._take_line(buffer, at, end)
                if line is not None:
                    self._read_line(line)
        return b"".join(parts), at

    def _take_line(self, buffer: bytes | bytearray, at: int, end: int) -> tuple[bytes | None, int]:
        """Return the line that is due without its CRLF, None if its end is missing."""
        limit = 0 if self._needs_crlf else _MAX_CHUNK_LINE
        if self._trailer_bytes >= 0:
            limit = MAX_HEAD_BYTES - self._trailer_bytes
        held = self._line
        found = buffer.find(b"\n", at, end)
        stop = end if found < 0 else found + 1
        if len(held) + stop - at > limit + len(_CRLF):
            raise Http1Error
        line = held + bytes(buffer[at:stop])
        if found < 0:
            self._line = line
            return None, stop
        if not line.endswith(_CRLF):
            raise Http1Error
        self._line = b""
        return line[:-2], stop

    def _read_line(self, line: bytes) -> None:
        if self._needs_crlf:
            if line:
                raise Http1Error
            self._needs_crlf = False
        elif self._trailer_bytes < 0:
            self._read_size(line)
        elif not line:
            self.is_complete = True
        elif _FIELD_LINE.match(line):
            self._trailer_bytes += len(line) + len(_CRLF)
        else:
            raise Http1Error

    def _read_size(self, line: bytes) -> None:
        match = _CHUNK_LINE.match(line)
        if match is None:
            raise Http1Error
        digits = match[1].lstrip(b"0")
        if len(digits) > _MAX_CHUNK_DIGITS:
            raise Http1Error
        if digits:
            self._left = int(digits, 16)
            self._needs_crlf = True
        else:
            self._trailer_bytes = 0


def _status_line(status: int) -> bytes:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


_STATUS_LINES: Final = {int(status): _status_line(status) for status in http.HTTPStatus}


def status_line(status: int) -> bytes:
    """Render a status line, with its CRLF (RFC 9112 §4)."""
    return _STATUS_LINES.get(status) or _status_line(status)


def is_bodiless(status: int) -> bool:
    """Whether answers with this status never have a body (RFC 9110 §6.4.1)."""
    return status in {204, 304} or 100 <= status < 200
