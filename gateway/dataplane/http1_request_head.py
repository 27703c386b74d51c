"""Request heads from HTTP/1.1 bytes: what becomes of each field.

A head is read whole, line by line: the lines of one sender repeat, and a line that was met before
is known by its bytes. Lines are kept only for names whose values are few and no secrets; a
credential's never is.

llhttp, with a callback per field, takes twice as long, refuses methods that it does not know, and
has an opinion of its own on where a body ends; the tests hold every verdict against it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from gateway.dataplane.heads import (
    FieldKind,
    Pair,
    RequestHead,
    kind_of,
)
from gateway.wire import hpack, http1

if TYPE_CHECKING:
    from gateway.dataplane.credentials import CredentialReader

_Kept = TypeVar("_Kept")

_FORWARD: Final = int(FieldKind.FORWARD)
_CREDENTIAL: Final = int(FieldKind.CREDENTIAL)
_CONTENT_TYPE: Final = int(FieldKind.CONTENT_TYPE)
_CONTENT_LENGTH: Final = int(FieldKind.CONTENT_LENGTH)
_EXPECT: Final = int(FieldKind.EXPECT)
_HOST: Final = 100
_CONNECTION: Final = 101
_TRANSFER_ENCODING: Final = 102
_SPECIAL: Final = {
    b"host": _HOST,
    b"connection": _CONNECTION,
    b"transfer-encoding": _TRANSFER_ENCODING,
    b"grpc-timeout": _FORWARD,  # means nothing outside gRPC
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
"""A longer head is not kept: an idle connection must hold next to nothing."""
SIMPLE_OPTIONS: Final = frozenset(
    {b"close", b"keep-alive", b"te", b"upgrade", b"http2-settings", b"trailer", b"trailers"}
)
"""Options of Connection that name no field, or one that is dropped anyway."""

_Line = tuple[int, bytes, Pair]
"""What becomes of a field line, its name in lower case, its name as sent and its value."""
_Start = tuple[bytes, bytes, bytes | None, bool]
"""Method, path, query, whether it is HTTP/1.0."""

_lines: dict[bytes, _Line] = {}
_names: dict[bytes, tuple[int, bytes]] = {}
"""Field name as sent → what becomes of the field, and the name in lower case."""
_starts: dict[bytes, _Start] = {}


def _keep(kept: dict[bytes, _Kept], key: bytes, value: _Kept) -> None:
    if len(key) <= _LONGEST_KEPT:
        if len(kept) >= _LINES_KEPT:
            kept.clear()
        kept[key] = value


def _read_line(line: bytes) -> _Line:
    """Read a field line that is not known. Raises `Http1Error`."""
    name, value = http1.split_field_line(line)
    known = _names.get(name)
    if known is None:
        http1.check_field_name(name)
        lower = name.lower()
        known = _SPECIAL.get(lower, int(kind_of(lower))), lower
        _keep(_names, name, known)
    kind, lower = known
    read = kind, lower, (name, value)
    if lower in _KEPT_NAMES:
        if kind == _HOST and not http1.is_valid_host(value):
            raise http1.Http1Error
        _keep(_lines, line, read)
    return read


def _read_start(line: bytes) -> _Start:
    """Read a request line that is not known. Raises `Http1Error`."""
    method, target, is_http10 = http1.parse_request_line(line)
    path, mark, query = target.partition(b"?")
    if mark:  # it may hold a key
        return method, path, query, is_http10
    start = method, path, None, is_http10
    _keep(_starts, line, start)
    return start


class Http1RequestHead(RequestHead):
    """A request head that was read from HTTP/1.1, with what the connection must know of it.

    Names in `fields` are as the caller wrote them.
    """

    __slots__ = (
        "body_follows",
        "credentials_h1",
        "is_chunked",
        "is_http10",
        "is_repeatable",
        "keeps_alive",
    )

    def __init__(self, method: bytes, path: bytes, query: bytes | None, *, is_http10: bool) -> None:
        RequestHead.__init__(self, method, path, query, is_http2=False)
        self.is_chunked = False
        self.is_http10 = is_http10
        self.keeps_alive = not is_http10
        self.is_repeatable = False
        """Whether the sender's next head may well be this one but for its body's length."""
        self.credentials_h1 = b""
        """The caller's credential fields as the lines that they came in."""
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
    some for the key: a head that differs in these alone is given anew, with them.

    It is good until the next one is read, which comes when its request is over.
    """

    __slots__ = (
        "_credentials",
        "_end",
        "_is_key_first",
        "_key_bytes",
        "_key_name",
        "_known",
        "_middle",
        "_start",
    )

    def __init__(self, credentials: CredentialReader) -> None:
        self._credentials = credentials
        self._known: Http1RequestHead | None = None
        # The known head, but for the key's value and the digits of Content-Length
        self._start = b""
        self._middle = b""
        self._end = b""
        self._is_key_first = False
        self._key_bytes = 0
        self._key_name = b""

    def read(self, raw: bytes) -> Http1RequestHead:
        """Read a whole head, from its request line to the empty line. Raises `Http1Error`."""
        known = self._known
        if known is not None and raw.startswith(self._start) and raw.endswith(self._end):
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
        head = read_request_head(raw, self._credentials)
        may_learn = head.is_repeatable and len(raw) <= _LONGEST_REPEATED
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
        credential = self._credentials.read(name, value)
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
        self._is_key_first = first is key
        self._start, self._middle, self._end = (
            raw[: first[0]],
            raw[first[1] : second[0]],
            raw[second[1] :],
        )
        self._key_bytes = len(value)
        self._key_name = name.lower()
        return True


def read_request_head(raw: bytes, reader: CredentialReader) -> Http1RequestHead:  # noqa: C901 - the loop of the data path: a call per field costs 3 % of a request
    """Read a whole head, from its request line to the empty line. Raises `Http1Error`."""
    lines = raw.split(b"\r\n", http1.MAX_FIELDS + 3)
    if len(lines) > http1.MAX_FIELDS + 3 or len(raw) > http1.MAX_HEAD_BYTES:
        raise http1.Http1Error(http1.HEAD_TOO_LARGE)
    start = lines[0]
    method, path, query, is_http10 = _starts.get(start) or _read_start(start)
    head = Http1RequestHead(method, path, query, is_http10=is_http10)
    fields = head.fields
    forwarded: list[bytes] = []
    rare: list[_Line] = []
    known_lines = _lines
    hosts = 0
    unknown = 0
    for line in lines[1:-2]:
        read = known_lines.get(line)
        if read is None:
            unknown += 1
            read = _read_line(line)
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
            head.content_type = pair[1]
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
