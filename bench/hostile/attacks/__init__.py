"""All attacks, in the order of the table."""

from __future__ import annotations

from typing import Final

from bench.hostile.attack import Attack
from bench.hostile.attacks import (
    addresses,
    bodies,
    control_frames,
    header_blocks,
    requests,
    streams,
    tls,
)

ATTACKS: Final[tuple[Attack, ...]] = (
    *control_frames.ATTACKS,
    *header_blocks.ATTACKS,
    *streams.ATTACKS,
    *bodies.ATTACKS,
    *tls.ATTACKS,
    *requests.ATTACKS,
    *addresses.ATTACKS,
)
BY_NAME: Final = {attack.name: attack for attack in ATTACKS}
