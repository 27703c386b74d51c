"""The types that all packages share: protocols, signals, keys, principals.

Standard library only. This module is for values without behaviour that several packages use; the
ways a request can end are in `outcome`, a worker's settings in `settings`.
"""

from __future__ import annotations

import enum
import hashlib
from typing import Final, NamedTuple, NewType

KeyDigest = NewType("KeyDigest", bytes)
"""SHA-256 of a key's bytes: 32 bytes. Keys are stored, compared and sent only in this form."""

MAX_KEY_BYTES: Final = 512
"""Maximum length of a key from a sender or an operator."""

MAX_TOKEN_BYTES: Final = 8192
"""Maximum length of a token of an identity provider (a JWT)."""

MAX_KEY_ID: Final = 2**53 - 1
"""Ids stay exact in JSON numbers (IEEE 754 doubles)."""


class Protocol(enum.StrEnum):
    """The protocol of a request; the `protocol` label."""

    GRPC = "grpc"
    HTTP = "http"
    INTAKE = "intake"


class Signal(enum.StrEnum):
    """The signal of a request; the `signal` label."""

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
    """The kinds of backend that a route can have.

    The `backend` label, and the name of the setting under `backends`.
    """

    OTLP_GRPC = "otlp_grpc"
    OTLP_HTTP = "otlp_http"
    INTAKE = "intake"


class KeyState(enum.IntEnum):
    """The state of a known key, apart from its expiration.

    The expiration is checked against the clock at each request.
    """

    ACTIVE = 0
    REVOKED = 1
    DISABLED = 2


class KeyLimits(NamedTuple):
    """A key's own limits and quotas. None = the limit in `limits.per_key`, 0 = no limit."""

    requests: int | None = None
    """Per second."""
    bytes: int | None = None
    """Body bytes per second."""
    concurrent: int | None = None
    """Concurrent requests."""
    requests_per_day: int | None = None
    """Quotas: in a day of UTC."""
    bytes_per_day: int | None = None
    requests_per_month: int | None = None
    bytes_per_month: int | None = None


Pairs = tuple[tuple[str, str], ...]
"""Names with values, each name once."""


class Tenant(NamedTuple):
    """What a worker knows of whose data a key sends, as far as requests need it."""

    headers: Pairs = ()
    """Sent to the backend with the key's requests."""
    labels: Pairs = ()
    """Those of the key's labels by which a backend is chosen."""


class Principal(NamedTuple):
    """What a worker knows about a key: the value for a digest in its keyring.

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
    """Whether the backend can know this key (a remote authority accepted it), so that a refusal by
    the backend is returned to the sender.
    """
    limits: KeyLimits | None = None
    """The key's own limits; None = it has none."""
    tenant: Tenant | None = None
    """None = nothing about the key's requests depends on whose they are."""


class KeyEntry(NamedTuple):
    """One entry of a keyring, as control sends it to a worker."""

    digest: bytes
    principal: Principal


class Denied(NamedTuple):
    """A definite no.

    `principal` is the key's, if it is known (expired, revoked, signal not allowed).
    """

    refusal: str
    """The reason in `outcome.REFUSALS`."""
    principal: Principal | None = None


class Undecided(NamedTuple):
    """The key cannot be checked now.

    The sender must retry, and must not drop its data.
    """

    retry_after_s: int = 2


Verdict = Principal | Denied | Undecided
"""The result of checking a key: the accepted principal, a definite no, or "cannot tell"."""


def digest_of(key: bytes) -> KeyDigest:
    """Hash a key, as all stores and workers do."""
    return KeyDigest(hashlib.sha256(key).digest())
