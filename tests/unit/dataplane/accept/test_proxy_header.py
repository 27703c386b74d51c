from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dataplane.accept.proxy_header import (
    SIGNATURE,
    HeaderReader,
    ProxyHeader,
    ProxyHeaderError,
    parse,
)

V1 = b"PROXY TCP4 203.0.113.7 10.0.0.1 51234 4317\r\n"


def v2(command: int, family: int, block: bytes) -> bytes:
    return SIGNATURE + bytes([0x20 | command, family]) + len(block).to_bytes(2, "big") + block


V2_IPV4 = v2(1, 0x11, bytes([203, 0, 113, 7, 10, 0, 0, 1]) + b"\xc8\x22\x10\xdd")
V2_IPV6 = v2(
    1,
    0x21,
    socket.inet_pton(socket.AF_INET6, "2001:db8::7")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + b"\xc8\x22\x10\xdd",
)
TLV = b"\x03\x00\x04\x01\x02\x03\x04"


@pytest.mark.parametrize(
    "header,peer",
    [
        (V1, "203.0.113.7:51234"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 51234 4317\r\n", "[2001:db8::7]:51234"),
        (b"PROXY TCP6 ::ffff:203.0.113.7 ::1 1 2\r\n", "203.0.113.7:1"),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
        (V2_IPV4, "203.0.113.7:51234"),
        (V2_IPV6, "[2001:db8::7]:51234"),
        (v2(1, 0x11, V2_IPV4[16:] + TLV), "203.0.113.7:51234"),
        (v2(0, 0x00, b""), None),
        (v2(0, 0x11, V2_IPV4[16:]), None),
        (v2(1, 0x00, TLV), None),
        (v2(1, 0x31, bytes(216)), None),
    ],
)
def test_a_header_tells_the_client_and_its_own_length_whatever_follows(
    header: bytes, peer: str | None
) -> None:
    assert parse(header) == ProxyHeader(len(header), peer)
    assert parse(header + b"\x16\x03\x01PROXY\r\n" * 30) == ProxyHeader(len(header), peer)


@pytest.mark.parametrize("header", [V1, V2_IPV4, V2_IPV6, b"PROXY UNKNOWN\r\n"])
def test_every_beginning_of_a_header_asks_for_more(header: bytes) -> None:
    assert [parse(header[:length]) for length in range(1, len(header))] == [None] * (
        len(header) - 1
    )


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"\x16\x03\x01",
        b"proxy TCP4 ",
        b"PROXY TCP5 203.0.113.7 10.0.0.1 51234 4317\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 51234\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 51234 4317 \r\n",
        b"PROXY TCP4 203.0.113.999 10.0.0.1 51234 4317\r\n",
        b"PROXY TCP4 2001:db8::7 10.0.0.1 51234 4317\r\n",
        b"PROXY TCP4 203.0.113.7 elsewhere 51234 4317\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 65536 4317\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 -1 4317\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 \xd9\xa3 4317\r\n",
        b"PROXY  TCP4 203.0.113.7 10.0.0.1 1 2\r\n",
        b"PROXY TCP4 203.0.113.7\0 10.0.0.1 51234 4317\r\n",
        b"PROXY TCP6 ::1 \x1a\0\0db8::1 1 65535\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4 " + b"1" * 200,
        b"PROXY TCP4 " + b"1" * 94 + b"\r\n\r\n",
        SIGNATURE + b"\x31\x11\x00\x0c" + bytes(12),
        SIGNATURE + b"\x22\x11\x00\x0c" + bytes(12),
        SIGNATURE + b"\x21\x11\xff\xff",
        v2(1, 0x11, bytes(11)),
        v2(1, 0x21, bytes(35)),
    ],
)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(ProxyHeaderError):
        parse(data)


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    for start in (b"", b"PROXY ", SIGNATURE, SIGNATURE + b"\x21"):
        try:
            header = parse(start + data)
        except ProxyHeaderError:
            continue
        assert header is None or header.length <= len(start + data)


@pytest.fixture(name="pair")
def _pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("header", [V1, V2_IPV6])
def test_the_reader_takes_the_header_off_the_socket_and_not_a_byte_more(
    pair: tuple[socket.socket, socket.socket], header: bytes
) -> None:
    ours, theirs = pair
    theirs.sendall(header + b"\x16\x03\x01hello")
    assert HeaderReader(ours).read() == parse(header)
    assert ours.recv(100) == b"\x16\x03\x01hello"


@pytest.mark.parametrize("header", [V1, V2_IPV6])
def test_a_header_that_comes_byte_by_byte_is_read_and_leaves_nothing_readable_meanwhile(
    pair: tuple[socket.socket, socket.socket], header: bytes
) -> None:
    ours, theirs = pair
    reader = HeaderReader(ours)
    for byte in header[:-1]:
        theirs.sendall(bytes([byte]))
        assert reader.read() is None
        with pytest.raises(BlockingIOError):
            ours.recv(1, socket.MSG_PEEK)
    theirs.sendall(header[-1:] + b"next")
    assert reader.read() == parse(header)
    assert ours.recv(100) == b"next"


def test_a_peer_that_closes_in_the_middle_of_a_header_is_noticed(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    reader = HeaderReader(ours)
    theirs.sendall(V1[:10])
    assert reader.read() is None
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        reader.read()
    assert reader.seen == V1[:10]
