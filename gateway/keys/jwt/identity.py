"""What a token says of its sender: id, name, signals, limits, owner, labels and headers, from its
claims.

The signature was checked before; what an issuer signs may be of the wrong form all the same.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from gateway.keys.errors import InvalidInputError
from gateway.keys.jwt.claim_paths import ClaimPath
from gateway.keys.rules import check_limits, check_name
from gateway.keys.tenancy import Tenancy, tenancy
from gateway.keys.tenancy_rules import check_header_value, check_label_value, check_owner
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
    owner: ClaimPath | None = None
    labels: Mapping[str, ClaimPath] = field(default_factory=dict)
    headers: Mapping[str, ClaimPath] = field(default_factory=dict)


class TokenSender(NamedTuple):
    """Who sends, and whose data it is; `principal` has no tenant yet: what of the tenancy workers
    need depends on their settings.
    """

    principal: Principal
    tenancy: Tenancy | None = None


def sender_of(claims: Mapping[str, Any], issuer: str, claim_map: ClaimMap) -> TokenSender:
    """Return who sends, the same for each of a sender's tokens. Raises `ClaimError`."""
    subject = _text(claims, claim_map.id)
    if subject is None:
        msg = f"{claim_map.id} is missing"
        raise ClaimError(msg)
    digest = hashlib.sha256(f"{issuer}\n{subject}".encode("utf-8", "surrogatepass")).hexdigest()
    principal = Principal(
        ID_PREFIX + digest[:_ID_DIGITS],
        signals=sum(signal.bit for signal in _signals(claims, claim_map.signals)),
        name=_name(claims, claim_map.name),
        limits=_limits(claims, claim_map.limits),
    )
    return TokenSender(principal, _tenancy(claims, claim_map))


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
    return _checked(claims, path, check_name) or "" if path is not None else ""


def _checked(
    claims: Mapping[str, Any], path: ClaimPath, check: Callable[[str], None]
) -> str | None:
    """Return a text that passes a check; None where there is none."""
    text = _text(claims, path)
    if text is None:
        return None
    try:
        check(text)
    except InvalidInputError as error:
        msg = f"{path}: {error}"
        raise ClaimError(msg) from error
    return text


def _tenancy(claims: Mapping[str, Any], claim_map: ClaimMap) -> Tenancy | None:
    """Read whose data it is. What is missing is left out; what cannot be is an error."""
    path = claim_map.owner
    owner = _checked(claims, path, check_owner) if path is not None else None
    labels = _texts(claims, claim_map.labels, check_label_value)
    headers = _texts(claims, claim_map.headers, check_header_value)
    return tenancy(owner, labels, headers)


def _texts(
    claims: Mapping[str, Any],
    paths: Mapping[str, ClaimPath],
    check: Callable[[str, str], None],
) -> dict[str, str]:
    found = {
        name: _checked(claims, path, functools.partial(check, name)) for name, path in paths.items()
    }
    return {name: text for name, text in found.items() if text is not None}


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
