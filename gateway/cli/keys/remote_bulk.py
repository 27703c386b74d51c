"""Many keys of a running gateway, by its management API: what is sent, and what is read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from gateway.cli.keys.access import BATCH, Members
from gateway.keys.record import limits_as_json
from gateway.keys.store import ImportedKey
from gateway.keys.tenancy import tenancy_as_json

_MOST_BYTES: Final = 48 * 1024
"""Of one request: a gateway takes 64 KiB."""


def batches(keys: Sequence[ImportedKey]) -> Iterator[list[Members]]:
    """Yield keys as JSON, as many as one request takes."""
    held: list[Members] = []
    size = 0
    for key in keys:
        members = _members(key)
        length = len(json.dumps(members)) + 2
        if held and (len(held) >= BATCH or size + length > _MOST_BYTES):
            yield held
            held, size = [], 0
        held.append(members)
        size += length
    if held:
        yield held


def _members(key: ImportedKey) -> Members:
    spec = key.spec
    members: dict[str, Any] = {
        "digest": f"sha256:{key.digest.hex()}",
        "name": spec.name,
        "id": key.id,
        "description": spec.description,
        "expiration": spec.expires_at_ms,
        "signals": None if spec.signals is None else sorted(spec.signals),
        "limits": None if spec.limits is None else limits_as_json(spec.limits),
        "enabled": key.enabled,
        **tenancy_as_json(spec.tenancy),
    }
    return {name: value for name, value in members.items() if value is not None}
