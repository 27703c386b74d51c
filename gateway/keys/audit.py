"""Who changed which key, when and from where: the audit log's words.

Every repository keeps the log itself, in the transaction that makes the change: there is no change
without its record, and no record without its change. A record never contains a key.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.keys.scope import EVERYTHING, Scope


class Action(enum.StrEnum):
    """What was done to a key."""

    CREATE = "create"
    ADOPT = "adopt"
    UPDATE = "update"
    ROTATE = "rotate"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change, as far as can be told."""

    who: str
    """The name of a token or certificate of the admin API, or `user NAME` for commands on the store
    itself.
    """
    origin: str
    """Where from: an address, or `host NAME`."""
    scope: Scope = EVERYTHING
    """Which keys may be changed. Not part of the log."""


GATEWAY: Final = Actor("gateway", "itself")
"""Changes that nobody asked for by command or API, such as the demo's first key."""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One change of one key."""

    id: int
    """The store's revision that made the change: later ones are greater."""
    at_ms: int
    """Unix milliseconds, by the clock of the host that made the change."""
    action: Action
    key_id: int
    key_name: str
    """As it was called after the change."""
    by: Actor
    changes: Mapping[str, Any]
    """What was set, by the API's names; JSON values."""
