"""Header blocks that cost more to read than to send."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Final

from bench import wire
from bench.hostile import frames
from bench.hostile.attack import ABUSE, Attack, Target, Traffic, results
from bench.hostile.flood import Flood, Inbox, Plan, Step

_CONNECTIONS: Final = 4
_MALFORMED: Final = (ABUSE, results("malformed"))
_AT_ONCE_BYTES: Final = 1 << 16


def _send(header_block: bytes, first: bytes = b"") -> Callable[[Target, float], Traffic]:
    """Send one block on stream after stream; `first` goes before that of the first one."""
    at_once = max(1, _AT_ONCE_BYTES // len(header_block))

    def script(_number: int, _inbox: Inbox) -> Iterator[Step]:
        yield frames.PREFACE + frames.headers(1, first + header_block)
        for stream in itertools.count(3, 2 * at_once):
            yield frames.streams(stream, at_once, header_block)

    def send(target: Target, seconds: float) -> Traffic:
        return Flood(Plan((target.plain,), script, _CONNECTIONS)).run(seconds)

    return send


def _without_end(opening: bytes, piece: bytes) -> Callable[[Target, float], Traffic]:
    def script(_number: int, _inbox: Inbox) -> Iterator[Step]:
        yield frames.PREFACE + opening
        yield from frames.for_ever(piece)

    def send(target: Target, seconds: float) -> Traffic:
        return Flood(Plan((target.plain,), script, _CONNECTIONS)).run(seconds)

    return send


_request = frames.block()
_LARGE_ENTRY: Final = b"\x40\x01x\x7f\xb1\x1e" + b"a" * 4017
"""A field of 4,017 bytes that enters the table as its only entry, 62."""
_BOMB: Final = b"\xbe" * 12_000
_TINY: Final = b"\x00\x01a\x00" * 1_900
_OVERSIZED: Final = (b"\x00\x01b\x7f\x81\x07" + b"c" * 1024) * 120
_UNFINISHED: Final = wire.frame(wire.HEADERS, wire.FLAG_END_STREAM, 1, _request)
_EMPTY_CONTINUATION: Final = wire.frame(frames.CONTINUATION, 0, 1, b"")

ATTACKS: Final = (
    Attack(
        "hpack-size-updates",
        "16,000 table size updates in a block",
        _send(b"\x20" * 16_000 + _request),
        _MALFORMED,
    ),
    Attack(
        "hpack-bomb",
        "12,000 references to an entry of 4 kB",
        _send(_request + _BOMB, first=_LARGE_ENTRY),
        _MALFORMED,
    ),
    Attack(
        "tiny-fields",
        "requests with 1,900 fields",
        _send(_request + _TINY),
        (*_MALFORMED, results("denied")),
    ),
    Attack(
        "oversized-lists",
        "header lists of 120 kB",
        _send(_request + _OVERSIZED),
        _MALFORMED,
    ),
    Attack(
        "continuation-empty",
        "empty CONTINUATION without end",
        _without_end(_UNFINISHED, _EMPTY_CONTINUATION),
        _MALFORMED,
    ),
    Attack(
        "continuation-1-byte",
        "CONTINUATION of 1 byte without end",
        _without_end(_UNFINISHED, wire.frame(frames.CONTINUATION, 0, 1, b"\x20")),
        _MALFORMED,
    ),
)
