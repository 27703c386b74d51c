"""What a gateway tells the others of its limited keys in use, and what its own part is by that.

Keys are named by what stands in the table of limits: hashes of their ids. So a report says nothing
of a key that is not in use at its reader's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from gateway.control.limits.division import divide, divide_whole

Triple = tuple[float, float, float]
"""By the order of `quota_layout.LIMITED`: requests and bytes per second, requests at once."""
Wanted = Mapping[bytes, Triple]
"""Key → what its senders want at one gateway."""

LEAST_SHARE: Final = 1e-6
"""A share is never 0, which would mean that there is none."""
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(dict[bytes, Triple]).decode


def owner_key(owner: tuple[float, float]) -> bytes:
    """Write a row's owner as reports name it: 14 bytes."""
    return int(owner[0]).to_bytes(7, "big") + int(owner[1]).to_bytes(7, "big")


def encode(wanted: Wanted) -> bytes:
    """Write a report."""
    return _encode(wanted)


def decode(report: bytes) -> Wanted:
    """Read a report. Raises `ValueError`: another version of the gateway wrote it."""
    try:
        found = _decode(report)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
    if any(not 0 <= value < float("inf") for wants in found.values() for value in wants):
        msg = "a number in it is negative or infinite"
        raise ValueError(msg)
    return found


def shares(
    key: bytes, limits: Triple, mine: tuple[str, Triple], others: Iterable[tuple[str, Wanted]]
) -> Triple:
    """Return this gateway's share of each of a key's limits, 0 < share <= 1.

    `mine` is this gateway's name with what the key wants here, `others` are all other gateways with
    what they want. The order of names decides who gets what cannot be divided.
    """
    found = dict(others)
    names = sorted([mine[0], *found])
    nothing = (0.0, 0.0, 0.0)
    wants = [mine[1] if name == mine[0] else found[name].get(key, nothing) for name in names]
    at = names.index(mine[0])
    requests, size, concurrent = zip(*wants, strict=True)
    whole = int(limits[2])
    parts = (
        divide(limits[0], requests)[at],
        divide(limits[1], size)[at],
        float(divide_whole(whole, concurrent)[at]),
    )
    equal = 1.0 / len(names)
    first, second, third = (
        max(LEAST_SHARE, min(1.0, part / limit)) if limit else equal
        for part, limit in zip(parts, limits, strict=True)
    )
    return first, second, third


def nearer(share: float, goal: float, step: float) -> float:
    """Return a share that is by a part of the way, `step`, nearer to `goal`."""
    return share + (goal - share) * step
