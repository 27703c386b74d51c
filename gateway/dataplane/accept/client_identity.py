"""Who a client's certificate names, by the rules of its listener. Once per connection.

TLS has checked the certificate: its signatures up to the listener's authorities, its times, what it
may be used for. Here it is read which names it has, and what follows from the first rule for one
of them. What a wildcard matched has a small alphabet, so that whatever is made of it can be shown
and sent; its length is bounded here.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from gateway.certificate_ids import ids_of
from gateway.channel import SenderSeen, Up
from gateway.dataplane.core.certificates import (
    MALFORMED,
    MISSING,
    UNKNOWN,
    ClientCertificate,
    Revocations,
)
from gateway.dataplane.core.memo import Memo
from gateway.model import KeyDigest, KeyLimits, Principal, Tenant
from gateway.settings import ClientIdentitySettings, IdentityRule

ID_PREFIX: Final = "certificate:"
"""Prefix of the id of a sender that a certificate names."""
_LONGEST_SAN: Final = 2_048
"""Bytes of a SPIFFE ID (SPIFFE-ID §2.3); a DNS name has 253."""
_LONGEST_NAME: Final = 200
_LONGEST_LABEL: Final = 255
_LONGEST_HEADER: Final = 1_024
_TOLD: Final = 10_000
_FIELD: Final = re.compile(r"\$([1-9$])")
_MS_PER_S: Final = 1_000


class _Rule(NamedTuple):
    rule: IdentityRule
    pattern: re.Pattern[str]


class _MalformedError(ValueError):
    """The certificate cannot name a sender."""


class ClientIdentities:
    """The certificates of one listener's clients. `send` passes a message to control."""

    def __init__(
        self,
        settings: ClientIdentitySettings | None,
        revocations: Revocations,
        send: Callable[[Up], bool],
    ) -> None:
        """`settings`: None where certificates name nobody, and can only end."""
        self._settings = settings
        rules = () if settings is None else settings.rules
        self._rules = [_Rule(rule, re.compile(rule.pattern)) for rule in rules]
        self._revocations = revocations
        self._send = send
        self._told: Memo[str, bool] = Memo(_TOLD)

    def of(self, session: ssl.SSLObject) -> ClientCertificate:
        """Return what is known of a client whose handshake is done, resumed sessions included."""
        der = session.getpeercert(binary_form=True)
        if der is None:
            return self._made(MISSING)
        digest = KeyDigest(hashlib.sha256(der).digest())
        try:
            found = session.getpeercert() or {}
            ids = ids_of(der)
            expires_s = ssl.cert_time_to_seconds(str(found["notAfter"]))
        except (ValueError, KeyError, ssl.SSLError):  # of which UnicodeDecodeError is one
            certificate = self._made(MALFORMED)
            certificate.end(digest)
            return certificate
        try:
            certificate = self._of(found)
        except _MalformedError:
            certificate = self._made(MALFORMED)
        certificate.watch(digest, ids.own, ids.issuer, expires_s * _MS_PER_S, self._revocations)
        return certificate

    def _of(self, found: Mapping[str, Any]) -> ClientCertificate:
        settings = self._settings
        if settings is None:
            return self._made("")
        names = list(_names(found))
        for rule, pattern in self._rules:
            for kind, name in names:
                match = pattern.fullmatch(name) if kind == rule.kind else None
                if match is not None:
                    return self._made("", self._principal(rule, match, settings))
        return self._made(UNKNOWN)

    def _made(self, refusal: str, principal: Principal | None = None) -> ClientCertificate:
        settings = self._settings
        return ClientCertificate(
            is_identity=settings is not None,
            is_needed=settings is not None and settings.is_needed,
            refusal=refusal,
            principal=principal,
        )

    def _principal(
        self, rule: IdentityRule, match: re.Match[str], settings: ClientIdentitySettings
    ) -> Principal:
        name = _filled(rule.name, match, _LONGEST_NAME)
        labels = tuple((each, _filled(text, match, _LONGEST_LABEL)) for each, text in rule.labels)
        headers = tuple(
            (each, _filled(text, match, _LONGEST_HEADER)) for each, text in rule.headers
        )
        owner = _filled(rule.owner, match, _LONGEST_LABEL)
        key_id = ID_PREFIX + name
        seen = SenderSeen(key_id, name, owner, dict(labels))
        if key_id not in self._told.kept and self._send(seen):
            self._told.add(key_id, True)
        routed = tuple(label for label in labels if label in settings.route_labels)
        return Principal(
            key_id,
            signals=rule.signals,
            name=name,
            limits=None if rule.limits is None else KeyLimits(*rule.limits),
            tenant=Tenant(headers, routed) if headers or routed else None,
        )


def _names(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the names by which a rule can know a certificate: (kind, name)."""
    for kind, name in found.get("subjectAltName", ()):
        if kind not in {"DNS", "URI"}:
            continue
        if len(name) > _LONGEST_SAN:
            raise _MalformedError
        yield kind, name.lower() if kind == "DNS" else name


def _filled(template: str, match: re.Match[str], longest: int) -> str:
    """Put what the wildcards matched into a template: `$1`, `$2`; `$$` is a dollar sign."""
    text = _FIELD.sub(lambda field: _value(field[1], match), template)
    if len(text) > longest:
        raise _MalformedError
    return text


def _value(field: str, match: re.Match[str]) -> str:
    return "$" if field == "$" else match[int(field)]
