"""Empty lines before a request line on a client's HTTP/1.1 connection (RFC 9112 §2.2)."""

from __future__ import annotations

import pytest

from tests.fuzz.worlds import ServerWorld, pieces
from tests.support.in_memory import HTTP_PATH
from tests.support.plane import KEY

pytestmark = pytest.mark.asyncio
POST = (
    b"POST /v1/traces HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    b"Authorization: StackState " + KEY.encode() + b"\r\nContent-Length: 2\r\n\r\n{}"
)


@pytest.mark.parametrize("before", [b"", b"\r\n", b"\r\n\r\n", b"\r\n" * 40])
@pytest.mark.parametrize("size", [0, 1, 2, 3])
async def test_empty_lines_are_ignored_however_they_arrive(before: bytes, size: int) -> None:
    client = ServerWorld(is_http2=False)
    for piece in pieces((before + POST) * 2, size):
        await client.send(piece)
    assert [upstream.target for upstream in client.forwarded] == [(HTTP_PATH, None)] * 2
    await client.end()


@pytest.mark.parametrize("before", [b"\r", b"\n", b"\r\r", b"\r\r\n", b"\r\n\n", b"\n\r\n"])
@pytest.mark.parametrize("size", [0, 1, 2, 3])
async def test_a_line_end_that_is_not_cr_lf_is_refused(before: bytes, size: int) -> None:
    """A bare CR is no line end, and a bare LF is none anywhere else (RFC 9112 §2.2)."""
    client = ServerWorld(is_http2=False)
    for piece in pieces(before + POST, size):
        await client.send(piece)
    assert client.forwarded == []
    assert client.wire.transport.written.startswith(b"HTTP/1.1 400 ")
    await client.end()
