"""Request heads from HTTP/1.1 bytes: what becomes of each field.

A head is read whole, line by line: the lines of one sender repeat, and a line that was met before
is known by its bytes. Lines are kept only for names whose values are few and no secrets; a
credential's never is.

llhttp, with a callback per field, takes twice as long, refuses methods that it does not know, and
has an opinion of its own on where a body ends; the tests hold every verdict against it.
"""

from __future__ import annotations

from typing import Final

from gateway.dataplane.auth.credentials import CredentialReader
from gateway.dataplane.core.heads import (
    FieldKind,
    FieldKinds,
    Pair,
    RequestHead,
    media_type,
)
from gateway.dataplane.core.memo import Memo
from gateway.settings import Target
from gateway.wire import hpack, http1

_FORWARD: Final = int(FieldKind.FORWARD)
_CREDENTIAL: Final = int(FieldKind.CREDENTIAL)
_CONTENT_TYPE: Final = int(FieldKind.CONTENT_TYPE)
_CONTENT_LENGTH: Final = int(FieldKind.CONTENT_LENGTH)
_EXPECT: Final = int(FieldKind.EXPECT)
_GRPC: Final = b"application/grpc"
"""How gRPC's content types begin, and gRPC-Web's, which is made for HTTP/1.1."""
_HOST: Final = 100
_CONNECTION: Final = 101
_TRANSFER_ENCODING: Final = 102
_SPECIAL: Final = {
    b"host": _HOST,
    b"connection": _CONNECTION,
    b"transfer-encoding": _TRANSFER_ENCODING,
    b"grpc-timeout": _FORWARD,  # means nothing outside gRPC
    b"cookie": _FORWARD,
}
"""Names that this version of HTTP sorts by itself, as numbers beside `FieldKind`'s."""
_KEPT_NAMES: Final = frozenset(
    {
        b"accept",
        b"accept-encoding",
        b"accept-language",
        b"allow-arbitrary-tag-value",
        b"connection",
        b"content-encoding",
        b"content-type",
        b"dd-agent-payload",
        b"dd-agent-version",
        b"expect",
        b"host",
        b"sts-agent-version",
        b"sts-processagentversion",
        b"sts-time-format",
        b"transfer-encoding",
        b"user-agent",
        b"x-dd-agent-attempts",
        b"x-dd-processagentversion",
        b"x-prometheus-remote-write-version",
        b"x-scope-orgid",
    }
)
"""Fields whose values are few and no secrets."""
_LINES_KEPT: Final = 2_000
_LONGEST_KEPT: Final = 256
"""Together these bound what is kept to some megabytes, whatever callers send."""
_LENGTH_MARK: Final = b"\r\nContent-Length: "
_LONGEST_LENGTH: Final = 18
_LONGEST_REPEATED: Final = 2_048
"""A longer head is not kept, its credential aside, which is not: an idle connection must hold next
to nothing.
"""
SIMPLE_OPTIONS: Final = frozenset(
    {b"close", b"keep-alive", b"te", b"upgrade", b"http2-settings", b"trailer", b"trailers"}
)
"""Options of Connection that name no field, or one that is dropped anyway."""

_Line = tuple[int, bytes, Pair]
"""What becomes of a field line, its name in lower case, its name as sent and its value."""
_Start = tuple[bytes, bytes, bytes | None, bool]
"""Method, path, query, whether it is HTTP/1.0."""


class KnownLines:
    """The lines that the clients of a worker have sent before, by their bytes."""

    __slots__ = ("_kinds", "_lines", "_names", "_starts", "credentials", "lines", "starts")

    def __init__(self, credentials: CredentialReader, kinds: FieldKinds) -> None:
        self.credentials = credentials
        self._kinds = kinds
        self._lines: Memo[bytes, _Line] = Memo(_LINES_KEPT)
        self._names: Memo[bytes, tuple[int, bytes]] = Memo(_LINES_KEPT)
        """Field name as sent → what becomes of the field, and the name in lower case."""
        self._starts: Memo[bytes, _Start] = Memo(_LINES_KEPT)
        self.lines = self._lines.kept
        self.starts = self._starts.kept

    def read_line(self, line: bytes) -> _Line:
        """Read a field line that is not known. Raises `Http1Error`."""
        name, value = http1.split_field_line(line)
        kind, lower = self._names.kept.get(name) or self._read_name(name)
        read = kind, lower, (name, value)
        if lower in _KEPT_NAMES:
            if kind == _HOST and not http1.is_valid_host(value):
                raise http1.Http1Error
            if len(line) <= _LONGEST_KEPT:
                self._lines.add(line, read)
        return read

    def _read_name(self, name: bytes) -> tuple[int, bytes]:
        http1.check_field_name(name)
        lower = name.lower()
        known = _SPECIAL.get(lower, int(self._kinds.kind_of(lower))), lower
        return self._names.add(name, known) if len(name) <= _LONGEST_KEPT else known

    def read_start(self, line: bytes) -> _Start:
        """Read a request line that is not known. Raises `Http1Error`."""
        method, target, is_http10 = http1.parse_request_line(line)
        path, query = http1.split_target(target)
        start = method, path, query, is_http10
        if query is not None:  # it may hold a key
            return start
        if len(line) <= _LONGEST_KEPT:
            self._starts.add(line, start)
        return start


class Http1RequestHead(RequestHead):
    """A request head that was read from HTTP/1.1, with what the connection must know of it.

    Names in `fields` are as the caller wrote them.
    """

    __slots__ = (
        "body_follows",
        "credentials_h1",
        "forwarded",
        "is_chunked",
        "is_grpc_over_http1",
        "is_http10",
        "is_repeatable",
        "keeps_alive",
    )

    def __init__(self, method: bytes, path: bytes, query: bytes | None, *, is_http10: bool) -> None:
        RequestHead.__init__(self, method, path, query, is_http2=False)
        self.is_chunked = False
        self.is_grpc_over_http1 = False
        self.is_http10 = is_http10
        self.keeps_alive = not is_http10
        self.is_repeatable = False
        """Whether the sender's next head may well be this one but for its body's length."""
        self.credentials_h1 = b""
        """The caller's credential fields as the lines that they came in."""
        self.forwarded: tuple[Target, bytes, bytes] | None = None
        """How the head was forwarded last, for when it is repeated: where to, under which path, and
        the lines but for those with the key and the framing.
        """
        self.body_follows = False
        """Whether body bytes came with the head: the backend's side waits for them to send both at
        once.
        """

    @property
    def credential_pairs(self) -> list[Pair]:
        """See `RequestHead`."""
        lines = self.credentials_h1.split(b"\r\n")[:-1]
        return [http1.split_field_line(line) for line in lines]

    def encoded_credentials_h1(self) -> bytes:
        """The caller's credential fields as HTTP/1.1 lines."""
        return self.credentials_h1

    def encoded_h2(self) -> bytes:
        """Fields to forward as HPACK representations: HTTP/2 has names in lower case only."""
        if self.h2 is None:
            self.h2 = hpack.encode([(name.lower(), value) for name, value in self.fields])
        return self.h2


class HeadReader:
    """Reads the heads of one connection. Most senders repeat theirs but for the body's length, and
    some for the key: a head that differs in these alone is returned anew, with them.

    It stays valid until the next one is read, which comes when its request is over.
    """

    __slots__ = (
        "_end",
        "_is_key_first",
        "_key_bytes",
        "_key_name",
        "_known",
        "_lines",
        "_middle",
        "_shortest",
        "_start",
    )

    def __init__(self, lines: KnownLines) -> None:
        self._lines = lines
        self._known: Http1RequestHead | None = None
        # The known head, but for the key's value and the digits of Content-Length
        self._start = b""
        self._middle = b""
        self._end = b""
        self._is_key_first = False
        self._key_bytes = 0
        self._shortest = 0
        """Length of the known head without the digits."""
        self._key_name = b""

    def read(self, raw: bytes) -> Http1RequestHead:
        """Read a whole head, from its request line to the empty line. Raises `Http1Error`."""
        known = self._known
        if (
            known is not None
            and len(raw) > self._shortest
            and raw.startswith(self._start)
            and raw.endswith(self._end)
        ):
            at = len(self._start)
            end = len(raw) - len(self._end)
            if self._is_key_first:
                at += self._key_bytes
                stop = at + len(self._middle)
                key_at, key_end = len(self._start), at
                digits = raw[stop:end]
            else:
                stop = end - self._key_bytes
                key_at, key_end = stop, end
                at = stop - len(self._middle)
                digits = raw[len(self._start) : at]
            if (
                raw[at:stop] == self._middle
                and digits.isdigit()
                and len(digits) <= _LONGEST_LENGTH
                and self._take_key(known, raw, key_at, key_end)
            ):
                known.content_length = int(digits)
                return known
        head = read_request_head(raw, self._lines)
        may_learn = head.is_repeatable and len(raw) - len(head.credentials_h1) <= _LONGEST_REPEATED
        self._known = head if may_learn and self._learn(raw, head) else None
        return head

    def forget_key(self) -> None:
        """Let go of the key of a request that is over."""
        if self._known is not None:
            self._known.credentials_h1 = b""

    def _take_key(self, head: Http1RequestHead, raw: bytes, at: int, end: int) -> bool:
        """Put the key into the head, if it is one that can be read without a second look."""
        value = raw[at:end]
        name = self._key_name
        credential = self._lines.credentials.read(name, value)
        # A readable credential is visible ASCII behind a scheme; outer whitespace is none of it.
        if credential.digest is None or value.strip(b" \t") != value:
            return False
        head.credentials[0] = credential
        head.credentials_h1 = raw[at - len(name) - 2 : end + 2]
        return True

    def _learn(self, raw: bytes, head: Http1RequestHead) -> bool:
        """Note where key and length stand; return whether that could be found."""
        length_at = raw.find(_LENGTH_MARK)
        if length_at < 0:
            length_at = raw.find(_LENGTH_MARK.lower())
        line = head.credentials_h1
        name, _, rest = line[:-2].partition(b":")
        value = rest[1:]
        if length_at < 0 or rest[:1] != b" " or value.strip(b" \t") != value:
            return False
        length_at += len(_LENGTH_MARK)
        length = length_at, raw.find(b"\r\n", length_at)
        key_end = raw.find(b"\r\n" + line) + len(line)
        key = key_end - len(value), key_end
        first, second = sorted((length, key))
        self._is_key_first = key < length
        self._start, self._middle, self._end = (
            raw[: first[0]],
            raw[first[1] : second[0]],
            raw[second[1] :],
        )
        self._key_bytes = len(value)
        parts = len(self._start) + len(self._middle) + len(self._end)
        self._shortest = parts + self._key_bytes
        self._key_name = name.lower()
        return True


def read_request_head(raw: bytes, known: KnownLines) -> Http1RequestHead:  # noqa: C901 - the loop of the data path: a call per field costs 3 % of a request
    """Read a whole head, from its request line to the empty line. Raises `Http1Error`."""
    lines = raw.split(b"\r\n", http1.MAX_FIELDS + 3)
    if len(lines) > http1.MAX_FIELDS + 3 or len(raw) > http1.MAX_HEAD_BYTES:
        raise http1.Http1Error(http1.HEAD_TOO_LARGE)
    start = lines[0]
    method, path, query, is_http10 = known.starts.get(start) or known.read_start(start)
    head = Http1RequestHead(method, path, query, is_http10=is_http10)
    fields = head.fields
    forwarded: list[bytes] = []
    rare: list[_Line] = []
    known_lines = known.lines
    reader = known.credentials
    hosts = 0
    unknown = 0
    for line in lines[1:-2]:
        read = known_lines.get(line)
        if read is None:
            unknown += 1
            read = known.read_line(line)
        kind, lower, pair = read
        if kind == _FORWARD:
            forwarded.append(line)
            fields.append(pair)
        elif kind == _HOST:
            hosts += 1
            head.authority = pair[1]
        elif kind == _CREDENTIAL:
            head.credentials.append(reader.read(lower, pair[1]))
            head.credentials_h1 += line + b"\r\n"
        elif kind == _CONTENT_TYPE and not head.content_type:
            value = head.content_type = pair[1]
            head.is_grpc_over_http1 = value.startswith(_GRPC) and _is_grpc(value)
            forwarded.append(line)
            fields.append(pair)
        elif kind == _CONTENT_LENGTH and head.content_length < 0:
            head.content_length = http1.parse_content_length(pair[1])
        else:
            rare.append(read)
    forwarded.append(b"")
    head.h1 = b"\r\n".join(forwarded)
    if hosts != 1 and (hosts or not is_http10):
        raise http1.Http1Error  # RFC 9112 §3.2
    # One with lines that are new each time is not worth remembering.
    head.is_repeatable = (
        unknown <= 2
        and query is None
        and len(head.credentials) == 1
        and head.credentials[0].digest is not None
        and head.content_length >= 0
    )
    if rare:
        _take_rare(head, rare)
    if head.content_length < 0 and not head.is_chunked:
        head.content_length = 0
    return head


def _is_grpc(content_type: bytes) -> bool:
    """Whether a content type that begins as gRPC's is one (gRPC over HTTP/2, "Requests")."""
    return media_type(content_type)[len(_GRPC) :][:1] in {b"", b"+"}


def _take_rare(head: Http1RequestHead, lines: list[_Line]) -> None:
    """Take the fields that say how to go on, and refuse those that may not come twice."""
    for kind, _, (_, value) in lines:
        if kind == _CONNECTION:
            _take_connection(head, value)
        elif kind == _TRANSFER_ENCODING:
            # RFC 9112 §6.1, §6.3: never in HTTP/1.0, never beside a Content-Length
            if head.is_chunked or head.is_http10 or not http1.is_chunked(value):
                raise http1.Http1Error
            head.is_chunked = True
        elif kind == _EXPECT:
            # HTTP/1.0 has none, and others may be ignored (RFC 9110 §10.1.1).
            head.expects_continue = not head.is_http10 and value.lower() == b"100-continue"
        elif kind in {_CONTENT_LENGTH, _CONTENT_TYPE}:
            raise http1.Http1Error
    if head.is_chunked and head.content_length >= 0:
        raise http1.Http1Error


def _take_connection(head: Http1RequestHead, value: bytes) -> None:
    """Take the options of Connection: fields that it names are not forwarded (RFC 9110 §7.6.1)."""
    options = http1.connection_options(value)
    if b"close" in options:
        head.keeps_alive = False
    named = [option for option in options if option not in SIMPLE_OPTIONS]
    if named:
        head.fields = [pair for pair in head.fields if pair[0].lower() not in named]
        head.h1 = None
