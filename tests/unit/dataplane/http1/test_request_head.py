from __future__ import annotations

import inspect
from collections.abc import Callable

import hpack
import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.dataplane.auth.credentials import CredentialReader
from gateway.dataplane.core.heads import FieldKinds
from gateway.dataplane.http1.request_head import (
    HeadReader,
    Http1RequestHead,
    KnownLines,
    read_request_head,
)
from gateway.model import digest_of
from gateway.wire.http1 import Http1Error

KEY = b"iapikey-0123456789abcdefghijklmnopqrstuv2Pxkvs"


def read(
    *lines: bytes, start: bytes = b"POST /v1/traces HTTP/1.1", known: KnownLines | None = None
) -> Http1RequestHead:
    """Read a head of these lines, again and again: known ones must mean what new ones do."""
    raw = raw_head(*lines, start=start)
    reader = head_reader(known)
    for _ in range(4):
        head = reader.read(raw)
        assert meaning(head) == meaning(read_request_head(raw, known_lines()))
    return head


def raw_head(*lines: bytes, start: bytes = b"POST /v1/traces HTTP/1.1") -> bytes:
    """Return a head of these lines."""
    return b"\r\n".join([start, *lines, b"", b""])


def known_lines() -> KnownLines:
    """Return what a worker knows at its start: nothing."""
    return KnownLines(CredentialReader(["StackState"]), FieldKinds(["X-Scope-OrgID"]))


def head_reader(known: KnownLines | None = None) -> HeadReader:
    """Return the reader of a new connection."""
    return HeadReader(known or known_lines())


def meaning(head: Http1RequestHead) -> dict[str, object]:
    """Return everything that a head says."""
    names = set(attributes(head)) - {"h2", "is_repeatable"}
    return {name: getattr(head, name) for name in names}


def attributes(thing: object) -> list[str]:
    """Return the names of what an object keeps, whether its class is compiled or has slots."""
    kind = type(thing)
    return [
        name
        for name in dir(kind)
        if inspect.isdatadescriptor(value := getattr(kind, name))
        and not isinstance(value, property)
        and name != "__class__"
    ]


def outcome(read: Callable[[bytes], Http1RequestHead], raw: bytes) -> object:
    """Return everything that a head says, or that it is malformed."""
    try:
        return meaning(read(raw))
    except Http1Error as error:
        return error.reason


def test_fields_to_forward_are_kept_as_the_caller_wrote_them() -> None:
    head = read(
        b"Host: gateway:4318",
        b"USER-agent: OTel \t",
        b"X-Custom:value",
        b"Content-Type: application/json",
        b"traceparent:  00-1-2-03",
    )
    assert head.fields == [
        (b"USER-agent", b"OTel"),
        (b"X-Custom", b"value"),
        (b"Content-Type", b"application/json"),
        (b"traceparent", b"00-1-2-03"),
    ]
    assert head.encoded_h1() == (
        b"USER-agent: OTel \t\r\nX-Custom:value\r\nContent-Type: application/json\r\n"
        b"traceparent:  00-1-2-03\r\n"
    )
    assert head.authority == b"gateway:4318"
    assert head.content_type == b"application/json"


def test_names_are_in_lower_case_when_they_go_on_over_http_2() -> None:
    head = read(b"Host: a", b"X-Custom: Value", b"Content-Type: application/json")
    assert hpack.Decoder().decode(head.encoded_h2(), raw=True) == [
        (b"x-custom", b"Value"),
        (b"content-type", b"application/json"),
    ]


def test_hop_by_hop_and_identity_fields_are_not_forwarded() -> None:
    head = read(
        b"Host: a",
        b"Connection: keep-alive, X-Hop",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"TE: trailers",
        b"Trailer: X-Later",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAMAAABkAAQAAP__",
        b"Proxy-Authorization: Basic eDp5",
        b"X-Gateway-Key-Id: 7",
        b"x-gateway-key-name: somebody",
        b"X-Scope-OrgID: victim",
        b"x_scope_orgid: victim",
        b"X-Gateway_Key-Name: somebody",
        b"Forwarded: for=203.0.113.7",
        b"X-Forwarded-For: 203.0.113.7",
        b"x_forwarded_proto: https",
        b"Sts_Api_Key: another",
        b"Content_Length: 7",
        b"x-hop: only for the next hop",
        b"X_Kept: 1",
    )
    assert head.fields == [(b"X_Kept", b"1")]
    assert head.encoded_h1() == b"X_Kept: 1\r\n"


def test_a_query_is_split_off_and_a_path_is_not_touched() -> None:
    head = read(b"Host: a", start=b"POST //intake/../%2f?api_key=k?x HTTP/1.1")
    assert (head.path, head.query) == (b"//intake/../%2f", b"api_key=k?x")
    assert read(b"Host: a").query is None
    assert read(b"Host: a", start=b"GET /features? HTTP/1.1").query == b""


def test_credentials_are_hashed_and_not_among_the_fields() -> None:
    head = read(b"Host: a", b"AUTHORIZATION: StackState " + KEY, b"Sts-Api-Key: " + KEY)
    assert [credential.digest for credential in head.credentials] == [digest_of(KEY)] * 2
    assert head.credential_pairs == [
        (b"AUTHORIZATION", b"StackState " + KEY),
        (b"Sts-Api-Key", KEY),
    ]
    assert head.fields == []
    assert KEY.decode() not in repr(head)


def test_a_body_is_as_long_as_content_length_says() -> None:
    assert read(b"Host: a", b"Content-Length: 0042").content_length == 42
    assert read(b"Host: a").content_length == 0
    chunked = read(b"Host: a", b"Transfer-Encoding: Chunked")
    assert (chunked.is_chunked, chunked.content_length) == (True, -1)


@pytest.mark.parametrize(
    "lines, start, keeps",
    [
        ((), b"GET / HTTP/1.1", True),
        ((b"Connection: Close",), b"GET / HTTP/1.1", False),
        ((b"Connection: x, close",), b"GET / HTTP/1.1", False),
        ((b"Connection: keep-alive",), b"GET / HTTP/1.0", False),
        ((), b"GET / HTTP/1.0", False),
    ],
)
def test_http_1_1_keeps_the_connection_unless_told_otherwise(
    lines: tuple[bytes, ...], start: bytes, keeps: bool
) -> None:
    assert read(b"Host: a", *lines, start=start).keeps_alive is keeps


def test_only_http_1_1_expects_a_100() -> None:
    assert read(b"Host: a", b"Expect: 100-Continue").expects_continue
    assert not read(b"Host: a", b"Expect: miracles").expects_continue
    assert not read(b"Expect: 100-continue", start=b"GET / HTTP/1.0").expects_continue


@pytest.mark.parametrize(
    "lines",
    [
        (),
        (b"Host: a", b"Host: a"),
        (b"Host: a b",),
        (b"Host: a", b"Content-Length: 5", b"Content-Length: 5"),
        (b"Host: a", b"Content-Length: 5", b"Content-Length: 6"),
        (b"Host: a", b"Content-Length: 5, 5"),
        (b"Host: a", b"Content-Length:"),
        (b"Host: a", b"Content-Length: -5"),
        (b"Host: a", b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        (b"Host: a", b"Transfer-Encoding: chunked", b"Content-Length: 5"),
        (b"Host: a", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
        (b"Host: a", b"Transfer-Encoding: gzip, chunked"),
        (b"Host: a", b"Transfer-Encoding: gzip"),
        (b"Host: a", b"Transfer-Encoding: \x0bchunked"),
        (b"Host: a", b"Transfer-Encoding:"),
        (b"Host: a", b"Content-Type: a", b"Content-Type: b"),
        (b"Host: a", b"X : y"),
        (b"Host: a", b" folded"),
        (b"Host: a", b"X: y", b"\tfolded: z"),
        (b"Host: a", b"no colon"),
        (b"Host: a", b": no name"),
        (b"Host: a", b"X: y\x00z"),
        (b"Host: a", b"X: y\nZ: z"),
        (b"Host: a", b"X: y\rZ: z"),
        (b"Host: a", b"Authorization: StackState k\x01"),
        (b"Host: a", b"X\xe4: y"),
        (b"Host : a",),
    ],
)
def test_a_head_that_another_hop_might_read_differently_is_refused(
    lines: tuple[bytes, ...],
) -> None:
    with pytest.raises(Http1Error) as caught:
        read(*lines)
    assert caught.value.reason == "MALFORMED"


@pytest.mark.parametrize(
    "lines",
    [
        (b"Transfer-Encoding: chunked",),
        (b"Host: a", b"Host: b"),
    ],
)
def test_http_1_0_needs_no_host_but_may_not_have_two_nor_chunks(lines: tuple[bytes, ...]) -> None:
    assert read(start=b"POST / HTTP/1.0").authority == b""
    with pytest.raises(Http1Error):
        read(*lines, start=b"POST / HTTP/1.0")


@pytest.mark.parametrize(
    "lines",
    [
        [b"Host: a", *[b"X-%d: y" % number for number in range(200)]],
        [b"Host: a", b"X: " + b"y" * 65_536],
    ],
)
def test_a_head_of_too_many_fields_or_bytes_is_too_large(lines: list[bytes]) -> None:
    with pytest.raises(Http1Error) as caught:
        read(*lines)
    assert caught.value.reason == "HEAD_TOO_LARGE"


def test_as_many_fields_as_allowed_are_read() -> None:
    assert len(read(b"Host: a", *[b"X-%d: y" % number for number in range(199)]).fields) == 199


def test_no_key_is_kept_among_the_known_lines() -> None:
    known = known_lines()
    credential = b"Authorization: StackState " + KEY
    read(b"Host: a", credential, b"Content-Length: 5", known=known)
    read(b"Host: a", credential, b"Content-Length: 5", b"X-Secret: " + KEY, known=known)
    read(
        b"Host: a",
        b"Sts-Api-Key: " + KEY,
        b"Content-Length: 5",
        b"Sts-Agent-Version: 3.1",
        known=known,
    )
    start = b"POST /intake?api_key=" + KEY + b" HTTP/1.1"
    read(b"Host: a", credential, b"Content-Length: 5", start=start, known=known)
    kept = b" ".join([*known.lines, *known.starts, *known._names.kept])
    assert KEY not in kept
    assert b"Host: a" in kept


@pytest.mark.parametrize(
    "lines",
    [
        (b"Authorization: StackState " + KEY, b"Content-Length: 5"),
        (b"Content-Length: 5", b"Sts-Api-Key: " + KEY),
        (b"Sts-Api-Key: " + KEY, b"Content-Length: 5", b"X-Secret: " + KEY),
    ],
)
def test_a_connection_keeps_no_key_between_its_requests(lines: tuple[bytes, ...]) -> None:
    reader = head_reader()
    for _ in range(3):
        assert reader.read(raw_head(*HEAD, *lines)).credentials_h1
        reader.forget_key()
        kept = [getattr(reader, name) for name in attributes(reader)]
        assert len(kept) > 5
        if reader._known is not None:
            kept.append(meaning(reader._known))
        assert KEY.decode() not in repr(kept)


HEAD = (b"Host: a", b"User-Agent: x", b"Content-Type: application/json")


@pytest.mark.parametrize(
    "start, lines",
    [
        (b"POST /" + b"x" * 60_000 + b" HTTP/1.1", ()),
        (b"POST /v1/traces HTTP/1.1", (b"User-Agent: " + b"x" * 200,) * 190),
    ],
)
def test_a_connection_keeps_no_long_head(start: bytes, lines: tuple[bytes, ...]) -> None:
    reader = head_reader()
    for _ in range(3):
        reader.read(
            raw_head(
                *HEAD, *lines, b"Authorization: StackState k", b"Content-Length: 0", start=start
            )
        )
    assert reader._known is None


ORDERS = ("{key}\r\n{length}", "{length}\r\n{key}", "{length}\r\nUser-Agent: y\r\n{key}")


def repeated(*lines: bytes) -> Http1RequestHead:
    """Read a head on a connection whose last heads were ordinary ones."""
    reader = head_reader()
    for _ in range(2):
        reader.read(raw_head(*HEAD, b"Authorization: StackState k", b"Content-Length: 5"))
    assert reader._known is not None
    return reader.read(raw_head(*HEAD, *lines))


@pytest.mark.parametrize(
    "credential",
    [
        b"Authorization: StackState ",
        b"authorization: stackstate  ",
        b"Sts-Api-Key: ",
        b"STS-API-KEY: ",
    ],
)
@pytest.mark.parametrize("length", [b"Content-Length: ", b"content-length: "])
@pytest.mark.parametrize("order", ORDERS)
def test_a_head_that_is_repeated_but_for_its_key_and_its_length_means_the_same(
    credential: bytes, length: bytes, order: str
) -> None:
    reader = head_reader()
    known = None
    sizes = (b"5", b"5", b"7", b"0", b"123456789012345678", b"0042")
    keys = (KEY, KEY, KEY, KEY[::-1], KEY, b"another")
    for turn, (key, size) in enumerate(zip(keys, sizes, strict=True)):
        parts = {"key": (credential + key).decode(), "length": (length + size).decode()}
        raw = raw_head(*HEAD, *order.format(**parts).encode().split(b"\r\n"))
        head = reader.read(raw)
        assert meaning(head) == meaning(read_request_head(raw, known_lines()))
        if turn == 1:
            known = head
        elif turn in {2, 3, 4}:
            assert head is known
    assert head is not known


@pytest.mark.parametrize(
    "lines",
    [
        (b"Authorization: StackState \x01", b"Content-Length: 5"),
        (b"Authorization: StackState k", b"Content-Length: five"),
        (b"Authorization: StackState k", b"Content-Length: 1234567890123456789"),
        (b"Authorization: StackState k", b"Content-Length: 5", b"Content-Length: 5"),
        (b"Authorization: StackState k", b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        (b"Authorization: StackState k", b"Content-Length: 5", b" folded"),
    ],
)
def test_a_known_head_does_not_hide_what_is_malformed(lines: tuple[bytes, ...]) -> None:
    with pytest.raises(Http1Error):
        repeated(*lines)


@pytest.mark.parametrize(
    "lines, refusals",
    [
        ((b"Authorization: Bearer k",), ["SCHEME_BEARER"]),
        ((b"Authorization: StackState",), ["KEY_EMPTY"]),
        ((b"Authorization: StackState  ",), ["KEY_EMPTY"]),
        ((b"Authorization: StackState k", b"Authorization: StackState k"), ["", ""]),
        ((b"Authorization: StackState k ",), [""]),
        ((b"Sts-Api-Key: k", b"Authorization: StackState k"), ["", ""]),
        ((b"Sts-Api-Key: k", b"Sts-Api-Key: other"), ["", ""]),
        ((b"Sts-Api-Key: ",), ["KEY_EMPTY"]),
        ((b"Sts-Api-Key: k ",), [""]),
        ((b"Sts-Api-Key:k",), [""]),
        ((b"STS-API-KEY: k",), [""]),
        ((b"DD-Api-Key: k",), ["KEY_MISSING"]),
    ],
)
def test_a_known_head_does_not_hide_how_a_credential_came(
    lines: tuple[bytes, ...], refusals: list[str]
) -> None:
    head = repeated(*lines, b"Content-Length: 5")
    assert [credential.refusal for credential in head.credentials] == refusals
    assert all(value == value.strip() for _, value in head.credential_pairs)


@given(st.binary(max_size=3), st.integers(0, 200), st.integers(0, 200))
def test_a_changed_head_is_read_as_if_none_had_been_known(
    inserted: bytes, at: int, until: int
) -> None:
    usual = raw_head(*HEAD, b"Authorization: StackState k", b"Content-Length: 5")
    changed = usual[:at] + inserted + usual[max(at, min(until, len(usual) - 4)) :]
    reader = head_reader()
    for _ in range(2):
        reader.read(usual)
    assert outcome(reader.read, changed) == outcome(
        lambda raw: read_request_head(raw, known_lines()), changed
    )


def test_what_is_known_is_bounded() -> None:
    known = known_lines()
    for number in range(3_000):
        agent = b"User-Agent: %d" % number
        read(b"Host: a", agent, b"Authorization: StackState k", b"Content-Length: 5", known=known)
    for kept in (known.lines, known._names.kept, known.starts):
        assert len(kept) <= 2_000


class _Llhttp:
    """What llhttp makes of a head: the independent judge."""

    def __init__(self, raw: bytes) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.is_complete = False
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            self.is_complete = True
        except httptools.HttpParserError:
            self.is_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.is_complete = True


_NAMES = st.sampled_from([b"X", b"x-y", b"Content-Length", b"Transfer-Encoding", b"Connection"])
_VALUES = st.sampled_from(
    [b"5", b"chunked", b"close", b"x", b"", b" ", b"\t", b",", b"\x00", b"\xff", b"\r", b"\n", b":"]
)
_LINES = st.builds(
    lambda name, colon, values: name + colon + b"".join(values),
    st.one_of(_NAMES, st.binary(max_size=3)),
    st.sampled_from([b":", b": ", b" :", b""]),
    st.lists(_VALUES, max_size=3),
)


@given(lines=st.lists(_LINES, max_size=5))
@example(lines=[b"X: y", b" folded"])
def test_a_head_that_we_accept_is_the_same_to_llhttp(lines: list[bytes]) -> None:
    raw = b"\r\n".join([b"POST / HTTP/1.1", b"Host: a", *lines, b"", b""])
    head_end = raw.index(b"\r\n\r\n") + 4
    try:
        head = read_request_head(raw[:head_end], known_lines())
    except Http1Error:
        return
    judge = _Llhttp(raw[:head_end])
    assert judge.is_complete
    forwarded = [
        pair
        for pair in judge.fields
        if pair[0].lower() not in {b"host", b"content-length", b"transfer-encoding", b"connection"}
    ]
    if not any(name.lower() == b"connection" for name, _ in judge.fields):
        assert head.fields == forwarded
    lengths = [value for name, value in judge.fields if name.lower() == b"content-length"]
    assert head.content_length == (-1 if head.is_chunked else int((lengths or [b"0"])[0]))
    is_chunked = any(name.lower() == b"transfer-encoding" for name, _ in judge.fields)
    assert head.is_chunked is is_chunked
