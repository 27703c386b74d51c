"""Uploads that are cut fine, come slowly, or go where nobody reads."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Final

from bench import keys, wire
from bench.hostile import frames
from bench.hostile.attack import ABUSE, CONNECTIONS, Attack, Target, Traffic, results
from bench.hostile.flood import UNTIL_READ, Flood, Inbox, Plan, Step
from bench.sink import STALL

_HELD: Final = (ABUSE, CONNECTIONS, results("overloaded", "canceled", "quota"))
_UPLOAD_BYTES: Final = 10_000_000
_PIECE: Final = bytes(wire.MAX_FRAME_BYTES)
_STALLED: Final = [(STALL, "1")]
"""Asks the bench's backend not to read this request's body."""


def _head(key: str, length: int, *, stall: bool) -> bytes:
    more = f"{STALL}: 1\r\n" if stall else ""
    return (
        f"POST /v1/traces HTTP/1.1\r\nHost: gateway\r\nContent-Length: {length}\r\n"
        f"Authorization: {keys.SCHEME} {key}\r\n{more}"
        "Content-Type: application/x-protobuf\r\n\r\n"
    ).encode()


def _crumbs(target: Target, seconds: float, size: int) -> Traffic:
    """A window full of DATA frames of `size` bytes, on each of 100 connections."""
    opening = frames.PREFACE + frames.headers(
        1, frames.block(target.key, more=_STALLED), frames.OPEN
    )
    many = wire.frame(wire.DATA, 0, 1, bytes(size)) * 1_000

    def script(_number: int, _inbox: Inbox) -> Iterator[Step]:
        yield opening
        for _ in range(wire.DEFAULT_WINDOW // (1_000 * size)):
            yield many

    return Flood(Plan((target.plain,), script, connections=100)).run(seconds)


def _trickle(target: Target, seconds: float, connections: int) -> Traffic:
    head = _head(target.key, 1_000, stall=False)

    def script(_number: int, _inbox: Inbox) -> Iterator[Step]:
        yield head
        while True:
            yield b"x"
            yield 1.0

    return Flood(Plan((target.plain,), script, connections)).run(seconds)


def _stalled_http1(target: Target, seconds: float, *, tls: bool) -> Traffic:
    head = _head(target.key, _UPLOAD_BYTES, stall=True)

    def script(_number: int, _inbox: Inbox) -> Iterator[Step]:
        yield head
        for _ in range(_UPLOAD_BYTES // len(_PIECE)):
            yield _PIECE

    context = _trusting() if tls else None
    ports = (target.tls if tls else target.plain,)
    return Flood(Plan(ports, script, connections=1_000, tls=context)).run(seconds)


def _stalled_http2(target: Target, seconds: float) -> Traffic:
    """20 uploads on each of 50 connections, as fast as the windows let them."""
    header_block = frames.block(target.key, more=_STALLED)
    opening = frames.PREFACE + frames.streams(1, 20, header_block, frames.OPEN)

    def script(_number: int, inbox: Inbox) -> Iterator[Step]:
        assert isinstance(inbox, frames.Windows)  # noqa: S101 -- the plan's
        yield opening
        left = dict.fromkeys(range(1, 41, 2), _UPLOAD_BYTES)
        for stream in left:
            inbox.open(stream)
        while left:
            moved = False
            for stream in left:
                size = inbox.take(stream, min(left[stream], wire.MAX_FRAME_BYTES))
                if size:
                    moved = True
                    left[stream] -= size
                    yield wire.frame(wire.DATA, 0, stream, _PIECE[:size])
            if not moved:
                yield UNTIL_READ

    return Flood(Plan((target.plain,), script, connections=50, inbox=frames.Windows)).run(seconds)


def _trusting() -> ssl.SSLContext:
    """Return a client's context: an attacker checks no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


ATTACKS: Final = (
    Attack(
        "data-1-byte",
        "DATA frames of 1 byte, 100 windows full",
        lambda target, seconds: _crumbs(target, seconds, 1),
        _HELD,
    ),
    Attack(
        "data-2-bytes",
        "DATA frames of 2 bytes, 100 windows full",
        lambda target, seconds: _crumbs(target, seconds, 2),
        _HELD,
    ),
    Attack(
        "trickle-256",
        "256 uploads of one key, 1 byte a second",
        lambda target, seconds: _trickle(target, seconds, 256),
        _HELD,
    ),
    Attack(
        "trickle-1000",
        "1,000 uploads of one key, 1 byte a second",
        lambda target, seconds: _trickle(target, seconds, 1_000),
        _HELD,
    ),
    Attack(
        "stalled-http2",
        "1,000 × 10 MB over HTTP/2, the backend does not read",
        _stalled_http2,
        _HELD,
    ),
    Attack(
        "stalled-http1",
        "1,000 × 10 MB over HTTP/1.1, the backend does not read",
        lambda target, seconds: _stalled_http1(target, seconds, tls=False),
        _HELD,
    ),
    Attack(
        "stalled-tls",
        "1,000 × 10 MB over TLS, the backend does not read",
        lambda target, seconds: _stalled_http1(target, seconds, tls=True),
        _HELD,
    ),
)
