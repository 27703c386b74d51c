"""The PROXY protocol, versions 1 and 2: the client's address as a load balancer tells it.

The header is taken off the accepted socket before anything else reads it, because TLS may begin
right behind it, and never a byte more than the header. Whom to believe is the front door's
business. Source: "The PROXY protocol, versions 1 & 2" (haproxy.org), §2.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Final

from gateway.dataplane.core import peers

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
"""The first 12 bytes of version 2."""
V1_START: Final = b"PROXY "
_V1_LONGEST: Final = 107
"""Bytes of the longest version 1 header with its CRLF (§2.1)."""
_V2_HEAD: Final = 16
_V2_LONGEST_REST: Final = 4_096
"""Addresses take at most 216 bytes; the rest is for TLVs, which are ignored."""
_V2_ADDRESS_BYTES: Final = {0x1: (4, 12), 0x2: (16, 36)}
"""Address family → bytes of one address, bytes of the whole address block."""
_V1_FAMILIES: Final = {"TCP4": socket.AF_INET, "TCP6": socket.AF_INET6}
_LARGEST_PORT: Final = 65_535


class ProxyHeaderError(Exception):
    """What stands where a PROXY header is expected is none."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A whole header. `length` is its size in bytes on the wire."""

    length: int
    peer: str | None
    """The client as `peers.describe` writes it.

    None where the balancer speaks for itself (LOCAL, such as its health checks) or cannot tell
    (UNKNOWN, UNSPEC, Unix sockets): the connection's own address counts.
    """


def parse(data: bytes) -> ProxyHeader | None:
    """Read the header that `data` begins with; None while more bytes are needed.

    Never looks behind the header's end. Raises `ProxyHeaderError` as soon as it cannot become one.
    """
    if data[:12] == SIGNATURE[: len(data)]:
        return _parse_v2(data)
    if data[:6] == V1_START[: len(data)]:
        return _parse_v1(data)
    msg = "it begins otherwise"
    raise ProxyHeaderError(msg)


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, _V1_LONGEST)
    if end < 0:
        if len(data) >= _V1_LONGEST:
            msg = "version 1: no end of line within 107 bytes"
            raise ProxyHeaderError(msg)
        return None
    try:
        words = data[:end].decode("ascii").split(" ")
    except UnicodeDecodeError:
        msg = "version 1: not ASCII"
        raise ProxyHeaderError(msg) from None
    return ProxyHeader(end + 2, _peer_v1(words))


def _peer_v1(words: list[str]) -> str | None:
    """Read PROXY, family, source, destination, source port, destination port."""
    if words[1] == "UNKNOWN":
        return None
    family = _V1_FAMILIES.get(words[1])
    if family is None or len(words) != 6:
        msg = "version 1: not 'PROXY TCP4|TCP6 source destination port port'"
        raise ProxyHeaderError(msg)
    for host in words[2:4]:
        _check_address(family, host)
    ports = [_port(word) for word in words[4:]]
    return peers.describe(words[2], ports[0])


def _check_address(family: socket.AddressFamily, host: str) -> None:
    try:
        socket.inet_pton(family, host)
    except (OSError, ValueError):  # ValueError: a NUL in it
        msg = "version 1: an address that is none"
        raise ProxyHeaderError(msg) from None


def _port(word: str) -> int:
    if not (word.isdecimal() and word.isascii() and int(word) <= _LARGEST_PORT):
        msg = "version 1: a port that is none"
        raise ProxyHeaderError(msg)
    return int(word)


def _parse_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < _V2_HEAD:
        return None
    version, command = data[12] >> 4, data[12] & 0xF
    rest = int.from_bytes(data[14:16], "big")
    if version != 2 or command > 1:
        msg = "version 2: unknown version or command"
        raise ProxyHeaderError(msg)
    if rest > _V2_LONGEST_REST:
        msg = f"version 2: {rest} bytes of addresses and TLVs, more than {_V2_LONGEST_REST}"
        raise ProxyHeaderError(msg)
    if len(data) < _V2_HEAD + rest:
        return None
    is_local = command == 0
    peer = None if is_local else _peer_v2(data[13], data[_V2_HEAD : _V2_HEAD + rest])
    return ProxyHeader(_V2_HEAD + rest, peer)


def _peer_v2(family_and_transport: int, block: bytes) -> str | None:
    """Read source, destination, source port, destination port, TLVs."""
    sizes = _V2_ADDRESS_BYTES.get(family_and_transport >> 4)
    if sizes is None:
        return None
    address, whole = sizes
    if len(block) < whole:
        msg = "version 2: the address block is cut off"
        raise ProxyHeaderError(msg)
    family = socket.AF_INET if address == 4 else socket.AF_INET6
    host = socket.inet_ntop(family, block[:address])
    return peers.describe(host, int.from_bytes(block[2 * address : 2 * address + 2], "big"))


class HeaderReader:
    """Takes one header off a non-blocking socket, as its bytes come."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.seen = b""
        """What has been taken off so far."""

    def read(self) -> ProxyHeader | None:
        """Read what has come; None while more is needed.

        What cannot be behind the header's end is consumed at once, so that a socket with a part
        of a header is not readable any more. Raises `ProxyHeaderError`, `EOFError` when the peer
        closed in the middle of it, `BlockingIOError` when nothing has come, other `OSError`.
        """
        peeked = self._sock.recv(_V2_HEAD + _V2_LONGEST_REST, socket.MSG_PEEK)
        if not peeked:
            raise EOFError
        header = parse(self.seen + peeked)
        consumed = len(peeked) if header is None else header.length - len(self.seen)
        self.seen += self._sock.recv(consumed)
        return header
