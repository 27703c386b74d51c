from __future__ import annotations

import h2.connection
import h2.events
import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dataplane.accept import proxy_header
from gateway.dataplane.accept.over_limit import http1_answer, http2_answer
from gateway.dataplane.accept.protocol_detection import (
    PROXY_HERE,
    TLS_HERE,
    is_http2,
    is_undecided,
    what_is_meant,
)
from gateway.outcome import REFUSALS
from gateway.wire.http2 import PREFACE

CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32)


def decide(data: bytes, at_once: int) -> tuple[int, bool | None, str | None]:
    """Feed bytes in pieces as the sniffer does; return how many it took, and what was decided."""
    for length in range(at_once, len(data) + at_once, at_once):
        start = data[:length][: len(PREFACE)]
        if not is_undecided(start):
            return min(length, len(data)), is_http2(start), what_is_meant(start)
    return len(data), None, None


@pytest.mark.parametrize("at_once", [1, 1000])
@pytest.mark.parametrize(
    "data,http2,meant",
    [
        (PREFACE + b"\0\0\0\x04\0\0\0\0\0", True, None),
        (b"POST /v1/traces HTTP/1.1\r\n", False, None),
        (b"PUT /v1/traces HTTP/1.1\r\n", False, None),
        (b"PRI * HTTP/1.1\r\n\r\n", False, None),
        (b"PRIVATE / HTTP/1.1\r\n", False, None),
        (b"GET /livez HTTP/1.1\r\n", False, None),
        (b"\r\nGET /livez HTTP/1.1\r\n", False, None),
        (b"\r\n\r\nGET /livez HTTP/1.1\r\n", False, None),
        (b"\x00\x01\x02", False, None),
        (CLIENT_HELLO, False, TLS_HERE),
        (b"\x16\x00", False, None),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", False, PROXY_HERE),
        (proxy_header.SIGNATURE + b"\x21", False, PROXY_HERE),
    ],
)
def test_the_first_bytes_tell_what_a_client_speaks_however_they_are_cut(
    data: bytes, http2: bool, meant: str | None, at_once: int
) -> None:
    _, seen_http2, seen_meant = decide(data, at_once)
    assert (seen_http2, seen_meant) == (http2, meant)


@pytest.mark.parametrize("method", [b"POST", b"GET", b"HEAD", b"OPTIONS", b"PUT", b"PATCH"])
def test_no_request_line_has_to_be_longer_than_three_bytes_to_be_known(method: bytes) -> None:
    taken, http2, _ = decide(method + b" / HTTP/1.1\r\n\r\n", 1)
    assert taken <= 3
    assert http2 is False


@given(st.binary(min_size=1, max_size=40))
def test_what_is_decided_does_not_depend_on_how_the_bytes_are_cut(data: bytes) -> None:
    whole = decide(data, len(data))[1:]
    by_byte = decide(data, 1)[1:]
    assert whole == by_byte


def test_beyond_the_limit_an_http1_client_is_told_to_come_back() -> None:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="POST", target="/v1/traces", headers=[("Host", "gateway")]))
    client.send(h11.EndOfMessage())
    client.receive_data(http1_answer(REFUSALS["CONNECTION_LIMIT"]))
    response = client.next_event()
    assert isinstance(response, h11.Response)
    assert response.status_code == 503
    headers = dict(response.headers)
    assert headers[b"retry-after"] == b"2"
    assert headers[b"connection"] == b"close"
    body = client.next_event()
    assert isinstance(body, h11.Data)
    assert REFUSALS["CONNECTION_LIMIT"].text.encode() in body.data
    assert isinstance(client.next_event(), h11.EndOfMessage)


def test_beyond_the_limit_an_http2_client_is_told_that_nothing_was_processed() -> None:
    client = h2.connection.H2Connection()
    client.initiate_connection()
    client.send_headers(
        1,
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/v1/traces"),
            (":authority", "gateway"),
        ],
    )
    events = client.receive_data(http2_answer())
    (goaway,) = [event for event in events if isinstance(event, h2.events.ConnectionTerminated)]
    assert goaway.last_stream_id == 0
    assert goaway.error_code == 0
    assert isinstance(events[0], h2.events.RemoteSettingsChanged)
