"""Heads that come slowly or not at all, and requests that are refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from bench import wire
from bench.hostile import frames
from bench.hostile.attack import ABUSE, CONNECTIONS, Attack, Target, Traffic, results
from bench.hostile.flood import Flood, Inbox, Plan, Step

_OPEN: Final = r"^gateway_connections\b"
_SLOW: Final = (ABUSE, CONNECTIONS, results("malformed", "overloaded"))
_MADE_UP: Final = 40_000

_PARTIAL_BLOCK: Final = (b"\x00\x01b\x7f\x81\x07" + b"c" * 1024) * 126
_PARTIAL_HTTP2: Final = frames.PREFACE + frames.headers(1, frames.block() + _PARTIAL_BLOCK, 0)
_PARTIAL_HTTP1: Final = (
    b"POST /v1/traces HTTP/1.1\r\nHost: gateway\r\n" + (b"X: " + b"c" * 1000 + b"\r\n") * 64
)
_REFUSED: Final = b"POST /v1/traces HTTP/1.1\r\nHost: gateway\r\nContent-Length: 0\r\n\r\n" * 500
_SLOW_HEAD: Final = b"POST /v1/traces HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json"


def _partial(target: Target, seconds: float, opening: bytes) -> Traffic:
    def script(_number: int, _inbox: Inbox) -> Iterator[Step]:
        yield opening

    return Flood(Plan((target.plain,), script, connections=1_500)).run(seconds)


def _slow_heads(target: Target, seconds: float) -> Traffic:
    def script(_number: int, _inbox: Inbox) -> Iterator[Step]:
        for at in range(len(_SLOW_HEAD)):
            yield _SLOW_HEAD[at : at + 1]
            yield 1.0

    return Flood(Plan((target.plain,), script, connections=2_000)).run(seconds)


def _idle(target: Target, seconds: float) -> Traffic:
    def script(_number: int, _inbox: Inbox) -> Iterator[Step]:
        return iter(())

    return Flood(Plan((target.plain,), script, connections=5_000)).run(seconds)


def _made_up_keys(target: Target, seconds: float) -> Traffic:
    """40,000 keys in turn, half over HTTP/1.1 and half over HTTP/2."""
    numbers = itertools.cycle(range(_MADE_UP))

    def http1(_number: int, _inbox: Inbox) -> Iterator[Step]:
        while True:
            yield b"".join(
                b"POST /v1/traces HTTP/1.1\r\nHost: gateway\r\nContent-Length: 0\r\n"
                b"Content-Type: application/x-protobuf\r\n"
                b"Authorization: StackState iapikey-made-up-%026d\r\n\r\n" % next(numbers)
                for _ in range(100)
            )

    def http2(_number: int, _inbox: Inbox) -> Iterator[Step]:
        yield frames.PREFACE + wire.window_update(0, 1 << 30)
        for first in itertools.count(1, 200):
            yield b"".join(
                frames.headers(stream, frames.block(f"iapikey-made-up-{next(numbers):026d}"))
                for stream in range(first, first + 200, 2)
            )

    def script(number: int, inbox: Inbox) -> Iterator[Step]:
        return (http1, http2)[number % 2](number, inbox)

    return Flood(Plan((target.plain,), script, connections=16)).run(seconds)


def _pipelined(target: Target, seconds: float) -> Traffic:
    def script(_number: int, _inbox: Inbox) -> Iterator[Step]:
        yield from frames.for_ever(_REFUSED)

    return Flood(Plan((target.plain,), script, connections=8)).run(seconds)


def _pipelined_unread(target: Target, seconds: float) -> Traffic:
    """The same without reading an answer."""

    def script(_number: int, _inbox: Inbox) -> Iterator[Step]:
        yield from frames.for_ever(_REFUSED)

    return Flood(Plan((target.plain,), script, connections=8, reads=False)).run(seconds)


ATTACKS: Final = (
    Attack(
        "partial-heads",
        "1,500 heads of 128 kB without end, HTTP/2",
        lambda target, seconds: _partial(target, seconds, _PARTIAL_HTTP2),
        _SLOW,
    ),
    Attack(
        "partial-heads-http1",
        "1,500 heads of 64 kB without end, HTTP/1.1",
        lambda target, seconds: _partial(target, seconds, _PARTIAL_HTTP1),
        _SLOW,
    ),
    Attack("slow-heads", "2,000 heads, 1 byte a second", _slow_heads, _SLOW),
    Attack("idle", "5,000 idle connections", _idle, (CONNECTIONS, _OPEN)),
    Attack(
        "made-up-keys",
        f"{_MADE_UP:,} made-up keys in turn",
        _made_up_keys,
        (results("denied"),),
    ),
    Attack(
        "pipelined",
        "refused requests over 8 connections",
        _pipelined,
        (results("denied"),),
    ),
    Attack(
        "pipelined-unread",
        "refused requests over 8 connections, answers unread",
        _pipelined_unread,
        (results("denied"),),
    ),
)
