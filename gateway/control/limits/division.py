"""How a limit is divided among gateways: decided here, by numbers alone.

Every gateway divides by what all of them have reported, and takes its own part. So nobody waits for
anybody; reports that differ by a moment make the parts differ by as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

FLOOR: Final = 0.05
"""This part of a limit is kept for gateways whose senders may begin: for all of them together."""
HEADROOM: Final = 1.2
"""A gateway gets so many times what its senders have sent, so that they can send more."""


def divide(limit: float, wanted: Sequence[float]) -> list[float]:
    """Return each gateway's part of a limit; together they are the limit. `wanted`: by gateway,
    what its senders have sent or tried to send, in the limit's unit.

    Each gets what it wants. Where that is too much for the limit, those who want more than an equal
    part of what the others leave get that (max-min fairness). What nobody wants is divided equally.
    """
    count = len(wanted)
    least = limit * FLOOR / count
    wishes = [max(want * HEADROOM, least) for want in wanted]
    spare = limit - sum(wishes)
    if spare >= 0:
        return [wish + spare / count for wish in wishes]
    parts = [0.0] * count
    left, waiting = limit, count
    for place in sorted(range(count), key=wishes.__getitem__):
        parts[place] = min(wishes[place], left / waiting)
        left -= parts[place]
        waiting -= 1
    return parts


def divide_whole(limit: int, wanted: Sequence[float]) -> list[int]:
    """Divide a limit of whole things, such as requests at once.

    A gateway may get 0; then it may have one all the same (`quotas`), because it could never begin.
    """
    parts = divide(limit, wanted)
    whole = [int(part) for part in parts]
    by_rest = sorted(range(len(parts)), key=lambda place: whole[place] - parts[place])
    for place in by_rest[: limit - sum(whole)]:
        whole[place] += 1
    return whole
