"""The words that every room shares: protocols, signals, keys, principals.

Standard library only. What belongs here is a value without behaviour that more than one room speaks
of; how a request can end stands in `outcome`, what a worker is told at its start in `settings`.
"""

from __future__ import annotations

import enum
import hashlib
from typing import Final, NamedTuple, NewType

KeyDigest = NewType("KeyDigest", bytes)
"""SHA-256 of a key's bytes: 32 bytes. The only form in which a key is stored, compared or passed
on.
"""

MAX_KEY_BYTES: Final = 512
"""Longest key that is accepted from a caller or an operator."""

MAX_KEY_ID: Final = 2**53 - 1
"""Ids stay exact in JSON numbers (IEEE 754 doubles)."""


class Protocol(enum.StrEnum):
    """How a caller speaks; the `protocol` label."""

    GRPC = "grpc"
    HTTP = "http"
    INTAKE = "intake"


class Signal(enum.StrEnum):
    """What a request carries; the `signal` label."""

    TRACES = "traces"
    METRICS = "metrics"
    LOGS = "logs"
    PROFILES = "profiles"
    INTAKE = "intake"

    @property
    def bit(self) -> int:
        """This signal's bit in `Principal.signals`."""
        return _SIGNAL_BITS[self]


_SIGNAL_BITS: Final = {signal: 1 << position for position, signal in enumerate(Signal)}
ALL_SIGNALS: Final = sum(_SIGNAL_BITS.values())


class BackendName(enum.StrEnum):
    """The kinds of backend that a route can name.

    The `backend` label, and the configuration key under `backends`.
    """

    OTLP_GRPC = "otlp_grpc"
    OTLP_HTTP = "otlp_http"
    INTAKE = "intake"


class KeyState(enum.IntEnum):
    """What a known key is, apart from its expiry.

    Expiry is checked against the clock at each request.
    """

    ACTIVE = 0
    REVOKED = 1
    DISABLED = 2


class KeyLimits(NamedTuple):
    """A key's own limits on one host. None = what `limits.per_key` says, 0 = none."""

    requests: int | None = None
    """Per second."""
    bytes: int | None = None
    """Of bodies, per second."""
    concurrent: int | None = None
    """Requests at once."""


class Principal(NamedTuple):
    """What a worker knows of a key: the value beside the digest in its keyring.

    A plain tuple, because a million of them must fit in a worker. `name` is empty unless the worker
    needs names (`forward.identity_headers`): control knows them all.
    """

    key_id: str
    state: int = KeyState.ACTIVE
    expires_at_ms: int = 0
    """Unix time in milliseconds from which the key is no longer accepted; 0 = never expires."""
    signals: int = ALL_SIGNALS
    """Bits of the signals that the key may send, see `Signal.bit`."""
    name: str = ""
    shared: bool = False
    """Whether the backend can know this key (a remote authority allowed it), so that its refusal
    is the caller's.
    """
    limits: KeyLimits | None = None
    """Its own ones; None = it has none."""


class KeyEntry(NamedTuple):
    """One line of a keyring as it travels from control to a worker."""

    digest: bytes
    principal: Principal


class Denied(NamedTuple):
    """A definite no.

    `principal` is whose key it was, where that is known (expired, revoked, not allowed here).
    """

    refusal: str
    """Name of the row in `outcome.REFUSALS`."""
    principal: Principal | None = None


class Undecided(NamedTuple):
    """Nobody can tell now whether the key is good.

    The caller must try again, and must not drop its data.
    """

    retry_after_s: int = 2


Verdict = Principal | Denied | Undecided
"""What the decision function says: the allowed principal itself, a definite no, or that it
cannot tell.
"""


def digest_of(key: bytes) -> KeyDigest:
    """Hash a key as every store and every worker does."""
    return KeyDigest(hashlib.sha256(key).digest())
