"""The admin and the metrics address, full of connections that ask nothing or never end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bench.hostile.attack import CONNECTIONS, Attack, Target, Traffic
from bench.hostile.flood import Flood, Inbox, Plan, Step

_EACH: Final = 300
_COUNTED: Final = (CONNECTIONS, r"^gateway_admin_\w+_total\b")
_HALF: Final = (
    b"POST /api/security/ingestion HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
)


def _send(target: Target, seconds: float, first: bytes) -> Traffic:
    def script(_number: int, _inbox: Inbox) -> Iterator[Step]:
        if first:
            yield first

    plan = Plan((target.admin, target.metrics), script, connections=2 * _EACH)
    return Flood(plan).run(seconds)


ATTACKS: Final = (
    Attack(
        "admin-idle",
        "300 idle connections to the admin address, 300 to metrics",
        lambda target, seconds: _send(target, seconds, b""),
        _COUNTED,
    ),
    Attack(
        "admin-half-bodies",
        "300 half-sent bodies each",
        lambda target, seconds: _send(target, seconds, _HALF),
        _COUNTED,
    ),
)
