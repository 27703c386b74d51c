"""The public keys that an issuer publishes (a JWK set, RFC 7517), ready to check signatures with.

Each key checks only the algorithms of its own kind, and of those only the ones that are pinned. A
shared secret (`oct`) is never a key, so that nobody can sign with what everybody can read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt
import msgspec

MAX_KEYS: Final = 100
"""Keys of one issuer; those behind are not read."""
LEAST_RSA_BITS: Final = 2048
"""RFC 7518 §3.3."""

_OF_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_ALGORITHMS: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("RSA", ""): _OF_RSA,
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("OKP", "Ed448"): ("EdDSA",),
}
"""Kind of key, curve → the algorithms that it can check."""
_THUMBPRINT_OF: Final = {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y")}
_THUMBPRINT_OF_OKP: Final = ("crv", "kty", "x")


class KeySetError(Exception):
    """What was read is no set of keys. The text is for people and repeats nothing of it."""


class _Set(msgspec.Struct):
    keys: list[Any]


_decoder: Final = msgspec.json.Decoder(_Set)


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """One key, for one algorithm."""

    kid: str | None
    algorithm: str
    thumbprint: str
    """Identifies the key, whatever it is called (RFC 7638)."""
    key: jwt.PyJWK

    def verifies(self, signed: bytes, signature: bytes) -> bool:
        """Whether this is the signature of what was signed."""
        return bool(self.key.Algorithm.verify(signed, self.key.key, signature))


class KeySet:
    """The usable keys of an issuer."""

    def __init__(self, keys: Collection[IssuerKey]) -> None:
        self._keys = tuple(keys)
        self.thumbprints = frozenset(each.thumbprint for each in keys)

    def __len__(self) -> int:
        return len(self.thumbprints)

    def find(self, kid: str | None, algorithm: str) -> list[IssuerKey]:
        """Return the keys that may have signed; several where they share a name, or none has one.

        A token without a key's name may be of any key.
        """
        return [
            each
            for each in self._keys
            if each.algorithm == algorithm and (kid is None or each.kid == kid)
        ]


def parse_key_set(content: bytes, algorithms: Collection[str]) -> KeySet:
    """Read a JWK set; keys that cannot be used are left out. Raises `KeySetError`."""
    try:
        found = _decoder.decode(content).keys
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        msg = "it is no JSON with a list of keys"
        raise KeySetError(msg) from None
    keys = [key for each in found[:MAX_KEYS] for key in _read(each, algorithms)]
    if not keys:
        msg = (
            f"none of its {len(found)} keys can be used: public keys are needed, for "
            f"{', '.join(sorted(algorithms))}, RSA with at least {LEAST_RSA_BITS} bits"
        )
        raise KeySetError(msg)
    return KeySet(keys)


def _read(jwk: object, pinned: Collection[str]) -> Iterator[IssuerKey]:
    """Yield a key for each of its algorithms."""
    if not isinstance(jwk, dict) or not _is_for_signatures(jwk):
        return
    kid = jwk.get("kid")
    kind, curve = str(jwk.get("kty")), "" if jwk.get("kty") == "RSA" else str(jwk.get("crv"))
    for algorithm in _ALGORITHMS.get((kind, curve), ()):
        if algorithm not in pinned or jwk.get("alg", algorithm) != algorithm:
            continue
        try:
            key = jwt.PyJWK(jwk, algorithm)
        except (jwt.PyJWTError, ArithmeticError, LookupError, TypeError, ValueError):
            return
        if kind == "RSA" and key.key.key_size < LEAST_RSA_BITS:
            return
        name = kid if isinstance(kid, str) else None
        yield IssuerKey(name, algorithm, _thumbprint(jwk), key)


def _is_for_signatures(jwk: Mapping[str, Any]) -> bool:
    """Whether it is a public key, and not for encryption. A private one is known to everybody."""
    operations = jwk.get("key_ops")
    is_for_others = isinstance(operations, list) and "verify" not in operations
    return jwk.get("use", "sig") == "sig" and not is_for_others and "d" not in jwk


def _thumbprint(jwk: Mapping[str, Any]) -> str:
    names = _THUMBPRINT_OF.get(jwk["kty"], _THUMBPRINT_OF_OKP)
    members = {name: jwk[name] for name in names}
    text = json.dumps(members, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
