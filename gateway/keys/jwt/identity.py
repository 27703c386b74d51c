"""What a token says of its sender: id, name, signals and limits, from its claims.

The signature was checked before; what an issuer signs may be of the wrong form all the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.keys.errors import InvalidInputError
from gateway.keys.jwt.claim_paths import ClaimPath
from gateway.keys.rules import check_limits, check_name
from gateway.model import KeyLimits, Principal, Signal

ID_PREFIX: Final = "jwt:"
"""Prefix of the id of a token's sender."""
OTLP_SIGNALS: Final = frozenset(Signal) - {Signal.INTAKE}
"""What a token may send; the agents have no such tokens."""
_ID_DIGITS: Final = 16
_SUBJECT: Final = ClaimPath.parse("$.sub")


class ClaimError(Exception):
    """A claim that is needed is missing, or one has the wrong form. The text names its path."""


@dataclass(frozen=True, slots=True)
class ClaimMap:
    """Where in the claims things stand. None = not in the token."""

    id: ClaimPath = _SUBJECT
    name: ClaimPath | None = _SUBJECT
    signals: ClaimPath | None = None
    """None = every signal of OTLP."""
    limits: Mapping[str, ClaimPath] = field(default_factory=dict)
    """By the names of `KeyLimits`."""


def principal_of(claims: Mapping[str, Any], issuer: str, claim_map: ClaimMap) -> Principal:
    """Return who sends, the same for each of a sender's tokens. Raises `ClaimError`."""
    subject = _text(claims, claim_map.id)
    if subject is None:
        msg = f"{claim_map.id} is missing"
        raise ClaimError(msg)
    digest = hashlib.sha256(f"{issuer}\n{subject}".encode("utf-8", "surrogatepass")).hexdigest()
    return Principal(
        ID_PREFIX + digest[:_ID_DIGITS],
        signals=sum(signal.bit for signal in _signals(claims, claim_map.signals)),
        name=_name(claims, claim_map.name),
        limits=_limits(claims, claim_map.limits),
    )


def _text(claims: Mapping[str, Any], path: ClaimPath) -> str | None:
    """Return a text or a whole number as text; None where there is none."""
    value = path.find(claims)
    if value is None:
        return None
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        msg = f"{path} is no text"
        raise ClaimError(msg)
    return str(value)


def _name(claims: Mapping[str, Any], path: ClaimPath | None) -> str:
    name = _text(claims, path) if path is not None else None
    if name is None:
        return ""
    try:
        check_name(name)
    except InvalidInputError as error:
        msg = f"{path}: {error}"
        raise ClaimError(msg) from error
    return name


def _signals(claims: Mapping[str, Any], path: ClaimPath | None) -> frozenset[Signal]:
    """Read a list of signals, or a text with spaces between them; other words mean nothing."""
    if path is None:
        return OTLP_SIGNALS
    value = path.find(claims)
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list):
        msg = f"{path} is no list of signals"
        raise ClaimError(msg)
    return frozenset(signal for signal in OTLP_SIGNALS if signal.value in words)


def _limits(claims: Mapping[str, Any], paths: Mapping[str, ClaimPath]) -> KeyLimits | None:
    found: dict[str, int] = {}
    for name, path in paths.items():
        value = path.find(claims)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            msg = f"{path} is no whole number"
            raise ClaimError(msg)
        found[name] = value
    try:
        check_limits(found)
    except InvalidInputError as error:
        msg = f"a limit is out of range: {', '.join(str(paths[name]) for name in found)}"
        raise ClaimError(msg) from error
    return KeyLimits(**found) if found else None
