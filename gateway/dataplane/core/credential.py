"""What one carrier of a request held instead of the key itself: see `auth.credentials`."""

from __future__ import annotations

from typing import NamedTuple

from gateway.model import KeyDigest


class Credential(NamedTuple):
    """What one carrier held: a key's digest, or the reason why there is none. Never the key."""

    digest: KeyDigest | None
    refusal: str = ""
    """Reason in `outcome.REFUSALS` when there is no digest."""
    scheme: str = ""
    """Scheme or carrier, from a closed set, for logs."""
    is_authorization: bool = False
    if_unknown: str = "KEY_UNKNOWN"
    """Reason in `outcome.REFUSALS` if nobody knows the key: what is probably wrong with it."""
    on_intake: Credential | None = None
    """What it is on the agents' intake, where that differs."""
    passes_unchecked: bool = False
    """Whether only the receiver can judge it."""
    is_verbatim: bool = True
    """Whether the representation that it was read from may be passed on as it came."""
    is_backends_form: bool = False
    """Whether it came as OTLP backends get it: in Authorization, under `forward.scheme`; a token
    goes on as it came.
    """
    is_token: bool = False
    """Whether it is an identity provider's token (a JWT), which no store holds."""
