"""What an attack is, and what it is aimed at."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

SOURCE: Final = "127.0.0.2"
"""Attackers come from here, well-behaved clients from 127.0.0.1: what is shared out by address can
tell them apart, as it can where the attacker is another machine.
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A gateway under attack: ports of 127.0.0.1, and a key that it accepts from the attacker."""

    plain: int
    tls: int
    admin: int
    metrics: int
    key: str

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Target:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(slots=True)
class Traffic:
    """What an attacker did.

    Attributes:
        opened: connections that the gateway's machine accepted.
        ended: how many of them the gateway closed.
        failed: connections that could not be opened.
    """

    sent_bytes: int = 0
    opened: int = 0
    ended: int = 0
    failed: int = 0

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Traffic:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Attack:
    """One row of the table.

    Attributes:
        name: what the command line calls it.
        title: what is sent, in a few words.
        send: sends for so many seconds and says what it did.
        counted: regular expressions; a series of the gateway's metrics that matches one of them
            must have grown, or the gateway did not notice the attack.
    """

    name: str
    title: str
    send: Callable[[Target, float], Traffic]
    counted: tuple[str, ...]


ABUSE: Final = r"^gateway_abuse_total\{"
HANDSHAKES: Final = r"^gateway_connections_refused_total\{"
CONNECTIONS: Final = r'^gateway_connections_refused_total\{(?!reason="tls_handshake")'
"""Without what a well-behaved client over TLS is counted as when it gives up."""


def results(*names: str) -> str:
    """Return the expression for requests that ended with one of these results."""
    return rf'^gateway_requests_total\{{.*result="({"|".join(names)})"'
