"""Request heads from HTTP/1.1 bytes: what becomes of each field.

A head is read whole, line by line: the lines of one sender repeat, and a line that was met before
is known by its bytes. Where all of a head but its key and its length is known, it is known as one.
Lines are kept only for names whose values are few and no secrets; a credential's never is.

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
_LONGEST_TEMPLATE: Final = 1_024
"""Together these bound what is kept to some megabytes, whatever callers send."""
_LONGEST_LENGTH: Final = 18
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


def _keep(kept: dict[bytes, _Kept], key: bytes, value: _Kept, longest: int = _LONGEST_KEPT) -> None:
    if len(key) <= longest:
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
        "is_known",
        "keeps_alive",
    )

    def __init__(self, method: bytes, path: bytes, query: bytes | None, *, is_http10: bool) -> None:
        RequestHead.__init__(self, method, path, query, is_http2=False)
        self.is_chunked = False
        self.is_http10 = is_http10
        self.keeps_alive = not is_http10
        self.is_known = False
        """Whether all lines but the key's and the length's were met before."""
        self.credentials_h1 = b""
        """The caller's credential fields as the lines that they came in."""
        self.body_follows = False
        """Whether body bytes came with the head: the backend's side waits for them to send both at
        once.
        """

    def encoded_credentials_h1(self) -> bytes:
        """The caller's credential fields as HTTP/1.1 lines."""
        return self.credentials_h1

    def encoded_h2(self) -> bytes:
        """Fields to forward as HPACK representations: HTTP/2 has names in lower case only."""
        if self.h2 is None:
            self.h2 = hpack.encode([(name.lower(), value) for name, value in self.fields])
        return self.h2


class _Template:
    """A head but for one key and one Content-Length; all its lines are known ones."""

    __slots__ = ("authority", "content_type", "expects", "fields", "h1", "keeps", "start")

    def __init__(self, head: Http1RequestHead) -> None:
        self.start = head.method, head.path, head.is_http10
        self.authority = head.authority
        self.content_type = head.content_type
        self.expects = head.expects_continue
        self.fields = head.fields
        self.h1 = head.h1
        self.keeps = head.keeps_alive

    def head(self) -> Http1RequestHead:
        """Return a new head like this; what it shares is never changed."""
        method, path, is_http10 = self.start
        head = Http1RequestHead(method, path, None, is_http10=is_http10)
        head.authority = self.authority
        head.content_type = self.content_type
        head.expects_continue = self.expects
        head.fields = self.fields
        head.h1 = self.h1
        head.keeps_alive = self.keeps
        return head


_templates: dict[bytes, _Template] = {}
"""Everything in a head but the two lines → what it means."""
_KEY_LINES: Final = (
    (b"\r\nAuthorization: ", b"authorization"),
    (b"\r\nauthorization: ", b"authorization"),
    (b"\r\nSts-Api-Key: ", b"sts-api-key"),
    (b"\r\nsts-api-key: ", b"sts-api-key"),
)
"""How the key's line begins, as most senders write it; the field's name."""


def read_request_head(raw: bytes, reader: CredentialReader) -> Http1RequestHead:
    """Read a whole head, from its request line to the empty line. Raises `Http1Error`."""
    for mark, name in _KEY_LINES:  # noqa: B007 - used behind the loop
        at = raw.find(mark)
        if at >= 0:
            break
    else:
        return _read_lines(raw, reader)
    value_at = at + len(mark)
    end = raw.find(b"\r\n", value_at)
    rest = raw[:at] + raw[end:]
    length_at = rest.find(b"\r\nContent-Length: ")
    if length_at < 0:
        length_at = rest.find(b"\r\ncontent-length: ")
    if length_at < 0:
        return _read_lines(raw, reader)
    length_end = rest.find(b"\r\n", length_at + 18)
    known = rest[:length_at] + rest[length_end:]
    template = _templates.get(known)
    if template is None:
        head = _read_lines(raw, reader)
        if head.is_known:
            _keep(_templates, known, _Template(head), _LONGEST_TEMPLATE)
        return head
    value = raw[value_at:end]
    credential = reader.read(name, value)
    length = rest[length_at + 18 : length_end]
    # A readable credential is visible ASCII behind a known scheme; outer whitespace is none of it.
    is_plain = credential.digest is not None and value.strip(b" \t") == value
    if not is_plain or not length.isdigit() or len(length) > _LONGEST_LENGTH:
        return _read_lines(raw, reader)
    head = template.head()
    head.credentials.append(credential)
    head.credential_pairs.append((mark[2:-2], value))
    head.credentials_h1 = raw[at + 2 : end + 2]
    head.content_length = int(length)
    return head


def _read_lines(raw: bytes, reader: CredentialReader) -> Http1RequestHead:  # noqa: C901 - the loop of the data path: a call per field costs 3 % of a request
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
            head.credential_pairs.append(pair)
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
    # The two unknown lines are then the key's and the length's.
    head.is_known = (
        unknown == 2 and query is None and len(head.credentials) == 1 and head.content_length >= 0
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
