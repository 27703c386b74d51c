"""Streams that are begun and given up, or never end."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from bench import wire
from bench.hostile import frames
from bench.hostile.attack import ABUSE, Attack, Target, Traffic, results
from bench.hostile.flood import Flood, Inbox, Plan, Step

_CONNECTIONS: Final = 4
_AT_ONCE: Final = 300
_MANY: Final = 60
_STREAMS: Final = 1_000
"""What the gateway lets one connection open at once (`limits.max_streams_per_connection`)."""
_CANCEL: Final = b"\0\0\0\x08"


def _reset(stream: int) -> bytes:
    return wire.frame(wire.RST_STREAM, 0, stream, _CANCEL)


def _cause_reset(stream: int) -> bytes:
    """A WINDOW_UPDATE of 0 makes the server reset the stream (RFC 9113, section 6.9)."""
    return wire.window_update(stream, 0)


def _given_up(target: Target, seconds: float, *, with_key: bool, by_server: bool) -> Traffic:
    header_block = frames.block(target.key if with_key else None, frames.GRPC_PATH)
    end = _cause_reset if by_server else _reset

    def script(_number: int, _inbox: Inbox) -> Iterator[Step]:
        yield frames.PREFACE
        for first in itertools.count(1, 2 * _AT_ONCE):
            yield b"".join(
                frames.headers(stream, header_block, frames.OPEN) + end(stream)
                for stream in range(first, first + 2 * _AT_ONCE, 2)
            )

    return Flood(Plan((target.plain,), script, _CONNECTIONS)).run(seconds)


def _zero_windows(target: Target, seconds: float) -> Traffic:
    """Requests whose answers may not be sent, with a key so that a backend answers, and without."""
    opening = frames.NO_WINDOW
    half = _STREAMS // 2
    refused = frames.streams(1, half, frames.block())
    answered = frames.streams(2 * half + 1, half, frames.block(target.key))

    def script(_number: int, _inbox: Inbox) -> Iterator[Step]:
        yield opening + refused + answered

    return Flood(Plan((target.plain,), script, _MANY)).run(seconds)


def _unended(target: Target, seconds: float) -> Traffic:
    begun = frames.streams(1, _STREAMS, frames.block(target.key, frames.GRPC_PATH), frames.OPEN)

    def script(_number: int, _inbox: Inbox) -> Iterator[Step]:
        yield frames.PREFACE + begun

    return Flood(Plan((target.plain,), script, _MANY)).run(seconds)


_ENDED: Final = (ABUSE,)
_REFUSED: Final = (*_ENDED, results("denied"))
"""Without a key a request is answered before its reset is read: nothing is left to give up."""

ATTACKS: Final = (
    Attack(
        "rapid-reset",
        "HEADERS and RST_STREAM, no key",
        lambda target, seconds: _given_up(target, seconds, with_key=False, by_server=False),
        _REFUSED,
    ),
    Attack(
        "rapid-reset-key",
        "HEADERS and RST_STREAM, valid key",
        lambda target, seconds: _given_up(target, seconds, with_key=True, by_server=False),
        _ENDED,
    ),
    Attack(
        "made-you-reset",
        "streams that the gateway must reset, no key",
        lambda target, seconds: _given_up(target, seconds, with_key=False, by_server=True),
        _REFUSED,
    ),
    Attack(
        "made-you-reset-key",
        "streams that the gateway must reset, valid key",
        lambda target, seconds: _given_up(target, seconds, with_key=True, by_server=True),
        _ENDED,
    ),
    Attack(
        "zero-windows",
        "60,000 answers that wait for a window",
        _zero_windows,
        (*_ENDED, results("denied", "overloaded")),
    ),
    Attack(
        "unended-streams",
        "60,000 streams without end, valid key",
        _unended,
        (*_ENDED, results("overloaded", "quota", "canceled")),
    ),
)
