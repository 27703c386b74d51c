"""One token: reading it, and checking what its signature, its times and its audience say.

It decides on what is in hand, and waits for nothing: which keys an issuer has, and what follows
from not having them, belongs to `issuer` and `verdicts`. The order of the checks is the order in
which a sender's operator would want to hear of them; nothing is believed before the signature.
"""

from __future__ import annotations

import base64
import binascii
import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec

from gateway.keys.jwt.identity import ClaimError, ClaimMap, sender_of
from gateway.keys.jwt.issuer_keys import IssuerKey
from gateway.keys.tenancy import Tenancy
from gateway.model import MAX_TOKEN_BYTES, Principal

_FORM: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)")
_LATEST_S: Final = 2**53
"""Unix seconds that are exact in JSON; a later expiration is none."""
MAX_TRIED: Final = 8
"""Most keys that one token's signature is checked with."""


class Fault(enum.StrEnum):
    """Why a token is refused: the reason in `outcome.REFUSALS`."""

    MALFORMED = "TOKEN_MALFORMED"
    EXTENSION = "TOKEN_EXTENSION"
    ALGORITHM = "TOKEN_ALGORITHM"
    ISSUER = "TOKEN_ISSUER"
    KEY = "TOKEN_KEY"
    SIGNATURE = "TOKEN_SIGNATURE"
    AUDIENCE = "TOKEN_AUDIENCE"
    NOT_YET_VALID = "TOKEN_NOT_YET_VALID"
    CLAIMS = "TOKEN_CLAIMS"
    EXPIRED = "TOKEN_EXPIRED"


class TokenError(Exception):
    """The token is refused."""

    def __init__(self, fault: Fault, detail: str = "") -> None:
        super().__init__(detail or fault)
        self.fault = fault


class _Header(msgspec.Struct):
    alg: str
    kid: str | None = None
    crit: Any = msgspec.UNSET


_header: Final = msgspec.json.Decoder(_Header)
_claims: Final = msgspec.json.Decoder(dict[str, Any])


@dataclass(frozen=True, slots=True)
class IssuerRules:
    """What a token of one issuer must be like."""

    url: str
    """Equal to the claim `iss`, to the letter (RFC 7519 §4.1.1)."""
    audience: frozenset[str]
    algorithms: frozenset[str]
    skew_s: float = 30.0
    """By how much clocks may differ."""
    claim_map: ClaimMap = field(default_factory=ClaimMap)


@dataclass(frozen=True, slots=True)
class Token:
    """A token that could be read. Nothing of it is to be believed yet, and it prints nothing."""

    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    algorithm: str = field(repr=False)
    kid: str | None = field(repr=False)
    claims: Mapping[str, Any] = field(repr=False)

    @property
    def issuer(self) -> str:
        """The claim `iss`; empty where it is no text."""
        issuer = self.claims.get("iss")
        return issuer if isinstance(issuer, str) else ""


class Accepted(NamedTuple):
    """A token that is valid."""

    principal: Principal
    until: float
    """Unix seconds, the skew of clocks included."""
    thumbprint: str
    """Of the key that has signed it."""
    tenancy: Tenancy | None = None
    """Whose data its sender sends."""


def read_token(text: str) -> Token:
    """Read the compact form of a signed JWT (RFC 7515 §7.1). Raises `TokenError`."""
    form = _FORM.fullmatch(text)
    if form is None or len(text) > MAX_TOKEN_BYTES:
        raise TokenError(Fault.MALFORMED)
    try:
        header = _header.decode(_bytes(form[1]))
        claims = _claims.decode(_bytes(form[2]))
        signature = _bytes(form[3])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise TokenError(Fault.MALFORMED) from None
    if header.crit is not msgspec.UNSET:  # RFC 7515 §4.1.11: what is not understood is refused
        raise TokenError(Fault.EXTENSION)
    signed = text[: form.end(2)].encode()
    return Token(signed, signature, header.alg, header.kid, claims)


def signer_of(token: Token, keys: Iterable[IssuerKey]) -> IssuerKey | None:
    """Return the key that has signed a token; None if it is none of the first `MAX_TRIED`."""
    for key in islice(keys, MAX_TRIED):
        if key.verifies(token.signed, token.signature):
            return key
    return None


def check_claims(token: Token, rules: IssuerRules, signer: IssuerKey, now: float) -> Accepted:
    """Check what stands in a signed token; `now` is Unix seconds. Raises `TokenError`."""
    claims = token.claims
    expires, begins = _time(claims, "exp"), _time(claims, "nbf")
    if expires is None:
        raise TokenError(Fault.CLAIMS, "exp is missing")
    _check_audience(claims.get("aud"), rules.audience)
    if now >= expires + rules.skew_s:
        raise TokenError(Fault.EXPIRED)
    if begins is not None and now < begins - rules.skew_s:
        raise TokenError(Fault.NOT_YET_VALID)
    try:
        principal, tenancy = sender_of(claims, rules.url, rules.claim_map)
    except ClaimError as error:
        raise TokenError(Fault.CLAIMS, str(error)) from error
    return Accepted(principal, expires + rules.skew_s, signer.thumbprint, tenancy)


def valid_from(token: Token, rules: IssuerRules) -> float:
    """Return when a token that is not valid yet will be, in Unix seconds."""
    return (_time(token.claims, "nbf") or 0.0) - rules.skew_s


def _check_audience(audience: object, accepted: frozenset[str]) -> None:
    named = [audience] if isinstance(audience, str) else audience
    if not isinstance(named, list) or not all(isinstance(each, str) for each in named):
        raise TokenError(Fault.CLAIMS, "aud is missing, or no text")
    if accepted.isdisjoint(named):
        raise TokenError(Fault.AUDIENCE)


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a time in Unix seconds (RFC 7519 §2, NumericDate)."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenError(Fault.CLAIMS, f"{name} is no number")
    if not 0 <= value <= _LATEST_S:
        raise TokenError(Fault.CLAIMS, f"{name} is no time")
    return float(value)


def _bytes(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        msg = "no base64url"
        raise ValueError(msg) from error
