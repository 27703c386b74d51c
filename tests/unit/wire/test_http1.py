from __future__ import annotations

import contextlib
import itertools

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import http1
from gateway.wire.http1 import ChunkedBody, Http1Error


def decode(data: bytes, *cuts: int) -> tuple[bytes, bytes]:
    """Feed the body cut into pieces; return its data and what was left over behind its end."""
    body = ChunkedBody()
    decoded = b""
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(data)), len(data)]
    for start, stop in itertools.pairwise(edges):
        at = start
        while at < stop:
            part, at = body.feed(data, at, stop)
            decoded += part
            if body.is_complete:
                return decoded, data[at:]
    message = "the body did not end"
    raise EOFError(message)


@pytest.mark.parametrize(
    "line, expected",
    [
        (b"POST /v1/traces HTTP/1.1", (b"POST", b"/v1/traces", False)),
        (b"GET /features?api_key=k HTTP/1.0", (b"GET", b"/features?api_key=k", True)),
        (b"BREW /pot HTTP/1.1", (b"BREW", b"/pot", False)),
        (b"POST http://host/v1/traces HTTP/1.1", (b"POST", b"http://host/v1/traces", False)),
        (b"CONNECT host:443 HTTP/1.1", (b"CONNECT", b"host:443", False)),
        (b"OPTIONS * HTTP/1.1", (b"OPTIONS", b"*", False)),
    ],
)
def test_a_request_line_is_split_and_its_target_kept_as_it_came(
    line: bytes, expected: tuple[bytes, bytes, bool]
) -> None:
    assert http1.parse_request_line(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"POST",
        b"POST /",
        b"POST / HTTP/1.2",
        b"POST / HTTP/2.0",
        b"POST / HTTP/0.9",
        b"POST / http/1.1",
        b"POST / HTTP/1.1 ",
        b" POST / HTTP/1.1",
        b"POST  / HTTP/1.1",
        b"POST /a b HTTP/1.1",
        b"POST\t/\tHTTP/1.1",
        b"PO(ST / HTTP/1.1",
        b"POST /\x00 HTTP/1.1",
        b"POST /\xc3\xa4 HTTP/1.1",
        b"POST /\n HTTP/1.1",
        b"POST /\r HTTP/1.1",
        b"POST / HTTP/1.1\r",
    ],
)
def test_a_request_line_that_is_not_exactly_of_the_grammar_is_refused(line: bytes) -> None:
    with pytest.raises(Http1Error) as caught:
        http1.parse_request_line(line)
    assert caught.value.reason == "MALFORMED"


@pytest.mark.parametrize(
    "target, expected",
    [
        (b"/v1/traces", (b"/v1/traces", None)),
        (b"/intake?a=1?b", (b"/intake", b"a=1?b")),
        (b"/intake?", (b"/intake", b"")),
        (b"http://gateway/v1/traces", (b"/v1/traces", None)),
        (b"HTTPS://Gateway:4318/intake?a=http://x", (b"/intake", b"a=http://x")),
        (b"http://[::1]:4318//v1/traces", (b"//v1/traces", None)),
        (b"http://gateway", (b"/", None)),
        (b"http://gateway?a", (b"/", b"a")),
        (b"/http://gateway/v1/traces", (b"/http://gateway/v1/traces", None)),
        (b"ftp://gateway/v1/traces", (b"ftp://gateway/v1/traces", None)),
        (b"http:/v1/traces", (b"http:/v1/traces", None)),
        (b"http://gateway#/v1/traces", (b"http://gateway#/v1/traces", None)),
        (b"gateway:443", (b"gateway:443", None)),
        (b"*", (b"*", None)),
    ],
)
def test_a_target_is_split_into_path_and_query_in_either_form(
    target: bytes, expected: tuple[bytes, bytes | None]
) -> None:
    assert http1.split_target(target) == expected


@pytest.mark.parametrize(
    "target",
    [
        b"http:///v1/traces",
        b"http://:80/v1/traces",
        b"http://user@gateway/v1/traces",
        b"http://a,b:x/v1/traces",
        b"http://[::1/v1/traces",
        b"http://gate\\way/v1/traces",
    ],
)
def test_an_absolute_target_without_a_proper_host_is_refused(target: bytes) -> None:
    with pytest.raises(http1.Http1Error):
        http1.split_target(target)


@pytest.mark.parametrize(
    "line, expected",
    [
        (b"Accept: */*", (b"Accept", b"*/*")),
        (b"accept:*/*", (b"accept", b"*/*")),
        (b"X:", (b"X", b"")),
        (b"X: \t a\tb \t", (b"X", b"a\tb")),
        (b"X: a:b", (b"X", b"a:b")),
        (b"X: \xc3\xa4", (b"X", b"\xc3\xa4")),
    ],
)
def test_a_field_line_gives_a_name_and_a_value_without_outer_whitespace(
    line: bytes, expected: tuple[bytes, bytes]
) -> None:
    assert http1.split_field_line(line) == expected


@pytest.mark.parametrize("line", [b"X", b"", b"X: a\x00", b"X: a\nY: b", b"X: a\r", b"X: \x7f"])
def test_a_field_line_with_what_no_value_may_hold_is_refused(line: bytes) -> None:
    with pytest.raises(Http1Error):
        http1.split_field_line(line)


@pytest.mark.parametrize(
    "head, value",
    [
        (b"POST / HTTP/1.1\r\nHost: a\r\nORIGIN: \thttp://a \r\nX: \x00\r\n\r\n", b"http://a"),
        (b"POST / HTTP/1.1\r\norigin:http://a\r\nOrigin: http://b\r\n", b"http://a"),
        (b"\r\norigin: two words\r\n", b"two words"),
        (b"\r\norigin: http://a", b""),
        (b"\r\nX-Origin: http://a\r\n", b""),
        (b"\r\norigin : http://a\r\n", b""),
        (b"\r\norigin: http://a\rb\r\n", b""),
        (b"\r\norigin: \x00\r\n", b""),
        (b"origin: http://a\r\n", b""),
        (b"", b""),
    ],
)
def test_a_field_may_be_found_in_a_head_that_cannot_be_read(head: bytes, value: bytes) -> None:
    assert http1.peek_field(head, b"origin") == value


@pytest.mark.parametrize("name", [b"", b"X ", b" X", b"\tX", b"X(", b"X\xe4", b"X\n", b'"X"'])
def test_a_field_name_that_is_no_token_is_refused(name: bytes) -> None:
    with pytest.raises(Http1Error):
        http1.check_field_name(name)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"collector",
        b"collector:4318",
        b"otlp-http-x.example.org",
        b"127.0.0.1:4318",
        b"[::1]",
        b"[::1]:4318",
        b"a%20b",
    ],
)
def test_a_host_may_be_a_name_or_an_address_with_a_port(value: bytes) -> None:
    assert http1.is_valid_host(value)


@pytest.mark.parametrize(
    "value",
    [b"a b", b"a/b", b"user@host", b"a,b c", b"[::1", b"::1]", b"a:port", b"a\x00", b"a?b", b"a\n"],
)
def test_a_host_that_is_no_authority_is_refused(value: bytes) -> None:
    assert not http1.is_valid_host(value)


@pytest.mark.parametrize("value", [b"chunked", b"Chunked", b"CHUNKED"])
def test_chunked_alone_is_the_accepted_transfer_coding(value: bytes) -> None:
    assert http1.is_chunked(value)


@pytest.mark.parametrize(
    "value", [b"", b"gzip", b"gzip, chunked", b"chunked, chunked", b"identity", b"chunked;q=1"]
)
def test_no_other_transfer_coding_is_accepted(value: bytes) -> None:
    assert not http1.is_chunked(value)


@pytest.mark.parametrize(
    "value", [b"", b"+1", b"-1", b"0x1", b"1 1", b"1,1", b"1.0", b"\xb2", b"9" * 19]
)
def test_a_content_length_that_is_no_plain_number_is_refused(value: bytes) -> None:
    with pytest.raises(Http1Error):
        http1.parse_content_length(value)


def test_connection_options_are_split_in_lower_case() -> None:
    assert http1.connection_options(b"Close, ,X-Hop\t,TE") == [b"close", b"x-hop", b"te"]


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"0\r\n\r\n", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"5\r\nhello\r\n0005\r\nworld\r\n000\r\n\r\n", b"helloworld"),
        (b'A;name=value;x="y z"\r\n0123456789\r\n0;last\r\n\r\n', b"0123456789"),
        (b"5 \r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"5\r\nhello\r\n0\r\nGrpc-Status: 0\r\nX:\r\n\r\n", b"hello"),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
    ],
)
def test_a_chunked_body_is_decoded_and_what_follows_it_is_left_alone(
    data: bytes, expected: bytes
) -> None:
    assert decode(data + b"GET / HTTP/1.1\r\n") == (expected, b"GET / HTTP/1.1\r\n")
    assert decode(data, *range(len(data))) == (expected, b"")


@pytest.mark.parametrize("field", [b"Transfer-Encoding: gzip", b"Content-Length: x, 5"])
def test_framing_fields_in_trailers_frame_nothing(field: bytes) -> None:
    """Trailers are dropped, so nothing is made of them (RFC 9110 §6.5.1)."""
    data = b"5\r\nhello\r\n0\r\n" + field + b"\r\n\r\nGET / HTTP/1.1\r\n"
    assert decode(data) == (b"hello", b"GET / HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"x\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\na\r\n",
        b" 1\r\na\r\n",
        b"1\na\r\n",
        b"1\r\na\n",
        b"1\r\nab\r\n",
        b"1\r\na0\r\n\r\n",
        b"1;a\x00\r\n",
        b"1;a\rb\r\n",
        b"1" * 16 + b"\r\n",
        b"1;" + b"x" * 300 + b"\r\n",
        b"1" * 300,
        b"0\r\nno colon\r\n\r\n",
        b"0\r\n folded: x\r\n\r\n",
        b"0\r\nX: a\x00\r\n\r\n",
        b"0\r\nX: a\nY: b\r\n\r\n",
        b"0\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
    ],
)
@pytest.mark.parametrize("is_cut", [False, True])
def test_a_chunked_body_that_is_not_exactly_of_the_grammar_is_refused(
    data: bytes, is_cut: bool
) -> None:
    cuts = range(min(len(data), 400)) if is_cut else ()
    with pytest.raises(Http1Error):
        decode(data, *cuts)


def test_a_chunk_size_may_be_large_but_not_endless() -> None:
    body = ChunkedBody()
    assert body.feed(b"fffffffffffffff\r\nabc", 0, 20) == (b"abc", 20)


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=50), max_size=8),
    cuts=st.lists(st.integers(1, 500), max_size=20),
    rest=st.binary(max_size=10),
)
def test_a_chunked_body_is_the_same_however_it_arrives(
    chunks: list[bytes], cuts: list[int], rest: bytes
) -> None:
    data = b"".join([b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks]) + b"0\r\n\r\n"
    assert decode(data, *cuts) == (b"".join(chunks), b"")
    assert decode(data + rest) == (b"".join(chunks), rest)


class _Llhttp:
    """What llhttp makes of a chunked body: the independent judge."""

    def __init__(self, data: bytes) -> None:
        self.body = b""
        self.is_complete = False
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(httptools.HttpParserError):
            parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        if not self.is_complete:
            self.body += part

    def on_message_complete(self) -> None:
        self.is_complete = True


_NOISE = st.lists(
    st.sampled_from([b"0", b"1", b"5", b"a", b"\r\n", b"\r", b"\n", b"hello", b"X:y", b"\x00"]),
    max_size=14,
).map(b"".join)
"""Without blanks and extensions, of which llhttp takes fewer than we do."""


@given(data=_NOISE)
def test_a_chunked_body_that_we_accept_is_the_same_to_llhttp(data: bytes) -> None:
    try:
        body, _ = decode(data)
    except (Http1Error, EOFError):
        return
    judge = _Llhttp(data)
    assert judge.is_complete
    assert judge.body == body


@pytest.mark.parametrize(
    "status, line",
    [(200, b"HTTP/1.1 200 OK\r\n"), (431, None), (599, b"HTTP/1.1 599 \r\n")],
)
def test_a_status_line_has_the_reason_phrase_where_there_is_one(
    status: int, line: bytes | None
) -> None:
    rendered = http1.status_line(status)
    assert rendered == line or (line is None and rendered.startswith(b"HTTP/1.1 431 Request "))


@pytest.mark.parametrize("status, expected", [(200, False), (204, True), (304, True), (103, True)])
def test_some_answers_never_have_a_body(status: int, expected: bool) -> None:
    assert http1.is_bodiless(status) is expected
