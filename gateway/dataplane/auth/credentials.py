"""Finding the key in a request: which carriers it may be in, what makes it unreadable.

A key is hashed as soon as it is read, and only the digest goes on. What was read is kept by the
BLAKE2b of the field's bytes (0.3 µs instead of 14 µs of Huffman decoding), so that no secret stays
in memory.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Final

from gateway.dataplane.core.credential import Credential
from gateway.dataplane.core.heads import FIELD_VALUE, Pair
from gateway.dataplane.core.memo import Memo
from gateway.keys import api_key
from gateway.model import MAX_KEY_BYTES, MAX_TOKEN_BYTES, digest_of
from gateway.wire import hpack

CREDENTIALS_KEPT: Final = 100_000
_FINGERPRINT_BYTES: Final = 32
_blake2b: Final = hashlib.blake2b
_QUOTES: Final = b"\"'"
_VISIBLE: Final = re.compile(rb"[\x21-\x7e]+\Z")
_KNOWN_SCHEMES: Final = frozenset(
    {"bearer", "basic", "apikey", "servicebearer", "digest", "token", "negotiate"}
)
"""Foreign schemes that a log may name; any other word could be the key itself."""

AUTHORIZATION: Final = b"authorization"
DD_API_KEY: Final = b"dd-api-key"
SERVICE_BEARER: Final = "SERVICE_BEARER"
"""The refusal of a Kubernetes token, which only the receiver can check."""
_BASIC_USER: Final = b"apikey"
_BEARER: Final = b"bearer"
_SIGNED_TOKEN: Final = re.compile(rb"[\w-]+\.[\w-]+\.[\w-]*\Z", re.ASCII)
"""The compact form of a signed JWT (RFC 7515 §7.1); an unsigned one lacks its last part."""
_ENCRYPTED_TOKEN: Final = re.compile(rb"[\w-]+(?:\.[\w-]*){4}\Z", re.ASCII)
"""The compact form of an encrypted one (RFC 7516 §7.1)."""


MISSING: Final = Credential(None, "KEY_MISSING")


def _of_key(key: bytes, scheme: str, *, is_authorization: bool) -> Credential:
    refusal = ""
    if not key:
        refusal = "KEY_EMPTY"
    elif len(key) > MAX_KEY_BYTES:
        refusal = "KEY_TOO_LONG"
    elif not _VISIBLE.match(key):
        refusal = "KEY_CHARACTERS"
    if refusal:
        return Credential(None, refusal, scheme, is_authorization)
    if_unknown = "KEY_UNKNOWN"
    if api_key.looks_issued(key) and not api_key.has_valid_checksum(key):
        if_unknown = "KEY_TYPO"
    elif key.strip(_QUOTES) != key:  # an adopted key may hold any visible character
        if_unknown = "KEY_QUOTED"
    return Credential(digest_of(key), "", scheme, is_authorization, if_unknown)


def _of_token(token: bytes) -> Credential:
    """Read a token of an identity provider. Only control looks at what is in it."""
    refusal = ""
    if len(token) > MAX_TOKEN_BYTES:
        refusal = "TOKEN_TOO_LONG"
    elif _ENCRYPTED_TOKEN.match(token):
        refusal = "TOKEN_ENCRYPTED"
    elif not _SIGNED_TOKEN.match(token):
        refusal = "TOKEN_MALFORMED"
    if refusal:
        on_intake = Credential(None, "SCHEME_BEARER", "bearer", is_authorization=True)
        return on_intake._replace(refusal=refusal, on_intake=on_intake)
    return Credential(
        digest_of(token),
        scheme="bearer",
        is_authorization=True,
        is_backends_form=True,
        is_token=True,
    )


def _of_agents_scheme(scheme: str, value: bytes) -> Credential | None:
    """Read a scheme that only agents use; None if it is none of those."""
    if scheme == "apikey":
        return _of_key(value, scheme, is_authorization=True)
    if scheme == "servicebearer":
        return Credential(None, SERVICE_BEARER, scheme, is_authorization=True)
    if scheme != "basic":
        return None
    try:
        user, colon, key = base64.b64decode(value, validate=True).partition(b":")
    except (binascii.Error, ValueError):
        user = colon = key = b""
    if not colon or user != _BASIC_USER:
        return Credential(None, "KEY_BASIC", scheme, is_authorization=True)
    return _of_key(key, scheme, is_authorization=True)


def _of_foreign(value: bytes, foreign: str, key: bytes) -> Credential:
    """Read an Authorization field whose scheme is none of ours."""
    if not value:
        return Credential(None, "KEY_EMPTY", "", is_authorization=True)
    refusal = "SCHEME_BEARER" if foreign == "bearer" else "SCHEME_UNKNOWN"
    return Credential(
        None,
        refusal,
        foreign if foreign in _KNOWN_SCHEMES else "other",
        is_authorization=True,
        on_intake=_of_agents_scheme(foreign, key),
    )


def _fingerprint(field: bytes) -> bytes:
    """Return by what a field's credential is remembered. BLAKE2b takes two thirds of the time that
    `hashlib` takes for SHA-256.
    """
    return _blake2b(field).digest()[:_FINGERPRINT_BYTES]


class CredentialReader:
    """Reads credential fields under the configured `auth.schemes` (without regard to case)."""

    def __init__(
        self,
        schemes: Iterable[str],
        kept: int = CREDENTIALS_KEPT,
        *,
        forward_scheme: str = "",
        with_tokens: bool = False,
    ) -> None:
        """`forward_scheme`: the scheme that OTLP backends get. `with_tokens`: whether tokens of
        identity providers are accepted, under Bearer.
        """
        self._with_tokens = with_tokens
        self._backends_scheme = forward_scheme.encode()
        self._schemes = {scheme.lower().encode(): scheme for scheme in schemes}
        self._memo: Memo[bytes, Credential] = Memo(kept)
        self._kept = self._memo.kept

    def read(self, name: bytes, value: bytes) -> Credential:
        """Read one field; `name` in lower case."""
        fingerprint = _fingerprint(name + b":" + value)
        kept = self._kept.get(fingerprint)
        if kept is None:
            kept = self._memo.add(fingerprint, self._parse(name, value))
        return kept

    def read_raw(self, raw: bytes) -> Credential:
        """Read one HPACK representation of a credential field. Raises `hpack.HeaderBlockError`."""
        fingerprint = _fingerprint(raw)
        kept = self._kept.get(fingerprint)
        if kept is None:
            name, value = hpack.decode_field(raw)
            credential = self._parse(name, value)
            if not FIELD_VALUE.match(value):
                credential = credential._replace(is_verbatim=False)
            kept = self._memo.add(fingerprint, credential)
        return kept

    def key_in(self, pairs: Iterable[Pair]) -> bytes:
        """Return the key itself of a request that `choose` has found one in."""
        for name, value in pairs:
            credential = self.read(name.lower(), value)
            if credential.digest is not None:
                key = value.strip(b" \t")
                return key.partition(b" ")[2].lstrip() if credential.is_authorization else key
        return b""

    def _parse(self, name: bytes, value: bytes) -> Credential:
        value = value.strip(b" \t")
        if name == DD_API_KEY:
            return MISSING._replace(on_intake=_of_key(value, "dd-api-key", is_authorization=False))
        if name != AUTHORIZATION:
            return _of_key(value, name.decode("latin-1"), is_authorization=False)
        word, _, key = value.partition(b" ")
        key = key.lstrip(b" ")
        scheme = self._schemes.get(word.lower())
        is_bearer = self._with_tokens and word.lower() == _BEARER
        if is_bearer and (scheme is None or _SIGNED_TOKEN.match(key)):
            return _of_token(key)
        if scheme is not None:
            is_backends_form = value == b"%b %b" % (self._backends_scheme, key)
            credential = _of_key(key, scheme, is_authorization=True)
            return credential._replace(is_backends_form=is_backends_form)
        encoded = self._encoding_of(word.lower())
        if encoded is not None:
            return encoded
        return _of_foreign(value, word.lower().decode("latin-1"), key)

    def _encoding_of(self, word: bytes) -> Credential | None:
        """Recognise a scheme of ours with its key in a form that somebody forgot to decode."""
        bare = word.lstrip(_QUOTES)
        for known in self._schemes:
            if bare.startswith(known + b"%20"):
                refusal, scheme = "KEY_PERCENT_ENCODED", "percent-encoded"
            elif bare.startswith(known + b"+"):
                refusal, scheme = "KEY_PLUS_ENCODED", "form-encoded"
            elif bare != word and bare.rstrip(_QUOTES) == known:
                refusal, scheme = "KEY_QUOTED", "quoted"
            else:
                continue
            return Credential(None, refusal, scheme, is_authorization=True)
        return None


def choose(credentials: Sequence[Credential]) -> Credential:
    """Return the one credential of a request, or one that says why there is none.

    The same key in two carriers is fine, two different ones are a conflict. A carrier that cannot
    be read counts only when no other gives a key. Several Authorization fields are refused whatever
    they hold (RFC 9110 §11.6.2 allows one).
    """
    if len(credentials) == 1:
        return credentials[0]
    if not credentials:
        return MISSING
    if sum(credential.is_authorization for credential in credentials) > 1:
        return Credential(None, "AUTHORIZATION_REPEATED", "repeated", is_authorization=True)
    readable = [credential for credential in credentials if credential.digest is not None]
    if not readable:
        return credentials[0]
    if any(credential.digest != readable[0].digest for credential in readable):
        return Credential(None, "KEY_CONFLICT", readable[0].scheme)
    return readable[0]
